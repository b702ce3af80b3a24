"""Atomic files, the reading of damaged files, and the lock on a folder."""

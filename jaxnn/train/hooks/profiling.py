"""Hooks that measure time: Throughput, and Profile, which records a trace of the device."""

"""Files that are whole or not there, the reading of damaged ones, and the lock on a folder."""

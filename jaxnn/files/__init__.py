"""Files that are whole or not there, and the lock that one process has on a folder."""

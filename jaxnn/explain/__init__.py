"""What errors say: what was passed, what was expected, where, and the call to write."""

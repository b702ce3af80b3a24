"""The texts of errors: what was passed, what was expected, where, and the call to write."""

"""Experiments: one file each, run by `python -m experiments.NAME`.

A file begins with what it does, the command, and the expected result. `--help`
shows the options.
"""

"""Experiments: one file each, run by `python -m experiments.NAME`.

A file opens with what it does, the command and the result to expect. `--help` shows its options.
"""

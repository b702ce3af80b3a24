"""Hooks: everything that a run does besides its steps, each as a value."""

"""Hooks that add numbers to records: Evaluate and LearningRate."""

"""Hooks that end a run early: EarlyStopping, and Divergence, which rolls back or stops."""

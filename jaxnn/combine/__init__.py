"""Combinators, which contain several layers, and wrappers, which turn a layer into a layer."""

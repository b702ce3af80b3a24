"""Layers: each owns its parameters and leaves the mathematics to `jaxnn.functional`."""

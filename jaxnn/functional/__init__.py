"""The mathematics of the layers as plain functions on arrays."""

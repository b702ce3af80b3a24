"""The mathematics of the layers as plain functions on arrays.

Its public names are the activation functions that `jax.nn` does not have:

>>> import jaxnn as nn
>>> nn.Sequential(nn.Dense(8), nn.functional.tanh_shrink)
Sequential(Dense(8), jaxnn.functional.activation.tanh_shrink)
"""

from .activation import hard_shrink, quick_gelu, soft_min, soft_shrink, tanh_shrink, threshold

__all__ = ["hard_shrink", "quick_gelu", "soft_min", "soft_shrink", "tanh_shrink", "threshold"]

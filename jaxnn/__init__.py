"""jaxnn: purely functional neural networks for JAX.

A layer is a value, parameters are data, a configuration is data:

>>> import jax, jax.numpy as jnp
>>> import jaxnn as nn
>>> net = nn.Serial(nn.Dense(128), jax.nn.relu, nn.Dense(10))
>>> x = jnp.zeros((32, 784))
>>> params = net.init(jax.random.key(0), x)
>>> net.apply(params, x).shape
(32, 10)

Training is in `jaxnn.train`, data sets in `jaxnn.data`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .combine.capture import Tap, capture
from .combine.ensemble import Ensemble
from .combine.precision import Precision
from .combine.remat import Remat
from .combine.repeat import Repeat
from .combine.residual import Residual
from .combine.serial import Parallel, Serial
from .core.composite import Composite
from .core.declarations import Param, Slot
from .core.initialisers import (
    Initializer,
    constant,
    delta_orthogonal,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    identity,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    zeros,
)
from .core.layer import Layer, LayerLike
from .core.pair import layer
from .core.paths import fold
from .core.primitive import Primitive
from .core.wrapper import Wrapper
from .layers.activation import PReLU
from .layers.dense import Dense
from .layers.dropout import Dropout
from .layers.embedding import Embedding
from .layers.normalisation import BatchNorm, LayerNorm, RMSNorm
from .layers.parameter import Parameter
from .layers.shape import Flatten, Reshape
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .inspect.summary import summary
    from .surgery.replacement import replace

# Only looking at networks and editing them needs these modules: imported when first asked for.
_LATER = {"replace": "jaxnn.surgery.replacement", "summary": "jaxnn.inspect.summary"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'jaxnn' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(_LATER[name]), name)
    return found


__all__ = [
    "BatchNorm",
    "Composite",
    "Dense",
    "Dropout",
    "Embedding",
    "Ensemble",
    "Flatten",
    "Initializer",
    "Layer",
    "LayerLike",
    "LayerNorm",
    "PReLU",
    "Parallel",
    "Param",
    "Parameter",
    "Precision",
    "Primitive",
    "RMSNorm",
    "Remat",
    "Repeat",
    "Reshape",
    "Residual",
    "Serial",
    "Slot",
    "Tap",
    "Wrapper",
    "capture",
    "constant",
    "delta_orthogonal",
    "fold",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "layer",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "replace",
    "summary",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "zeros",
]

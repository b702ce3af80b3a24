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

from .combine.bidirectional import Bidirectional
from .combine.capture import Tap, capture
from .combine.ensemble import Ensemble
from .combine.inference import Inference
from .combine.low_rank import LowRank
from .combine.mixture import MixtureOfExperts
from .combine.precision import Precision
from .combine.quantized import quantized
from .combine.recurrent import Recurrent
from .combine.remat import Remat
from .combine.repeat import Repeat
from .combine.residual import Residual
from .combine.serial import Parallel, Serial
from .combine.spectral_norm import SpectralNorm
from .combine.weight_norm import WeightNorm
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
from .layers.attention import Attention
from .layers.bilinear import Bilinear
from .layers.convolution import Conv, DepthwiseConv, Separable, SeparableConv
from .layers.convolution_transpose import ConvTranspose
from .layers.dense import Dense
from .layers.dropout import AlphaDropout, Dropout, GaussianNoise, StochasticDepth
from .layers.einsum import Einsum
from .layers.embedding import Embedding, EmbeddingBag
from .layers.gated import GatedFeedForward
from .layers.layer_scale import LayerScale
from .layers.linear_recurrence import LinearRecurrence
from .layers.normalisation import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from .layers.parameter import Parameter
from .layers.patch import PatchEmbedding
from .layers.pixel_shuffle import PixelShuffle, PixelUnshuffle
from .layers.pooling import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    AveragePool,
    GlobalAveragePool,
    GlobalMaxPool,
    LpPool,
    MaxPool,
    MinPool,
)
from .layers.positions import LearnedPositions, SinusoidalPositions
from .layers.recurrence import Cell, ConvLSTMCell, GRUCell, LSTMCell, MinimalGatedCell, RNNCell
from .layers.rotary import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRoPEScaling,
    NTKScaling,
    Rotary,
    YaRNScaling,
)
from .layers.shape import Flatten, Reshape
from .layers.squeeze_excitation import SqueezeExcitation
from .layers.transformer import DecoderLayer, EncoderLayer
from .layers.upsample import Upsample
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .generation.generate import generate
    from .inspect.checked import checked
    from .inspect.summary import summary
    from .surgery.adapters import adapted, merged
    from .surgery.cached import cached, with_cache
    from .surgery.replacement import replace, replaced
    from .surgery.stacking import stacked, unstacked
    from .surgery.widening import widened

# Only looking at networks and editing them needs these modules: imported when first asked for.
_LATER = {
    "adapted": "jaxnn.surgery.adapters",
    "cached": "jaxnn.surgery.cached",
    "checked": "jaxnn.inspect.checked",
    "generate": "jaxnn.generation.generate",
    "merged": "jaxnn.surgery.adapters",
    "replace": "jaxnn.surgery.replacement",
    "replaced": "jaxnn.surgery.replacement",
    "stacked": "jaxnn.surgery.stacking",
    "summary": "jaxnn.inspect.summary",
    "unstacked": "jaxnn.surgery.stacking",
    "widened": "jaxnn.surgery.widening",
    "with_cache": "jaxnn.surgery.cached",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'jaxnn' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(_LATER[name]), name)
    return found


__all__ = [
    "AdaptiveAveragePool",
    "AdaptiveMaxPool",
    "AlphaDropout",
    "Attention",
    "AveragePool",
    "BatchNorm",
    "Bidirectional",
    "Bilinear",
    "Cell",
    "Composite",
    "Conv",
    "ConvLSTMCell",
    "ConvTranspose",
    "DecoderLayer",
    "Dense",
    "DepthwiseConv",
    "Dropout",
    "DynamicNTKScaling",
    "Einsum",
    "Embedding",
    "EmbeddingBag",
    "EncoderLayer",
    "Ensemble",
    "Flatten",
    "GRUCell",
    "GatedFeedForward",
    "GaussianNoise",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNorm",
    "Inference",
    "Initializer",
    "InstanceNorm",
    "LSTMCell",
    "Layer",
    "LayerLike",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "LinearRecurrence",
    "LinearScaling",
    "Llama3Scaling",
    "LocalResponseNorm",
    "LongRoPEScaling",
    "LowRank",
    "LpPool",
    "MaxPool",
    "MinPool",
    "MinimalGatedCell",
    "MixtureOfExperts",
    "NTKScaling",
    "PReLU",
    "Parallel",
    "Param",
    "Parameter",
    "PatchEmbedding",
    "PixelShuffle",
    "PixelUnshuffle",
    "Precision",
    "Primitive",
    "RMSNorm",
    "RNNCell",
    "Recurrent",
    "Remat",
    "Repeat",
    "Reshape",
    "Residual",
    "Rotary",
    "Separable",
    "SeparableConv",
    "Serial",
    "SinusoidalPositions",
    "Slot",
    "SpectralNorm",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tap",
    "Upsample",
    "WeightNorm",
    "Wrapper",
    "YaRNScaling",
    "adapted",
    "cached",
    "capture",
    "checked",
    "constant",
    "delta_orthogonal",
    "fold",
    "generate",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "layer",
    "lecun_normal",
    "lecun_uniform",
    "merged",
    "normal",
    "ones",
    "orthogonal",
    "quantized",
    "replace",
    "replaced",
    "stacked",
    "summary",
    "truncated_normal",
    "uniform",
    "unstacked",
    "variance_scaling",
    "widened",
    "with_cache",
    "zeros",
]

"""jaxnn: purely functional neural networks for JAX.

A layer is a value, parameters are data, a configuration is data:

>>> import jax, jax.numpy as jnp
>>> import jaxnn as nn
>>> net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
>>> x = jnp.zeros((32, 784))
>>> params = net.init(jax.random.key(0), x)
>>> net.apply(params, x).shape
(32, 10)

Training is in `jaxnn.train`, data sets are in `jaxnn.data`; these and the other packages are
attributes of `jaxnn`, imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .combine import Parallel, Residual, Sequential, layer
from .combine.mixture import MixtureOfExperts
from .combine.precision import Precision, quantize
from .combine.recurrent import Bidirectional, Recurrent
from .combine.reparametrization import LoRA, SpectralNorm, WeightNorm
from .combine.transforms import Ensemble, Inference, Remat, Repeat, Tap, capture
from .core.composite import Composite, Wrapper
from .core.declarations import Param, Variable
from .core.layer import Layer, LayerLike, Primitive
from .core.paths import fold_in
from .initializers import (
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
from .installation import __version__ as __version__
from .layers.attention import MultiHeadAttention
from .layers.attention_scores import (
    AdditiveAttention,
    BlockMask,
    PrefixMask,
    RelativePositionBias,
)
from .layers.batch_norm import BatchNorm
from .layers.blocks import DecoderLayer, EncoderLayer, GatedFeedForward, SqueezeExcitation
from .layers.convolution import Conv, DepthwiseConv, Separable, SeparableConv
from .layers.elementwise import (
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    LayerScale,
    LearnedArray,
    PReLU,
    RReLU,
    StochasticDepth,
)
from .layers.embedding import Embedding, EmbeddingBag, PatchEmbedding
from .layers.linear import Bilinear, Dense, Einsum
from .layers.lstm import ConvLSTMCell, LSTMCell
from .layers.normalization import (
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
    UnitNorm,
)
from .layers.patches import ConvTranspose, Fold, LocallyConnected, MaxUnpool, Unfold
from .layers.pooling import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    FractionalMaxPool,
    GlobalAvgPool,
    GlobalMaxPool,
    LpPool,
    MaxPool,
    MinPool,
)
from .layers.positions import FourierFeatures, LearnedPositions, SinusoidalPositions, TimeEmbedding
from .layers.recurrence import Cell, GRUCell, MinimalGatedCell, RNNCell
from .layers.rotary import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRoPEScaling,
    NTKScaling,
    RotaryEmbedding,
    YaRNScaling,
)
from .layers.shape import (
    ChannelShuffle,
    Flatten,
    Pad,
    PixelShuffle,
    PixelUnshuffle,
    Reshape,
    Upsample,
)
from .layers.state_space import LinearRecurrence, Mamba2
from .layers.vector_quantization import VectorQuantizer, VectorQuantizerEMA
from .tree import intercept, layers, map_layers

if TYPE_CHECKING:
    from . import command as command
    from . import data as data
    from . import experiment as experiment
    from . import functional as functional
    from . import generation as generation
    from . import inspect as inspect
    from . import interop as interop
    from . import models as models
    from . import parallel as parallel
    from . import surgery as surgery
    from . import sweep as sweep
    from . import train as train
    from .generation import generate
    from .generation.decoding import beam_search
    from .inspect.summary import summary
    from .inspect.value_checks import checkify
    from .surgery.function_preserving import stack_layers, unstack_layers, widen, with_cache
    from .surgery.replacement import add_lora, merge_lora, replace

# Imported when first used, so that `import jaxnn` costs little more than `import jax`.
_PACKAGES = (
    "command",
    "data",
    "experiment",
    "functional",
    "generation",
    "inspect",
    "interop",
    "models",
    "parallel",
    "surgery",
    "sweep",
    "train",
)
_LATER = {
    "add_lora": "jaxnn.surgery.replacement",
    "beam_search": "jaxnn.generation.decoding",
    "checkify": "jaxnn.inspect.value_checks",
    "generate": "jaxnn.generation",
    "merge_lora": "jaxnn.surgery.replacement",
    "replace": "jaxnn.surgery.replacement",
    "stack_layers": "jaxnn.surgery.function_preserving",
    "summary": "jaxnn.inspect.summary",
    "unstack_layers": "jaxnn.surgery.function_preserving",
    "widen": "jaxnn.surgery.function_preserving",
    "with_cache": "jaxnn.surgery.function_preserving",
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"jaxnn.{name}")
    if name in _LATER:
        globals()[name] = found = getattr(importlib.import_module(_LATER[name]), name)
        return found
    raise AttributeError(f"module 'jaxnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, "__version__"])


__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AdditiveAttention",
    "AlphaDropout",
    "AvgPool",
    "BatchNorm",
    "Bidirectional",
    "Bilinear",
    "BlockMask",
    "Cell",
    "ChannelShuffle",
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
    "Fold",
    "FourierFeatures",
    "FractionalMaxPool",
    "GRUCell",
    "GatedFeedForward",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAvgPool",
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
    "LearnedArray",
    "LearnedPositions",
    "LinearRecurrence",
    "LinearScaling",
    "Llama3Scaling",
    "LoRA",
    "LocalResponseNorm",
    "LocallyConnected",
    "LongRoPEScaling",
    "LpPool",
    "Mamba2",
    "MaxPool",
    "MaxUnpool",
    "MinPool",
    "MinimalGatedCell",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "NTKScaling",
    "PReLU",
    "Pad",
    "Parallel",
    "Param",
    "PatchEmbedding",
    "PixelShuffle",
    "PixelUnshuffle",
    "Precision",
    "PrefixMask",
    "Primitive",
    "RMSNorm",
    "RNNCell",
    "RReLU",
    "Recurrent",
    "RelativePositionBias",
    "Remat",
    "Repeat",
    "Reshape",
    "Residual",
    "RotaryEmbedding",
    "Separable",
    "SeparableConv",
    "Sequential",
    "SinusoidalPositions",
    "SpectralNorm",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tap",
    "TimeEmbedding",
    "Unfold",
    "UnitNorm",
    "Upsample",
    "Variable",
    "VectorQuantizer",
    "VectorQuantizerEMA",
    "WeightNorm",
    "Wrapper",
    "YaRNScaling",
    "add_lora",
    "beam_search",
    "capture",
    "checkify",
    "constant",
    "delta_orthogonal",
    "fold_in",
    "generate",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "intercept",
    "layer",
    "layers",
    "lecun_normal",
    "lecun_uniform",
    "map_layers",
    "merge_lora",
    "normal",
    "ones",
    "orthogonal",
    "quantize",
    "replace",
    "stack_layers",
    "summary",
    "truncated_normal",
    "uniform",
    "unstack_layers",
    "variance_scaling",
    "widen",
    "with_cache",
    "zeros",
]

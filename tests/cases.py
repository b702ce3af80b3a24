"""One table of all layers, combinators, and wrappers; `tests/laws` tests every law on it.

A new layer needs one line: a name, the layer, and the shapes of its inputs. Other properties, such
as whether the layer has state or draws random numbers, are computed when a test needs them, not
when tests are collected.

Laws of layers are tested on every case. Laws of wrappers and of `init` are tested on the cases in
STRUCTURAL, which differ in their parameters, state, keys, inputs, and outputs; on the other cases
these tests are marked slow. So are the costly laws of layers on the cases in COMPOSED.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def tokens(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.int32)


def host(tree: Any) -> Any:
    """Convert the arrays to NumPy, whose operations are not compiled."""
    return jax.tree.map(np.asarray, tree)


def stacked(trees: Any) -> Any:
    """Stack trees of one structure along a new first axis."""
    return jax.tree.map(lambda *a: np.stack(a), *map(host, trees))


@functools.partial(jax.jit, static_argnums=(0, 5))
def _run(layer: nn.Layer, params: Any, state: Any, key: Any, inputs: Any, train: bool) -> Any:
    return layer.apply(params, *inputs, state=state, key=key, train=train)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    layer: nn.Layer
    inputs: tuple[Any, ...]
    causal: bool = False  # whether `nn.with_cache(layer, n)` accepts a sequence in pieces
    derivative: bool = True  # whether gradients are derivatives, and not those of another function

    def __str__(self) -> str:
        return self.name

    def arrays(self, dtype: Any = None, seed: int = 0) -> tuple[Any, ...]:
        """Return random inputs: normal floats, of `dtype` if it is given, and tokens 0 to 3."""
        rng = np.random.default_rng(seed)

        def leaf(x: jax.ShapeDtypeStruct) -> jax.Array:
            if jnp.issubdtype(x.dtype, jnp.integer):
                return jax.device_put(rng.integers(0, 4, x.shape, x.dtype))
            return jax.device_put(rng.normal(size=x.shape).astype(dtype or x.dtype))

        return jax.tree.map(leaf, self.inputs)

    def init(self, key: jax.Array = KEY) -> Any:
        return self.params if key is KEY else self.layer.init(key, *self.inputs)

    @functools.cached_property
    def params(self) -> Any:
        return self.layer.init(KEY, *self.inputs)

    def eager(self, params: Any, state: Any, key: Any, inputs: Any, train: bool = True) -> Any:
        """Return the output and the new state; all laws make this call."""
        return self.layer.apply(params, *inputs, state=state, key=key, train=train)

    def run(self, params: Any, state: Any, key: Any, inputs: Any, train: bool = True) -> Any:
        """Return the same from a program that is compiled once for all laws."""
        return _run(self.layer, params, state, key, inputs, train)

    @functools.cached_property
    def state(self) -> Any:
        return self.layer.init_state(*self.inputs, key=KEY)

    @functools.cached_property
    def draws(self) -> bool:
        """Whether training needs a key."""
        declared, state = self.layer.spec(*self.inputs), self.state
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), declared)
        try:
            jax.eval_shape(lambda p, x: self.eager(p, state, None, x), params, self.inputs)
        except ValueError as error:
            assert "no key was given" in str(error)
            return True
        return False

    @property
    def modes(self) -> tuple[bool, ...]:
        """The values of `train` for which this layer computes different things."""
        return (False, True) if self.draws or self.state else (False,)


def without_loss(quantized: tuple[Any, Any]) -> Any:
    return quantized[0]


BLOCK = nn.Sequential(nn.LayerNorm(), nn.Dense(4), jax.nn.gelu, nn.Dropout(0.5))
STATEFUL = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dropout(0.3))
STACKED = nn.Sequential(nn.Recurrent(nn.LSTMCell(3)), nn.Dropout(0.5), nn.Recurrent(nn.GRUCell(4)))
X = (floats(3, 4),)
XS = (floats(2, 3, 4),)

CASES = [
    Case("Dense", nn.Dense(3), X),
    Case("Dense without bias", nn.Dense(3, bias=False), (floats(2, 3, 4),)),
    Case("Dense of a vector", nn.Dense(3, w_init=nn.glorot_uniform()), (floats(4),)),
    Case("Dense on axes", nn.Dense((2, 3), axis=(0, -1)), (floats(2, 3, 4),)),
    Case("Einsum", nn.Einsum("...gn,gnd->...gd", (2, 3, 4)), (floats(3, 2, 3),)),
    Case("Bilinear", nn.Bilinear(3), (floats(2, 4), floats(2, 2))),
    Case("Conv", nn.Conv(4, (3, 2), stride=(2, 1), groups=2), (floats(2, 5, 4, 2),)),
    Case(
        "Conv, causal", nn.Conv(4, 3, dilation=2, padding="causal"), (floats(2, 6, 4),), causal=True
    ),
    Case(
        "SeparableConv, causal",
        nn.SeparableConv(4, 3, padding="causal", multiplier=2),
        (floats(2, 6, 4),),
        causal=True,
    ),
    Case("ConvTranspose", nn.ConvTranspose(4, 3, stride=2, groups=2), (floats(2, 3, 4),)),
    Case(
        "PixelShuffle after its inverse",
        nn.Sequential(nn.PixelUnshuffle((2, 2)), nn.PixelShuffle((2, 1))),
        (floats(2, 4, 2, 3),),
    ),
    Case("Upsample, bicubic", nn.Upsample((1.5,), None, "bicubic"), (floats(2, 3, 2),)),
    Case("ChannelShuffle", nn.ChannelShuffle(2), X),
    Case(
        "Fold after Unfold",
        nn.Sequential(nn.Unfold(3, 2, 1), nn.Fold(5, 3, 2, 1)),
        (floats(2, 5, 2),),
    ),
    Case(
        "LocallyConnected after Pad",
        nn.Sequential(nn.Pad(1, "reflect"), nn.LocallyConnected(2, 2)),
        (floats(2, 3, 2),),
    ),
    Case("Upsample", nn.Upsample(size=(5,), method="linear"), (floats(2, 3, 2),)),
    Case(
        "Attention, causal",
        nn.MultiHeadAttention(
            4, 2, 2, causal=True, rotary=nn.RotaryEmbedding(), query_key_norm=True, soft_cap=5.0
        ),
        XS,
        True,
    ),
    Case(
        "Attention, window",
        nn.MultiHeadAttention(2, causal=True, window=3, alibi=True, dropout=0.5, bias=False),
        XS,
        True,
    ),
    Case(
        "Attention, blocks",
        nn.MultiHeadAttention(2, 2, value_dim=3, mask_mod=nn.BlockMask(2, before=1)),
        XS,
    ),
    Case("AdditiveAttention", nn.AdditiveAttention(3), (floats(2, 3, 2), floats(2, 2, 4))),
    Case("RelativePositionBias", nn.RelativePositionBias(2, 4, 8), XS),
    Case("LearnedPositions", nn.LearnedPositions(8), XS, True),
    Case("SinusoidalPositions", nn.SinusoidalPositions(), XS, True),
    Case(
        "EncoderLayer",
        nn.Repeat(nn.EncoderLayer(nn.MultiHeadAttention(2, causal=True, window=2), nn.Dense(4)), 2),
        XS,
        True,
    ),
    Case("Recurrent", nn.Recurrent(nn.RNNCell(4)), XS, True),
    Case("Recurrent, stacked", STACKED, XS, True),
    Case(
        "Recurrent, options",
        nn.Recurrent(nn.LSTMCell(3, projection=2, peepholes=True, layer_norm=True, bias=False)),
        XS,
        True,
    ),
    Case("Recurrent, reset before", nn.Recurrent(nn.GRUCell(3, reset_after=False)), XS, True),
    Case("Recurrent, last", nn.Recurrent(nn.MinimalGatedCell(2), output="last"), XS),
    Case(
        "Recurrent, dropped",
        nn.Recurrent(nn.MinimalGatedCell(2, bias=False), recurrent_dropout=0.5),
        XS,
    ),
    Case("Recurrent over images", nn.Recurrent(nn.ConvLSTMCell(2, 2)), (floats(1, 2, 3, 2),)),
    Case("Bidirectional", nn.Bidirectional(nn.Recurrent(nn.GRUCell(2))), XS),
    Case("Mamba2", nn.Mamba2(2, 2, 3, kernel_size=2, chunk_size=2), XS, True),
    Case("LinearRecurrence", nn.LinearRecurrence(3, 0.5, 0.9), XS, True),
    Case(
        "DecoderLayer",
        nn.DecoderLayer(
            nn.MultiHeadAttention(2),
            nn.MultiHeadAttention(1),
            nn.Dense(4),
            norm_first=False,
            dropout=nn.Dropout(0.5),
        ),
        (*XS, floats(2, 2, 6)),
    ),
    Case("Dropout", nn.Dropout(0.5), X),
    Case("Dropout, shared", nn.Dropout(0.5, broadcast_dims=-2), (floats(2, 3, 2),)),
    Case("AlphaDropout", nn.AlphaDropout(0.5), X),
    Case("StochasticDepth", nn.StochasticDepth(0.5), X),
    Case("GaussianNoise", nn.GaussianNoise(0.5), X),
    Case("LayerNorm", nn.LayerNorm(eps=1e-3), X),
    Case("RMSNorm", nn.RMSNorm(), X),
    Case("LayerNorm on axes", nn.LayerNorm(axis=(0, -1)), (floats(2, 3, 2),)),
    Case("RMSNorm on axes", nn.RMSNorm(axis=(1, -1)), (floats(2, 3, 2),)),
    Case("GroupNorm", nn.GroupNorm(2), (floats(2, 3, 4),)),
    Case("InstanceNorm", nn.InstanceNorm(spatial=2), (floats(3, 2, 2),)),
    Case(
        "InstanceNorm, running",
        nn.InstanceNorm(track_running_stats=True, momentum=None),
        (floats(2, 3, 2),),
    ),
    Case(
        "GaussianDropout after UnitNorm",
        nn.Sequential(nn.UnitNorm(), nn.RReLU(), nn.GaussianDropout(0.5)),
        X,
    ),
    Case("LocalResponseNorm", nn.LocalResponseNorm(3, alpha=0.5), X),
    Case("BatchNorm", nn.BatchNorm(momentum=0.5), X),
    Case("BatchNorm axis 1", nn.BatchNorm(axis=1, bias=False), (floats(3, 4, 2),)),
    Case(
        "BatchNorm, renorm",
        nn.BatchNorm(None, renorm=True, r_max=1.2, d_max=0.1),
        X,
        derivative=False,
    ),
    Case("MaxPool", nn.MaxPool((2, 1), padding=(1, 0), dilation=(2, 1)), (floats(2, 4, 2, 2),)),
    Case("MinPool", nn.MinPool(3, 1, "same"), (floats(2, 4, 2),)),
    Case("AvgPool", nn.AvgPool(3, 2, 1, ceil_mode=True), (floats(4, 2),)),
    Case("LpPool", nn.LpPool(2, 2, 1, 1), (floats(2, 4, 2),)),
    Case("FractionalMaxPool", nn.FractionalMaxPool((2, 1), (2, 3)), (floats(2, 4, 3, 2),)),
    Case("MaxPool, indices", nn.MaxPool(2, return_indices=True), (floats(2, 4, 2),)),
    Case("AdaptiveAvgPool", nn.AdaptiveAvgPool((3, None)), (floats(2, 4, 2, 2),)),
    Case("AdaptiveMaxPool", nn.AdaptiveMaxPool(3), (floats(2, 4, 2),)),
    Case("GlobalAvgPool", nn.GlobalAvgPool(), (floats(2, 3, 2),)),
    Case("GlobalMaxPool", nn.GlobalMaxPool(), (floats(2, 3, 2),)),
    Case("Embedding", nn.Embedding(5, 3), (tokens(2, 3),)),
    Case("VectorQuantizer", nn.VectorQuantizer(3), X, derivative=False),
    Case(
        "VectorQuantizerEMA",
        nn.Sequential(nn.VectorQuantizerEMA(3), without_loss),
        X,
        derivative=False,
    ),
    Case("FourierFeatures", nn.FourierFeatures(4), X),
    Case("TimeEmbedding", nn.TimeEmbedding(4), (floats(3),)),
    Case("EmbeddingBag", nn.EmbeddingBag(5, 3, "max", padding=2), (tokens(2, 3),)),
    Case("EmbeddingBag, packed", nn.EmbeddingBag(5, 3, bags=2), (tokens(3), None, tokens(3))),
    Case("PReLU per feature", nn.PReLU(axis=-1), X),
    Case("LearnedArray", nn.LearnedArray((2, 3), w_init=nn.normal(1.0)), ()),
    Case("Flatten", nn.Flatten(), (floats(2, 3, 2),)),
    Case("Reshape", nn.Reshape((2, -1)), X),
    Case("Tap", nn.Tap(), X),
    Case("LayerScale", nn.LayerScale(), X),
    Case("GatedFeedForward", nn.GatedFeedForward(3, bias=True), X),
    Case("SqueezeExcitation", nn.SqueezeExcitation(2), (floats(2, 2, 2, 4),)),
    Case("PatchEmbedding", nn.PatchEmbedding(3, (2, 1)), (floats(2, 4, 2, 2),)),
    Case("Sequential", nn.Sequential(nn.Dense(8), jax.nn.relu, nn.Dense(2)), X),
    Case("Sequential by name", nn.Sequential(first=nn.Dense(8), act=jnp.tanh, last=nn.Dense(2)), X),
    Case("Sequential of nothing", nn.Sequential(), X),
    Case("Parallel", nn.Parallel(nn.Dense(3), nn.Dropout(0.5), merge=jnp.hstack), X),
    Case("Residual", nn.Residual(BLOCK), X),
    Case("Repeat", nn.Repeat(nn.Residual(BLOCK), 3), X),
    Case("Repeat of BatchNorm", nn.Repeat(STATEFUL, 2), X),
    Case("Repeat of Repeat", nn.Repeat(nn.Repeat(nn.Dense(4), 2), 2), X),
    Case("Remat of BatchNorm", nn.Remat(STATEFUL), X),
    Case("Ensemble of BatchNorm", nn.Ensemble(STATEFUL, 2), X),
    Case("Precision", nn.Precision(BLOCK, "float32"), X),
    Case("Inference", nn.Inference(STATEFUL), X),
    Case(
        "Inference of Attention",
        nn.Inference(nn.Repeat(nn.MultiHeadAttention(2, causal=True), 2)),
        XS,
        True,
    ),
    Case("Repeat of Inference", nn.Repeat(nn.Sequential(nn.Inference(BLOCK), nn.Dense(4)), 2), X),
    # 200 iterations find the singular vectors exactly; treating them as constants is then correct.
    Case("SpectralNorm", nn.SpectralNorm(nn.Dense(4), steps=200), X),
    Case("LoRA", nn.LoRA(nn.Repeat(nn.Dense(4), 2), 2), X),
    Case("WeightNorm", nn.WeightNorm(nn.Repeat(nn.Dense(4), 2)), X),
    Case("MixtureOfExperts", nn.MixtureOfExperts(nn.Dense(4), 3), X),
    Case("MixtureOfExperts, one", nn.MixtureOfExperts(nn.Dropout(0.5), 2, 1), X),
    Case("capture", nn.capture(nn.Repeat(nn.Remat(BLOCK), 2), "1"), X),
    Case(
        "wrappers nested",
        nn.Sequential(
            ids=nn.Embedding(5, 4),
            blocks=nn.Remat(
                nn.Repeat(nn.Residual(nn.Sequential(nn.Remat(BLOCK), nn.BatchNorm())), 2)
            ),
            heads=nn.Ensemble(nn.Precision(nn.Dense(2), "float32"), 2),
        ),
        (tokens(3, 2),),
    ),
]

every = pytest.mark.parametrize("case", CASES, ids=str)

STRUCTURAL = (
    "Dense",
    "Bilinear",
    "Attention, window",
    "Recurrent, stacked",
    "Dropout",
    "BatchNorm",
    "Embedding",
    "LearnedArray",
    "Parallel",
    "Repeat of BatchNorm",
    "Remat of BatchNorm",
    "Ensemble of BatchNorm",
    "Inference",
    "SpectralNorm",
    "LoRA",
    "MixtureOfExperts, one",
    "capture",
    "wrappers nested",
)
structural = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.name in STRUCTURAL else pytest.mark.slow)
        for case in CASES
    ],
    ids=str,
)

# Compositions whose layers and wrappers are also parts of other cases.
COMPOSED = (
    "Sequential",
    "Sequential by name",
    "Residual",
    "Repeat",
    "Repeat of Repeat",
    "Precision",
    "Inference of Attention",
    "Repeat of Inference",
)


def distinct(cases: Iterable[Case]) -> Any:
    """Parametrize a test by `cases`, of which those in COMPOSED are slow."""
    marked = [
        pytest.param(case, marks=pytest.mark.slow if case.name in COMPOSED else ())
        for case in cases
    ]
    return pytest.mark.parametrize("case", marked, ids=str)

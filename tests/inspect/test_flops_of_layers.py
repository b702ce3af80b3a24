"""The FLOPs of each layer against the closed form of its formula, written out from the sizes.

A row of the table gives the products (of matrices and convolutions), which have to be exact, and
the rest, elementwise operations and reductions: exact too, or in a range where the formula can be
written with an operation more or less, as in norms. How a part is counted is said in the docstring
of `jaxnn.inspect.flops`.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")


def tokens(*shape):
    return jax.ShapeDtypeStruct(shape, "int32")


class Case(NamedTuple):
    layer: nn.Layer
    inputs: Any
    products: int
    rest: int | range
    named: Any = None


def between(low, high):
    return range(low, high + 1)


def norm(size, statistics):
    """Sum, difference, square, sum, (difference again,) factor, scale, bias for each element; two
    quotients, eps and the root for each mean and variance."""
    return between(7 * size, 8 * size + 4 * statistics)


def together(*parts):
    """The range of a sum."""
    ranges = [part if isinstance(part, range) else range(part, part + 1) for part in parts]
    return between(sum(r[0] for r in ranges), sum(r[-1] for r in ranges))


def softmax(rows, columns):
    """Maximum, difference, exponential, sum, and quotient."""
    return 5 * rows * columns


IMAGE = shaped(2, 8, 8, 3)
SEQUENCE = shaped(2, 6, 8)
PAIR = (shaped(4, 3), shaped(4, 5))

DENSE = [
    Case(nn.Dense(5), shaped(2, 3), 2 * 2 * 3 * 5, 2 * 5),
    Case(nn.Dense((4, 5)), shaped(2, 3), 2 * 2 * 3 * (4 * 5), 2 * (4 * 5)),
    Case(nn.Dense(7, axis=(-2, -1)), shaped(2, 3, 4), 2 * 2 * (3 * 4) * 7, 2 * 7),
    Case(nn.Dense(7, bias=False, axis=0), shaped(3, 4), 2 * 4 * 3 * 7, 0),
    Case(
        nn.Einsum("...n,nhd->...hd", (6, 2, 3)),
        shaped(4, 5, 6),
        2 * (4 * 5) * 6 * (2 * 3),
        (4 * 5) * (2 * 3),
    ),
    # The order that costs least: w with z first, then with x; or x with z first, a product of 1.
    Case(nn.Bilinear(2), PAIR, 2 * 4 * (3 * 5) * 2 + 2 * 4 * 3 * 2, 4 * 2),
    Case(nn.Bilinear(7), PAIR, 2 * 4 * (3 * 5) + 2 * 4 * (3 * 5) * 7, 4 * 7),
    Case(nn.GatedFeedForward(16), SEQUENCE, 3 * (2 * 12 * 8 * 16), 3 * 12 * 16),  # silu is two
    Case(nn.LayerScale(), SEQUENCE, 0, 12 * 8),
    Case(nn.PReLU(), SEQUENCE, 0, 12 * 8),
    # w u, w^T v and v^T (w u); the norms of u and v, each of three for an element; w / sigma.
    Case(
        nn.SpectralNorm(nn.Dense(5)),
        SEQUENCE,
        2 * 12 * 8 * 5 + 3 * (2 * 8 * 5) + 2 * 8,
        together(12 * 5, 8 * 5, between(3 * (8 + 5), 4 * (8 + 5))),
    ),
    Case(nn.WeightNorm(nn.Dense(5)), SEQUENCE, 2 * 12 * 8 * 5, between(60 + 3 * 40, 60 + 4 * 40)),
]

CONVOLUTIONS = [  # 2 * output elements * window * input features / groups; a bias an element
    Case(nn.Conv(4, 3, stride=2), shaped(2, 7, 5), 2 * (2 * 4 * 4) * 3 * 5, 2 * 4 * 4),
    Case(
        nn.Conv(4, 3, dilation=2, padding="causal"),
        shaped(2, 7, 5),
        2 * (2 * 7 * 4) * 3 * 5,
        2 * 7 * 4,
    ),
    Case(
        nn.Conv(4, 3, dilation=2, padding="valid"),
        shaped(2, 7, 5),
        2 * (2 * 3 * 4) * 3 * 5,
        2 * 3 * 4,
    ),
    Case(
        nn.Conv(6, (3, 2), groups=3, padding="valid"),
        shaped(2, 5, 6, 9),
        2 * (2 * 3 * 5 * 6) * (3 * 2) * (9 // 3),
        2 * 3 * 5 * 6,
    ),
    Case(
        nn.Conv(6, (3, 3), stride=(2, 1), padding=((1, 0), "circular")),
        shaped(2, 6, 5, 4),
        2 * (2 * 3 * 5 * 6) * 9 * 4,
        2 * 3 * 5 * 6,
    ),
    Case(
        nn.Conv(4, (3, 3, 3), stride=(1, 2, 3), dilation=(2, 1, 1), padding=1, bias=False),
        shaped(1, 5, 6, 7, 2),
        2 * (3 * 3 * 3 * 4) * 27 * 2,
        0,
    ),
    Case(nn.DepthwiseConv((3, 3), multiplier=2), IMAGE, 2 * (2 * 64 * 3 * 2) * 9, 2 * 64 * 3 * 2),
    Case(
        nn.SeparableConv(5, (3, 3)),
        IMAGE,
        2 * (2 * 64 * 3) * 9 + 2 * (2 * 64 * 5) * 3,
        2 * 64 * 5,
    ),
    Case(nn.PatchEmbedding(5, 4), IMAGE, 2 * (2 * 2 * 2) * (4 * 4 * 3) * 5, 2 * 2 * 2 * 5),
]

SQUARE = shaped(1, 5, 5, 3)
TRANSPOSED = [  # 2 * input elements * window * output features / groups; a bias an element
    Case(
        nn.ConvTranspose(4, (3, 3), stride=2, padding="valid"),
        SQUARE,
        2 * (25 * 3) * 9 * 4,
        11 * 11 * 4,
    ),
    Case(nn.ConvTranspose(4, (3, 3), stride=2, padding=1), SQUARE, 2 * (25 * 3) * 9 * 4, 9 * 9 * 4),
    Case(nn.ConvTranspose(4, (3, 3), stride=2), SQUARE, 2 * (25 * 3) * 9 * 4, 10 * 10 * 4),
    Case(nn.ConvTranspose(4, (3, 3)), SQUARE, 2 * (25 * 3) * 9 * 4, 5 * 5 * 4),
    Case(nn.ConvTranspose(4, (3, 3), stride=(2, 1)), SQUARE, 2 * (25 * 3) * 9 * 4, 10 * 5 * 4),
    Case(
        nn.ConvTranspose(4, 2, stride=3, padding="valid"),
        shaped(1, 5, 3),
        2 * (5 * 3) * 2 * 4,
        14 * 4,
    ),
    Case(
        nn.ConvTranspose(6, 3, stride=2, dilation=2, groups=3, padding="valid", output_padding=1),
        shaped(2, 5, 9),
        2 * (2 * 5 * 9) * 3 * (6 // 3),
        2 * ((5 - 1) * 2 + 5 + 1) * 6,
    ),
    Case(
        nn.ConvTranspose(4, (2, 2, 2), stride=2, bias=False),
        shaped(1, 2, 3, 4, 5),
        2 * (24 * 5) * 8 * 4,
        0,
    ),
]

POOLS = [  # means: the window and a quotient; maxima: what is taken along W, then along H
    Case(nn.AvgPool((2, 2)), IMAGE, 0, 2 * 16 * 3 * (4 + 1)),
    Case(nn.AvgPool((3, 3), stride=1), IMAGE, 0, 2 * 36 * 3 * (9 + 1)),
    # A power of each element; the window, a quotient, a factor and the root; 1 / p.
    Case(nn.LpPool(2, (2, 2)), IMAGE, 0, 2 * 64 * 3 + 2 * 16 * 3 * (4 + 3) + 1),
    Case(nn.MaxPool((2, 2)), IMAGE, 0, 2 * 3 * (8 * 4 + 4 * 4)),
    Case(nn.MinPool((2, 2)), IMAGE, 0, 2 * 3 * (8 * 4 + 4 * 4)),
    Case(nn.MaxPool((3, 3), stride=1), IMAGE, 0, 2 * 3 * (8 * 6 + 6 * 6) * 2),
    Case(nn.MaxPool((3, 3), 2, "same", dilation=2), IMAGE, 0, 2 * 3 * (8 * 4 + 4 * 4) * 2),
    Case(
        nn.MaxPool(9, 1), shaped(2, 20, 3), 0, 2 * 3 * (19 + 17 + 13 + 12)
    ),  # of 2, 4, 8 and 9 places
    Case(nn.GlobalAvgPool(), IMAGE, 0, 2 * 64 * 3 + 2 * 3),
    Case(nn.GlobalMaxPool(), IMAGE, 0, 2 * 3 * (64 - 1)),
    Case(
        nn.AdaptiveAvgPool((2, 4)),
        IMAGE,
        0,
        2 * 3 * (2 * 8) * (4 + 1) + 2 * 3 * (2 * 4) * (2 + 1),
    ),
    # [0, 3), [2, 6) and [5, 8), each filled up to the 4 of the longest.
    Case(
        nn.AdaptiveAvgPool((3, 3)),
        IMAGE,
        0,
        2 * 3 * (3 * 8) * (4 + 1) + 2 * 3 * (3 * 3) * (4 + 1),
    ),
    Case(nn.AdaptiveMaxPool((2, 4)), IMAGE, 0, 2 * 3 * (8 * 4 * (2 - 1) + 2 * 4 * (4 - 1))),
    Case(nn.AdaptiveMaxPool((3, 3)), IMAGE, 0, 2 * 3 * (8 * 3 + 3 * 3) * (4 - 1)),
]

NORMS = [
    Case(nn.LayerNorm(), IMAGE, 0, norm(2 * 64 * 3, 2 * 64)),
    Case(nn.LayerNorm(axis=(1, 2, 3)), IMAGE, 0, norm(2 * 64 * 3, 2)),
    # Square, sum, factor and scale of each element; quotient, eps and root of each mean.
    Case(nn.RMSNorm(), IMAGE, 0, 4 * (2 * 64 * 3) + 3 * (2 * 64)),
    # Difference, factor (and scale) and bias of each element; eps and root of each feature.
    Case(nn.BatchNorm(), IMAGE, 0, between(3 * (2 * 64 * 3), 4 * (2 * 64 * 3) + 3 * 3)),
    Case(nn.GroupNorm(2), shaped(2, 8, 8, 4), 0, norm(2 * 64 * 4, 2 * 2)),
    Case(nn.InstanceNorm(), IMAGE, 0, norm(2 * 64 * 3, 2 * 3)),
    # Square, window, factor, k, power, product of each element; alpha / size and -beta.
    Case(nn.LocalResponseNorm(3), IMAGE, 0, (2 * 64 * 3) * (1 + 3 + 4) + 2),
    # The mean and the factor of each element; biases, relu and sigmoid of the features.
    Case(
        nn.SqueezeExcitation(3),
        shaped(2, 8, 8, 6),
        2 * 2 * 6 * 2 + 2 * 2 * 2 * 6,
        2 * (2 * 64 * 6) + 2 * 6 + 2 * (2 * 2) + 2 * (2 * 6),
    ),
]

MOVES = [
    Case(nn.Embedding(10, 4), tokens(2, 5), 0, 0),
    Case(nn.Embedding(10, 4, padding=0), tokens(2, 5), 0, 0),
    Case(nn.EmbeddingBag(10, 4, mode="sum"), tokens(2, 5), 0, 2 * 5 * 4),
    Case(nn.EmbeddingBag(10, 4), tokens(2, 5), 0, 2 * 5 * 4 + 2 * 4),
    Case(nn.EmbeddingBag(10, 4, mode="max"), tokens(2, 5), 0, 2 * 4 * (5 - 1)),
    Case(nn.EmbeddingBag(10, 4, "sum"), (tokens(2, 5), shaped(2, 5)), 0, 2 * (2 * 5 * 4)),
    Case(
        nn.EmbeddingBag(10, 4, "sum", bags=3),
        tokens(2, 5),
        0,
        2 * 5 * 4,
        {"segment_ids": tokens(2, 5)},
    ),
    Case(nn.LearnedPositions(10), SEQUENCE, 0, 12 * 8),
    # The sum; an angle, its sine and its cosine for each position and half of the features.
    Case(nn.SinusoidalPositions(), SEQUENCE, 0, between(12 * 8 + 3 * 6 * 4, 12 * 8 + 4 * 6 * 4)),
    Case(nn.Upsample((2, 2)), IMAGE, 0, 0),
    Case(nn.Upsample(size=(5, 11)), IMAGE, 0, 0),
    # A product with the weights along each axis, 8 by 16, which take about ten operations each.
    Case(
        nn.Upsample((2, 2), method="linear"),
        IMAGE,
        2 * (2 * 8 * 8 * 3) * 16 + 2 * (2 * 16 * 8 * 3) * 16,
        between(2 * (8 * 16), 2 * 12 * (8 * 16)),
    ),
    Case(nn.PixelShuffle((2, 2)), shaped(2, 4, 4, 12), 0, 0),
    Case(nn.PixelUnshuffle((2, 2)), shaped(2, 4, 4, 12), 0, 0),
    Case(nn.Flatten(), IMAGE, 0, 0),
    Case(nn.Reshape((48,)), SEQUENCE, 0, 0),
    Case(nn.Dropout(0.5), IMAGE, 0, 0),
]

FOUR = 4 * (2 * 12 * 8 * 8)  # query, key, value and out: 12 positions, 8 features
SCORES = 2 * (2 * (2 * 2 * 6 * 6) * 4)  # q k^T and weights v: 2 sequences, 2 heads of 4 features
HEADS = FOUR + SCORES
# Biases, the scale, softmax. The scale is 1 / 2, which multiplies queries instead of scores.
WEIGHTS = 4 * 12 * 8 + 12 * 8 + softmax(2 * 2 * 6, 6)
ACROSS = 2 * (2 * 12 * 8 * 8) + 2 * (2 * 10 * 7 * 8) + 2 * (2 * (2 * 2 * 6 * 5) * 4)
WEIGHTS_ACROSS = 2 * 12 * 8 + 2 * 10 * 8 + 12 * 8 + softmax(2 * 2 * 6, 5)
GATED, GATES = 3 * (2 * 12 * 8 * 16), 3 * 12 * 16
BRANCH = together(12 * 8, norm(12 * 8, 12))
MEMORY = shaped(2, 5, 7)

TRANSFORMERS = [  # a mask saves nothing: causal attention takes all the products
    Case(nn.MultiHeadAttention(2), SEQUENCE, HEADS, WEIGHTS),
    Case(nn.MultiHeadAttention(2, causal=True), SEQUENCE, HEADS, WEIGHTS),
    Case(nn.MultiHeadAttention(2, causal=True, window=2), SEQUENCE, HEADS, WEIGHTS),
    Case(nn.MultiHeadAttention(2), SEQUENCE, HEADS, WEIGHTS, {"segment_ids": tokens(2, 6)}),
    Case(nn.MultiHeadAttention(2, implementation="own"), SEQUENCE, HEADS, WEIGHTS),
    Case(nn.MultiHeadAttention(2, soft_cap=5.0), SEQUENCE, HEADS, WEIGHTS + 3 * (2 * 2 * 6 * 6)),
    # 4 query heads and 2 of keys and values, each of 2 features.
    Case(
        nn.MultiHeadAttention(4, num_kv_heads=2),
        SEQUENCE,
        2 * (2 * 12 * 8 * 8) + 2 * (2 * 12 * 8 * 4) + 2 * (2 * (2 * 4 * 6 * 6) * 2),
        12 * (8 + 4 + 4 + 8) + (2 * 4 * 6) * 6 + softmax(2 * 4 * 6, 6),
    ),
    # Queries and keys turned: two products and a sum each, with a sine and a cosine an angle.
    Case(
        nn.MultiHeadAttention(2, rotary=nn.RotaryEmbedding()),
        SEQUENCE,
        HEADS,
        together(WEIGHTS, between(3 * (2 * 12 * 8), 5 * (2 * 12 * 8))),
    ),
    Case(nn.MultiHeadAttention(2), (SEQUENCE, MEMORY), ACROSS, WEIGHTS_ACROSS),
    Case(
        nn.EncoderLayer(nn.MultiHeadAttention(2), nn.GatedFeedForward(16)),
        SEQUENCE,
        HEADS + GATED,
        together(WEIGHTS, GATES, BRANCH, BRANCH),
    ),
    Case(
        nn.DecoderLayer(
            nn.MultiHeadAttention(2, causal=True), nn.MultiHeadAttention(2), nn.GatedFeedForward(16)
        ),
        (SEQUENCE, MEMORY),
        HEADS + ACROSS + GATED,
        together(WEIGHTS, WEIGHTS_ACROSS, GATES, BRANCH, BRANCH, BRANCH),
    ),
    # The router; 4 experts with ceil(1.25 * 2 * 6 / 4) = 4 places a sequence. The rest: the gates
    # of the experts, the sums of two experts a token, and about a softmax of the router's numbers.
    Case(
        nn.MixtureOfExperts(nn.GatedFeedForward(16), 4),
        SEQUENCE,
        2 * 12 * 8 * 4 + (2 * 4 * 4) * 3 * (2 * 8 * 16),
        together(3 * (2 * 4 * 4) * 16, 2 * (2 * 12 * 8), between(5 * 12 * 4, 10 * 12 * 4)),
    ),
]


def steps(gates):
    """12 steps of 5 features: the products of each gate with 8 inputs and 5 of the carry."""
    return 2 * 12 * (8 + 5) * (gates * 5)


# Of the rest, each gate has a bias and a sum; then come the operations of the cell.
LSTM = 4 * 2 + 5 + 4  # three sigmoids and two tanh; three products and a sum
GRU = between(3 * 2 + 8, 3 * 2 + 9)  # three nonlinearities, two products, three sums
MINIMAL = between(2 * 2 + 7, 2 * 2 + 8)
RECURRENT = [
    Case(nn.Recurrent(nn.RNNCell(5)), SEQUENCE, steps(1), 12 * 5 * (2 + 1)),
    Case(nn.Recurrent(nn.LSTMCell(5)), SEQUENCE, steps(4), 12 * 5 * LSTM),
    Case(
        nn.Recurrent(nn.LSTMCell(5), output="last"),
        SEQUENCE,
        steps(4),
        12 * 5 * LSTM,
        {"segment_ids": tokens(2, 6)},
    ),
    Case(nn.Recurrent(nn.GRUCell(5)), SEQUENCE, steps(3), together(*[GRU] * (12 * 5))),
    Case(nn.Recurrent(nn.MinimalGatedCell(5)), SEQUENCE, steps(2), together(*[MINIMAL] * (12 * 5))),
    Case(nn.Bidirectional(nn.Recurrent(nn.LSTMCell(5))), SEQUENCE, 2 * steps(4), 2 * 12 * 5 * LSTM),
    Case(
        nn.Recurrent(nn.ConvLSTMCell(5, (3, 3))),
        shaped(2, 6, 4, 4, 3),
        2 * (12 * 16 * 4 * 5) * 9 * (3 + 5),
        12 * 16 * 5 * LSTM,
    ),
    # Re and Im of h, in and out. The rest: s * b; Re - Im, d * x and their sum; for the recurrence
    # at least T - 1 sums of products, at most 2 T with a place for each and a product of a; about
    # ten operations a state for a and s.
    Case(
        nn.LinearRecurrence(5),
        SEQUENCE,
        2 * (2 * 12 * 8 * 5) + 2 * (2 * 12 * 5 * 8),
        together(
            12 * 5 + 3 * 12 * 8,
            between(2 * 5 * (2 * 5), 2 * 6 * (3 * (2 * 5) + 2 * 5)),
            between(5 * 5, 10 * 5),
        ),
    ),
]

CASES = [
    *(*DENSE, *CONVOLUTIONS, *TRANSPOSED, *POOLS, *NORMS, *MOVES, *TRANSFORMERS, *RECURRENT),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.layer))
def test_flops_are_the_closed_form(case, monkeypatch):
    def counted():
        return nn.summary(case.layer, *inputs, **(case.named or {})).total.flops

    inputs = case.inputs if type(case.inputs) is tuple else (case.inputs,)
    total = counted()
    module = sys.modules["jaxnn.inspect.summary"]
    for kind in ("ELEMENTWISE", "REDUCTIONS", "WINDOWS", "SCATTERS"):
        monkeypatch.setattr(module, kind, frozenset())
    products = counted()
    assert products == case.products
    assert total - products in (case.rest if isinstance(case.rest, range) else [case.rest])


def test_functions_that_stand_as_layers():
    assert (
        nn.summary(nn.Sequential(jnp.tanh, jax.nn.silu), SEQUENCE).total.flops == (1 + 2) * 12 * 8
    )

"""Learned, sinusoidal and rotary positions, ALiBi: against transformers, and the formulas."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.positions import alibi, alibi_slopes, rotary_frequencies, rotate, sinusoidal
from tests.fixtures.positions import BASE, FEATURES, FILE, RULES
from tests.layers.agreement import KEY, normals
from tests.near import assert_near

THEIRS = dict(np.load(FILE))


@pytest.mark.parametrize("name", RULES)
def test_length_scaling_as_transformers(name: str):
    """Both in float32, where a power costs some units in the last place."""
    rule, _, length = RULES[name]
    found = rule.frequencies(FEATURES, BASE, length)
    np.testing.assert_allclose(found, THEIRS[f"{name}/frequencies"], rtol=2e-6)
    np.testing.assert_allclose(rule.magnitude_of_turned(), THEIRS[f"{name}/magnitude"], rtol=1e-6)


def test_ntk_as_published():
    """The highest frequency stays, the lowest is divided by the factor."""
    found = nn.NTKScaling(8.0).frequencies(FEATURES, BASE, 1)
    plain = rotary_frequencies(FEATURES, BASE)
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(found[-1], plain[-1] / 8.0, rtol=1e-5)
    base = BASE * 8.0 ** (FEATURES / (FEATURES - 2))
    expected = base ** (-np.arange(0, FEATURES, 2) / FEATURES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "interleaved"), [("half", False), ("interleaved", True)])
def test_layouts_as_transformers(name: str, interleaved: bool):
    rotary = nn.RotaryEmbedding(100.0, interleaved=interleaved)
    found = rotary.rotate(jnp.asarray(THEIRS["q"]), jnp.arange(5), 5)
    assert_near(found, jnp.asarray(THEIRS[name]))


def test_part_of_the_features_turns():
    """By the frequencies of a head of that many features (GPT-NeoX, GPT-J)."""
    q = np.asarray(normals(0, 5, 2, 8))
    part, whole = nn.RotaryEmbedding(fraction=0.5), nn.RotaryEmbedding()
    found, expected = jax.jit(
        lambda q: (part.rotate(q, jnp.arange(5), 5), whole.rotate(q[..., :4], jnp.arange(5), 5))
    )(q)
    found = np.asarray(found)
    np.testing.assert_array_equal(found[..., 4:], q[..., 4:])
    assert_near(found[..., :4], expected)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_distance_alone(interleaved: bool):
    rotary = nn.RotaryEmbedding(interleaved=interleaved)
    q, k = normals(0, 1, 1, 8), normals(1, 1, 1, 8)

    def score(t: int, s: int) -> jax.Array:
        turned = (rotary.rotate(a, jnp.array([p]), 1) for a, p in ((q, t), (k, s)))
        return jnp.sum(jnp.multiply(*turned))

    assert_near(score(7, 3), score(104, 100))
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_half_types_turn_in_float32():
    """At position 4000 an angle in bfloat16 would be wrong by many turns."""
    q, position = normals(0, 1, 1, 8), jnp.array([4001])
    found = nn.RotaryEmbedding().rotate(q.astype(jnp.bfloat16), position, 1)
    assert found.dtype == jnp.bfloat16
    expected = nn.RotaryEmbedding().rotate(q.astype(jnp.bfloat16).astype(jnp.float32), position, 1)
    # The result is rounded once.
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-8, atol=1e-3)


def test_a_swept_base_and_factor_are_one_program():
    q = normals(0, 3, 1, 8)

    @jax.jit
    def run(base, factor):
        rotary = nn.RotaryEmbedding(base, scaling=nn.YaRNScaling(factor, 512))
        return rotary.rotate(q, jnp.arange(3), 3)

    rotary = nn.RotaryEmbedding(500.0, scaling=nn.YaRNScaling(4.0, 512))
    assert_near(run(500.0, 4.0), jax.jit(lambda q: rotary.rotate(q, jnp.arange(3), 3))(q))


@pytest.mark.parametrize("heads", [1, 6, 8, 12])
def test_alibi_as_transformers(heads: int):
    """BLOOM's are slope * key position: the same but for a number for each query."""
    found = alibi(jnp.array([3]), jnp.arange(4), heads)[:, 0]
    theirs = THEIRS[f"alibi/{heads}"]
    np.testing.assert_allclose(found, theirs - theirs[:, -1:], rtol=1e-6, atol=1e-7)


def test_alibi_slopes_as_published():
    np.testing.assert_array_equal(alibi_slopes(8), 2.0 ** -np.arange(1.0, 9.0))
    assert alibi_slopes(16)[0] == pytest.approx(2**-0.5)


def test_sinusoidal_as_published():
    """In float64 with math, for an odd number of features too."""
    for features in (6, 5):
        expected = [
            [
                (math.cos if i % 2 else math.sin)(p / 10000 ** ((i - i % 2) / features))
                for i in range(features)
            ]
            for p in range(50)
        ]
        # The angle, at most 50, is rounded in float32.
        np.testing.assert_allclose(sinusoidal(jnp.arange(50), features), expected, atol=1e-5)


def test_learned_positions_are_rows_of_the_table():
    net, x = nn.LearnedPositions(6), np.asarray(normals(0, 2, 4, 3))
    params, run = jax.tree.map(np.asarray, net.init(KEY, x)), jax.jit(net.apply)
    assert_near(run(params, x), x + params["w"][None, :4])
    segment_ids = np.array([[0, 1, 1, 2], [1, 1, 1, 1]])
    expected = x[0, 1:] + params["w"][np.array([0, 1, 0])]
    assert_near(np.asarray(run(params, x, segment_ids=segment_ids))[0, 1:], expected)
    std = nn.LearnedPositions(500).init(KEY, jnp.zeros((2, 40)))["w"].std()
    assert float(std) == pytest.approx(0.02, rel=0.05)  # of 20,000 numbers


def test_no_positions_at_all():
    assert nn.SinusoidalPositions().apply({}, jnp.ones((2, 0, 3))).shape == (2, 0, 3)


@pytest.mark.parametrize("fraction", [0.29, 0.57, 0.58])
def test_a_share_that_is_rounded_turns_what_it_says(fraction: float):
    """0.29 * 200 is 57.99999999999999 in floating point."""
    assert nn.RotaryEmbedding(fraction=fraction).turned_features(200) == round(fraction * 200)


def test_past_the_table():
    net, x = nn.LearnedPositions(3), normals(0, 4, 2)
    with pytest.raises(ValueError, match=r"has 3 positions.*reaches position 3.*Positions\(6\)"):
        net.apply({"w": np.ones((3, 2), "f")}, x)
    params, packed = {"w": np.ones((3, 2), "f")}, np.array([1, 1, 2, 2])
    run = jax.jit(lambda s: net.apply(params, x, segment_ids=s))
    assert np.isfinite(run(packed)).all()
    with pytest.raises(ValueError, match="has 3 positions, but the sequence reaches position 3"):
        net.apply(params, x, segment_ids=np.ones(4, int))
    y = np.asarray(run(np.ones(4, int)))
    assert np.isfinite(y[:3]).all() and np.isnan(y[3]).all()
    cached, x = nn.with_cache(net), np.asarray(x)
    _, state = jax.jit(cached.apply)(params, x[:3], state=cached.init_state(x[:3]))
    with pytest.raises(ValueError, match="reaches position 3"):
        cached.apply(params, x[:1], state=state)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.RotaryEmbedding(fraction=1.5),
            r"fraction of the features, in \(0, 1\], got 1.5",
        ),
        (
            lambda: nn.RotaryEmbedding(base=0.0),
            "RotaryEmbedding.base must be a number > 0, got 0.0",
        ),
        (
            lambda: nn.RotaryEmbedding(scaling=cast(Any, 2.0)),
            "a rule such as nn.Linear.*, got 2.0",
        ),
        (lambda: nn.LinearScaling(-1.0), "LinearScaling.factor must be a number > 0, got -1.0"),
        (lambda: nn.LearnedPositions(0), "LearnedPositions.length must be an int >= 1, got 0"),
        (lambda: nn.SinusoidalPositions(base=-1.0), "base must be a number > 0, got -1.0"),
        (lambda: nn.SinusoidalPositions().apply({}, jnp.ones(3)), r"\(\.\.\., T, features\), got"),
    ],
)
def test_refused(make: Any, text: str):
    with pytest.raises((ValueError, TypeError), match=text):
        make()


def test_rotate_of_a_quarter():
    y = rotate(jnp.array([[[1.0, 2.0]]]), jnp.array([1]), jnp.array([jnp.pi / 2]), magnitude=3.0)
    np.testing.assert_allclose(y, [[[-6.0, 3.0]]], atol=1e-5)


def test_longrope_refused():
    rule = nn.LongRoPEScaling((1.0, 1.0), (2.0, 4.0), 8, 4.0)
    attention = nn.MultiHeadAttention(1, 4, causal=True, rotary=nn.RotaryEmbedding(scaling=rule))
    x = normals(0, 3, 4)
    params = attention.init(KEY, x)
    assert jax.eval_shape(attention.apply, params, x).shape == (3, 4)
    with pytest.raises(ValueError, match=r"LongRoPEScaling.long must be 1, that of .*short, got 2"):
        nn.LongRoPEScaling((1.0,), (2.0, 4.0), 8, 4.0)
    with pytest.raises(
        ValueError, match=r"LongRoPEScaling.long must be a tuple of numbers > 0, .*, got \(-1.0,\)"
    ):
        nn.LongRoPEScaling((1.0,), (-1.0,), 8, 4.0)
    with pytest.raises(
        ValueError, match="must be 4, a factor for each pair of the 8 rotated features, got 2"
    ):
        nn.RotaryEmbedding(scaling=rule).rotate(normals(0, 3, 1, 8), jnp.arange(3), 3)
    with pytest.raises(ValueError, match="which cached keys cannot follow"):
        nn.with_cache(attention)
    with pytest.raises(ValueError, match="a row with segment_ids has sequences"):
        attention.apply(params, x, segment_ids=np.ones(3, int))


def test_embeddings_of_times_and_coordinates_by_the_formula():
    times = np.array([0.0, 0.5, 900.0], np.float32)
    frequencies = 10000.0 ** (-np.arange(3) / 3)
    angles = times[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    found = jax.jit(lambda x: nn.TimeEmbedding(6).apply({}, x))(times)
    np.testing.assert_allclose(found, expected, atol=1e-4)  # angles of 900 in float32
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    turns = 2 * np.pi * np.dot(x.astype(np.float64), w.astype(np.float64))
    expected = np.concatenate([np.cos(turns), np.sin(turns)], -1)
    found = jax.jit(lambda w, x: nn.FourierFeatures(8).apply({"w": w}, x))(w, x)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(ValueError, match="features must be an even int >= 2, got 5"):
        nn.TimeEmbedding(5)

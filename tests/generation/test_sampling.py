"""Maps of logits against plain numpy and closed forms; they compose, trace and keep their type."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.generation import check_sampling, top_k, top_p, with_temperature

LOGITS: Any = np.random.default_rng(0).normal(0, 2, (5, 7)).astype(np.float32)


def left(logits):
    """The set of tokens that each row leaves."""
    return [set(np.flatnonzero(np.isfinite(row))) for row in np.asarray(logits)]


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_top_k_leaves_the_k_greatest(k):
    wanted = [set(np.argsort(-row)[:k]) for row in LOGITS]
    assert left(top_k(LOGITS, k)) == left(jax.jit(top_k)(LOGITS, k)) == wanted


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 1.0])
def test_top_p_leaves_the_fewest_whose_mass_reaches_p(p):
    for row, tokens in zip(softmax(LOGITS.astype(np.float64)), left(top_p(LOGITS, p)), strict=True):
        mass = sum(row[token] for token in tokens)
        least = min(row[token] for token in tokens)
        assert tokens == set(np.argsort(-row)[: len(tokens)])
        assert mass >= p - 1e-6  # float32's rounding of a sum of seven
        assert len(tokens) == 1 or mass - least < p


def test_what_stays_is_unchanged_and_of_its_type():
    for dtype in ("float32", "bfloat16", "float16"):
        logits = jnp.asarray(LOGITS, dtype)
        for new in (top_k(logits, 3), top_p(logits, 0.8), with_temperature(logits, 0.0)):
            assert new.dtype == logits.dtype
            np.testing.assert_array_equal(new, jnp.where(jnp.isfinite(new), logits, -jnp.inf))


def test_temperature_divides_and_at_zero_the_first_greatest_is_left():
    np.testing.assert_allclose(with_temperature(LOGITS, 0.5), LOGITS * 2, rtol=1e-6)
    tied = jnp.array([[1.0, 2.0, 2.0], [3.0, 0.0, 3.0]])
    assert left(with_temperature(tied, 0.0)) == [{1}, {0}]
    # A tiny temperature overflows to the same set, and not to NaN.
    assert left(jax.jit(with_temperature)(LOGITS, 0.0)) == [{row.argmax()} for row in LOGITS]


def test_they_compose_as_restrictions_of_one_distribution():
    """softmax of what is left is the distribution, given that one of those was drawn."""
    p = softmax(LOGITS.astype(np.float64) / 0.7)
    new = top_k(with_temperature(LOGITS, 0.7), 3)
    kept = np.where(np.isfinite(np.asarray(new)), p, 0)
    wanted = kept / kept.sum(-1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(new), wanted, rtol=1e-5)
    assert left(top_p(new, 1.0)) == left(new)


def test_draws_have_the_frequencies_of_the_softmax():
    """Chi-square over 20,000 draws: below its 99.99th percentile for the degrees of freedom."""
    from scipy.stats import chi2

    logits = top_p(with_temperature(jnp.asarray(LOGITS[0]), 1.5), 0.95)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    drawn = jax.random.categorical(jax.random.key(1), logits, shape=(20_000,))
    counts = np.bincount(np.asarray(drawn), minlength=7)
    assert counts[p == 0].sum() == 0
    expected = 20_000 * p[p > 0] / p.sum()
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    assert 2 < (p > 0).sum() < 7
    assert statistic < chi2.ppf(0.9999, (p > 0).sum() - 1)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (
            (-0.1,),
            "temperature must be a number >= 0, got -0.1; 0 takes the most probable token",
        ),
        ((float("nan"),), "temperature must be a number >= 0"),
        ((1.0, 0), "top_k must be None or an int >= 1, the number of tokens to keep, got 0"),
        ((1.0, 2.5), "top_k must be None or an int >= 1"),
        ((1.0, None, 0.0), r"top_p must be None or a probability in \(0, 1\], got 0.0"),
        ((1.0, None, 1.5), "top_p must be None or a probability"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, text):
    with pytest.raises(ValueError, match=text):
        check_sampling(*numbers)

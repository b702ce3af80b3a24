"""Confidence intervals of scores on test rows: how much they would vary with other test rows.

Each metric is evaluated on every row alone. For a mean of zeros and ones, such as accuracy, the
interval is Wilson's; for other metrics it is the percentile interval of the bootstrap over rows.
They apply to one trained network, and do not include the variation between seeds.

References: Wilson, Probable inference, the law of succession, and statistical inference, 1927;
Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..data.rows import row_count
from ..train.metrics import Collected, Derived, Mean, Ratio
from .experiment import Configured

LEVEL, Z = 0.95, 1.959964  # of the normal distribution, for 95 %
RESAMPLES, FEWER = 1000, 200
PIECE = 256  # rows that are evaluated at once
MANY = 20_000  # rows of which there are fewer resamples
MOST = 200_000  # rows that are resampled
MOST_COLLECTED = 5000  # rows of a metric of all rows, which each resample computes again


class Interval(NamedTuple):
    """The interval of a score with 95 % confidence, and its method, "Wilson" or "bootstrap"."""

    low: float
    high: float
    method: str


def intervals_of(
    one: Configured, state: Any, rows: Any, scores: dict[str, float]
) -> dict[str, Interval]:
    """Return the interval of each score that is a mean, or a function of sums, over rows.

    Args:
        one: the run.
        state: its final state.
        rows: the test rows.
        scores: their metrics.
    """
    count = row_count(rows)
    key = jax.random.key(0)

    @jax.jit
    def evaluate(state: Any, piece: Any) -> Any:
        alone = jax.tree.map(lambda leaf: leaf[:, None], piece)
        return jax.vmap(lambda row: dict(one.program.evaluate(state, row, key=key)))(alone)

    starts = range(0, count, PIECE)
    cut = lambda start: jax.tree.map(lambda leaf: leaf[start : start + PIECE], rows)  # noqa: E731
    parts = jax.device_get([evaluate(state, cut(start)) for start in starts])
    leaves = map(np.concatenate, zip(*map(jax.tree.leaves, parts), strict=True))
    metrics = jax.tree.unflatten(jax.tree.structure(parts[0]), leaves)
    random, resamples = np.random.default_rng(0), RESAMPLES if count <= MANY else FEWER
    chosen = np.zeros((resamples if count <= MOST else 0, count), np.float32)
    for one_of in chosen:
        one_of[:] = np.bincount(random.integers(0, count, count), minlength=count)
    # A metric of a whole, such as R2, may not exist for a row alone.
    names = [name for name in scores if name in metrics]
    found = {name: _interval(metrics[name], chosen, scores[name]) for name in names}
    return {name: interval for name, interval in found.items() if interval is not None}


def wilson(right: float, count: int) -> Interval:
    """Return Wilson's interval of a proportion.

    (p + z² / 2n ± z √(p (1 - p) / n + z² / 4n²)) / (1 + z² / n), with z = 1.96 and p = right / n.

    Args:
        right: the number of ones.
        count: the number of zeros and ones, n.

    >>> [round(end, 4) for end in wilson(9, 10)[:2]], [round(e, 4) for e in wilson(5, 5)[:2]]
    ([0.5958, 0.9821], [0.5655, 1.0])
    """
    share, more = right / count, Z**2 / count
    center, half = share + more / 2, Z * math.sqrt(share * (1 - share) / count + more / 4 / count)
    return Interval((center - half) / (1 + more), (center + half) / (1 + more), "Wilson")


def _interval(metric: Any, chosen: np.ndarray, score: float) -> Interval | None:
    """Return the interval of a metric of each row; None if it is not a combination of rows.

    Args:
        metric: with an axis of rows.
        chosen: (resamples, rows), how often a resample has a row.
        score: of all rows at once.
    """
    count = chosen.shape[1]
    if isinstance(metric, Collected):
        if count > MOST_COLLECTED:
            return None
        arrays = [np.concatenate(array) for array in metric.arrays]  # a row each
        values = [
            float(metric.function(*_repeated(arrays, one))) for one in (np.ones(count), *chosen)
        ]
        return _percentiles(values[0], np.asarray(values[1:]), score)
    if isinstance(metric, Derived) and metric.merge:
        values = [
            float(dataclasses.replace(metric, sums=_repeated(metric.sums, one)).over_parts().value)
            for one in (np.ones(count), *chosen[:FEWER])
        ]
        return _percentiles(values[0], np.asarray(values[1:]), score)
    if isinstance(metric, Derived):
        every = np.concatenate([np.ones((1, count)), chosen])
        sums = [np.tensordot(every, leaf, 1) for leaf in metric.sums]
        values = [
            float(dataclasses.replace(metric, sums=tuple(leaf[i] for leaf in sums)).value)
            for i in range(len(every))
        ]
        return _percentiles(values[0], np.asarray(values[1:]), score)
    if isinstance(metric, Ratio):
        sums, counts = np.asarray(metric.sum, float), np.asarray(metric.count, float)
    elif isinstance(metric, Mean | np.ndarray):
        sums = np.asarray(metric.value if isinstance(metric, Mean) else metric, float)
        counts = np.ones(count)
    else:
        return None
    if np.isin(counts, (0, 1)).all() and np.isin(sums, (0, 1)).all() and counts.any():
        found = wilson(sums.sum(), int(counts.sum()))  # a row with an ignored label counts 0
        return found if math.isclose(sums.sum() / counts.sum(), score, rel_tol=1e-3) else None
    values = (chosen @ sums) / np.maximum(chosen @ counts, 1e-9)
    return _percentiles(sums.sum() / max(counts.sum(), 1e-9), values, score)


def _repeated(arrays: Iterable[np.ndarray], often: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return arrays with each row as often as `often` says."""
    rows = np.repeat(np.arange(len(often)), often.astype(int))
    return tuple(array[rows] for array in arrays)


def _percentiles(whole: float, values: np.ndarray, score: float) -> Interval | None:
    """Return the middle 95 % of resamples; None if `whole`, from the rows alone, is not the score.

    They differ for a metric that is not a combination of rows.
    """
    if not len(values) or not np.isfinite(values).all():
        return None
    if not math.isclose(whole, score, rel_tol=1e-3):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), "bootstrap")

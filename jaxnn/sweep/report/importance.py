"""Which parameters matter: how well each one alone predicts the rank of trials held out.

The share of a parameter is the held-out R^2 of the ranks r of the trials' scores,

    1 - sum_i (r_i - f_i)^2 / sum_i (r_i - m_i)^2,

where f_i is predicted for trial i from the value of the parameter by all other trials (by a
polynomial in its place on the range, or by the mean of the trials with the same option), and m_i is
the mean rank of all other trials. 1 is a rank known from the parameter alone, 0 and below no help
at all. Only the trials that have the parameter count.

Among few trials something always seems to matter. So the same number is computed for ranks that are
shuffled, and a parameter counts only if it exceeds what shuffling gives in all but 5 % of sweeps,
over all parameters together (Bonferroni).

Trials that ran longer are better for that alone: if halving stopped some, all are compared after
the last epoch that each of them reached; otherwise each after its own last epoch.

References: Allen, The relationship between variable selection and data augmentation and a method
for prediction, 1974 (held-out errors of a linear fit); Fisher, The design of experiments, 1935
(permutation tests).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...page import html
from ...page.drawing import BAND, CURVE, INK, svg
from ...page.words import count, escaped, shorts
from ...train.directions import badness
from ..dimensions import Choice, Dimension
from ..reading import Sweep

FEWEST = 25  # trials that can be compared
LEAST = 10  # of them, that have the parameter
MOST = 2000  # trials that are looked at: beyond, an even sample of them
SHUFFLES = 1000
ERROR = 0.05  # of sweeps in which a parameter without effect may count
FLEXIBLE = 100  # trials from which a polynomial has degree 4; below it has 2


class Importance(NamedTuple):
    """What each parameter predicts on its own.

    Args:
        shares: the held-out R^2 by parameter; 0 for one that does not exceed `chance`.
        chance: what it has to exceed; infinite for one that too few trials have.
        trials: how many of the trials have it.
        compared: how many trials are compared in all.
        epoch: after which epoch; None if each after its own last one.
    """

    shares: dict[str, float]
    chance: dict[str, float]
    trials: dict[str, int]
    compared: int
    epoch: int | None


def importance_of(sweep: Sweep) -> Importance | str:
    """The importance of the parameters, or why it cannot be told."""
    epoch, scores = sweep.common
    if len(sweep.dimensions) == 1:
        return "One parameter is swept: there is none that it could matter more than."
    if len(scores) < FEWEST:
        return (
            f"Too few trials to tell which parameters matter: {count(len(scores), 'trial')} "
            f"can be compared, and at least {FEWEST} are needed."
        )
    if len(set(scores.values())) == 1:
        return "All trials have the same score: no parameter matters more than another."
    asked = {trial.number: trial.values for trial in sweep.trials}
    numbers = sorted(scores)
    if len(numbers) > MOST:
        numbers = [numbers[at] for at in np.linspace(0, len(numbers) - 1, MOST).astype(int)]
    shares, chance, trials = {}, {}, {}
    for name, dimension in sweep.dimensions.items():
        here = [number for number in numbers if name in asked[number]]
        values = [asked[number][name] for number in here]
        worth = [badness(scores[number], sweep.maximize) for number in here]
        share, limit = alone(dimension, values, worth, ERROR / len(sweep.dimensions))
        shares[name], chance[name], trials[name] = share if share > limit else 0.0, limit, len(here)
    if not any(shares.values()):
        return (
            f"No parameter has an effect beyond chance in {count(len(numbers), 'trial')}: none "
            "predicts on its own which trials are better. More trials, or more seeds per trial, "
            "may show one."
        )
    return Importance(shares, chance, trials, len(numbers), epoch)


def alone(
    dimension: Dimension, values: Sequence[Any], worth: Sequence[float], error: float
) -> tuple[float, float]:
    """The held-out R^2 of the ranks of `worth` by one parameter, and what it has to exceed.

    Args:
        dimension: of the parameter.
        values: of the parameter, one a trial.
        worth: of each trial, finite; its ranks alone count.
        error: how often a parameter without effect may exceed it.

    Returns (0, inf) for fewer than `LEAST` trials, and if there is nothing to tell apart.

    >>> from jaxnn.sweep.dimensions import Uniform
    >>> share, limit = alone(Uniform(0, 1), [n / 20 for n in range(20)], range(20), 0.05)
    >>> round(share, 6), 0 < limit < 0.5
    (1.0, True)
    """
    basis = _basis(dimension, values)
    if len(values) < LEAST or basis.shape[1] < 2 or len(set(worth)) < 2:
        return 0.0, math.inf
    random = np.random.default_rng(0)
    ranks = _ranks(worth)
    columns = np.stack([ranks, *(random.permutation(ranks) for _ in range(SHUFFLES))], 1)
    columns -= columns.mean(0)
    q = np.linalg.qr(basis)[0]
    leverage = np.square(q).sum(1)
    # The held-out residual of trial i is e_i / (1 - leverage_i). A trial that has its option alone
    # has leverage 1; it is predicted by the mean of the others.
    lonely = leverage > 1 - 1e-9
    from_mean = columns * len(ranks) / (len(ranks) - 1)
    fitted = (columns - q @ (q.T @ columns)) / np.where(lonely, 1.0, 1 - leverage)[:, None]
    held_out = np.where(lonely[:, None], from_mean, fitted)
    shares = 1 - np.square(held_out).sum(0) / np.square(from_mean).sum(0)
    return float(shares[0]), float(np.quantile(shares[1:], 1 - error))


def _basis(dimension: Dimension, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """The functions of a parameter that its effect is fitted by, a column each."""
    if isinstance(dimension, Choice):
        options = np.array([dimension.index(value) for value in values], int)
        return (options[:, None] == np.unique(options)).astype(float)
    places = np.array([dimension.unit(value) for value in values], float)
    degree = min(4 if len(values) >= FLEXIBLE else 2, len(set(places)) - 1)
    return np.polynomial.legendre.legvander(2 * places - 1, max(degree, 0))


def _ranks(worth: Sequence[float]) -> np.ndarray[Any, Any]:
    """The ranks of some numbers from 1 on; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(worth), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def importance(found: Importance | str, sweep: Sweep) -> str:
    """The section of the importances."""
    title = "Which parameters matter"
    if isinstance(found, str):
        return html.section("importance", title, html.note(escaped(found)))
    when = "each after its last epoch"
    if found.epoch is not None:
        when = f"after epoch {found.epoch}, the last that all of them reached"
    rows = [
        [name, f"{found.trials[name]:,}", _said(found, name)]
        for name in sorted(found.shares, key=lambda name: -found.shares[name])
    ]
    return html.section(
        "importance",
        title,
        html.figure(
            svg(
                "importance",
                "Importance by parameter",
                lambda f: bars(f, found),
                0.3 * len(found.shares) + 0.6,
            ),
            "The share of the variance of the trials' ranks that each parameter predicts on its "
            "own, for trials held out (100 %: the rank follows from the parameter alone). "
            f"{count(found.compared, 'trial')} are compared, {when}; each parameter is estimated "
            "from the trials that have it. The pale part is what chance gives: with shuffled "
            f"ranks, some parameter exceeds it in {100 * ERROR:.0f} % of sweeps. An effect that "
            "needs two parameters together is not shown. The result holds for the ranges that "
            "were searched: a narrow range hides what a parameter can do.",
        ),
        html.table(["parameter", "trials that have it", "share"], rows, (1, 2)),
    )


def _said(found: Importance, name: str) -> str:
    if found.chance[name] == math.inf:
        return "too few trials have it"
    share = found.shares[name]
    return f"{100 * share:.0f} %" if share else "no effect beyond chance"


def bars(figure: Any, found: Importance) -> None:
    """A bar a parameter, the largest on top, over what chance gives."""
    panel = figure.subplots()
    names = sorted(found.shares, key=lambda name: -found.shares[name])
    short = shorts(names)
    for at, name in enumerate(names):
        share, chance = 100 * found.shares[name], 100 * found.chance[name]
        panel.barh(at, share, height=0.62, color=CURVE)
        if math.isfinite(chance):
            panel.barh(at, max(chance, 0.0), height=0.62, color=BAND)
            panel.plot([chance, chance], [at - 0.31, at + 0.31], color=INK, linewidth=1.1)
        end = max(share, chance) if math.isfinite(chance) else share
        panel.text(max(end, 0.0) + 1, at, _said(found, name), va="center")
    panel.set_yticks(range(len(names)), [short[name] for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="y", labelcolor=INK)
    panel.grid(axis="y", visible=False)
    panel.set_xlim(0, 125)
    panel.set_xticks(range(0, 101, 20))
    panel.set_xlabel("share of the variance of ranks, %")

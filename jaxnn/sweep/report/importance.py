"""Which parameters matter: PED-ANOVA, where all trials can be compared.

Trials that ran longer are better for that alone, so all are taken where all of them were: after the
last epoch that each trial with a score reached. PED-ANOVA asks of each parameter how differently
its values lie among the best trials than among all.

Reference: Watanabe, Bansal and Hutter, PED-ANOVA: efficiently quantifying hyperparameter importance
in arbitrary subspaces, 2023.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...page import html
from ...page.drawing import CURVE, INK, svg
from ...page.words import count, escaped, shorts
from ..dimensions import Dimension
from ..reading import Sweep
from ..studies import distribution, library, quiet

FEWEST = (
    25  # trials; of which the best fifth is five, the least that Optuna's documentation advises
)
HALVES = 10
MOST = 500  # trials of a half


class Importance(NamedTuple):
    """The share of each parameter, and how far it goes over random halves of the trials."""

    shares: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    epoch: int
    trials: int
    top: int


def importance_of(sweep: Sweep) -> Importance | str:
    """The importance of the parameters, or why it cannot be told.

    Raises ImportError where Optuna is not installed.
    """
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
    numbers = sorted(scores)
    quantile = max(0.1, 5 / len(numbers))
    asked = {trial.number: dict(trial.values) for trial in sweep.trials}
    values = [asked[number] for number in numbers]
    worth = [-scores[n] if sweep.maximise else scores[n] for n in numbers]
    shares = pedanova(sweep.dimensions, values, worth, quantile)
    random = np.random.default_rng(0)
    drawn = []  # a mean over half of a sample scatters around the whole's as that does
    for _ in range(HALVES):
        rows = random.permutation(len(numbers))[: min(len(numbers) // 2, MOST)]
        drawn.append(
            pedanova(
                sweep.dimensions, [values[r] for r in rows], [worth[r] for r in rows], quantile
            )
        )
    low, high = (
        {name: end(one.get(name, 0.0) for one in [*drawn, shares]) for name in shares}
        for end in (min, max)
    )
    return Importance(shares, low, high, epoch, len(numbers), round(quantile * len(numbers)))


def pedanova(
    dimensions: Mapping[str, Dimension],
    values: list[dict[str, Any]],
    worth: list[float],
    quantile: float,
) -> dict[str, float]:
    """Optuna's importances, which add up to 1, of trials whose `worth` is the less the better."""
    optuna = library()
    kinds = {name: distribution(dimension) for name, dimension in dimensions.items()}
    with quiet():
        study = optuna.create_study()
        study.add_trials(
            optuna.trial.create_trial(
                params=one, distributions={name: kinds[name] for name in one}, value=float(value)
            )
            for one, value in zip(values, worth, strict=True)
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def importance(found: Importance | str, sweep: Sweep) -> str:
    """The section of the importances."""
    title = "Which parameters matter"
    if isinstance(found, str):
        return html.section("importance", title, html.note(escaped(found)))
    few = f" ({MOST} trials each)" if found.trials > 2 * MOST else ""
    height = 0.3 * len(found.shares) + 0.6
    return html.section(
        "importance",
        title,
        html.figure(
            svg("importance", "Importance by parameter", lambda f: bars(f, found), height),
            f"Share of each parameter in what tells the best {found.top} from all "
            f"{count(found.trials, 'trial')}, compared after epoch {found.epoch}, the last that "
            "all of "
            "them reached (PED-ANOVA; the shares add up to 100 %). Whiskers: how far it goes over "
            f"{HALVES} random halves of the trials{few}. It is about the ranges that were "
            "searched: a narrow one hides what a parameter can do.",
        ),
    )


def bars(figure: Any, found: Importance) -> None:
    """A bar a parameter, the largest on top."""
    panel = figure.subplots()
    names = sorted(found.shares, key=lambda name: -found.shares[name])
    short = shorts(names)
    for at, name in enumerate(names):
        share = 100 * found.shares[name]
        low, high = 100 * found.low[name], 100 * found.high[name]
        panel.barh(at, share, height=0.62, color=CURVE)
        panel.plot([low, high], [at, at], color=INK, linewidth=1.1)
        panel.text(max(share, high) + 1, at, f"{share:.0f} %", va="center")
    panel.set_yticks(range(len(names)), [short[name] for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.tick_params(axis="y", labelcolor=INK)
    panel.grid(axis="y", visible=False)
    panel.set_xlim(
        0, min(112, max(100 * max(found.high.values()), 100 * max(found.shares.values())) + 10)
    )
    panel.set_xlabel("share of the importance, %")

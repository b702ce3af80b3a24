"""A panel with scores up: those of whole runs on the axis, what was cut short in strips beside it.

A trial that halving stopped has a score, but after fewer epochs: on the same axis it would tell how
long the trial ran. It lies in a strip beyond the worse end of the axis, which shows where in the
space trials were stopped; those that diverged or failed lie in a second one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ...page.drawing import BAD, CURVE, LEVELS, SOFT, crosses, dots, ring
from ..reading import Sweep
from ..tables import BROKEN, Trial
from .axes import SPREADS, ScoreScale, score_scale

STOPPED, LOST = 0.13, 0.035  # where the strips are, as a share of the panel's height
MOST_LOST = 300


def whole_runs(sweep: Sweep) -> ScoreScale:
    """The axis for the scores of the trials that are compared with each other."""
    return score_scale([sweep.scores[t.number].mean for t in sweep.finalists], sweep.maximize)


def words(sweep: Sweep, scale: ScoreScale) -> str:
    """What the marks of such a panel mean, as a caption."""
    told = "A dot is a trial; the ring is the best."
    if len(sweep.finalists) < len(sweep.ranking):
        told = (
            f"A dot is a trial that ran {_length(sweep)}; those that ran less lie in the pale "
            "strip, whatever their score. The ring is the best."
        )
    if any(trial.status in BROKEN for trial in sweep.trials):
        told += " Crosses diverged or failed."
    if scale.beyond:
        told += f" The {scale.beyond:,} worst scores lie beyond the axis and are drawn at its end."
    return told


def scores(
    panel: Any,
    sweep: Sweep,
    trials: Sequence[Trial],
    across: Callable[[Trial], float | None],
    scale: ScoreScale,
    named: bool = True,
) -> None:
    """Draw the scores of trials, and strips for those that have none of a whole run.

    Args:
        panel: of matplotlib.
        sweep: whose trials they are.
        trials: those with a score that are drawn.
        across: where on the horizontal axis a trial is; None for one that is not there.
        scale: of `whole_runs`.
        named: whether the strips get their names at the left.
    """
    lost = [t for t in sweep.trials if t.status in BROKEN]
    short = len(sweep.finalists) < len(sweep.ranking)
    room = 0.3 if short else 0.14 if lost else 0.06
    scale.on(panel, *((room, 0.06) if sweep.maximize else (0.06, room)))
    strip = {"transform": panel.get_xaxis_transform()}
    there = [(t, x) for t in trials if (x := across(t)) is not None]
    compared = {trial.number for trial in sweep.finalists}
    whole = [(t, x) for t, x in there if t.number in compared]
    cut = [(t, x) for t, x in there if t.number not in compared]
    diameter = size(sum(t.number in compared for t in trials))
    heights = [_up(sweep, STOPPED + 0.05 * (_off(t) - 0.5)) for t, _ in cut]
    dots(panel, [x for _, x in cut], heights, LEVELS[3], 0.6 * diameter, **strip)
    numbers = [scale.clipped(sweep.scores[t.number].mean) for t, _ in whole]
    dots(panel, [x for _, x in whole], numbers, CURVE, diameter)
    crossed = [x for t in lost[:MOST_LOST] if (x := across(t)) is not None]
    crosses(panel, crossed, [_up(sweep, LOST)] * len(crossed), **strip)
    if sweep.best and (x := across(sweep.best)) is not None:
        ring(panel, x, scale.clipped(sweep.scores[sweep.best.number].mean))
    if named:
        for at, name, here, colour in (
            (STOPPED, "stopped", short, SOFT),
            (LOST, "lost", lost, BAD),
        ):
            if here:
                panel.text(
                    -0.02, _up(sweep, at), name, color=colour, transform=panel.transAxes,
                    ha="right", va="center", fontsize=6.5,
                )  # fmt: skip


def size(many: int) -> float:
    """The diameter of a dot, in points, where there are so many."""
    return 2.8 if many > 300 else 3.6 if many > 60 else 5.0


def _length(sweep: Sweep) -> str:
    """How long the trials ran that are compared with each other."""
    epochs = {sweep.scores[trial.number].epoch for trial in sweep.finalists}
    return f"all {sweep.longest} epochs" if epochs == {sweep.longest} else "to its end"


def _up(sweep: Sweep, share: float) -> float:
    """A height in the panel, counted from the worse end of the axis."""
    return share if sweep.maximize else 1 - share


def _off(trial: Trial) -> float:
    return (SPREADS[1] * (trial.number + 1)) % 1

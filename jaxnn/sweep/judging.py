"""Who goes on from a rung, and how: scores from the ledger, decisions back into it."""

import math

import numpy as np

from ..train.directions import badness
from .assembly import Assembly
from .halve import Bracket, keep, perturbed, population
from .ledger import Ledger
from .plan import Planner
from .records import BROKEN, OPEN, Change, Trial


def is_lost(metric: str, value: float, at_end: bool) -> bool:
    """Whether a number shows that a trial diverged.

    That is a training loss that is not finite, or such a validation loss at the end of a segment of
    epochs. Other metrics may be undefined for a while, as the precision of a class that is never
    predicted.
    """
    return not math.isfinite(value) and (
        metric == "loss" or (at_end and metric == "validation_loss")
    )


class Judge:
    """Scores a ledger's trials and decides at its rungs.

    Args:
        planner: says what trials are compared by, and how.
        ledger: holds their results.
        assembly: knows their values at each epoch.
    """

    def __init__(self, planner: Planner, ledger: Ledger, assembly: Assembly) -> None:
        self.planner, self.settings, self.ledger = planner, planner.settings, ledger
        self.assembly = assembly

    def decide(self, bracket: Bracket, members: list[int], rung: int, epoch: int) -> list[int]:
        """Who goes on from a rung; the others are noted as stopped."""
        trials = {trial.number: trial for trial in self.ledger.trials()}
        segment = (0, *bracket.rungs)[rung], epoch
        scores = [self.score(trials[number], segment) for number in members]
        if self.settings.halving == "population":
            self._change(members, scores, epoch)
            return members
        count = bracket.counts[rung + 1]
        kept = sorted(members[i] for i in keep(scores, min(count, len(members))))
        stopped = [n for n in members if n not in set(kept) and trials[n].status in OPEN]
        if stopped:
            self.ledger.decide(dict.fromkeys(stopped, "stopped"), rung)
        return kept

    def _change(self, members: list[int], scores: list[float | None], epoch: int) -> None:
        """A step of population-based training, unless it was made already."""
        if any(change.epoch == epoch for change in self.ledger.changes()):
            return
        random = np.random.default_rng((self.settings.search_seed, epoch))
        source, changed = population(scores, random)
        values = self.assembly.current(epoch, members)
        space = self.planner.space
        changes = [
            Change(member, epoch, perturbed(space, values[members[of]], random), members[of])
            for member, of, new in zip(members, source, changed, strict=True)
            if new
        ]
        if changes:
            self.ledger.change(changes)

    def score(self, trial: Trial, segment: tuple[int, int] | None = None) -> float | None:
        """The metric at the end of a segment of epochs, or the last one; smaller for better.

        None if the trial is broken, or was in that segment: an accuracy may be finite, the best
        even, while the loss is not. None too if the metric is not finite for one of the seeds.
        """
        if trial.status in BROKEN if segment is None else self._diverged(trial.number, *segment):
            return None
        curves = self.ledger.curves(trial.number, self.planner.metric)
        ends = [
            dict(curve).get(segment[1], math.nan) if segment else curve[-1][1]
            for curve in curves.values()
            if curve
        ]
        if not ends or len(ends) < self.settings.seeds:
            return None
        score = badness(float(np.mean(ends)), self.planner.maximize)
        return score if math.isfinite(score) else None

    def _diverged(self, number: int, before: int, epoch: int) -> bool:
        """Whether a trial diverged between these epochs."""
        return any(
            before < at <= epoch and is_lost(name, value, at == epoch)
            for name in ("loss", "validation_loss")
            for curve in self.ledger.curves(number, name).values()
            for at, value in curve
        )

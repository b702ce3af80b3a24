"""What is sent to workers: the lanes of trials, cut into cohorts, each as plain data.

Which lanes form a cohort follows from the trials and the plan alone, so that it is the same after a
sweep was stopped, and a lane has the same neighbors.
"""

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .cohort import Way, Work, regrouped
from .compiled import By
from .faults import LedgerError, damaged
from .ledger import Ledger
from .plan import Grouped, Member, Planner
from .space import Values
from .tables import Group, Trial


def _runs(group: Group) -> bool:
    """Whether a group says how its lanes run."""
    numbers = group.lanes, group.devices, group.probe.get("cohort")
    return group.way in typing.get_args(By) and all(type(one) is int and one > 0 for one in numbers)


class Lane(NamedTuple):
    """One training: a trial's number and a seed."""

    trial: int
    seed: int


class Assembly:
    """Makes cohorts of a ledger's trials.

    Args:
        planner: says what trials have in common.
        ledger: holds the trials, their groups, and the states that they continue from.
    """

    def __init__(self, planner: Planner, ledger: Ledger) -> None:
        self.planner, self.ledger = planner, ledger
        self._values: dict[int, Values] = {}
        self._members: dict[int, Member] = {}
        self._groups: dict[str, Grouped] = {}

    def member(self, trial: Trial) -> Member:
        """The trial as the program sees it."""
        if trial.number not in self._members:
            self._members[trial.number] = self.planner.member(trial.values)
        return self._members[trial.number]

    def group(self, name: str) -> Grouped:
        """How the group of that name runs."""
        if name not in self._groups:
            found = [group for group in self.ledger.groups() if group.name == name]
            trial = next(trial for trial in self.ledger.trials() if trial.group == name)
            member = self.member(trial)
            if not found or not _runs(found[0]):
                raise LedgerError(f"{damaged(self.ledger.folder)} (its group {name!r} cannot run)")
            (group,) = found
            way = Way(group.way, group.lanes, group.devices)  # type: ignore[arg-type]
            cohort = group.probe["cohort"]
            self._groups[name] = Grouped(member.structure, member.epochs, way, cohort)
        return self._groups[name]

    def narrow(self, name: str, width: int) -> None:
        """Note that memory ran out, and how many lanes a call of the group has from now on."""
        group = next(group for group in self.ledger.groups() if group.name == name)
        probe = dict(group.probe) | {"cohort": self.group(name).cohort, "narrowed": group.lanes}
        self.ledger.add_group(dataclasses.replace(group, lanes=width, probe=probe))
        del self._groups[name]

    def parts(
        self, trials: Mapping[int, Trial], members: Sequence[int]
    ) -> Iterator[tuple[str, list[Lane]]]:
        """The lanes of these trials, group by group, in cohorts: the same whenever it is asked."""
        by_group: dict[str, list[Lane]] = {}
        for number in members:
            trial = trials[number]
            self._values[number] = trial.values
            if trial.group is not None:
                first = self.member(trial).seed
                each = [Lane(number, first + k) for k in range(self.planner.settings.seeds)]
                by_group.setdefault(trial.group, []).extend(each)
        for name, all_lanes in by_group.items():
            size = self.group(name).cohort
            for begin in range(0, len(all_lanes), size):
                yield name, all_lanes[begin : begin + size]

    def work(self, name: str, part: Sequence[Lane], before: int, epoch: int, last: bool) -> Work:
        """What to send to a worker for these lanes."""
        grouped = self.group(name)
        values = self.current(before, {lane.trial for lane in part})
        traced = grouped.structure.traced
        return Work(
            grouped.structure,
            tuple({key: values[lane.trial][key] for key in traced} for lane in part),
            tuple(lane.seed for lane in part),
            grouped.way,
            (before, epoch),
            self.states(part, before) if before else None,
            keep=not last,
        )

    def current(self, epoch: int, numbers: Iterable[int]) -> dict[int, Values]:
        """The values of these trials from that epoch on."""
        values = {number: self._values[number] for number in numbers}
        if self.planner.settings.halving == "population":
            changes = self.ledger.changes()
            values |= {c.trial: c.values for c in changes if c.epoch <= epoch and c.trial in values}
        return values

    def states(self, part: Sequence[Lane], epoch: int) -> bytes:
        """The packed states that these lanes continue from."""
        source = {c.trial: c.source for c in self.ledger.changes() if c.epoch == epoch}
        trials = {trial.number: trial for trial in self.ledger.trials()}
        kept = self.ledger.states()
        places: dict[int, list[tuple[int, int]]] = {}
        for index, lane in enumerate(part):
            number = source.get(lane.trial, lane.trial)
            first, own = (self.member(trials[n]).seed for n in (number, lane.trial))
            key = (number, first + lane.seed - own, epoch)  # trials may have seeds of their own
            if key not in kept:
                raise LedgerError(
                    f"{damaged(self.ledger.folder)} (trial {key[0]} has no state after epoch "
                    f"{epoch})"
                )
            cohort, place = kept[key]
            places.setdefault(cohort, []).append((place, index))
        pieces = [
            (self.ledger.lanes(cohort), [place for place, _ in each])
            for cohort, each in places.items()
        ]
        order = [index for each in places.values() for _, index in each]
        return regrouped(pieces, np.argsort(order).tolist())

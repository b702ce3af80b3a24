"""The rows of a ledger, as frozen values.

A sweep's story in them: *trials* are asked, each belonging to a *group* of equal structure; lanes
of a group run together as *cohorts*, from one epoch to another; each epoch of a lane gives
*results*; population-based training *changes* the values of a trial on its way.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Scalar = float | int | str | bool | None
Values = dict[str, Scalar]
# Open trials go on: those not begun, and those that wait at a rung. The others have ended.
OPEN = ("asked", "running")
BROKEN = ("diverged", "failed")
STATUSES = (*OPEN, "done", "stopped", *BROKEN)


@dataclasses.dataclass(frozen=True)
class Group:
    """Trials of equal structure: one compiled program a width.

    Args:
        name: what trials refer to it by.
        static: the values that they have in common, by name.
        way: how their lanes run, such as `vmap`.
        lanes: how many run in one call.
        devices: how many devices share them.
        probe: what was measured to choose that, as plain data; "seconds" is its wall time.
        compile_seconds: of that, what compiling took.
    """

    name: str
    static: Mapping[str, Any]
    way: str
    lanes: int
    devices: int = 1
    probe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0

    @property
    def probe_seconds(self) -> float:
        """The wall time that the probe took, compiling included."""
        return max(float(self.probe.get("seconds", 0.0)), self.compile_seconds)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One configuration.

    Args:
        number: 0, 1, ... in the order of asking.
        round: the ask that it came from.
        bracket: the bracket of Hyperband that it runs in; 0 without.
        values: its point of the space, as asked.
        group: the name of its group; None where its structure could not be found.
        status: one of `STATUSES`.
        rung: the last rung that it reached, counted from 0; None before the first.
        error: why it failed or diverged.
    """

    number: int
    round: int
    bracket: int
    values: Values
    group: str | None
    status: str = "asked"
    rung: int | None = None
    error: str | None = None


class Result(NamedTuple):
    """A number that a lane reported after an epoch; epochs are counted from 1."""

    trial: int
    seed: int
    epoch: int
    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Lanes of one group that ran together for a segment of epochs.

    Args:
        group: the name of their group.
        rung: the rung that the segment leads to, counted from 0.
        epoch_from: epochs that the lanes had behind them before.
        epoch_to: epochs that they have behind them now.
        lanes: the (trial, seed) of each, in the order of their states in the checkpoint.
        seconds: wall time, compilation included.
        compile_seconds: of it, what compiling took.
        id: 0, 1, ...; given by the ledger.
        checkpoint: the file with the lanes' states, below the sweep's folder; given by the ledger,
            None where there is none or no lane needs it any more.
        finished: when it was committed, in seconds since 1970; given by the ledger.
    """

    group: str
    rung: int
    epoch_from: int
    epoch_to: int
    lanes: tuple[tuple[int, int], ...]
    seconds: float = 0.0
    compile_seconds: float = 0.0
    id: int | None = None
    checkpoint: str | None = None
    finished: float | None = None

    def __post_init__(self) -> None:
        if self.epoch_to <= self.epoch_from:
            raise ValueError(
                f"a cohort runs forwards; got epochs {self.epoch_from} to {self.epoch_to}"
            )
        if len(set(self.lanes)) < len(self.lanes):
            raise ValueError(f"a cohort has each lane once; got {self.lanes}")

    def check(self, results: Sequence[tuple[int, int, int, str, float]]) -> None:
        """Raise ValueError for a result that no lane can have reported, or that came twice."""
        lanes = set(self.lanes)
        epochs = range(self.epoch_from + 1, self.epoch_to + 1)
        for trial, seed, epoch, name, _ in results:
            if (trial, seed) not in lanes or epoch not in epochs:
                raise ValueError(
                    f"{name!r} of trial {trial}, seed {seed}, epoch {epoch} is no result of this "
                    f"cohort: epochs {epochs.start} to {self.epoch_to} of {len(lanes)} lanes"
                )
        if len({result[:4] for result in results}) < len(results):
            raise ValueError("a lane reports each number once an epoch; one came twice")


@dataclasses.dataclass(frozen=True)
class Change:
    """Population-based training: after `epoch`, `trial` goes on from the state of `source`, with
    other `values`."""

    trial: int
    epoch: int
    values: Values
    source: int

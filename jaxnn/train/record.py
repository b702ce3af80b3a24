"""Records of a run and the events that contain them: metrics, summed in order in double precision.

`Every` is an interval between two records, evaluations, or checkpoints.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from ..core.values import Value
from ..files.reading import FileError
from ..validation import Accepts, above, check_none, instance, positive
from .metrics import Collected, Derived, a_metric, check_metrics, sum_of, terms_of


class Moment(NamedTuple):
    """The position of a run.

    Args:
        step: The number of steps since the beginning of the run.
        steps_per_epoch: The number of steps of an epoch.
        seconds: The time, of a clock that never goes back.
    """

    step: int
    steps_per_epoch: int
    seconds: float


class Every(Value):
    """An interval in steps, epochs, or minutes; if several are given, each is due separately.

    Steps and epochs count from the beginning of the run, so they are due at the same steps in a
    resumed run. Minutes count from the last time, and are checked at the end of each dispatch.

    Args:
        steps: An int >= 1. Default: None.
        epochs: An int >= 1. Default: None.
        minutes: A number > 0. Default: None.

    Raises:
        ValueError: No argument is given, or an argument is out of range.

    >>> Every(epochs=2).due(Moment(20, 10, 0.0), since=Moment(10, 10, 0.0))
    True
    """

    steps: Annotated[int | None, None | positive] = None
    epochs: Annotated[int | None, None | positive] = None
    minutes: Annotated[float | None, None | above(0)] = None

    def __post_init__(self) -> None:
        """Check that something is given."""
        if self.steps is self.epochs is self.minutes is None:
            raise ValueError("Every takes steps, epochs, or minutes; write Every(epochs=1)")

    def due(self, now: Moment, since: Moment) -> bool:
        """Return whether the interval is over at `now`, if the last time was `since`."""
        if self.minutes is not None and now.seconds - since.seconds >= 60 * self.minutes:
            return True
        counts = self._counts(now.steps_per_epoch)
        return any(now.step // count > since.step // count for count in counts)

    def next_step(self, step: int, steps_per_epoch: int) -> int | None:
        """Return the first step after `step` that steps or epochs make due; None for minutes."""
        counts = self._counts(steps_per_epoch)
        return min((step - step % count + count for count in counts), default=None)

    def _counts(self, steps_per_epoch: int) -> list[int]:
        counts = self.steps, self.epochs and self.epochs * steps_per_epoch
        return [count for count in counts if count is not None]


def ends_of(
    epoch: int, at_once: int, total: int, several: Sequence[Every], further: Sequence[int] = ()
) -> Callable[[int], int]:
    """Return a function from a step to the end of the dispatch that begins there.

    Dispatches end with an epoch of `epoch` steps, with the run, whenever one of `several` is due by
    steps or epochs, and at the steps `further`; in between they take `at_once` steps.

    >>> end = ends_of(epoch=10, at_once=4, total=25, several=[Every(steps=6)])
    >>> [end(step) for step in (0, 4, 6, 8, 10, 24)]
    [4, 6, 8, 10, 12, 25]
    """

    def end(step: int) -> int:
        begun = step - step % epoch
        ends = [begun + epoch, step + at_once - (step - begun) % at_once, total]
        ends += [n for one in several if (n := one.next_step(step, epoch)) is not None]
        return min([*ends, *(n for n in further if n > step)])

    return end


MOST = 1000  # dispatches whose metrics wait on the device
SKIPPED = "skipped"  # 1 for a step that changed nothing: its other metrics are left out
EVERY_STEP = (SKIPPED, "loss_scale")


class Tally:
    """Metrics of several parts, such as steps or batches, added one after the other.

    The parts are added in order, so the result does not depend on how many steps are compiled into
    one program. The device is not waited for until a number is needed.

    Args:
        sums: Sums by metric of a resumed run, as `plain` returned them. Default: None, no parts.
        source: The checkpoint that holds them, for an error. Default: "", none.
    """

    def __init__(self, sums: Mapping[str, Any] | None = None, source: str = "") -> None:
        self._waiting: list[tuple[dict[str, Any], Any]] = []
        self._sums = {
            name: [np.asarray(leaf, np.float64) for leaf in leaves]
            for name, leaves in (sums or {}).items()
        }
        self._forms: dict[str, Any] = {}
        self._source = source

    def add(self, metrics: Mapping[str, Any], rows: Any) -> None:
        """Add the metrics of several parts.

        Args:
            metrics: Metrics by name, each with a leading axis of the parts.
            rows: Rows of each part, over which plain scalars are means; 1 without data.
        """
        self._waiting.append((dict(metrics), rows))
        if len(self._waiting) >= MOST:
            self._fetch()

    def plain(self) -> dict[str, Any]:
        """Return the sums as JSON."""
        self._fetch()
        return {name: [leaf.tolist() for leaf in leaves] for name, leaves in self._sums.items()}

    def metrics(self) -> dict[str, float]:
        """Return the numbers of all parts together; NaN if all steps were skipped."""
        self._fetch()
        found = {
            name: _number(jax.tree.unflatten(self._forms[name], leaves))
            for name, leaves in self._sums.items()
        }
        if found.get(SKIPPED) == 1:
            found |= {name: math.nan for name in found if name not in EVERY_STEP}
        return found

    @np.errstate(all="ignore")
    def _fetch(self) -> None:
        waiting, self._waiting = self._waiting, []
        for metrics, rows in _on_host(waiting):
            if self._sums and self._sums.keys() != metrics.keys():
                before, given = (", ".join(sorted(one)) for one in (self._sums, metrics))
                problem = f"all parts must have the same metrics, got {before} and {given}"
                if self._source:
                    problem = f"{self._source}: {problem}; restore it from a copy"
                raise FileError(problem)
            made = np.asarray(metrics.get(SKIPPED, 0)) != 1
            for name, metric in metrics.items():
                if name not in EVERY_STEP and not made.all():
                    metric = jax.tree.map(lambda leaf: leaf[made], metric)  # noqa: B023
                form = metric if isinstance(metric, Derived) else sum_of(terms_of(metric, rows))
                leaves, self._forms[name] = jax.tree.flatten(form)
                before = self._sums.get(name) or [np.zeros(leaf.shape[1:]) for leaf in leaves]
                self._sums[name] = _added(form, before, leaves)


_HINT = "write train.combine([({{'loss': 1.5}}, 4), ({{'loss': 2.0}}, 3)])"
_PARTS = instance(Iterable, "pairs (metrics, rows)", _HINT)
_SOME = Accepts("those of at least one part, such as a batch of data with rows", bool)
_PART = Accepts(
    "a pair of a dict of metrics by name and a number of rows >= 0",
    lambda part: (
        isinstance(part, tuple | list)
        and len(part) == 2
        and isinstance(part[0], Mapping)
        and a_metric.test(part[1])
        and bool(part[1] >= 0)
    ),
    TypeError,
    _HINT,
)


def combine(parts: Iterable[tuple[Mapping[str, Any], Any]]) -> dict[str, float]:
    """Combine the metrics of parts into metrics of the whole, in double precision on the host.

    Args:
        parts: Pairs (metrics, rows): the metrics of each part by name, and the number of rows that
            plain scalars are means over (1 without data). Every part has the same names.

    Returns:
        Dict with a float for each name.

    Raises:
        TypeError: A part is not a pair.
        ValueError: There are no parts, parts with different names, or metrics that are not real.

    >>> from jaxnn.train import Ratio
    >>> parts = [({"loss": 1.0, "f1": Ratio(2, 3)}, 2), ({"loss": 4.0, "f1": Ratio(0, 1)}, 1)]
    >>> combine(parts)
    {'f1': 0.5, 'loss': 2.0}
    """
    _PARTS(parts, "the parts of train.combine")
    given = [_PART(part, f"parts[{i}] of train.combine") for i, part in enumerate(parts)]
    pieces = list(jax.device_get([(dict(metrics), rows) for metrics, rows in given]))
    _SOME(pieces, "metrics")
    tally, first = Tally(), pieces[0][0]
    check_metrics(first, "parts[0] of train.combine")
    for metrics, rows in pieces:
        sums = {k: 0.0 if isinstance(one, Collected) else one for k, one in metrics.items()}
        tally.add(jax.tree.map(lambda leaf: np.asarray(leaf)[None], sums), rows)
    found = tally.metrics()
    for name, metric in first.items():
        if isinstance(metric, Collected):
            columns = zip(*(metrics[name].arrays for metrics, _ in pieces), strict=True)
            whole = tuple(np.concatenate(column) for column in columns)
            found[name] = dataclasses.replace(metric, arrays=whole).value
    return {name: found[name] for name in first}


def _on_host(tree: Any) -> Any:
    """Return a tree in double precision, faster than `jax.device_get` for few arrays."""
    leaves, structure = jax.tree.flatten(tree)
    if jax.default_backend() != "cpu":  # there, beginning a copy takes 4 us and gains nothing
        for leaf in leaves:
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
    return jax.tree.unflatten(structure, [np.asarray(leaf, np.float64) for leaf in leaves])


def _added(form: Any, before: list[Any], leaves: list[Any]) -> list[Any]:
    """Return the leaves of a metric with further parts, added or merged one after the other."""
    if isinstance(form, Derived) and form.merge:
        for part in zip(*leaves, strict=True):
            pairs = tuple(np.stack(pair) for pair in zip(before, part, strict=True))
            both = dataclasses.replace(form, sums=pairs).over_parts()
            before = [np.asarray(leaf, np.float64) for leaf in both.sums]
        return before
    return [
        start + leaf[0]
        if len(leaf) == 1
        else np.add.accumulate(np.concatenate([start[None], leaf]))[-1]
        for start, leaf in zip(before, leaves, strict=True)
    ]


def _number(whole: Any) -> float:
    """Return the value of a metric, its sums divided in double precision and rounded once."""
    if isinstance(whole, Derived):
        return float(whole.value)
    numbers = [float(term.sum / term.count) if term.count else 0.0 for term in terms_of(whole, 1)]
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # of infinities of both signs, and of huge numbers
        with np.errstate(all="ignore"):
            return float(np.sum(numbers))


class Record(Mapping[str, float]):
    """The numbers of a record by name, as a dict: fetched from the device when one is read.

    Args:
        fixed: Numbers that are known, such as the step.
        tally: The metrics since the previous record. Default: None.
    """

    def __init__(self, fixed: Mapping[str, float], tally: Tally | None = None) -> None:
        self._numbers, self._tally = dict(fixed), tally

    def add(self, numbers: Mapping[str, float]) -> None:
        """Add further numbers, such as those of a validation.

        Raises ValueError for a name that the record has already.
        """
        check_none(
            sorted(set(self.plain()) & set(numbers)),
            "the record already has a number of this name",
            "give the second hook another name, such as train.Evaluate(data, name='test')",
        )
        for name, number in numbers.items():
            a_metric(number, f"the number {name!r} that is added to a record")
            self._numbers[name] = number if type(number) in (bool, int, float) else float(number)

    def plain(self) -> dict[str, float]:
        """Return the record as a dict."""
        tally, self._tally = self._tally, None
        if tally is not None:
            self._numbers |= tally.metrics()
        return self._numbers

    def __getitem__(self, name: str) -> float:
        return self.plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain())

    def __len__(self) -> int:
        return len(self.plain())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.plain() == dict(other)

    def __repr__(self) -> str:
        return repr(self.plain())


def prefixed(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics with a prefix: "validation" makes "validation_loss" of "loss"."""
    return {f"{name}_{key}" if name else key: value for key, value in metrics.items()}


class Event:
    """The progress of a run at one moment, for hooks and for loops over `train.run`.

    Args:
        run: The `Run`: its program, key, total number of steps, and hooks.
        metrics: The metrics since the last record by name, a read-only dict. Its values are fetched
            from the device when one is read. It includes metrics that earlier hooks added.
        is_record: Whether `metrics` form a record of the run. False between two records.

    Attributes:
        step: The number of completed steps.
        epoch: The number of the epoch of the last step, from 1; None without epochs.
        directions: Whether a metric is maximized, by name, as the program declares it.
        history: The records so far, including this one.
        stop: The reason why the run ends here; None if it continues.
    """

    def __init__(self, run: Any, metrics: Record, is_record: bool) -> None:
        self.run: Any = run
        self.metrics: Record = metrics
        self.is_record: bool = is_record
        self._state: Any = run.state
        self.step: int = run.step
        self.epoch: int | None = run.epoch
        self.moment: Moment = run.moment()
        self.stop: str | None = run.stop
        self.directions: dict[str, bool] = run.directions
        self.history: list[Record] = run.history

    @property
    def state(self) -> Any:
        """The program's state. The next step reuses its memory, so copy arrays that you keep.

        To continue from another state, return `train.RollBack(state)`.
        """
        return self._state

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to the record: floats by name, such as those of a validation.

        A hook that calls this method must add the names of its metrics to `run.names` in its method
        `check(run)`, and their directions, if any, to `run.directions`.
        """
        self.metrics.add(metrics)

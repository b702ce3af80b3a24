"""How far a run is: a line an epoch, and on a terminal a progress bar below them."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..files.reading import printable
from ..installation import missing
from ..train.loop import TIMINGS, Record

WIDEST = 40  # characters of a name
HIDDEN = ("step", "learning_rate", *TIMINGS[1:])


@contextlib.contextmanager
def shown(epochs: int) -> Iterator[Callable[[Record], None]]:
    """A function that prints each record `train.fit` reports, as a row of a table.

    On a terminal a bar below the rows shows how many of `epochs` are done; elsewhere there are
    plain rows alone.

    >>> with shown(epochs=2) as report:
    ...     report({"epoch": 1, "step": 27, "loss": 0.52, "accuracy": 0.81, "seconds": 1.3})
    ...     report({"epoch": 2, "step": 54, "loss": 0.31, "accuracy": 0.92, "seconds": 1.6})
    epoch    loss  accuracy  seconds
        1  0.5200     0.810      1.3
        2  0.3100     0.920      1.6
    """
    done = [0]
    with _bar(epochs) as advance:

        def report(record: Record) -> None:
            first = done[-1] == 0
            done.append(int(record["epoch"]))
            # A terminal that is gone, or that lacks a character, costs no run.
            with contextlib.suppress(OSError, ValueError):
                if first:
                    print("  ".join(_titles(record)))
                advance(done[-1] - done[-2])
                print("  ".join(_row(record)), flush=True)

        yield report


def _titles(record: Record) -> list[str]:
    names = [printable(name.replace("_", " "), WIDEST) for name in record if name not in HIDDEN]
    return [name.rjust(_width(name)) for name in names]


def _row(record: Record) -> list[str]:
    shown = {name: number for name, number in record.items() if name not in HIDDEN}
    return [_number(name, item).rjust(_width(name)) for name, item in shown.items()]


def _width(name: str) -> int:
    return max(min(len(printable(name)), WIDEST), 5 if name == "epoch" else 6)


def _number(name: str, number: Any) -> str:
    if name == "epoch":
        return str(number)
    if name == "seconds":
        return f"{number:.1f}"
    if name.endswith("accuracy"):
        return f"{number:.3f}"
    return f"{number:.4f}" if number < 10 else f"{number:.1f}" if number < 1000 else f"{number:.0f}"


@contextlib.contextmanager
def _bar(epochs: int) -> Iterator[Callable[[int], Any]]:
    if not sys.stdout.isatty():
        yield lambda count: None
        return
    try:
        from rich import progress
    except ImportError as error:
        raise missing("the progress bar is drawn by", "rich", "experiments") from error
    columns = (
        progress.TextColumn("training"),
        progress.BarColumn(bar_width=40),
        progress.MofNCompleteColumn(),
        progress.TextColumn("epochs, left"),
        progress.TimeRemainingColumn(),
    )
    # What is printed meanwhile appears above the bar, which goes when it is full.
    with progress.Progress(*columns, transient=True) as bar:
        task = bar.add_task("training", total=epochs)
        yield lambda count: bar.advance(task, count)

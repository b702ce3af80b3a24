"""The progress of a sweep, a live table on a terminal and lines elsewhere; and its results."""

import contextlib
import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..files.plain import quoted
from ..files.reading import LONGEST, printable
from ..page.words import count, duration, number
from ..sweep.driver import Progress, Watch
from ..sweep.ledger import Ledger
from ..sweep.reading import Sweep, read
from ..sweep.report import write
from ..sweep.report.headline import best_command, seed_mean

# Trials that are listed, at the end and before.
LISTED = 5


@contextlib.contextmanager
def watched(ledger: Ledger) -> Iterator[Watch]:
    """A function that shows the progress of a sweep."""
    metric, seeds = ledger.meta["metric"], ledger.meta["seeds"]
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda progress: print(line(progress, metric, seeds), flush=True)
        return
    from rich.live import Live

    with Live(refresh_per_second=4) as live:
        yield lambda progress: live.update(table(progress, metric, seeds))


def facts(progress: Progress, metric: str, seeds: int) -> dict[str, str]:
    """The facts about a running sweep by title."""
    share = progress.epochs / progress.whole if progress.whole else 1.0
    trained = progress.epochs - progress.before
    left = progress.seconds * (progress.whole - progress.epochs) / trained if trained > 0 else None
    many = progress.statuses.get
    found = {
        "trials": f"{progress.asked - many('asked', 0)} of {progress.trials}",
        "lanes": str(progress.lanes),
        "rung": f"epoch {progress.rung}",
        "best": f"{short_text(metric)} {number(progress.best[1])} (trial {progress.best[0]})"
        if progress.best
        else "-",
    }
    found |= {status: str(many(status, 0)) for status in ("stopped", "diverged", "failed")}
    found["done"] = f"{min(share, 1.0):.0%}"
    if progress.seconds > 0:
        found["trials a second"] = number(progress.lanes / seeds / progress.seconds, 3)
    if left is not None and share < 1:
        found["left"] = duration(left)
    return found


def line(progress: Progress, metric: str, seeds: int) -> str:
    """A plain line."""
    return ", ".join(f"{title} {text}" for title, text in facts(progress, metric, seeds).items())


def table(progress: Progress, metric: str, seeds: int) -> Any:
    """A table with a column per fact."""
    from rich.table import Table
    from rich.text import Text

    found = facts(progress, metric, seeds)
    drawn = Table(title="sweep")
    for title in found:
        drawn.add_column(title, no_wrap=True)
    drawn.add_row(*map(Text, found.values()))  # a string would be read as markup
    return drawn


def finish(ledger: Ledger) -> None:
    """Print the results of a sweep, and write its report."""
    sweep = read(ledger)
    print(f"\n{summary(sweep)}", flush=True)  # the report takes a moment
    try:
        print(f"\nReport: {printable(str(write(ledger)), lines=True)}")
    except Exception as error:  # any error of the drawing: the ledger has all results
        cause = printable(" ".join(str(error).split()), 300)
        warnings.warn(
            f"the report of {sweep.folder} was not written ({type(error).__name__}: {cause}). All "
            "results are in the ledger: write jaxnn sweep report "
            f"{quoted(sweep.folder)} to try again",
            RuntimeWarning,
            stacklevel=2,
        )
    if sweep.best is not None:
        print(f"Train the best again: {best_command(sweep)}")


def short_text(text: str) -> str:
    """A name for a table in a terminal."""
    return printable(text, 60)


def summary(sweep: Sweep, listed: int = LISTED) -> str:
    """The best trials as a table of text, and how the others ended."""
    ends = Counter(trial.status for trial in sweep.trials)
    ended = ", ".join(f"{many} {status}" for status, many in ends.items())
    names = list(dict.fromkeys(name for t in sweep.ranking[:listed] for name in t.values))
    rows = [["trial", *map(short_text, (sweep.metric, *names))]]
    for trial in sweep.ranking[:listed]:
        values = [short_text(number(trial.values[n])) if n in trial.values else "-" for n in names]
        mean = seed_mean(sweep.scores[trial.number].each)
        rows.append([str(trial.number), str(mean), *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    head = f"{sweep.name}: {count(len(sweep.trials), 'trial')}, {ended or 'none begun'}"
    return "\n".join([head, *lines, *(printable(one, LONGEST) for one in sweep.forced)])

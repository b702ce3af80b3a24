"""Sweeps as text: their progress, a live table or plain lines; and their results."""

import contextlib
import html
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..files.reading import LONGEST, printable
from ..html.page import aligned_columns, count, duration, format_number
from ..train.hooks.progress import in_notebook
from .ledger import Ledger
from .progress import SweepProgress, Watch
from .report.result import seed_mean
from .snapshot import Sweep

LISTED = 5  # trials in the table at the end


@contextlib.contextmanager
def watched(ledger: Ledger) -> Iterator[Watch]:
    """Yield a function that shows the progress of a sweep."""
    metric, seeds = ledger.meta["metric"], ledger.meta["seeds"]
    if in_notebook():
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        shown: Any = display(HTML(""), display_id=True)

        def update(progress: SweepProgress) -> None:
            rows = aligned_columns([list(one) for one in facts(progress, metric, seeds).items()])
            shown.update(HTML(f"<pre>{html.escape(chr(10).join(rows))}</pre>"))

        yield update
        return
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda progress: print(progress_line(progress, metric, seeds), flush=True)
        return
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def show(progress: SweepProgress) -> None:
        grid = Table.grid(padding=(0, 2))
        for title, text in facts(progress, metric, seeds).items():
            grid.add_row(title, Text(text))  # a string would be read as markup
        live.update(grid)

    with Live(refresh_per_second=4) as live:
        yield show


def facts(progress: SweepProgress, metric: str, seeds: int) -> dict[str, str]:
    """Return the facts about a running sweep by title.

    Args:
        progress: of the sweep.
        metric: that trials are compared by.
        seeds: per trial.
    """
    share = progress.epochs / progress.whole if progress.whole else 1.0
    many = progress.statuses.get
    best = "-"
    if progress.best:
        name = printable(metric, 60)
        best = f"{name} {format_number(progress.best[1])} (trial {progress.best[0]})"
    found = {
        "trials": f"{progress.asked - many('asked', 0)} of {progress.trials}",
        "lanes": str(progress.lanes),
        "rung": f"epoch {progress.rung}",
        "best": best,
        **{status: str(many(status, 0)) for status in ("stopped", "diverged", "failed")},
        "done": f"{min(share, 1.0):.0%}",
    }
    if progress.seconds > 0:
        found["trials per second"] = format_number(progress.lanes / seeds / progress.seconds, 3)
    if progress.left is not None and share < 1:
        found["left"] = duration(progress.left)
    return found


def progress_line(progress: SweepProgress, metric: str, seeds: int) -> str:
    """Return the facts on a plain line."""
    return ", ".join(f"{title} {text}" for title, text in facts(progress, metric, seeds).items())


def best_trials(sweep: Sweep, listed: int = LISTED) -> str:
    """Return the best trials as a table of text, and how the others ended.

    Args:
        sweep: the sweep.
        listed: the number of trials in the table. Default: `LISTED`.
    """
    trials = sweep.ranking[:listed]
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    rows: list[list[Any]] = [["trial", sweep.metric, *names]]
    for trial in trials:
        mean = seed_mean(sweep.scores[trial.number].each)
        values = [format_number(trial.values[n]) if n in trial.values else "-" for n in names]
        rows.append([trial.number, mean, *values])
    ends = Counter(trial.status for trial in sweep.trials)
    ended = ", ".join(f"{many} {status}" for status, many in ends.items()) or "none begun"
    head = f"{sweep.name}: {count(len(sweep.trials), 'trial')}, {ended}"
    notes = [f"It ended: {why}" for why in [sweep.facts.get("ended")] if why] + sweep.forced
    if test := sweep.facts.get("test"):
        means = ", ".join(f"{name} {seed_mean(each)}" for name, each in test["scores"].items())
        notes.append(f"Trial {test['trial']} on {count(test['rows'], 'test row')}: {means}")
    return "\n".join([head, *aligned_columns(rows), *(printable(one, LONGEST) for one in notes)])

"""Sweeps as text: their progress, as a live display or as plain lines, and their results.

Everything fits into the width of the terminal, or into 80 columns if there is none.
"""

import contextlib
import html
import importlib.util
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..files.reading import LONGEST, encodable, printable
from ..html import aligned_columns, charts, count, duration, format_number, label, shorts
from ..train.fit import table_html
from ..train.hooks.reporting import in_notebook
from .ledger import Ledger
from .report.scores import known_best, score_axis, seed_mean
from .reporter import SweepProgress, TopTrial, Watch, top_trial
from .snapshot import Sweep
from .tables import Trial

LISTED = 5  # trials in the table at the end
NAMED = 5  # trials that are named for a cause of failures
CAUSES = 10  # causes of failures that are shown


@contextlib.contextmanager
def watched(ledger: Ledger) -> Iterator[Watch]:
    """Yield a function that shows the progress of a sweep."""
    seeds = ledger.meta["seeds"]
    if in_notebook():
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        shown: Any = display(HTML("<pre>starting</pre>"), display_id=True)

        def update(progress: SweepProgress) -> None:
            rows = lines(progress, seeds, 100)
            shown.update(HTML(f"<pre>{html.escape(chr(10).join(rows))}</pre>"))

        yield update
        return
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:

        def plain(progress: SweepProgress) -> None:
            print(encodable("; ".join(lines(progress, seeds, 999)[:2])), flush=True)

        yield plain
        return
    from rich.live import Live
    from rich.text import Text

    now: list[SweepProgress] = []
    began = time.perf_counter()

    def drawn() -> Text:
        """Return the display at this moment; it is also drawn while a program compiles."""
        waited = time.perf_counter() - began
        if not now:
            return Text(f"starting, {duration(waited)}")
        rows = lines(now[0], seeds, width(), waited)
        return Text(encodable("\n".join(rows)), no_wrap=True, overflow="ellipsis")

    def show(progress: SweepProgress) -> None:
        nonlocal began
        if not now or progress.doing != now[0].doing:
            began = time.perf_counter()
        now[:] = [progress]
        live.refresh()

    with Live(get_renderable=drawn, refresh_per_second=4) as live:
        yield show


def width() -> int:
    """Return the number of columns of the terminal; 80 if there is none."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def lines(progress: SweepProgress, seeds: int, columns: int, waited: float = 0.0) -> list[str]:
    """Return the progress of a sweep: two lines, and a line for each of the best three trials.

    Args:
        progress: of the sweep.
        seeds: per trial.
        columns: the width of a line.
        waited: seconds since what runs now began. Default: 0.

    >>> statuses = {"done": 5, "failed": 1, "running": 2}
    >>> doing = "compiling group 2 of 12"
    >>> top = [TopTrial(3, {"loss": 0.5, "parameters": 9.0}, {"rate": 0.1}, ["parameters <= 8"])]
    >>> seen = SweepProgress(64, statuses, 4, 9, 20, 80, 10, 30.0, top, doing)
    >>> print("\\n".join(lines(seen, 1, 80)))
    6 of 64 trials: 5 done, 1 failed · 25 % · 30.0 s left · 0.9 trials per second
    epoch 4 · compiling group 2 of 12
    trial 3: loss 0.5, parameters 9, violates parameters <= 8, rate 0.1
    """
    many = progress.statuses.get
    share = progress.epochs / progress.whole if progress.whole else 1.0
    ended = ("done", "stopped", "diverged", "failed")
    counts = [f"{many(status, 0):,} {status}" for status in ended if many(status, 0)]
    over = sum(many(status, 0) for status in ended)
    facts = [
        f"{over:,} of {progress.trials:,} trials" + (f": {', '.join(counts)}" if counts else "")
    ]
    facts.append(f"{100 * min(share, 1.0):.0f} %")
    if progress.left is not None and share < 1:
        facts.append(f"{duration(progress.left)} left")
    if progress.lanes and progress.seconds > 0:
        rate = format_number(progress.lanes / seeds / progress.seconds, 3)
        facts.append(f"{rate} trials per second")
    second = [f"epoch {progress.rung}"] if progress.rung else []
    second += [printable(progress.doing)] if progress.doing else []
    second += [duration(waited)] if waited >= 1 else []
    rows = [" · ".join(facts), " · ".join(second)]
    for top in progress.top:
        rows.append(f"trial {top.number}: {_facts(top)}, {_values(top.values)}")
    return [printable(row, columns) for row in rows]


def _facts(top: TopTrial, first: str = "") -> str:
    """Return the metrics of a trial, of which the first may be a text, and what it violates."""
    texts = {name: format_number(value) for name, value in top.metrics.items()}
    texts |= {next(iter(texts)): first} if first else {}
    facts = [f"{printable(name, 40)} {text}" for name, text in texts.items()]
    facts += [f"violates {' and '.join(top.violated)}"] if top.violated else []
    return ", ".join(facts)


def _values(values: Mapping[str, Any]) -> str:
    """Return the values of a trial with short names."""
    return ", ".join(
        f"{short} {format_number(values[name])}" for name, short in shorts(values).items()
    )


def best_trials(sweep: Sweep, listed: int = LISTED) -> str:
    """Return the best trials as text, and how the others ended, within the width of a terminal.

    The trials are a table with short names if it fits, and otherwise a block for each.

    Args:
        sweep: the sweep.
        listed: the number of trials. Default: `LISTED`.
    """
    trials, columns = sweep.ranking[:listed], width()
    heads, rows = _table(sweep, trials)
    blocks = []
    for trial in trials:
        mean = str(seed_mean(sweep.scores[trial.number].each))
        text = f"trial {trial.number}: {_facts(top_trial(sweep, trial), mean)}"
        blocks += textwrap.wrap(text, columns, subsequent_indent="    ")
        blocks += _wrapped(_values(trial.values), columns)
    table = aligned_columns([heads, *rows]) if trials else []
    ends = Counter(trial.status for trial in sweep.trials)
    ended = ", ".join(f"{many:,} {status}" for status, many in ends.items()) or "none begun"
    head = f"{sweep.name}: {count(len(sweep.trials), 'trial')}, {ended}"
    shown = [head, *(table if all(len(row) <= columns for row in table) else blocks)]
    for status, cause, numbers in sweep.causes[:CAUSES]:
        some = ", ".join(map(str, numbers[:NAMED])) + (", ..." if len(numbers) > NAMED else "")
        many = f"{count(len(numbers), 'trial')} {status} ({some}):"
        shown += [many, *_wrapped(printable(cause, 300), columns)]
    if len(sweep.causes) > CAUSES:
        shown.append(f"and {len(sweep.causes) - CAUSES:,} other causes of failures")
    notes = [f"It ended: {why}" for why in [sweep.facts.get("ended")] if why] + sweep.forced
    if len(sweep.objectives) > 1:
        named = " and ".join(printable(one.metric, 40) for one in sweep.objectives)
        notes.append(f"On the Pareto front of {named}: {count(len(sweep.front), 'trial')}")
    if test := sweep.facts.get("test"):
        means = ", ".join(f"{name} {seed_mean(each)}" for name, each in test["scores"].items())
        notes.append(f"Trial {test['trial']} on {count(test['rows'], 'test row')}: {means}")
    return "\n".join([*shown, *(printable(one, LONGEST) for one in notes)])


def best_trials_html(sweep: Sweep, listed: int = LISTED) -> str:
    """Return the best trials as a table of HTML that needs no style sheet.

    Args:
        sweep: the sweep.
        listed: the number of trials. Default: `LISTED`.
    """
    trials = sweep.ranking[:listed]
    heads, rows = _table(sweep, trials)
    causes = sum(len(numbers) for _, _, numbers in sweep.causes)
    failed = f", {causes:,} failed or diverged" if causes else ""
    head = html.escape(f"{sweep.name}: {count(len(sweep.trials), 'trial')}{failed}")
    return f"<div>{head}</div>{table_html(heads, [[str(one) for one in row] for row in rows])}"


def _table(sweep: Sweep, trials: Sequence[Trial]) -> tuple[list[str], list[list[Any]]]:
    """Return the titles and rows of a table of trials: all metrics, and the values.

    The metrics are those that trials are compared and bounded by. If a trial violates a constraint,
    there is a column that says which.
    """
    tops = [top_trial(sweep, trial) for trial in trials]
    bounded = any(top.violated for top in tops)
    others = [*dict.fromkeys(name for top in tops for name in top.metrics if name != sweep.metric)]
    names = [name for name in sweep.ordered if any(name in trial.values for trial in trials)]
    heads = ["trial", *(printable(name, 60) for name in (sweep.metric, *others))]
    rows = []
    for top in tops:
        row = [top.number, seed_mean(sweep.scores[top.number].each)]
        row += [format_number(top.metrics[n]) if n in top.metrics else "-" for n in others]
        row += [" and ".join(top.violated) or "-"] if bounded else []
        rows.append(
            [*row, *(format_number(top.values[n]) if n in top.values else "-" for n in names)]
        )
    return [*heads, *(["violates"] if bounded else []), *shorts(names).values()], rows


@charts.styled
def score_figure(sweep: Sweep) -> Any:
    """Return a figure of the scores that are compared, and of the best so far: by trials and by
    seconds of computing."""
    figure = charts.figure(charts.WIDTH, 2.9)
    left, right = figure.subplots(1, 2, sharey=True)
    finalists = sorted(trial.number for trial in sweep.finalists)
    means = [sweep.scores[number].mean for number in finalists]
    best = [means[0]]
    for mean in means[1:]:
        best.append(mean if sweep.better(mean, best[-1]) else best[-1])
    left.plot(finalists, means, ".", color=charts.CURVE, label="a trial")
    left.step(finalists, best, where="post", color=charts.BEST, label="the best so far")
    seconds, scores, _ = zip(*known_best(sweep), strict=True)
    right.step(seconds, scores, where="post", marker=".", color=charts.BEST)
    axis = score_axis(sweep)
    if axis.log:
        left.set_yscale("log")
    room = 0 if axis.log else 0.05 * (axis.high - axis.low)
    left.set_ylim(axis.low - room, axis.high + room)
    better = "more" if sweep.maximize else "less"
    left.set_title(f"{label(sweep.metric)} ({better} is better)")
    left.set_xlabel("trial")
    right.set_xlabel("seconds of computing, including compiling")
    left.legend()
    return figure


def _wrapped(text: str, columns: int) -> list[str]:
    """Return an indented text in lines of this width."""
    return textwrap.wrap(text, columns, initial_indent="    ", subsequent_indent="    ")

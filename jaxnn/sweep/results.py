"""The result of a sweep in Python: its trials, with their configurations, metrics, and states.

It is shown as text, as a table of HTML, and as a figure.
"""

import dataclasses
import functools
import html
import importlib.util
import math
import shutil
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..experiment.configuration import from_plain
from ..experiment.experiment import Configured, Experiment, TrainedRun, configured, loaded
from ..experiment.functional_training import Training, folded
from ..files.reading import LONGEST, printable
from ..html import aligned_columns, charts, count, format_number, label, shorts
from ..train.fit import table_html
from ..train.program import with_keys, without_keys
from ..validation import Accepts, instance, integer
from .cohort import unpack
from .export import trial_rows
from .ledger import Ledger
from .report import write_report
from .report.scores import known_best, score_axis
from .reporter import TopTrial, top_trial
from .score import CONFIGURED, seed_mean
from .settings import Settings
from .snapshot import Sweep, mean, read
from .structure import TRACED, check_experiment, space_of, traced_value, with_recorded_space
from .tables import Trial

LISTED = 5  # trials in the table at the end
NAMED = 5  # trials that are named for a cause of failures
CAUSES = 10  # causes of failures that are shown


an_experiment: Accepts = instance(
    Experiment,
    "an Experiment, or None to read only values and metrics",
    "for a sweep of a function, call sweep.run again, which trains nothing if it is finished",
)


def open(folder: Path | str, experiment: Experiment[Any] | None = None) -> "Result":
    """Return the result of a sweep, which may be finished, interrupted, or still running.

    Args:
        folder: The folder of the sweep.
        experiment: The experiment of the sweep, needed for the configurations and states of trials.
            Default: None, the result has only their values and metrics. For a sweep of a function,
            call `run` again instead, which trains nothing if the sweep is finished.

    Raises:
        LedgerError: The folder contains no sweep, or a damaged one.
        ValueError: It is a sweep of another experiment.
        TypeError: `experiment` is not an `Experiment`.
    """
    if experiment is not None:
        an_experiment(experiment, "experiment")
    with Ledger.open(folder) as ledger:
        found, rows = read(ledger), ledger.meta["space"]
    if experiment is not None:
        check_experiment(found.folder, found.experiment, experiment)
        experiment = with_recorded_space(experiment, rows)
    return Result(found, experiment)


class Result:
    """The result of a sweep at the moment it was read, as `run` and `open` return it.

    Args:
        sweep: The data that were read, a `snapshot.Sweep`.
        experiment: The experiment of the sweep. Default: None, as for `open`.

    Attributes:
        folder: The folder of the sweep.
        trials: All trials by number.
        ranking: The trials that have a score, best first; trials that ran to completion come before
            those that halving stopped.
        metric: The name of the metric that trials are compared by.
        maximize: Whether larger is better.
        front: The trials of the Pareto front of all objectives, the most balanced first; with one
            objective, the best trial. `jaxnn.sweep.score` describes the order.
    """

    def __init__(self, sweep: Sweep, experiment: Experiment[Any] | None = None) -> None:
        self.folder: Path = sweep.folder
        self.sweep: Sweep = sweep
        self.experiment: Experiment[Any] | None = experiment
        self.metric: str = sweep.metric
        self.maximize: bool = sweep.maximize
        self.trials: list[TrialResult] = [
            TrialResult(sweep, trial, experiment) for trial in sweep.trials
        ]
        self.ranking: list[TrialResult] = [self.trials[trial.number] for trial in sweep.ranking]
        self.front: list[TrialResult] = [self.trials[trial.number] for trial in sweep.front]

    @property
    def best(self) -> "TrialResult":
        """The first trial of the ranking. Raises ValueError if no trial has a score yet."""
        if not self.ranking:
            ends = Counter(trial.status for trial in self.trials)
            has = ", ".join(f"{many:,} {status}" for status, many in ends.items()) or "none"
            raise ValueError(f"{self.folder} has no trial that completed; its trials: {has}")
        return self.ranking[0]

    @property
    def test(self) -> dict[str, float]:
        """The test metrics of the best trial, averaged over its seeds; {} if none were measured.

        The trial is evaluated on the test rows once, at the end of the sweep. No trial is chosen by
        them.
        """
        found, best = self.sweep.facts.get("test", {}), self.sweep.best
        if best is None or found.get("trial") != best.number:  # of an earlier best trial
            return {}
        return {name: mean(each) for name, each in found["scores"].items()}

    def table(self) -> Any:
        """Return a row per trial: number, status, epochs, metric, and values.

        Returns:
            A `pandas.DataFrame` if pandas is installed, otherwise a list of dicts.
        """
        rows = trial_rows(self.sweep)
        if importlib.util.find_spec("pandas") is None:
            return rows
        import pandas

        return pandas.DataFrame(rows)

    def report(self) -> Path:
        """Write `report.html` into the folder of the sweep, and return its path."""
        return write_report(self.sweep)

    def plot(self) -> Any:
        """Return a figure of all scores and the best score so far, by trial and by time.

        Notebooks display it; `result.plot().savefig("scores.png")` writes a file.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: No trial has a score yet.
            ImportError: matplotlib is not installed.
        """
        self.best  # noqa: B018, which raises if no trial has a score
        return score_figure(self.sweep)

    def _repr_html_(self) -> str:
        """Return the best trials as a table, and how the others ended, for notebooks."""
        return best_trials_html(self.sweep)

    def __repr__(self) -> str:
        """Return the folder, the best trials as a table, and how the others ended."""
        return f"Sweep in {self.folder}\n{best_trials(self.sweep)}"


class TrialResult:
    """A trial of a `Result`.

    Args:
        sweep: The results of the sweep.
        trial: The trial.
        experiment: The experiment of the sweep, or None.

    Attributes:
        number: 0, 1, ..., in the order in which trials were added to the sweep.
        values: The swept values by dotted path; after population-based training, the final ones.
        status: "asked", "running", "done", "stopped", "diverged", or "failed".
        error: Why it failed or diverged, or None.
        score: Its score by the setting `score`, averaged over its seeds; None if it has none.
    """

    def __init__(self, sweep: Sweep, trial: Trial, experiment: Experiment[Any] | None) -> None:
        self._sweep, self._experiment = sweep, experiment
        self.number: int = trial.number
        self.status: str = trial.status
        self.error: str | None = trial.error
        self.values: dict[str, Any] = dict(trial.values)
        found = sweep.scores.get(trial.number)
        self.score: float | None = None if found is None else found.mean

    @functools.cached_property
    def metrics(self) -> list[dict[str, float]]:
        """A dict per epoch: "epoch" and all metrics, means over the seeds, which may be NaN."""
        rows: dict[int, dict[str, float]] = {}
        for name, trials in self._sweep.curves.items():
            seeds = [dict(curve) for curve in trials.get(self.number, {}).values()]
            for epoch in sorted(set.intersection(*map(set, seeds))) if seeds else ():
                values = [one[epoch] for one in seeds]
                row = rows.setdefault(epoch, {"epoch": epoch})
                row[name] = mean([math.nan if value is None else value for value in values])
        return [rows[epoch] for epoch in sorted(rows)]

    @functools.cached_property
    def costs(self) -> dict[str, float]:
        """The known costs of the trial: "parameters", "bytes", "flops", and "seconds"."""
        pairs = {name: self._sweep.measured(self.number, name) for name in CONFIGURED}
        return {name: value for name, value in pairs.items() if value is not None}

    @property
    def config(self) -> Any:
        """The configuration of the trial. Raises ValueError if the experiment is unknown."""
        experiment = self._known()
        base = from_plain(
            experiment.config, dict(self._sweep.config), f"{self._sweep.folder}: config"
        )
        traced, kinds = self._sweep.facts.get("traced", {}), self._sweep.dimensions
        values = {
            name: traced_value(kinds[name], value) if traced.get(name) == TRACED else value
            for name, value in self.values.items()
        }
        return space_of(experiment).configured(base, values)

    def load(self, seed: int = 0) -> TrainedRun:
        """Return the trained run of a kept trial, with its final state.

        Args:
            seed: Which of the seeds or folds of the trial, from 0. Default: 0.

        Raises:
            ValueError: The trial was not kept, or the code has changed and its program now has a
                different state.
            LedgerError: The file with its states is missing or damaged.
        """
        one, folder, number = self.configured(seed), self._sweep.folder, self.number
        with Ledger.open(folder) as ledger:
            kept = ledger.kept()
            if number not in kept:
                some = f"those of {', '.join(map(str, sorted(kept)))} were" if kept else "none were"
                more = f"sweep with keep={len(self._sweep.trials)}, on the command line --keep, "
                more += "to keep more, or write trial.train() to train it again"
                if self.status != "done":
                    more = f"it is {self.status}, and only those of completed trials are kept"
                raise ValueError(
                    f"the weights of trial {number} of {folder} were not kept, {some}: {more}"
                )
            packed = ledger.kept_states(number)
        spec = jax.eval_shape(lambda: Training(one).begin(0))
        states = unpack(packed, jax.eval_shape(without_keys, spec))
        state = with_keys(jax.tree.map(lambda leaf: jnp.asarray(leaf[seed]), states), spec)
        return TrainedRun(one.config, one.data.data, one.program, state)

    @functools.cached_property
    def state(self) -> Any:
        """The final state of a kept trial, as in `load().state`."""
        return self.load().state

    def train(self, seed: int = 0) -> TrainedRun:
        """Train the configuration of the trial again in a single run, and return the trained run.

        After a sweep with `exact=True`, the result is bitwise identical to that of the lane;
        otherwise it may differ by rounding errors, which training amplifies. After population-based
        training, it is a different run, which uses the final values from the beginning.

        Args:
            seed: Which of the seeds or folds of the trial, from 0. Default: 0.
        """
        one = self.configured(seed)
        ranking = self._sweep.metric, self._sweep.maximize
        stopping = self._settings.stopping(self._known(), self._sweep.curves, ranking)
        state, _ = one.fit(hooks=[] if stopping is None else [stopping], progress=False)
        return TrainedRun(one.config, one.data.data, one.program, state)

    def configured(self, seed: int = 0) -> Configured:
        """Return the configuration of the trial with its data and its program.

        Args:
            seed: As for `load`.
        """
        config = self.config
        integer(0, self._sweep.seeds - 1)(seed, "seed")
        if (folds := self._settings.folds) > 1:
            whole = loaded(self._known(), config)
            return Configured(self._known(), config, folded(whole, folds).one(seed))
        if seed:
            config = dataclasses.replace(config, seed=config.seed + seed)
        return configured(self._known(), config)

    @property
    def _settings(self) -> Settings:
        plain = self._sweep.facts.get("settings", {})
        return from_plain(Settings, plain, f"{self._sweep.folder}: settings")

    def _known(self) -> Experiment[Any]:
        """Return the experiment; raise ValueError if it is unknown."""
        if self._experiment is None:
            raise ValueError(
                f"the configuration of a trial needs the experiment: write "
                f"sweep.open({str(self._sweep.folder)!r}, EXPERIMENT)"
            )
        return self._experiment

    def __repr__(self) -> str:
        """Return the number, the status, the score, and the values."""
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        score = "" if self.score is None else f", {self._sweep.metric} {self.score:.6g}"
        return f"<trial {self.number}: {self.status}{score}; {values}>"


# Results as text, in the width of the terminal, or in 80 columns without a terminal


def width() -> int:
    """Return the number of columns of the terminal; 80 without a terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def facts_text(top: TopTrial, first: str = "") -> str:
    """Return the metrics of a trial, of which the first may be a text, and what it violates."""
    texts = {name: format_number(value) for name, value in top.metrics.items()}
    texts |= {next(iter(texts)): first} if first else {}
    facts = [f"{printable(name, 40)} {text}" for name, text in texts.items()]
    facts += [f"violates {' and '.join(top.violated)}"] if top.violated else []
    return ", ".join(facts)


def values_text(values: Mapping[str, Any]) -> str:
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
        first = str(seed_mean(sweep.scores[trial.number].each))
        text = f"trial {trial.number}: {facts_text(top_trial(sweep, trial), first)}"
        blocks += textwrap.wrap(text, columns, subsequent_indent="    ")
        blocks += _wrapped(values_text(trial.values), columns)
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


def best_trials_html(sweep: Sweep) -> str:
    """Return the best trials as a table of HTML that needs no style sheet."""
    heads, rows = _table(sweep, sweep.ranking[:LISTED])
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
    for score in means[1:]:
        best.append(score if sweep.better(score, best[-1]) else best[-1])
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

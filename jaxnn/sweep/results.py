"""The result of a sweep in Python: its trials, with their configurations, metrics, and states."""

import dataclasses
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

from ..experiment import sources
from ..experiment.configuration import from_plain
from ..experiment.experiment import Experiment, TrainedRun, configured
from ..validation import integer
from .display import best_trials
from .export import trial_rows
from .ledger import Ledger
from .objectives import CONFIGURED
from .report import write_report
from .snapshot import Sweep, mean, read
from .structure import TRACED, space_of, traced_value, with_recorded_space
from .tables import Trial


def open(folder: Path | str, experiment: Experiment[Any] | None = None) -> "Result":
    """Return the result of a sweep, finished or not; it may be running.

    Args:
        folder: The folder of the sweep.
        experiment: The experiment of the sweep, from which the configurations and states of trials
            follow. Default: None, the result has their values and metrics only. For a sweep of a
            function call `run` again, which trains nothing if the sweep is finished.

    Raises:
        LedgerError: The folder does not contain a sweep, or a damaged one.
        ValueError: It is a sweep of another experiment.
    """
    with Ledger.open(folder) as ledger:
        found, rows = read(ledger), ledger.meta["space"]
    if experiment is not None and found.experiment != sources.module_of(experiment):
        raise ValueError(
            f"{folder} is a sweep of {found.experiment}, not of {sources.module_of(experiment)}"
        )
    if experiment is not None:
        experiment = with_recorded_space(experiment, rows)
    return Result(found, experiment)


class Result:
    """The result of a sweep at the moment it was read, which `run` and `open` return.

    Args:
        sweep: All that was read.
        experiment: The experiment of the sweep. Default: None, as for `open`.

    Attributes:
        folder: The folder of the sweep.
        trials: All trials by number.
        ranking: The trials that have a score, the best first; those that ran to their end come
            before those that halving stopped.
        metric: The name of the metric that trials are compared by.
        maximize: Whether larger is better.
        front: The trials of the Pareto front of all objectives, the most balanced first; with one
            objective the best trial. The rules are those of `jaxnn.sweep.objectives`.
    """

    def __init__(self, sweep: Sweep, experiment: Experiment[Any] | None = None) -> None:
        self.front: list[TrialResult] = [
            TrialResult(sweep, trial, experiment) for trial in sweep.front
        ]
        self.folder: Path = sweep.folder
        self.sweep: Sweep = sweep
        self.experiment: Experiment[Any] | None = experiment
        self.metric: str = sweep.metric
        self.maximize: bool = sweep.maximize
        self.trials: list[TrialResult] = [
            TrialResult(sweep, trial, experiment) for trial in sweep.trials
        ]
        self.ranking: list[TrialResult] = [self.trials[trial.number] for trial in sweep.ranking]

    @property
    def best(self) -> "TrialResult":
        """The first trial of the ranking; raise ValueError if no trial has a score yet."""
        if not self.ranking:
            raise ValueError(f"{self.folder} has no trial that completed yet")
        return self.ranking[0]

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
        """Write `report.html` into the folder of the sweep, and return its path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return write_report(self.sweep)

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
        number: 0, 1, ... in the order in which trials were asked.
        values: The swept values by dotted path; after population-based training, the last ones.
        status: "asked", "running", "done", "stopped", "diverged", or "failed".
        error: Why it failed or diverged, or None.
        score: The metric after its last epoch, the mean over its seeds; None without one.
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
        """A dict per epoch, with "epoch" and all metrics: means over the seeds, NaN for others."""
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
        """What the trial costs: "parameters", "bytes", and "seconds"; "flops" if it is compared."""
        pairs = {name: self._sweep.measured(self.number, name) for name in CONFIGURED}
        return {name: value for name, value in pairs.items() if value is not None}

    @property
    def config(self) -> Any:
        """The configuration of the trial; raise ValueError without the experiment."""
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

    def train(self, seed: int = 0) -> TrainedRun:
        """Train the configuration of the trial alone, and return the trained run.

        A sweep does not keep the weights of trials, so this repeats the training. After a sweep
        with `exact=True` the result is bitwise that of the lane; otherwise it may differ by
        rounding, which training amplifies. After population-based training it is another run,
        with the last values from the beginning.

        Args:
            seed: Which of the seeds of the trial, from 0. Default: 0.
        """
        config = self.config
        integer(0, self._sweep.seeds - 1)(seed, "seed")
        if seed:
            config = dataclasses.replace(config, seed=config.seed + seed)
        one = configured(self._known(), config)
        state, _ = one.fit(progress=False)
        return TrainedRun(config, one.data.data, one.program, state)

    @functools.cached_property
    def state(self) -> Any:
        """The final state of `train()`, ready for `train.predict`; trained at the first use."""
        return self.train().state

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

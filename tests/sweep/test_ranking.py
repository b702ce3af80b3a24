"""Which trial is the best: on ledgers written by hand, and in a sweep by a task's own metric."""

import collections
import dataclasses
import json
import math
import shlex
import types
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import sweep, train
from jaxnn.command import sweep as commands
from jaxnn.experiment import SGD, AdamW, sources
from jaxnn.experiment.configuration import to_plain
from jaxnn.experiment.run_folder import check_folder, load_run, load_unfinished
from jaxnn.models import MLP
from jaxnn.sweep import Branch, Choice, Grid, Int, LogUniform, Space, Uniform, storage
from jaxnn.sweep.export import export_sweep, lane_score
from jaxnn.sweep.ledger import Cohort, Group, Ledger, LedgerError
from jaxnn.sweep.meta import left_out
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.report import headline, main_numbers
from jaxnn.sweep.report.parameters import FEWEST, alone, importance, importance_of
from jaxnn.sweep.report.scores import known_best
from jaxnn.sweep.reporter import Reporter
from jaxnn.sweep.results import best_trials
from jaxnn.sweep.score import keep, population
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.snapshot import read
from tests.sweep import driven, quick, toy
from tests.sweep.made_up import made_up

NAN, INF = math.nan, math.inf
SPACE = Space(SGD, {"learning_rate": LogUniform(1e-3, 1.0), "momentum": Uniform(0.0, 1.0)})
META = {
    "experiment": "experiments.toy",
    "config": to_plain(SGD()),
    "settings": {"trials": 8},
    "space": SPACE.to_plain(),
    "metric": "validation_f1",
    "maximize": True,
    "seeds": 1,
    "epochs": 4,
    "rungs": [4],
}
# What each trial's F1 was after each epoch; the best of those that count is 3, the next 1.
F1 = {
    0: [0.1, 0.2],
    1: [NAN, 0.8],  # undefined at first
    2: [0.9, NAN],
    3: [0.2, 0.9],
    4: [0.2, INF],
    5: [0.2, -INF],
    6: [0.2, 0.3, 0.4, 0.5],  # twice as long, and worse
    7: [0.95],  # stopped by halving
}


def written(folder, maximize=True):
    """A sweep with these numbers; to be minimized, with their signs turned."""
    sign = 1 if maximize else -1
    with Ledger.create(folder, META | {"maximize": maximize}) as ledger:
        ledger.add_group(Group("all", {}, "loop", 1, probe={"seconds": 3.0}, compile_seconds=2.0))
        ledger.ask(0, 0, [({"learning_rate": 0.01 * (n + 1), "momentum": 0.5}, "all") for n in F1])
        for number, values in F1.items():
            results = [(number, 0, e, "validation_f1", sign * v) for e, v in enumerate(values, 1)]
            cohort = Cohort("all", 0, 0, len(values), ((number, 0),), 1.0, 0.5)
            ledger.commit(cohort, results, {number: "stopped" if number == 7 else "done"})
    return folder


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_is_the_best_for_every_reader(tmp_path, maximize):
    folder = written(tmp_path / "sweep", maximize)
    with Ledger.open(folder) as ledger:
        found = read(ledger)
        planner = types.SimpleNamespace(
            metric="validation_f1",
            maximize=maximize,
            epochs=4,
            settings=Settings(trials=8),
            space=SPACE,
            objectives=[("validation_f1", maximize)],
            constraints=(),
        )
        reporter = Reporter(ledger, planner, lambda progress: None)  # type: ignore[arg-type]
        told = reporter.progress(4)
    sign = 1 if maximize else -1
    # A trial that ran longer comes after a better one, one that was stopped after all of those.
    assert [trial.number for trial in found.ranking] == [3, 1, 6, 0, 7]
    assert (told.top[0].number, told.top[0].metrics) == (3, {"validation_f1": sign * 0.9})
    assert [trial.number for trial in found.finalists] == [3, 1, 6, 0]
    rows = [line.split() for line in best_trials(found).splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [3, 1, 6, 0, 7]
    assert known_best(found)[-1][1] == sign * 0.95  # known, though not of a whole run
    experiment = dataclasses.replace(quick.experiment(SPACE, SGD))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "module_of", lambda experiment: "experiments.toy")
        best = commands.trial_of(experiment, f"{folder}:best").config
    assert best == SGD(learning_rate=0.04, momentum=0.5)


@pytest.mark.parametrize("maximize", [True, False])
def test_optuna_finds_the_same_best(tmp_path, maximize):
    optuna = pytest.importorskip("optuna")
    with Ledger.open(written(tmp_path / "sweep", maximize)) as ledger:
        export_sweep(read(ledger), "optuna", tmp_path / "study.db")
    # By its name: to find it, Optuna opens another connection, which it does not close.
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.best_trial.number == 3
    directions = optuna.study.StudyDirection
    assert study.direction == (directions.MAXIMIZE if maximize else directions.MINIMIZE)
    study._storage.remove_session()
    study._storage._backend.engine.dispose()


def test_exports_give_a_broken_trial_no_score():
    """Its accuracy may be the best, reported next to a loss of NaN."""
    found = made_up(trials=3, epochs=1, seeds=1, rungs=(1,))
    found = dataclasses.replace(
        found,
        trials=[
            dataclasses.replace(trial, status="diverged" if n == 1 else "done")
            for n, trial in enumerate(found.trials)
        ],
        curves={"validation_accuracy": {n: {0: [(1, 0.1 + 0.4 * n)]} for n in range(3)}},
    )
    assert [lane_score(found, trial, 0) for trial in found.trials] == [0.1, None, 0.9]


def test_the_headline_counts_compiling_and_the_probe(tmp_path):
    with Ledger.open(written(tmp_path / "sweep")) as ledger:
        found = read(ledger)
    # 8 cohorts of 1 s, half of it compiling; a probe of 3 s, of which 2 s compiling.
    assert ("11.0 s", "of computing", "6.0 s of it compiling, 1.0 s measuring how to run") in (
        main_numbers(found)
    )
    assert known_best(found)[-1][0] == 11.0
    words = headline(found)
    assert "1 to 4 epochs" not in words
    assert "trials that completed (2 to 4 epochs, depending on the configuration)" in words


def test_halving_and_populations_keep_no_infinity():
    scores = [0.3, -INF, INF, NAN, None, 0.1]
    assert keep(scores, 2).tolist() == [5, 0]
    source = population(scores, np.random.default_rng(0))
    assert (source != np.arange(6)).tolist() == [False, True, True, True, True, False]
    assert set(source[1:5]) == {5}


# The direction of a sweep


class Scored(train.Classification):
    """With the soft F1 of class 0, its complement, and one that is never finite."""

    directions = {"f1": "maximize", "miss": "minimize"}  # noqa: RUF012

    def metrics(self, outputs, targets):
        p = jnp.exp(outputs - outputs.max(-1, keepdims=True))
        p = (p / p.sum(-1, keepdims=True))[..., 0]
        true = (targets == 0).astype(p.dtype)
        f1 = 2 * (p * true).sum() / (p.sum() + true.sum())
        more = {"f1": f1, "miss": 1 - f1, "novel": f1, "undefined": f1 * jnp.nan}
        return {**super().metrics(outputs, targets), **more}


def scored(space=driven.TRACED):
    return quick.experiment(
        space, program=lambda config, data: quick.program(config, data, task=Scored(10))
    )


def planner(**settings):
    return Planner(scored(), driven.BASE, Settings(trials=4, **settings))


def test_the_direction_is_the_tasks_or_the_one_that_was_asked_for():
    found = planner(metric="validation_f1")
    assert (found.metric, found.maximize) == ("validation_f1", True)
    assert not planner(metric="validation_miss").maximize
    assert not planner(metric="loss").maximize
    assert planner().metric == "validation_accuracy"
    asked = planner(maximize="validation_novel")
    assert (asked.metric, asked.maximize) == ("validation_novel", True)
    asked = planner(minimize="novel", metric="novel")
    assert (asked.metric, asked.maximize) == ("novel", False)
    with pytest.raises(ValueError) as said:
        planner(metric="validation_novel")
    assert str(said.value) == (
        "the direction of 'validation_novel' is unknown: write --maximize validation_novel or "
        "--minimize validation_novel, or declare it in the metric by train.Mean(value, "
        "maximize=True) or train.Ratio(sum, count, maximize=True)"
    )
    with pytest.raises(ValueError, match="f1 is an objective twice, of --maximize f1 and --minim"):
        planner(maximize="f1", minimize="f1")
    assert planner(maximize="f1", metric="validation_f1").objectives == [
        ("validation_f1", True),
        ("f1", True),
    ]
    assert planner(maximize="f1", minimize="loss").objectives == [("f1", True), ("loss", False)]


@pytest.mark.parametrize("metric", ["validation_f1", "validation_miss"])
def test_halving_keeps_the_trials_with_the_largest_f1(tmp_path, metric):
    """The same trials go on whether the F1 is maximized or 1 - F1 minimized."""
    settings = Settings(trials=8, halving="successive", eta=2, metric=metric, **driven.FIXED)
    with driven.begun(scored(), settings, tmp_path / "sweep") as ledger:
        driven.drive(ledger, scored())
        curves = {t.number: dict(toy.curves(ledger, t.number, "f1")[0]) for t in ledger.trials()}
        held = {
            t.number: dict(toy.curves(ledger, t.number, "validation_f1")[0])
            for t in ledger.trials()
        }
        statuses = collections.Counter(trial.status for trial in ledger.trials())
        best = read(ledger).best
        # Another direction is another sweep, even if someone edits the settings.
        ledger.set_meta({"maximize": metric == "validation_miss"})
        with pytest.raises(
            ValueError, match=r"are compared by validation_.*: restore the code, or"
        ):
            driven.drive(ledger, scored())
    assert statuses == {"stopped": 6, "done": 2}  # a metric of NaN ends no trial
    assert len(curves) == 8
    for before, after in pairwise((1, 2, 4)):
        there = sorted((n for n in held if before in held[n]), key=lambda n: -held[n][before])
        gone_on = {n for n in held if after in held[n]}
        assert gone_on == set(there[: len(there) // 2])
    assert best is not None
    assert best.number == max((n for n in held if 4 in held[n]), key=lambda n: held[n][4])


# Grids


@dataclasses.dataclass(frozen=True)
class Branched:
    model: MLP = MLP()  # noqa: RUF009, frozen
    optimizer: AdamW | SGD = AdamW()  # noqa: RUF009, frozen


@pytest.mark.parametrize("points", [1, 3])
def test_the_size_of_a_grid_is_the_number_of_its_points(points):
    space = Space(
        driven.quick.Config,
        {
            "optimizer.momentum": Uniform(0.5, 0.9),
            "model.width": Int(4, 5),
            "model.dropout": Choice(0.0, 0.1),
        },
    )
    assert space.grid_size(points) == len(list(space.grid(points)))
    branched = Space(
        Branched,
        {
            "model.dropout": Grid(0.1, 0.2),
            "optimizer": Branch(
                SGD={"learning_rate": LogUniform(1e-2, 0.5), "momentum": Uniform(0.5, 0.98)},
                AdamW={"learning_rate": LogUniform(1e-4, 1e-1)},
            ),
            "model.width": Choice(64, 128, 256),
        },
    )
    assert branched.grid_size(points) == 2 * (points**2 + points) * 3
    assert branched.grid_size(points) == len(list(branched.grid(points)))
    assert branched.grid_size(1000) == 2 * (1000**2 + 1000) * 3  # without making them


def test_a_grid_that_is_cut_short_is_reported():
    def of(**settings):
        return left_out(Planner(scored(), driven.BASE, Settings(**settings)))

    assert of(search="grid", trials=10) == (
        "the grid has 25 points, of which --trials 10 tries the first 10: write --trials 25 to try "
        "all"
    )
    assert of(search="grid", trials=25) == of(search="random", trials=10) == ""
    text = headline(made_up(facts={"left_out": of(search="grid", trials=10)}))
    assert "the grid has 25 points, of which --trials 10 tries the first 10" in text


# Importance


def test_held_out_shares_are_those_of_scikit_learn():
    """Leave-one-out predictions of a linear fit on the same basis, and of group means."""
    from scipy.stats import rankdata
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    random = np.random.default_rng(0)
    for dimension in (Uniform(0.0, 2.0), LogUniform(1e-3, 1.0), Int(1, 9), Choice("a", "b", "c")):
        values: list[Any] = [dimension.at(u) for u in random.random(40)]
        worth = [dimension.unit(v) ** 2 + 0.3 * random.normal() for v in values]
        worth[3] = worth[7]  # equal ones share their rank
        ranks = rankdata(worth)
        if isinstance(dimension, Choice):
            basis = np.array([[v == o for o in dimension.options] for v in values], float)
        else:
            units = np.array([dimension.unit(v) for v in values])
            basis = np.stack([units**0, units, units**2], 1)
        model = LinearRegression(fit_intercept=False)
        held_out = cross_val_predict(model, basis, ranks, cv=LeaveOneOut())
        from_mean = np.array([np.delete(ranks, i).mean() for i in range(40)])
        errors, spread = ((one - ranks) ** 2 for one in (held_out, from_mean))
        share, _ = alone(dimension, values, worth, 0.05)
        np.testing.assert_allclose(share, 1 - errors.sum() / spread.sum(), rtol=1e-9)
        assert share <= r2_score(ranks, model.fit(basis, ranks).predict(basis))


def conditional(seed, trials=40):
    """Random trials in which the rate of each optimizer matters, and three parameters do not."""
    random = np.random.default_rng(seed)
    dimensions = {
        "optimizer": Choice("AdamW", "SGD"),
        "adamw.rate": LogUniform(1e-4, 1e-1),
        "sgd.rate": LogUniform(1e-3, 1.0),
        "sgd.nothing": Uniform(0.0, 1.0),
        "nothing": Int(0, 4),
        "none": Choice("a", "b"),
    }
    asked, scores = [], []
    for _ in range(trials):
        values = {name: dimension.at(random.random()) for name, dimension in dimensions.items()}
        other = "sgd" if values["optimizer"] == "AdamW" else "adamw"
        values = {name: v for name, v in values.items() if not name.startswith(other)}
        rate = values.get("adamw.rate", values.get("sgd.rate", 0.0))
        ideal = 0.01 if other == "sgd" else 0.1
        asked.append(values)
        scores.append(math.log10(rate / ideal) ** 2 + 0.4 * random.normal())
    return dimensions, asked, scores


def swept_by(dimensions, asked, scores):
    found = made_up(trials=len(asked), epochs=1, seeds=1, rungs=(1,))
    trials = [
        dataclasses.replace(t, values=v, status="done", error=None)
        for t, v in zip(found.trials, asked, strict=True)
    ]
    curves = {"validation_loss": {n: {0: [(1, score)]} for n, score in enumerate(scores)}}
    return dataclasses.replace(
        found, dimensions=dimensions, trials=trials, curves=curves, metric="validation_loss",
        maximize=False,
    )  # fmt: skip


def test_a_parameter_without_effect_ranks_first_in_no_sweep():
    """In 30 sweeps of 40 trials; PED-ANOVA's first was one without effect in several."""
    counted = 0
    for seed in range(30):
        dimensions, asked, scores = conditional(seed)
        found = importance_of(swept_by(dimensions, asked, scores))
        assert not isinstance(found, str)
        shares = found.shares
        assert max(shares, key=lambda name: shares[name]).endswith("rate")
        for name in ("adamw.rate", "sgd.nothing", "none"):
            assert found.trials[name] == sum(name in values for values in asked)
        counted += any(shares[name] > 0 for name in ("sgd.nothing", "nothing", "none"))
    # 5 % of sweeps at most, by Bonferroni: more than 5 of 30 have a probability below 0.004.
    assert counted <= 5


def test_without_any_effect_nothing_is_ranked():
    """Scores that nothing determines: in about 5 % of sweeps something is taken for an effect."""
    wrong = 0
    for seed in range(40):
        dimensions, asked, scores = conditional(seed, trials=FEWEST + 5)
        shuffled = list(np.random.default_rng(seed).permutation(scores))
        found = importance_of(swept_by(dimensions, asked, shuffled))
        if isinstance(found, str):
            assert found.startswith("No parameter has an effect beyond chance in 30 trials: none ")
        wrong += not isinstance(found, str)
    assert wrong <= 6  # of 40 at 5 %: more have a probability below 0.004


def test_the_page_says_how_importance_is_judged():
    found = importance_of(swept_by(*conditional(0)))
    text = importance(found, made_up())
    assert "with shuffled ranks, some parameter exceeds it in 5 % of sweeps" in text
    assert "no effect beyond chance" in text
    assert "40 trials are compared, each after its last epoch" in text


# Commands


def command_in(text):
    """The words of the command at the end of a message, as a shell takes them."""
    return shlex.split(text.partition("write ")[2] or text.partition(": ")[2])


def test_printed_commands_quote_their_paths(tmp_path, capsys, monkeypatch):
    folder = written(tmp_path / "it's a (sweep) $HOME; here")
    best = ["python", "-m", "experiments.toy", "run", "--from", f"{folder}:best"]
    monkeypatch.setattr(sweep.Result, "report", lambda result: "report.html")
    commands.finish(sweep.open(folder))
    with Ledger.open(folder) as ledger:
        found = read(ledger)
    assert command_in(capsys.readouterr().out.splitlines()[-1]) == best
    assert shlex.split(storage.command_to_resume(folder, "experiments.toy"))[-1] == str(folder)
    with pytest.raises(LedgerError) as said:
        storage.connect(tmp_path / "no sweep", write=False)
    assert f"`sweep --folder '{tmp_path / 'no sweep'}'`" in str(said.value)
    held = storage.DriverLock(folder)
    with pytest.raises(LedgerError) as said:
        storage.DriverLock(folder)
    held.close()
    called = str(said.value).split("`")[1]
    assert shlex.split(called) == ["jaxnn", "sweep", "top", str(folder)]
    with pytest.raises(FileExistsError) as said:
        check_folder(folder, 1)
    named = str(said.value).partition("--folder ")[2].removesuffix(", or remove it")
    assert shlex.split(named) == [f"{folder}-2"]
    with pytest.raises(ValueError) as said:
        monkeypatch.setattr(sources, "module_of", lambda experiment: "experiments.other")
        commands.resume_sweep(quick.experiment(SPACE, SGD), [str(folder)])
    assert command_in(str(said.value)) == ["python", "-m", "experiments.toy", "resume", str(folder)]
    assert shlex.split(headline(found).partition("<pre><code>")[2].partition("<")[0])[:1] == [
        "python"
    ]


def test_messages_about_runs_quote_their_paths(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "checkpoints").mkdir()
    about = '{"schema": 1, "experiment": "%s", "config": %s, "options": {}}'
    config = json.dumps(to_plain(quick.Config()))
    (folder / "config.json").write_text(about % ("other", config))
    with pytest.raises(ValueError, match="is a run of 'other', not of 'quick'"):
        load_run(quick.EXPERIMENT, folder)
    (folder / "config.json").write_text(about % ("quick", config))
    with pytest.raises(ValueError) as said:
        load_run(quick.EXPERIMENT, folder)
    assert command_in(str(said.value)) == ["resume", str(folder), "first"]
    (folder / "result.json").write_text("{}")
    with pytest.raises(FileExistsError) as said:
        load_unfinished(quick.EXPERIMENT, folder)
    assert command_in(str(said.value))[:2] == ["predict", f"{folder},"]

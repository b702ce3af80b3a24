"""The Python interface of sweeps: `sweep.run` and `sweep.open`, and what their results hold."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import sweep, train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.experiment.experiment import Configured, configured
from jaxnn.sweep import Grid, LogUniform, results, running
from jaxnn.sweep.cohort import _narrowed
from jaxnn.sweep.compiled import Compiled, Way
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger, LedgerError
from tests.sweep import driven, quick, toy


@dataclasses.dataclass(frozen=True)
class Config:
    """Descent of (x - target)^2 from 0."""

    rate: float = 0.1
    target: float = 1.0
    steps: int = 4
    every: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class WithEpochs:
    """The same, two steps an epoch."""

    rate: float = 0.1
    target: float = 1.0
    batch_size: int = 4
    epochs: int = 1
    seed: int = 0


class Descent(train.Program):
    """A step multiplies the distance to the target by 1 - 2 rate."""

    rate: float
    target: float

    def init(self, key, batch):
        return jnp.float32(0)

    def step(self, x, batch):
        return x - 2 * self.rate * (x - self.target), {"loss": (x - self.target) ** 2}

    def evaluate(self, x, batch, *, key):
        return {"distance": jnp.abs(x - self.target)}

    def predict(self, x, inputs):
        return x + inputs


def program(config):
    return Descent(config.rate, config.target)


SPACE = {"rate": Grid(0.1, 0.25, 0.5, 0.75), "target": Grid(1.0, 2.0)}
SETTINGS = {
    "search": "grid",
    "trials": 8,
    "lanes": 4,
    "by": "map",
    "minimize": "validation_distance",
    "keep": 8,
}
EXPERIMENT = Experiment(
    "descent", Config, program=lambda config, data: program(config), space=SPACE
)


def run(folder, **changes):
    fixed = {"progress": False, **SETTINGS}
    return sweep.run(EXPERIMENT, folder=folder, **{**fixed, **changes})


def digest(folder):
    with Ledger.open(folder) as ledger:
        return toy.digest(ledger)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished sweep."""
    return run(tmp_path_factory.mktemp("sweeps") / "whole", exact=True)


def test_the_best_of_a_quadratic_is_the_rate_of_one_half(whole):
    """With the rate 1/2 a step ends at the target; with others |1 - 2 rate|^4 target remains."""
    assert whole.best.values == {"rate": 0.5, "target": 1.0}
    assert whole.best.config == Config(rate=0.5, target=1.0)
    assert whole.best.score == 0.0
    assert (whole.metric, whole.maximize) == ("validation_distance", False)
    assert [trial.number for trial in whole.trials] == list(range(8))
    for trial in whole.trials:
        rate, target = trial.values["rate"], trial.values["target"]
        np.testing.assert_allclose(trial.score, abs(1 - 2 * rate) ** 4 * target, rtol=1e-5)
        kept = [abs(1 - 2 * rate) ** (2 * epoch) * target for epoch in (1, 2)]
        assert [row["epoch"] for row in trial.metrics] == [1, 2]
        found = [row["validation_distance"] for row in trial.metrics]
        np.testing.assert_allclose(found, kept, rtol=1e-5)
    scores = [trial.score for trial in whole.ranking]
    assert scores == sorted(scores)


def allowing(least):
    """The experiment, with a `where` that no module contains."""
    space = sweep.Space(Config, SPACE, where=lambda config: config.rate >= least)
    return dataclasses.replace(EXPERIMENT, space=space)


def test_a_where_that_changed_is_reported_on_resume(tmp_path):
    """A notebook's `where` is in no module, so that it is compared by itself."""
    fixed = {"progress": False, **SETTINGS, "trials": 2}
    sweep.run(allowing(0.25), folder=tmp_path / "s", **fixed)
    again = sweep.run(allowing(0.25), folder=tmp_path / "s", **fixed)
    assert [trial.values["rate"] for trial in again.trials] == [0.25, 0.25]
    with pytest.raises(ValueError, match=r"changed.*: where: the code of .*lambda.* changed; "):
        sweep.run(allowing(0.5), folder=tmp_path / "s", **fixed)
    more = sweep.run(allowing(0.5), folder=tmp_path / "s", force=True, **{**fixed, "trials": 4})
    assert all(trial.values["rate"] >= 0.5 for trial in more.trials[2:])
    sweep.run(allowing(0.5), folder=tmp_path / "s", **{**fixed, "trials": 4})


def test_a_sweep_of_a_notebook_has_the_name_of_its_experiment(whole):
    found = dataclasses.replace(whole.sweep, experiment="__main__")
    assert (whole.sweep.name, found.name) == ("test_python", "descent")
    assert dataclasses.replace(found, facts={}).name == "__main__"  # of an earlier version


def test_the_state_of_a_trial_predicts_and_is_that_of_its_lane(whole):
    trial = whole.trials[0]
    found = trial.train()
    assert found.config == trial.config == Config(rate=0.1, target=1.0)
    _, history = configured(EXPERIMENT, trial.config).fit(progress=False)
    for row, record in zip(trial.metrics, history, strict=True):
        assert {name: record[name] for name in row if name != "epoch"} == {
            name: value for name, value in row.items() if name != "epoch"
        }
    np.testing.assert_allclose(trial.state, 1 - 0.8**4, rtol=1e-6)
    inputs = np.arange(3.0, dtype="f")
    predicted = train.predict(found.program, trial.state, inputs)
    np.testing.assert_allclose(predicted, inputs + trial.state)
    assert trial.state is trial.state


def test_only_the_best_are_kept_and_loaded_without_training(tmp_path, whole, monkeypatch):
    """Of equal scores, those that were asked first: the distance is 0 at both targets."""
    result = run(tmp_path / "sweep", keep=2)
    monkeypatch.setattr(Configured, "fit", None)
    assert [trial.values["rate"] for trial in result.ranking[:2]] == [0.5, 0.5]
    assert [float(trial.state) for trial in result.ranking[:2]] == [1.0, 2.0]
    assert result.best.load().config == Config(rate=0.5)
    files = sorted(file.name for file in (tmp_path / "sweep" / "kept").iterdir())
    assert files == [f"{trial.number:06d}.safetensors" for trial in result.ranking[:2]]
    text = (
        r"the weights of trial 0 of .*sweep were not kept, those of 4, 5 were: sweep with keep=8, "
        r"on the command line --keep, to keep more, or write trial.train\(\) to train it again"
    )
    with pytest.raises(ValueError, match=text):
        _ = result.trials[0].state
    (tmp_path / "sweep" / "kept" / files[0]).write_bytes(b"other")
    with pytest.raises(LedgerError, match=r"is damaged: .*; it has the weights of trial 4: put"):
        result.best.load()
    assert not (run(tmp_path / "none", keep=0).folder / "kept").exists()


def test_more_epochs_replace_what_was_kept(tmp_path):
    """The trials start again, so the weights of the shorter ones are those of no trial."""
    space = {"rate": Grid(0.1, 0.25)}
    made = dataclasses.replace(EXPERIMENT, config=WithEpochs, data=lambda config: np.zeros(8, "f"))
    few = {"space": space, "trials": 2, "folder": tmp_path / "sweep", "progress": False}
    few |= {name: SETTINGS[name] for name in ("search", "lanes", "by")} | {"minimize": "loss"}
    before = sweep.run(made, config=WithEpochs(epochs=1), keep=2, **few)
    states = [float(trial.state) for trial in before.trials]
    after = sweep.run(made, config=WithEpochs(epochs=2), keep=1, **few)
    files = [file.name for file in (tmp_path / "sweep" / "kept").iterdir()]
    assert files == [f"{after.best.number:06d}.safetensors"]
    rate = after.best.values["rate"]
    np.testing.assert_allclose(states[after.best.number], 1 - (1 - 2 * rate) ** 2, rtol=1e-6)
    np.testing.assert_allclose(after.best.state, 1 - (1 - 2 * rate) ** 4, rtol=1e-6)


def test_the_weights_of_a_population_are_kept(tmp_path):
    """Its last values cannot train them from the beginning: they are the product."""
    few = {"search": "random", "trials": 4, "halving": "population", "keep": 4}
    space = {"rate": LogUniform(0.01, 0.4)}
    result = sweep.run(
        EXPERIMENT, folder=tmp_path / "sweep", progress=False, **{**SETTINGS, **few}, space=space
    )
    assert result.sweep.changed
    for trial in result.trials:
        np.testing.assert_allclose(abs(trial.state - 1.0), trial.score or 0.0, rtol=1e-6)


def test_a_lane_stops_as_a_single_run_and_leaves_the_batch(tmp_path, monkeypatch):
    """After the first record, a rate of 1/2 is at the target, 1 circles it, 5/4 moves away."""
    space = {"rate": Grid(0.1, 0.25, 0.4, 0.5, 0.75, 1.0, 1.125, 1.25)}
    calls, whole = [], Compiled.train

    def counted(self, values, *rest):
        calls.append((len(values), self.way.width))
        return whole(self, values, *rest)

    monkeypatch.setattr(Compiled, "train", counted)
    config = Config(steps=8, every=1, target=3.0)
    few = {"patience": 2, "space": space, "config": config, "exact": True, "score": "best"}
    result = run(tmp_path / "sweep", **few)
    assert [len(trial.metrics) for trial in result.trials] == [8, 8, 8, 3, 8, 3, 3, 3]
    # Two calls of four lanes while all train, then one, with the four that are left.
    assert calls == [(4, 4), (4, 4)] * 3 + [(4, 4)] * 5
    for trial in result.trials:
        hook = train.EarlyStopping("validation_distance", 2, maximize=False)
        state, history = configured(EXPERIMENT, trial.config).fit(hooks=[hook], progress=False)
        rows = [{k: v for k, v in record.items() if k != "step"} for record in history]
        assert [{k: v for k, v in row.items() if k != "epoch"} for row in trial.metrics] == rows
        assert trial.state == state
        assert trial.score == min(record["validation_distance"] for record in history)


def test_a_batch_becomes_a_quarter_as_wide_when_a_quarter_is_left():
    ways = [Way("vmap", 32, 2), Way("map", 4), Way("loop", 1)]
    assert [_narrowed(way, 17).width for way in ways] == [32, 4, 1]
    assert [_narrowed(way, 16).width for way in ways] == [8, 4, 1]
    assert [_narrowed(way, 1).width for way in ways] == [2, 1, 1]


def test_patience_and_halving_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"--patience 2 stops a trial by its own values, and --h"):
        run(tmp_path / "sweep", patience=2, halving="successive")


def test_seeds_are_averaged_and_each_can_be_trained(tmp_path):
    result = run(tmp_path / "sweep", seeds=2, trials=2)
    assert len(result.trials) == 2
    assert result.best.train(seed=1).config.seed == 1
    assert result.best.load(seed=1).config.seed == 1
    with pytest.raises(ValueError, match="seed must be an int from 0 to 1, got 2"):
        result.best.train(seed=2)


def test_a_table_has_a_row_per_trial(whole, monkeypatch):
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: None)
    rows = whole.table()
    assert [row["trial"] for row in rows] == list(range(8))
    assert [row["rate"] for row in rows] == [trial.values["rate"] for trial in whole.trials]
    assert [row["validation_distance"] for row in rows] == [t.score for t in whole.trials]


def test_with_pandas_a_table_is_a_frame(whole):
    pandas = pytest.importorskip("pandas")
    table = whole.table()
    assert isinstance(table, pandas.DataFrame)
    assert table.sort_values("validation_distance")["rate"].iloc[0] == 0.5
    assert len(table) == 8


def test_a_result_is_printed_as_its_best_trials(whole):
    lines = repr(whole).splitlines()
    assert lines[0] == f"Sweep in {whole.folder}"
    assert lines[1].endswith(": 8 trials, 8 done")
    assert lines[2].split() == ["trial", "validation_distance", "rate", "target"]
    assert lines[3].split()[2:] == ["0.5", "1"]
    number = whole.best.number
    assert repr(whole.best) == (
        f"<trial {number}: done, validation_distance 0; rate=0.5, target=1.0>"
    )


def test_a_report_is_a_page_in_the_folder(whole):
    pytest.importorskip("matplotlib")
    page = whole.report()
    assert page == whole.folder / "report.html"
    assert "validation distance" in page.read_text()


def test_a_sweep_is_opened_with_and_without_its_experiment(whole):
    opened = sweep.open(whole.folder, EXPERIMENT)
    assert opened.best.config == whole.best.config
    assert repr(opened) == repr(whole)
    alone = sweep.open(str(whole.folder))
    assert alone.best.values == whole.best.values
    with pytest.raises(ValueError, match=r"write sweep.open\('.*whole', EXPERIMENT\)"):
        _ = alone.best.config


# Functions, data, executors


@pytest.mark.parametrize("config", [Config, Config(target=1.0)])
def test_a_function_of_a_configuration_is_swept(whole, tmp_path, config):
    result = sweep.run(
        program,
        config=config,
        space=SPACE,
        folder=tmp_path / "sweep",
        progress=False,
        exact=True,
        **SETTINGS,
    )
    assert digest(result.folder) == digest(whole.folder)
    assert result.best.config == whole.best.config


@dataclasses.dataclass(frozen=True)
class Batched(Config):
    batch_size: int = 2


def toward_the_mean(config, data):
    return Descent(config.rate, float(data[0].mean()))


def test_data_are_given_as_they_are_or_as_a_function(tmp_path):
    """The program receives the data: with the rate 1/2 a step ends at their mean."""
    x = np.array([1.0, 3.0], "f")
    fixed = {
        "config": Batched,
        "space": {"rate": Grid(0.25, 0.5)},
        "progress": False,
        **SETTINGS,
        "trials": 2,
        "minimize": "loss",
    }
    for name, data in {"given": (x, None), "function": lambda config: (x, None)}.items():
        result = sweep.run(toward_the_mean, data=data, folder=tmp_path / name, **fixed)
        assert result.best.values == {"rate": 0.5}
        assert float(result.best.state) == 2.0
    assert digest(tmp_path / "given") == digest(tmp_path / "function")
    with pytest.raises(ValueError, match=r"the experiment changed .* data/train/array: recorded"):
        sweep.run(toward_the_mean, data=(x + 1, None), folder=tmp_path / "given", **fixed)
    again = sweep.run(
        toward_the_mean, data=(x + 1, None), folder=tmp_path / "given", force=True, **fixed
    )
    assert len(again.sweep.forced) == 1


def test_any_executor_is_used_and_left_open(whole, tmp_path):
    with ThreadPoolExecutor(2) as executor:
        run(tmp_path / "sweep", exact=True, executor=executor, workers=2)
        assert executor.submit(pow, 2, 5).result() == 32
    assert digest(tmp_path / "sweep") == digest(whole.folder)


# The command line, and resuming

RANGES = dataclasses.replace(EXPERIMENT, space={"rate": LogUniform(0.01, 0.9)})
RANDOM = {"trials": 6, "search_seed": 3, "lanes": 2, "by": "map", "halving": "successive", "eta": 2}


def test_the_command_line_has_the_same_result(tmp_path):
    options = ["--trials", "6", "--search-seed", "3", "--lanes", "2", "--by", "map"]
    options += ["--halving", "successive", "--eta", "2", "--minimize", "validation_distance"]
    options += ["--target", "2.0"]
    assert main(RANGES, ["sweep", *options, "--folder", str(tmp_path / "command")]) == 0
    result = sweep.run(
        RANGES,
        config=Config(target=2.0),
        minimize="validation_distance",
        folder=tmp_path / "python",
        progress=False,
        **RANDOM,
    )
    assert digest(tmp_path / "command") == digest(result.folder)
    before = digest(result.folder)
    assert main(RANGES, ["resume", str(result.folder)]) == 0  # a sweep of either is resumed by both
    assert sweep.run(RANGES, folder=tmp_path / "command", progress=False).best.number == (
        result.best.number
    )
    assert digest(tmp_path / "command") == digest(result.folder) == before


class Died(BaseException):
    """Ends a driver in place of a signal."""


def die():
    raise Died


def test_a_sweep_that_dies_at_every_boundary_is_continued_by_the_same_call(tmp_path, monkeypatch):
    fixed = {"minimize": "validation_distance", "progress": False, **RANDOM}
    whole = sweep.run(RANGES, folder=tmp_path / "whole", **fixed)
    assert sorted(trial.status for trial in whole.trials) == ["done"] * 3 + ["stopped"] * 3
    drivers = 0
    while True:
        killed = driven.ended_at(Ledger, 1 + drivers % 3, die)
        monkeypatch.setattr(running, "Ledger", killed)
        try:
            cut = sweep.run(RANGES, folder=tmp_path / "cut", **fixed)
        except Died:
            drivers += 1
            continue
        break
    assert drivers >= 9  # three boundaries of each transaction
    assert digest(cut.folder) == digest(whole.folder)


def test_an_interrupted_sweep_reports_the_call_and_needs_no_settings(whole, tmp_path, monkeypatch):
    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    place = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_train", interrupted)
        with pytest.raises(
            KeyboardInterrupt,
            match=r"committed results are intact: .*sweep.run\(..., folder='.*cut'",
        ):
            run(place, exact=True)
    cut = sweep.open(place, EXPERIMENT)
    assert [trial.status for trial in cut.trials] == ["asked"] * 8
    with pytest.raises(ValueError, match="cut has no trial that completed; its trials: 8 asked"):
        _ = cut.best
    result = sweep.run(EXPERIMENT, folder=place, progress=False)
    assert digest(place) == digest(whole.folder)
    assert result.best.config == whole.best.config


def test_progress_is_shown_in_lines(tmp_path, capsys):
    run(tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    run(tmp_path / "sweep", progress=True, trials=2)
    out, error = capsys.readouterr()
    assert out.splitlines()[-1].startswith("2 of 2 trials: 2 done")
    assert error == (
        "note: the grid has 8 points, of which --trials 2 tries the first 2: write --trials 8 to "
        "try all\n"
    )


# Errors


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"search": "gird"},
            ValueError,
            "Settings.search must be 'random', 'grid', 'sobol', 'tpe'",
        ),
        ({"trials": 0}, ValueError, "Settings.trials must be an int >= 1, got 0"),
        ({"trails": 3}, TypeError, "sweep.run has no argument 'trails'; did you mean 'trials'?"),
        (
            {"executer": "dask"},
            TypeError,
            "sweep.run has no argument 'executer'; did you mean 'exe",
        ),
        ({"executor": "dsak"}, ValueError, "no executor is named 'dsak'; did you mean 'dask'?"),
        (
            {"minimize": "validation_distanc"},
            ValueError,
            "the program reports no metric 'validation_distanc'; did you mean "
            "'validation_distance'?",
        ),
        (
            {"space": {"rat": Grid(0.1)}},
            ValueError,
            "Config has no field 'rat', which the space sweeps",
        ),
        (
            {"config": quick.Config},
            TypeError,
            "config must be Config, the configuration of descent, or an instance of it, got <class",
        ),
    ],
)
def test_what_cannot_be_run_is_reported_before_there_is_a_folder(tmp_path, changes, error, message):
    with pytest.raises(error) as raised:
        run(tmp_path / "sweep", **changes)
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_needs_a_space_and_a_function_a_configuration(tmp_path):
    without = dataclasses.replace(EXPERIMENT, space=None)
    with pytest.raises(ValueError, match=r"descent declares no search space: write Experiment\("):
        sweep.run(without, folder=tmp_path / "sweep")
    with pytest.raises(TypeError) as raised:
        sweep.run(program, space=SPACE, folder=tmp_path / "sweep")
    assert str(raised.value) == (
        "the configuration of a function must be a dataclass or an instance of it, got None; "
        "write sweep.run(program, config=Config, "
        "space=...)"
    )
    with pytest.raises(TypeError, match="the experiment must be a function, got 3; write an Exp"):
        sweep.run(3, folder=tmp_path / "sweep")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seeds": 2}, "settings/seeds: recorded 1, now 2"),
        ({"halving": "hyperband"}, "settings/halving: recorded none, now hyperband"),
        ({"warm_start": "before"}, "warm_start: recorded [], now ['before']"),
        ({"config": Config(steps=6)}, "config/steps: recorded 4, now 6"),
        ({"space": {"rate": SPACE["rate"]}}, "space/target: recorded {"),
        (
            {"space": {**SPACE, "rate": Grid(0.1, 0.2)}},
            "space/rate/options: recorded [0.1, 0.25, 0.5, 0.75], now [0.1, 0.2]",
        ),
    ],
)
def test_a_folder_with_a_sweep_that_differs(whole, changes, difference):
    before = digest(whole.folder)
    with pytest.raises(ValueError) as raised:
        run(whole.folder, **changes)
    message = str(raised.value)
    assert message.startswith(f"{whole.folder} contains another sweep: {difference}")
    assert message.endswith(
        "; the trials that it has were chosen, trained, and compared by these, which cannot "
        "change: write another folder, or leave out these arguments to continue that sweep"
    )
    assert digest(whole.folder) == before


def test_a_folder_of_another_experiment_or_of_something_else(whole, tmp_path):
    with pytest.raises(
        ValueError, match=r"whole is a sweep of tests.sweep.test_python, not of tes"
    ):
        sweep.run(quick.EXPERIMENT, folder=whole.folder)
    with pytest.raises(ValueError, match=r"is a sweep of tests.sweep.test_python, not of tests.sw"):
        sweep.open(whole.folder, quick.EXPERIMENT)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(LedgerError, match=r"holds something else already \(thesis.tex\)"):
        run(tmp_path)
    with pytest.raises(LedgerError, match=r"holds no sweep, there is no ledger.sqlite in it"):
        sweep.open(tmp_path)
    with pytest.raises(TypeError, match="experiment must be an Experiment, or None to read only"):
        sweep.open(whole.folder, lambda config: None)  # pyright: ignore[reportArgumentType]

"""Known configurations, earlier sweeps, budgets, and changes of a sweep."""

import contextlib
import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import optuna
import pytest

from jaxnn import sweep, train
from jaxnn.command import main
from jaxnn.experiment import SGD, AdamW, Experiment
from jaxnn.sweep import Branch, Choice, Grid, Int, LogUniform, Space, Uniform, running
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.meta import default_try, tries_of
from jaxnn.sweep.search import Known
from jaxnn.sweep.settings import Budget, Settings
from jaxnn.sweep.space import valued
from jaxnn.sweep.swept import parsed
from jaxnn.sweep.tables import Trial
from jaxnn.validation import seconds
from tests.sweep import driven, toy


@dataclasses.dataclass(frozen=True)
class Config:
    """Descent of (x - 1)^2 from 0, in one step per epoch."""

    optimizer: SGD | AdamW = SGD(learning_rate=0.1)  # noqa: RUF009, frozen
    scale: float = 1.0
    kind: str = "plain"
    batch_size: int = 1
    epochs: int = 2
    seed: int = 0


class Descent(train.Program):
    """A step multiplies the distance to 1 by 1 - 2 rate."""

    rate: float

    def init(self, key, batch):
        return jnp.float32(0)

    def step(self, x, batch):
        return x - 2 * self.rate * (x - 1), {"loss": (x - 1) ** 2}

    def evaluate(self, x, batch, *, key):
        return {"distance": jnp.abs(x - 1)}


class Farther(Descent):
    """Reports another metric."""

    def evaluate(self, x, batch, *, key):
        return super().evaluate(x, batch, key=key) | {"other": x}


def program(config, data):
    return Descent(config.optimizer.learning_rate * config.scale)


def load(config):
    return np.zeros((1, 1), "f"), np.zeros((1, 1), "f")


RATES = {"optimizer.learning_rate": LogUniform(0.01, 0.9), "scale": Grid(0.5, 1.0)}
EXPERIMENT = Experiment("descent", Config, data=load, program=program, space=RATES)
FIXED = {"lanes": 2, "by": "map", "minimize": "validation_distance", "progress": False}
SPACE = Space(
    Config,
    {
        "optimizer": Branch(
            SGD={"learning_rate": LogUniform(0.01, 0.9), "momentum": Uniform(0, 1)},
            AdamW={"learning_rate": LogUniform(0.01, 0.9)},
        ),
        "scale": Grid(0.5, 1.0),
        "kind": Choice("plain", "other"),
        "epochs": Int(1, 9),
    },
)


def run(folder, experiment=EXPERIMENT, **changes):
    return sweep.run(experiment, folder=folder, **{**FIXED, **changes})


def values(result):
    return [(t.values["optimizer.learning_rate"], t.values["scale"]) for t in result.trials]


def digest(folder):
    with Ledger.open(folder) as ledger:
        return toy.digest(ledger)


# Values


def test_a_try_has_the_values_of_the_configuration_that_it_does_not_give():
    assert valued(
        SPACE, {"optimizer.learning_rate": 0.5, "epochs": np.int64(3)}, "it", Config()
    ) == {
        "optimizer": "SGD",
        "optimizer:sgd.learning_rate": 0.5,
        "optimizer:sgd.momentum": 0.9,
        "scale": 1.0,
        "kind": "plain",
        "epochs": 3,
    }
    other = valued(
        SPACE, {"optimizer": AdamW, "optimizer:adamw.learning_rate": 0.1}, "it", Config()
    )
    assert other["optimizer"] == "AdamW"
    assert set(other) == {"optimizer", "optimizer:adamw.learning_rate", "scale", "kind", "epochs"}
    assert SPACE.configured(Config(), other).optimizer == AdamW(0.1)


def test_a_text_has_the_types_of_the_space():
    text = "optimizer=adamw, optimizer.learning_rate=5e-2,scale=1,kind=other,epochs=4"
    (found,) = tries_of(SPACE, Config(), [text])
    assert found == {
        "optimizer": "AdamW",
        "optimizer:adamw.learning_rate": 0.05,
        "scale": 1.0,
        "kind": "other",
        "epochs": 4,
    }
    assert type(found["epochs"]) is int
    assert parsed(SPACE.swept, "epochs=4") == {"epochs": 4}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 0.7}, "tries[0] sets scale to 0.7, which is not in 0.5, 1.0"),
        ({"scal": 1.0}, "tries[0] sets scal, which a trial with {"),
        ({"optimizer:adamw.learning_rate": 0.1}, "tries[0] sets optimizer:adamw.learning_rate, wh"),
        ({"epochs": True}, "tries[0] sets epochs to True, which is not in 1 .. 9"),
        ({"optimizer": "Lion"}, "tries[0] sets optimizer to 'Lion', which is not in SGD, AdamW"),
        (3, "tries[0] must be a dict of values by dotted path, got 3"),
        (
            "scale",
            "--try must be PATH=VALUE, got 'scale'; write for example --try optimizer=..., and",
        ),
        ("epochs=2.5", "--try epochs=2.5 sets epochs to '2.5', which is not in 1 .. 9"),
        ("kind=two", "--try kind=two sets kind to 'two', which is not in plain, other"),
    ],
)
def test_what_cannot_be_tried(given, message):
    with pytest.raises(ValueError) as raised:
        tries_of(SPACE, Config(), [given])
    assert str(raised.value).startswith(message)


def test_a_configuration_outside_of_the_space_is_reported():
    first, note = default_try(SPACE, Config(scale=0.7))
    assert first == []
    assert note == (
        "the configuration itself is not tried, because it sets scale to 0.7, which is not in 0.5, "
        "1.0: write --no-defaults, in Python defaults=False, to sweep without it, or widen the "
        "space"
    )


def test_tries_wait_until_they_are_trials():
    first, second = {"a": 1}, {"a": True}  # which Python holds equal
    trials = [Trial(0, 0, 0, first, None), Trial(1, 0, 0, {"a": 3}, None)]
    assert Known([first, second]).waiting(trials) == [second]
    assert Known([first, first]).waiting(trials) == [first]
    own = [
        one.own for one in Known([first], begin=1).observations(trials, [(0.5,), ()], [0.0, 0.0])
    ]
    assert own == [False, True]


# Sweeps


def test_the_configuration_is_tried_first_then_what_is_given_then_what_is_searched(tmp_path):
    tries = [{"scale": 0.5}, "optimizer.learning_rate=0.5", {"scale": 0.5}]
    result = run(tmp_path / "a", trials=6, tries=tries)
    assert values(result)[:3] == [(0.1, 1.0), (0.1, 0.5), (0.5, 1.0)]
    assert result.best.values == {"optimizer.learning_rate": 0.5, "scale": 1.0}
    assert result.best.score == 0.0
    alone = run(tmp_path / "b", trials=3, defaults=False)
    assert values(alone) == values(result)[3:]  # the search is not shifted


def test_a_space_that_is_used_up_ends_the_sweep(tmp_path, capsys):
    few = dataclasses.replace(EXPERIMENT, space={"scale": Grid(0.5, 1.0)})
    result = run(tmp_path / "a", few, trials=24, progress=True)
    assert [trial.values["scale"] for trial in result.trials] == [1.0, 0.5]
    assert "It ended: all 2 configurations of the space were tried" in repr(result)
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of 2 trials: 2 done")
    again = run(tmp_path / "b", few, trials=6, repeat=True)
    assert len(again.trials) == 6


def test_a_loop_of_ones_own_proposes_and_reads(tmp_path):
    """Newton's method on the distance, which is linear in the rate for one step."""
    proposals = [{"optimizer.learning_rate": 0.3}]
    run(tmp_path / "a", search="none", tries=proposals)
    result = run(tmp_path / "a", search="none", tries=[{"optimizer.learning_rate": 0.5}])
    assert [trial.status for trial in result.trials] == ["done"] * 3
    assert result.best.values["optimizer.learning_rate"] == 0.5
    with pytest.raises(
        ValueError, match=r"^tries must be configurations to try, got \[\]; search='none' tries"
    ):
        run(tmp_path / "b", search="none", defaults=False)
    with pytest.raises(
        ValueError, match=r"^trials must be an int >= 3, got 2; there are 3 configurations to"
    ):
        run(tmp_path / "b", trials=2, tries=["scale=0.5", "optimizer.learning_rate=0.3"])


def test_a_sweep_is_extended_and_its_search_changed(tmp_path):
    whole = run(tmp_path / "whole", trials=9)
    run(tmp_path / "a", trials=5)
    assert digest(run(tmp_path / "a", trials=9).folder) == digest(whole.folder)
    result = run(tmp_path / "a", trials=12, search="sobol", tries=[{"scale": 0.5}])
    assert values(result)[9] == (0.1, 0.5)
    alone = run(tmp_path / "sobol", trials=2, search="sobol", defaults=False)
    assert values(result)[10:] == values(alone)
    assert result.sweep.facts["searches"] == [["random", 0], ["sobol", 9]]
    with pytest.raises(
        ValueError, match=r"^trials must be an int >= 12, got 8; .*a has 12 trials already$"
    ):
        run(tmp_path / "a", trials=8)


def test_more_epochs_train_all_trials_again(tmp_path):
    whole = run(tmp_path / "whole", trials=5, config=Config(epochs=3), halving="successive", eta=2)
    run(tmp_path / "a", trials=5, halving="successive", eta=2)
    result = run(tmp_path / "a", config=Config(epochs=3))
    assert digest(result.folder) == digest(whole.folder)
    assert result.best.config == whole.best.config
    assert result.best.config.epochs == 3
    with pytest.raises(ValueError, match="contains another sweep: config/epochs: they can only gr"):
        run(tmp_path / "a", config=Config(epochs=2))


def test_a_population_keeps_its_size(tmp_path):
    run(tmp_path / "a", trials=4, halving="population")
    with pytest.raises(ValueError, match="the number of members of a population is fixed"):
        run(tmp_path / "a", trials=8)


def test_a_sweep_starts_from_earlier_ones(tmp_path):
    """The earlier space has another dimension and another range; what does not fit is listed."""
    wide = {"optimizer.learning_rate": LogUniform(0.01, 2.0), "kind": Choice("plain", "other")}
    earlier = run(tmp_path / "old", dataclasses.replace(EXPERIMENT, space=wide), trials=12)
    narrow = run(tmp_path / "b", trials=4, search="tpe", warm_start=[tmp_path / "old"])
    with contextlib.chdir(tmp_path):  # the same folder under another name
        assert len(run(tmp_path / "b", warm_start=["old", "./old"]).trials) == 4
    recorded = narrow.sweep.facts["warm_start"]
    fits = [t for t in earlier.trials if t.values["optimizer.learning_rate"] <= 0.9]
    assert [pair[0] for pair in recorded["trials"]] == [
        {"optimizer.learning_rate": t.values["optimizer.learning_rate"], "scale": 1.0} for t in fits
    ]
    assert [pair[1] for pair in recorded["trials"]] == [t.score for t in fits]
    assert recorded["notes"] == [
        f"{tmp_path / 'old'}: {len(fits)} of 12 trials as observations",
        f"{tmp_path / 'old'}: kind was swept there, and is not swept here",
        f"{tmp_path / 'old'}: {12 - len(fits)} trials left out, because optimizer.learning_rate is "
        "not in 0.01 .. 0.9, log",
    ]
    shutil.rmtree(tmp_path / "old")  # the ledger has all of them
    assert len(run(tmp_path / "b", trials=6).trials) == 6
    opened = sweep.open(narrow.folder)
    assert opened.best.values == run(tmp_path / "b").best.values
    with pytest.raises(
        ValueError,
        match=r"^search must be a search that learns from earlier sweeps, such as 'tpe', got 'ra",
    ):
        run(tmp_path / "c", warm_start=tmp_path / "b")
    with pytest.raises(ValueError, match=r"did not record loss2, by which|no metric 'loss2'"):
        run(tmp_path / "c", search="tpe", warm_start=tmp_path / "b", minimize="loss2")


def test_earlier_sweeps_have_all_objectives_and_violations(tmp_path):
    """After two steps from 0 with the rate r, the distance to 1 is (1 - 2r)^2."""
    both = {"minimize": ("validation_distance", "loss"), "constraints": {"loss": "<= 0.2"}}
    run(tmp_path / "old", trials=6)
    folders = [tmp_path / "old"] * 2  # the same trials count once
    warm = run(tmp_path / "b", trials=4, search="nsga2", batch=2, warm_start=folders, **both)
    recorded = warm.sweep.facts["warm_start"]["trials"]
    assert len(recorded) == len(warm.sweep.facts["notes"]) * 6 == 6
    for values, score, scores, violation in recorded:
        left = 1 - 2 * values["optimizer.learning_rate"] * values["scale"]
        np.testing.assert_allclose(scores, [left**2, left**2], rtol=1e-4, atol=1e-6)
        assert score == scores[0]
        assert violation == pytest.approx(max(left**2 - 0.2, 0) / 0.2, rel=1e-4, abs=1e-6)
    tpe = {"search": "tpe", "warm_start": [tmp_path / "old"], "trials": 12, "batch": 6}
    assert len(run(tmp_path / "c", **tpe, **both).trials) == 12
    more = dataclasses.replace(EXPERIMENT, program=lambda config, data: Farther(rate=0.1))
    with pytest.raises(ValueError, match=r"old did not record validation_other, by which this swe"):
        run(tmp_path / "d", more, **tpe, constraints={"validation_other": "<= 1"})


def test_a_score_of_an_earlier_sweep_follows_the_rule_of_this_one(tmp_path):
    """At rates above 1 each step is worse than the last, so that the best is the first."""
    wide = {"space": {"optimizer.learning_rate": Grid(1.25)}, "defaults": False}
    earlier = dataclasses.replace(EXPERIMENT, space=wide["space"])
    run(tmp_path / "old", earlier, trials=1, defaults=False)
    tpe = {"search": "tpe", "warm_start": [tmp_path / "old"], "trials": 1, "defaults": False}
    found = {rule: run(tmp_path / rule, earlier, score=rule, **tpe) for rule in ("last", "best")}
    scores = {rule: one.sweep.facts["warm_start"]["trials"][0][1] for rule, one in found.items()}
    assert scores == {"last": 1.5**2, "best": 1.5}


# Budgets


def test_durations_and_limits():
    assert [seconds(text) for text in ("90", "1.5h", "1h30m", "2d", "5 min", "h", "", "2x")] == [
        90.0, 5400.0, 5400.0, 172800.0, 300.0, None, None, None
    ]  # fmt: skip
    assert Settings(budget=Budget(time="2h")).budget.time == 7200.0
    for limits, message in (
        (
            {"time": "soon"},
            "Budget.time must be None or a number of seconds > 0, or a text such as",
        ),
        ({"time": 0}, "Budget.time must be None or a number of seconds > 0"),
        ({"epochs": 0}, "Budget.epochs must be None or an int >= 1, got 0"),
        ({"patience": 1.5}, "Budget.patience must be None or an int >= 1, got 1.5"),
    ):
        with pytest.raises(ValueError) as raised:
            Budget(**limits)  # type: ignore[arg-type]
        assert str(raised.value).startswith(message)
    with pytest.raises(TypeError, match=r"Settings.budget must be a Budget, got '2h'"):
        Settings(budget="2h")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(target=0.0), "trial 1 reached the target validation_distance = 0"),
        (Budget(epochs=7), "the budget of 7 epochs is used"),
        (Budget(patience=3), "no trial was better than trial 1 in the "),
        (Budget(time=1e-6), "the time of 0 ms is used"),
    ],
)
def test_a_budget_ends_a_sweep_and_a_larger_one_continues_it(tmp_path, budget, reason):
    fixed = {"trials": 40, "tries": ["optimizer.learning_rate=0.5"]}
    result = run(tmp_path / "a", budget=budget, **fixed)
    done = [trial for trial in result.trials if trial.status == "done"]
    assert len(done) < 40
    assert f"It ended: {reason}" in repr(result)
    assert digest(run(tmp_path / "a").folder) == digest(result.folder)
    whole = run(tmp_path / "whole", **fixed)
    assert digest(run(tmp_path / "a", budget=Budget()).folder) == digest(whole.folder)
    assert "It ended" not in repr(sweep.open(result.folder))


# Killed at each boundary


class Died(BaseException):
    """Ends a driver in place of a signal."""


def die():
    raise Died


def killed(monkeypatch, call):
    """Return the result of a call that is repeated until it is not killed, and how often it was."""
    deaths = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(running, "Ledger", driven.ended_at(Ledger, 1 + deaths % 3, die))
            try:
                return call(), deaths
            except Died:
                deaths += 1


CALLS = {
    "tries": lambda old: {"trials": 6, "tries": ["scale=0.5"], "budget": Budget(epochs=9)},
    "sampler": lambda old: {
        "trials": 9,
        "batch": 3,
        "search": optuna.samplers.NSGAIISampler(seed=0, population_size=3),
    },
    "warm": lambda old: {"trials": 6, "batch": 3, "search": "tpe", "warm_start": old},
}
CHANGES = {
    "trials": {"trials": 8, "search": "sobol", "tries": ["scale=0.5"]},
    "epochs": {"config": Config(epochs=3)},
    "budget": {"budget": Budget(target=0.3), "trials": 20},
}


@pytest.mark.parametrize("name", CALLS)
def test_a_sweep_that_is_killed_at_each_boundary_ends_as_one_that_is_not(
    tmp_path, monkeypatch, name
):
    run(tmp_path / "old", trials=3)
    call = CALLS[name]
    whole = run(tmp_path / "whole", **call(tmp_path / "old"))
    cut, deaths = killed(monkeypatch, lambda: run(tmp_path / "cut", **call(tmp_path / "old")))
    assert deaths >= 9
    assert digest(cut.folder) == digest(whole.folder)
    assert cut.sweep.facts.get("ended") == whole.sweep.facts.get("ended")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_killed_at_each_boundary_ends_as_one_that_is_not(
    tmp_path, monkeypatch, name
):
    run(tmp_path / "whole", trials=5)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    whole = run(tmp_path / "whole", **CHANGES[name])
    cut, deaths = killed(monkeypatch, lambda: run(tmp_path / "cut", **CHANGES[name]))
    assert deaths >= 5
    assert digest(cut.folder) == digest(whole.folder)
    assert [t.score for t in cut.ranking] == [t.score for t in whole.ranking]


# The command line


def said(capsys, *arguments):
    capsys.readouterr()
    status = main(EXPERIMENT, [*map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_command_line_has_all_of_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "jaxnn.sweep.results.write_report", lambda sweep: sweep.folder / "report.html"
    )
    fixed = ["--lanes", "2", "--by", "map", "--minimize", "validation_distance"]
    tried = ["--try", "scale=0.5", "--try", "optimizer.learning-rate=0.5,scale=1"]
    budget = ["--budget.time", "2h", "--budget.target", "1e-9"]
    folder = tmp_path / "command"
    assert said(capsys, "sweep", *fixed, *tried, *budget, "--trials", 6, "--folder", folder)[0] == 0
    result = run(
        tmp_path / "python",
        trials=6,
        tries=["scale=0.5", "optimizer.learning_rate=0.5"],
        budget=Budget(time=7200, target=1e-9),
    )
    assert digest(folder) == digest(result.folder)
    status, out, _ = said(
        capsys, "resume", folder, "--trials", 8, "--search", "tpe", "--budget.target", "-1"
    )
    assert status == 0
    assert "8 of 8 trials: 8 done" in out
    opened = sweep.open(folder)
    assert opened.sweep.facts["searches"] == [["random", 0], ["tpe", 6]]
    assert opened.sweep.facts["settings"]["budget"]["time"] == 7200.0  # the other limit stays
    assert said(capsys, "resume", folder, "--epochs", 3)[0] == 0
    assert sweep.open(folder, EXPERIMENT).best.config.epochs == 3
    status, out, _ = said(capsys, "plan", *fixed, *tried, "--trials", 6)
    assert status == 0
    warm = ["--search", "tpe", "--warm-start", folder, "--trials", 3]
    status, _, error = said(capsys, "sweep", *fixed, *warm, "--folder", tmp_path / "warm")
    assert (status, error) == (0, f"note: {folder}: 8 of 8 trials as observations\n")
    status, _, error = said(capsys, "sweep", *fixed, "--try", "scale=3", "--folder", tmp_path / "x")
    assert (status, error) == (
        1,
        "error: --try scale=3 sets scale to 3.0, which is not in 0.5, 1.0\n",
    )

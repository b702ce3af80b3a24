"""Searches: pure in what they are asked, at home in every space, as good as they should be."""

import dataclasses
import json
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import pytest

from jaxnn.experiment import SGD, AdamW
from jaxnn.installation import install
from jaxnn.sweep import Branch, Choice, Grid, Int, LogUniform, Space, Uniform
from jaxnn.sweep.external import SEARCHES, searcher
from jaxnn.sweep.samplers import TPESearch, best_and_newest, quiet
from jaxnn.sweep.search import Observation
from tests.sweep import quick


@dataclasses.dataclass(frozen=True)
class Config:
    optimizer: AdamW | SGD = SGD()  # noqa: RUF009, frozen
    epochs: int = 10
    size: int = 1
    activation: Literal["relu", "tanh"] = "relu"


@dataclasses.dataclass(frozen=True)
class Point:
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


SPACE = Space(
    Config,
    {
        "optimizer": Branch(
            AdamW={"learning_rate": LogUniform(1e-4, 0.1)}, SGD={"momentum": Uniform(0, 1)}
        ),
        "epochs": Int(1, 8, log=True),
        "size": Grid(1, 3, 10),
        "activation": Choice("relu", "tanh"),
    },
)
CUBE = Space(Point, {name: Uniform(-5.0, 5.0) for name in "abcd"})


def observed(space, count, seed=0):
    """A history: random trials, better the fewer epochs; some failed, one as NaN."""
    samples = [space.sample(np.random.default_rng([seed, n])) for n in range(count)]
    scores = [
        None if n % 7 == 3 else float(sum(map(len, map(str, s)))) + n for n, s in enumerate(samples)
    ]
    history = [Observation(s, score) for s, score in zip(samples, scores, strict=True)]
    return [*history[:-1], Observation(samples[-1], float("nan"))]


HISTORY = observed(SPACE, 24)


GP = pytest.param("gp", marks=pytest.mark.slow)  # torch alone takes seconds to import
QUICK = [name for name in SEARCHES if name not in ("gp", "none")]


@pytest.fixture(autouse=True)
def libraries(request):
    """Skip what needs torch, which the test extra does not install, where it is not."""
    if "gp" in request.node.name.replace("]", "[").split("["):
        pytest.importorskip("torch")


@pytest.mark.parametrize("name", [*QUICK, GP])
def test_a_search_is_pure_and_in_the_space(name):
    count = 3 if name == "gp" else 8
    search = searcher(name, SPACE, seed=3)
    assert search.name == name
    for round, history in ((0, []), (3, HISTORY)):
        batch = search.ask(count, round, history)
        assert len(batch) == count
        for values in batch:
            quick.check(SPACE, values)
        assert batch == searcher(name, SPACE, seed=3).ask(count, round, list(history))
    if name != "grid":
        assert batch != searcher(name, SPACE, seed=4).ask(count, 3, HISTORY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp"])
def test_another_process_gives_the_same_trials(name):
    program = (
        "import json, sys; sys.path.insert(0, '.')\n"
        "from tests.sweep import test_search as t\n"
        f"print(json.dumps(t.searcher({name!r}, t.SPACE, seed=3).ask(4, 3, t.HISTORY)))"
    )
    told = subprocess.run(  # whose order of sets differs
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout) == searcher(name, SPACE, seed=3).ask(4, 3, HISTORY)


@pytest.mark.parametrize("name", ["grid", "random", "sobol"])
def test_trials_do_not_depend_on_how_rounds_are_cut(name):
    search = searcher(name, SPACE, seed=1, points=3)
    whole = search.ask(20, 0, [])
    told = [Observation(values, None) for values in whole]
    assert whole[:6] + search.ask(14, 1, told[:6]) == whole


def test_a_grid_ends():
    search = searcher("grid", SPACE, points=2)
    grid = list(SPACE.grid(2))
    told = [Observation(values, 1.0) for values in grid]
    assert search.ask(1000, 0, []) == grid
    assert search.ask(8, 1, told[:-3]) == grid[-3:]
    assert search.ask(8, 2, told) == []


def test_a_sobol_sequence_is_even():
    # of 2^n points of a (0, n, 1)-sequence one is in each of 2^n equal stretches of an axis
    batch = searcher("sobol", CUBE, seed=5).ask(64, 0, [])
    for name in "abcd":
        stretches = {int((values[name] + 5) / 10 * 64) for values in batch}
        assert stretches == set(range(64))


@pytest.mark.parametrize("name", ["tpe", "cmaes", GP])
def test_without_scores_a_search_that_learns_is_a_sobol_sequence(name):
    sobol = searcher("sobol", SPACE, seed=2).ask(8, 0, [])
    assert searcher(name, SPACE, seed=2).ask(8, 0, []) == sobol
    failed = [Observation(values, None) for values in sobol]
    for values in searcher(name, SPACE, seed=2).ask(8, 1, failed):
        quick.check(SPACE, values)


def test_tpe_proposes_what_optuna_proposes_from_the_same_trials():
    """Since Optuna 5, its estimators are joint ones, and the trials of a round repel each other.

    With an estimator for each dimension and rounds of 32, the best of 128 trials was 2.6 times
    that of Optuna one trial at a time (geometric mean over branin, hartmann, ackley, and a
    conditional function).
    """
    import optuna

    search = searcher("tpe", CUBE, seed=7)
    points = searcher("sobol", CUBE, seed=1).ask(24, 0, [])
    scores = [(p["a"] - p["b"]) ** 2 + abs(p["c"] + p["d"]) for p in points]
    history = [Observation(*pair) for pair in zip(points, scores, strict=True)]
    with quiet():
        sampler = optuna.samplers.TPESampler(seed=search._random_seed(3), n_startup_trials=0)
        study = optuna.create_study(sampler=sampler)
        kinds: Any = {name: optuna.distributions.FloatDistribution(-5, 5) for name in "abcd"}
        for point, score in zip(points, scores, strict=True):
            trial = optuna.create_trial(value=score, params=point, distributions=kinds)
            study.add_trial(trial)
        asked = [study.ask(kinds).params for _ in range(8)]
    assert search.ask(8, 3, history) == asked


def run(name, center, seed, batch, trials):
    """The best of sum((x - center)^2) that a search finds."""
    search, history = searcher(name, CUBE, seed=seed), []
    for round in range(trials // batch):
        for values in search.ask(batch, round, history):
            score = sum((values[n] - c) ** 2 for n, c in zip("abcd", center, strict=True))
            history.append(Observation(values, float(score)))
    return min(one.score for one in history)


def ratio(name, seeds, batch=64, trials=256):
    """The mean best of the search over that of chance, each seed with a minimum elsewhere."""
    centers = [np.random.default_rng(1000 + seed).uniform(-4, 4, 4) for seed in range(seeds)]
    means = [
        np.mean([run(one, c, seed, batch, trials) for seed, c in enumerate(centers)])
        for one in (name, "random")
    ]
    return means[0] / means[1]


@pytest.mark.slow
def test_tpe_reaches_a_twentieth_of_the_best_of_chance():
    # Rounds of 16, within the sizes that a sweep chooses. All trials of a round are chosen by what
    # is known before it, so rounds of 64 leave three that learn: these reach 0.26 to 0.32.
    assert ratio("tpe", seeds=5, batch=16) <= 0.05


def test_tpe_learns_within_a_few_rounds():
    # a third of the trials of the test above, and two seeds: half is what it always reaches
    assert ratio("tpe", seeds=2, batch=32, trials=96) <= 0.5


def test_cmaes_reaches_a_fifth_of_the_best_of_chance():
    # after four rounds of 64 the mean of 5 seeds is still noisy: 0.22 for the first 5 of these
    assert ratio("cmaes", seeds=32) <= 0.2
    assert ratio("cmaes", seeds=8, batch=16) <= 0.05


def test_a_search_that_learns_leaves_a_bad_branch():
    space = Space(Config, {"optimizer": SPACE.paths["optimizer"]})
    history = [
        Observation(values, 1.0 if values["optimizer"] == "SGD" else 2.0)
        for values in searcher("sobol", space).ask(48, 0, [])
    ]
    for name in ("tpe", "cmaes"):
        batch = searcher(name, space).ask(32, 3, history)
        assert sum(values["optimizer"] == "SGD" for values in batch) > 16  # chance


def test_the_best_are_kept_and_the_order():
    history = [Observation({}, float((7 * n) % 101)) for n in range(101)]
    kept = best_and_newest(history, 20)
    assert len(kept) == 20
    assert [one for one in history if one in kept] == kept
    assert {one.score for one in kept} >= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_an_unknown_search():
    with pytest.raises(ValueError, match=r"^search must be '\w+', .*'tpe'.*, got 'tpee'$"):
        searcher("tpee", SPACE)


@pytest.mark.parametrize(
    ("search", "library"), [("tpe", "optuna"), ("cmaes", "cmaes"), ("gp", "torch")]
)
def test_a_search_without_its_library_is_not_made(monkeypatch, search, library):
    if library == "torch":
        pytest.importorskip("optuna")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"^the search '{search}' needs {library}, which is not"):
        searcher(search, SPACE)


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setattr(TPESearch, "needs", ("no_such_module",))
    with pytest.raises(ImportError) as error:
        searcher("tpe", SPACE)
    assert str(error.value) == (
        "the search 'tpe' needs no_such_module, which is not installed: write another search, "
        f"such as 'sobol', or {install('sweep')}"
    )


def test_optuna_is_as_loud_after_as_before():
    import optuna

    before = optuna.logging.get_verbosity()
    searcher("tpe", SPACE).ask(1, 3, HISTORY)
    assert optuna.logging.get_verbosity() == before

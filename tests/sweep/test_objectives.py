"""Several objectives and constraints: fronts, the order of trials, and what uses them."""

import dataclasses
import itertools
import math
import tempfile
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from jaxnn import sweep
from jaxnn.experiment.functional_training import training_of
from jaxnn.models import MLP
from jaxnn.sweep import Choice, LogUniform, Space, Uniform
from jaxnn.sweep.external import searcher
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.report.scores import front
from jaxnn.sweep.reporter import Reporter
from jaxnn.sweep.results import best_trials
from jaxnn.sweep.score import Constraint, constrained, fronts, ranked, violation
from jaxnn.sweep.search import Observation
from jaxnn.sweep.settings import Settings
from tests.sweep import quick

BASE = quick.Config(model=MLP(width=4, depth=1), epochs=1)
TRACED = Space(quick.Config, {"optimizer.learning_rate": LogUniform(1e-3, 1.0)})


def peeled(points):
    """The front of each point by the definition: what no remaining point dominates."""
    rest, found, number = set(range(len(points))), {}, 0
    while rest:
        front = [
            i for i in rest
            if not any(
                all(points[j] <= points[i]) and any(points[j] < points[i]) for j in rest
            )
        ]  # fmt: skip
        found |= dict.fromkeys(front, number)
        rest, number = rest - set(front), number + 1
    return [found[i] for i in range(len(points))]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_are_peeled(objectives):
    rng = np.random.default_rng(objectives)
    for points in (rng.random((40, objectives)), rng.integers(0, 4, (40, objectives))):
        assert fronts(points).tolist() == peeled(points)


def test_the_first_front_is_that_of_optuna():
    points = np.random.default_rng(0).integers(0, 9, (60, 2)).astype(float)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=point.tolist()))
    best = {trial.number for trial in study.best_trials}
    assert {i for i, front in enumerate(fronts(points)) if front == 0} == best


def test_the_best_is_nearest_to_the_ideal_point_of_the_front():
    # scaled by hand: (0, 1), (0.1, 0.2), (0.5, 0.1), (1, 0), at distances 1, 0.224, 0.51, 1
    points = [[0.0, 100.0], [1.0, 20.0], [5.0, 10.0], [10.0, 0.0]]
    assert ranked(points, [0.0] * 4) == [1, 2, 0, 3]
    assert ranked([[a] for a, _ in points], [0.0] * 4) == [0, 1, 2, 3]
    assert ranked([[3.0], [1.0], [1.0]], [0.0] * 3) == [1, 2, 0]  # of equals, the first
    assert ranked([[2.0, 0.0], [0.0, 9.0]], [0.0] * 2) == [1, 0]  # as near: by the first objective


def test_feasible_trials_are_first_and_others_by_their_violation():
    points = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert ranked(points, [0.5, 0.0, 0.1, 0.0]) == [1, 3, 2, 0]
    assert ranked(points, [0.5, math.inf, 0.1, 0.3]) == [2, 3, 0, 1]


def test_violations_are_relative_to_their_bounds():
    constraints = [Constraint.of("parameters <= 1e3"), Constraint.of(" accuracy>=0.5")]
    assert violation(constraints, {"parameters": 1000, "accuracy": 0.5}) == 0
    found = violation(constraints, {"parameters": 1500, "accuracy": 0.25})
    assert found == pytest.approx(0.5 + 0.5)
    assert violation(constraints, {"parameters": 1, "accuracy": None}) == math.inf
    assert Constraint.of("loss <= 0").violation(0.25) == 0.25
    assert list(map(str, constraints)) == ["parameters <= 1000", "accuracy >= 0.5"]


@pytest.mark.parametrize("text", ["parameters", "parameters < 3", "<= 3", "a <= b", "a <= nan", 3])
def test_what_is_no_constraint_is_refused(text):
    with pytest.raises(
        ValueError, match="a constraint must be a bound by <= or >= on a metric, such as "
    ):
        Constraint.of(text)


def test_many_points_are_sorted_soon():
    rng = np.random.default_rng(0)
    for points in (rng.random((3000, 2)), np.sort(rng.random((3000, 2)), 0)):
        found = fronts(points)
        assert len(found) == 3000
        by_front = [points[found == number] for number in range(2)]
        for a, b in itertools.permutations(by_front[0], 2) if len(by_front[0]) < 50 else ():
            assert not (np.all(a <= b) and np.any(a < b))


@dataclasses.dataclass(frozen=True)
class Point:
    x: float = 0.0
    y: float = 0.0


SQUARE = Space(Point, {"x": Uniform(0.0, 1.0), "y": Uniform(0.0, 1.0)})


def hypervolume(points):
    """The area that is dominated within the unit square, of the front of some points."""
    front = sorted(point for point, rank in zip(points, fronts(points), strict=True) if rank == 0)
    return sum(
        (right[0] - left[0]) * (1 - left[1])
        for left, right in itertools.pairwise([*front, (1.0, 1.0)])
    )


def searched(name, bounded=False):
    """256 trials of a problem whose front is x + y = 1, reached only at the least of a square."""
    search, history = searcher(name, SQUARE, seed=0, objectives=2), []
    for round in range(8):
        for values in search.ask(32, round, history):
            far = 2 * abs(values["y"] - 0.3)
            scores = (values["x"] + far, 1 - values["x"] + far)
            beyond = max(0.0, values["x"] - 0.5) if bounded else 0.0
            history.append(Observation(values, scores[0], round, True, scores, beyond))
    return history


@pytest.mark.parametrize("name", [pytest.param("tpe", marks=pytest.mark.slow), "nsga2"])
def test_a_search_reaches_more_of_the_front_than_chance(name):
    found, chance = searched(name), searched("random")
    area = [hypervolume([one.scores for one in history]) for history in (found, chance)]
    assert area[0] > area[1] > 0
    assert area[0] > 0.42  # of 1/2
    search, again = searcher(name, SQUARE, seed=0, objectives=2), found[:64]
    assert search.ask(32, 2, again) == [one.values for one in found[64:96]]


@pytest.mark.parametrize("name", [pytest.param("tpe", marks=pytest.mark.slow), "nsga2"])
def test_a_search_learns_the_constraints(name):
    late = searched(name, bounded=True)[128:]
    assert sum(one.violation == 0 for one in late) > 0.7 * len(late)  # of chance, half


def test_scores_under_constraints_are_places():
    assert constrained([0.1, None, 0.3, math.inf], [1.0, 0.0, 0.0, 0.0]) == [1.0, None, 0.0, None]
    assert constrained([0.1, None], [0.0, 0.0]) == [0.1, None]


def test_a_program_is_counted_by_hand():
    training = training_of(quick.EXPERIMENT, BASE, BASE)
    parameters = 64 * 4 + 4 + 4 * 10 + 10
    found = training.account(flops=True)
    assert (found["parameters"], found["bytes"]) == (parameters, 4 * parameters)
    # products forward, and for the gradients by weights and by hidden units; little else
    products = 2 * (64 * 4 + 4 * 10) + 2 * (64 * 4 + 4 * 10) + 2 * 4 * 10
    assert products < found["flops"] < 1.4 * products


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maximize": "validation_accuracy", "minimize": "parameter"},
         "the program reports no metric 'parameter'; did you mean 'parameters'?"),
        ({"minimize": "parameters"},
         "parameters is known before training: add a metric that the program reports, one of "
         "accuracy, loss, validation_accuracy, validation_loss, such as --metric validation_loss"),
        ({"maximize": "loss", "minimize": ("loss", "bytes")},
         "loss is an objective twice, of --maximize loss and --minimize loss bytes: write it once"),
        ({"constraints": {"parameter": "<= 3"}},
         "a constraint bounds 'parameter', which is not a metric; did you mean 'parameters'?"),
        ({"constraints": "bytes < 3"},
         "Settings.constraints must be a bound by <= or >= on a metric, such as "
         "\"parameters <= 1e6\" or "
         "\"validation_accuracy >= 0.9\", a tuple of them, or a dict of bounds by metric, got "
         "('bytes < 3',)"),
        ({"maximize": "accuracy", "minimize": "bytes", "halving": "successive"},
         "--halving successive compares trials by one metric, got accuracy, bytes: sweep without "
         "--halving, or keep one and bound the others by --constraints"),
        ({"maximize": "accuracy", "minimize": "bytes", "search": "cmaes"},
         "--search cmaes has one objective, got accuracy, bytes: write --search tpe or nsga2"),
    ],
)  # fmt: skip
def test_objectives_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        Planner(quick.experiment(TRACED), BASE, Settings(**settings))
    assert str(error.value) == message


def test_a_sweep_has_a_front_and_feasible_trials_first(monkeypatch):
    space = {"model.width": Choice(4, 8), "optimizer.learning_rate": LogUniform(1e-3, 0.3)}
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "config": BASE, "space": space, "trials": 8, "folder": f"{folder}/sweep",
            "lanes": 4, "by": "vmap", "progress": False,
        }  # fmt: skip
        sweep.run(
            quick.EXPERIMENT, maximize="validation_accuracy", minimize="parameters",
            constraints={"bytes": "<= 1240"}, **options,
        )  # fmt: skip
        result = sweep.open(f"{folder}/sweep", quick.EXPERIMENT)
        page = front(result.sweep)
        about = SimpleNamespace(
            settings=Settings(), space=TRACED, objectives=result.sweep.objectives,
            constraints=result.sweep.constraints, metric=result.sweep.metric, maximize=True,
        )  # fmt: skip
        with Ledger.open(f"{folder}/sweep") as ledger:
            reporter = Reporter(ledger, about, print)  # type: ignore[arg-type]
            tops = reporter._top(ledger.trials())
        assert result.best.state.params[0]["w"].shape[1] == result.best.values["model.width"]
    sizes = [one.costs["parameters"] for one in result.trials]
    assert sizes == [75 * one.values["model.width"] + 10 for one in result.trials]
    points = [(-(one.score or 0.0), size) for one, size in zip(result.trials, sizes, strict=True)]
    far = [max(4 * size - 1240, 0.0) / 1240 for size in sizes]
    assert [one.number for one in result.ranking] == ranked(points, far)
    assert result.best.number == result.front[0].number
    feasible = [i for i, violated in enumerate(far) if not violated]
    numbers = fronts([points[i] for i in feasible])
    assert {one.number for one in result.front} == {
        i for i, number in zip(feasible, numbers, strict=True) if number == 0
    }
    assert any(far)
    # The terminal shows all metrics, at the end and while the sweep runs.
    assert ", parameters " in best_trials(result.sweep).splitlines()[1]  # in blocks
    monkeypatch.setenv("COLUMNS", "200")
    heads, *rows = best_trials(result.sweep).splitlines()[1:6]
    assert heads.split()[:5] == ["trial", "validation_accuracy", "parameters", "bytes", "violates"]
    shown = [row.split()[:4] for row in rows]
    assert [int(row[0]) for row in shown] == [one.number for one in result.ranking[:4]]
    assert [float(row[2]) for row in shown] == [sizes[int(row[0])] for row in shown]
    assert ["bytes <= 1240" in row for row in rows] == [far[int(row[0])] > 0 for row in shown]
    note = f"On the Pareto front of validation_accuracy and parameters: {len(result.front)} trial"
    assert note in best_trials(result.sweep)
    assert [top.number for top in tops] == [one.number for one in result.ranking[:3]]
    assert tops[0].metrics["parameters"] == result.best.costs["parameters"]
    assert [*tops[0].metrics] == ["validation_accuracy", "parameters", "bytes"]
    assert page.count("<circle") == 8
    assert page.count('fill="currentColor" stroke=') == len(result.front)
    assert "larger validation accuracy and smaller parameters, with bytes &lt;= 1240." in page


def test_one_metric_and_one_bound_may_be_texts():
    given = Settings(maximize="accuracy", constraints={"bytes": "<= 3", "loss": ">= 0"})  # type: ignore[arg-type]
    assert (given.maximize, given.constraints) == (("accuracy",), ("bytes <= 3", "loss >= 0"))
    assert given == Settings(maximize=("accuracy",), constraints=("bytes <= 3", "loss >= 0"))
    assert Settings(metric="loss", minimize=("bytes",)).chosen == {"loss": None, "bytes": False}

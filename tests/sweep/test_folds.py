"""Cross-validation: each lane of a trial trains on the rows outside of its fold."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data, sweep, train
from jaxnn.data.rows import classes_of
from jaxnn.experiment import Experiment
from jaxnn.experiment.experiment import Configured, Loaded
from jaxnn.experiment.functional_training import Folded
from jaxnn.sweep import Grid

ROWS = np.random.default_rng(1).normal(size=23).astype("f")


@dataclasses.dataclass(frozen=True)
class Config:
    scale: float = 1.0
    batch_size: int = 18
    epochs: int = 1


class Mean(train.Program):
    """The mean of a batch, times a number."""

    scale: float

    def init(self, key, batch):
        return jnp.float32(0)

    def step(self, state, batch):
        return self.scale * batch.mean(), {"loss": jnp.mean(batch**2)}

    def evaluate(self, state, batch, *, key):
        return {"error": jnp.mean((batch - state) ** 2)}


def experiment(rows=(ROWS[:15], ROWS[15:])):
    return Experiment(
        "mean",
        Config,
        data=lambda config: rows,
        program=lambda config, data: Mean(config.scale),
        space={"scale": Grid(0.5, 1.0, 1.5)},
        minimize="validation_error",
    )


def test_folds_have_equal_sizes_and_the_rows_that_are_left_are_trained_on():
    found = Folded(Loaded((ROWS[:15], ROWS[15:])), 5)
    np.testing.assert_array_equal(found.arrays, ROWS)
    assert [len(held) for held in found.held] == [4] * 5
    assert len(np.unique(np.concatenate(found.held))) == 20
    for held, taught in zip(found.held, found.taught, strict=True):
        np.testing.assert_array_equal(np.sort(np.concatenate([held, taught])), np.arange(23))
    augmented = Folded(Loaded(data.Augmented(ROWS, lambda key, x: x)), 5).one(2)
    np.testing.assert_array_equal(augmented.validation, ROWS[found.held[2]])
    assert len(augmented.train.functions) == 1
    assert augmented.train.source.shape == (19,)


@pytest.mark.parametrize(("rows", "folds"), [(60, 5), (63, 5), (40, 7)])
def test_folds_of_classes_are_those_of_stratified_k_fold(rows, folds):
    model_selection = pytest.importorskip("sklearn.model_selection")
    counts = [rows // 2, rows - rows // 2 - rows // 5, rows // 5]
    classes = np.random.default_rng(2).permutation(np.repeat([3, 5, 9], counts))
    parts = data.Examples(np.zeros((rows, 1), "f"), classes)
    found = Folded(Loaded(((*parts,), None)), folds)
    held = [np.bincount(classes[one], minlength=10) for one in found.held]
    assert np.ptp(held, axis=0).max() <= 1
    assert [len(one) for one in found.held] == [rows // folds] * folds
    assert len(np.unique(np.concatenate(found.held))) == rows // folds * folds
    split = model_selection.StratifiedKFold(folds).split(classes, classes)
    theirs = [np.bincount(classes[test], minlength=10) for _, test in split]
    # Left-over rows, which are those of the last class in order, are trained on here.
    last = classes[np.sort(np.unique(classes, return_index=True)[1])][-1]
    others = np.arange(10) != last
    np.testing.assert_array_equal(np.array(held)[:, others], np.array(theirs)[:, others])
    if rows % folds == 0:
        np.testing.assert_array_equal(held, theirs)


def test_what_are_classes():
    x, y = np.zeros((4, 1)), np.array([7, 3, 7, 5])
    np.testing.assert_array_equal(classes_of((x, y)), [0, 1, 0, 2])
    np.testing.assert_array_equal(classes_of((x, y, np.ones(4))), [0, 1, 0, 2])
    np.testing.assert_array_equal(classes_of(data.Examples(x, y == 3)), [0, 1, 0, 0])
    for rows in (x, {"x": x, "y": y}, (x, y.astype("f")), (x, y[:, None]), (x, {"a": y})):
        assert classes_of(rows) is None


@pytest.mark.parametrize(
    "by", ["vmap", *(pytest.param(by, marks=pytest.mark.slow) for by in ("loop", "map"))]
)
def test_the_score_is_that_of_cross_validation(tmp_path, by):
    """A step on all rows but a fold's has their mean; the batch has 18 of the 19 rows."""
    made, config = experiment(), Config(batch_size=19)
    few = {"search": "grid", "trials": 3, "folds": 5, "lanes": 5, "by": by, "keep": 3}
    result = sweep.run(made, config=config, folder=tmp_path / "a", progress=False, **few)
    halves = Folded(Loaded((ROWS[:15], ROWS[15:])), 5)
    for trial in result.trials:
        errors = [
            np.mean((ROWS[held] - trial.values["scale"] * ROWS[taught].mean()) ** 2)
            for held, taught in zip(halves.held, halves.taught, strict=True)
        ]
        np.testing.assert_allclose(trial.score or 0.0, np.mean(errors), rtol=1e-5)
        np.testing.assert_allclose(result.sweep.scores[trial.number].each, errors, rtol=1e-5)
        np.testing.assert_allclose(
            trial.load(seed=3).state,
            trial.values["scale"] * ROWS[halves.taught[3]].mean(),
            rtol=1e-5,
        )


def test_an_exact_lane_of_a_fold_has_the_bits_of_its_single_run(tmp_path):
    config = Config(batch_size=6, epochs=2)
    few = {"search": "grid", "trials": 3, "folds": 3, "keep": 1, "lanes": 4, "by": "map"}
    result = sweep.run(
        experiment(), config=config, folder=tmp_path / "a", progress=False, exact=True, **few
    )
    best = result.best
    for fold in range(3):
        assert best.train(seed=fold).state == best.load(seed=fold).state
    made, whole = experiment(), Loaded((ROWS[:15], ROWS[15:]))
    state, history = Configured(made, best.config, Folded(whole, 3).one(1)).fit(progress=False)
    assert state == best.load(seed=1).state
    each = result.sweep.curves["validation_error"][best.number]
    assert [value for _, value in each[1]] == [one["validation_error"] for one in history]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"folds": 24}, r"folds must be an int from 2 to 23, got 24; there are 23 rows"),
        ({"folds": 5, "seeds": 2}, r"--seeds 2 and --folds 5 both repeat each trial: leave one"),
    ],
)
def test_folds_that_cannot_be(tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        sweep.run(experiment(), folder=tmp_path / "a", progress=False, **changes)
    with pytest.raises(ValueError, match="--folds 2 divides the rows of data, and the experiment"):
        Folded(Loaded(None), 2)


# The test rows


class Targets(Mean):
    """The mean of the targets of a batch, times a number."""

    def step(self, state, batch):
        return super().step(state, batch[1])

    def evaluate(self, state, batch, *, key):
        return super().evaluate(state, batch[1], key=key)


def parts(config):
    columns = np.zeros((8, 1), "f")
    first, second, third = (data.Examples(columns, ROWS[at : at + 8]) for at in (0, 8, 15))
    return data.Dataset("rows", first, second, third)


def test_the_best_trial_is_evaluated_once_on_the_test_rows(tmp_path, monkeypatch):
    made = Experiment(
        "targets",
        Config,
        data=parts,
        program=lambda config, data: Targets(config.scale),
        space={"scale": Grid(0.5, 1.0, 1.5)},
        minimize="validation_error",
    )
    few = {"search": "grid", "trials": 2, "lanes": 2, "by": "map", "defaults": False}
    few |= {"config": Config(batch_size=8), "folder": tmp_path / "a", "progress": False}
    result = sweep.run(made, **few)
    best = result.best.values["scale"]
    assert best == min(
        (0.5, 1.0), key=lambda scale: np.mean((ROWS[8:16] - scale * ROWS[:8].mean()) ** 2)
    )
    error = np.mean((ROWS[15:23] - best * ROWS[:8].mean()) ** 2)
    np.testing.assert_allclose(result.test["error"], error, rtol=1e-5)
    text = f"Trial {result.best.number} on 8 test rows: error {result.test['error']:.4g}"
    assert text in repr(result)
    with monkeypatch.context() as patched:  # it is recorded, and not computed again
        patched.setattr("jaxnn.sweep.running.scores_of", None)
        assert sweep.run(made, **few).test == sweep.open(tmp_path / "a").test == result.test
    assert sweep.run(made, **few | {"keep": 0, "folder": tmp_path / "b"}).test == {}

"""Which direction is better: declared by tasks, stated by hooks, and rejected if it is unknown."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import f1_score

import jaxnn as nn
from jaxnn import train
from jaxnn.train.metrics import badness, direction_of, directions_of

BAD = (float("nan"), float("inf"), float("-inf"))
X = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
Y = np.array([0, 1, 2] * 4, np.int32)


class Scored(train.Classification):
    """With the F1 of class 0, not differentiable, as scikit-learn defines it."""

    directions = {"f1": "maximize"}  # noqa: RUF012

    def metrics(self, outputs, targets):
        found, true = outputs.argmax(-1) == 0, targets == 0
        f1 = 2 * (found & true).sum() / (found.sum() + true.sum())
        return {**super().metrics(outputs, targets), "f1": f1, "novel": f1}


def test_built_in_tasks_declare_what_scikit_learn_maximizes():
    """scikit-learn: greater is better for its scores, and errors get the prefix "neg_"."""
    from sklearn.metrics import get_scorer_names

    names = get_scorer_names()
    sklearn = {
        "accuracy": "accuracy",
        "r2": "r2",
        "mae": "neg_mean_absolute_error",
        "rmse": "neg_root_mean_squared_error",
        "loss": "neg_log_loss",
        "bits": "neg_log_loss",
    }
    tasks = (
        train.Classification(3),
        train.NextToken(5),
        train.BinaryClassification(),
        train.Regression(),
    )
    for task in tasks:
        found = directions_of(task)
        given = jax.ShapeDtypeStruct((2, task.outputs), "f"), jax.ShapeDtypeStruct((2,), "i")
        assert set(jax.eval_shape(task.metrics, *given)) < set(found)
        for name, direction in found.items():
            assert sklearn[name] in names
            wanted = "minimize" if sklearn[name].startswith("neg_") else "maximize"
            assert direction == wanted, name
            for prefix in ("validation_", "train_", "test_"):
                assert direction_of(prefix + name, task) == wanted


def test_directions_add_to_those_of_the_base_class():
    task = Scored(3)
    assert [direction_of(name, task) for name in ("validation_f1", "accuracy", "novel")] == [
        "maximize", "maximize", None]  # fmt: skip

    class Lower(Scored):
        directions = {"f1": "minimize", "validation_novel": "maximize"}  # noqa: RUF012

    assert direction_of("f1", Lower(3)) == "minimize"
    assert direction_of("validation_novel", Lower(3)) == "maximize"
    assert direction_of("train_novel", Lower(3)) is None

    class Counted(train.Classification):
        @property
        def directions(self):  # type: ignore[override]
            return {f"recall_{self.number}": "maximize"}

    assert direction_of("validation_recall_4", Counted(4)) == "maximize"
    assert direction_of("accuracy", Counted(4)) == "maximize"

    def loss(outputs, targets):
        return jnp.mean(outputs)

    assert direction_of("validation_loss", loss) == "minimize"
    assert direction_of("accuracy", loss) is None


def test_a_direction_that_is_none():
    class Wrong(train.Classification):
        directions = {"f1": "max"}  # type: ignore[assignment]  # noqa: RUF012

    with pytest.raises(ValueError, match=r"\['f1'\] must be 'maximize' or 'minimize', got 'max'"):
        direction_of("loss", Wrong(3))


@pytest.mark.parametrize("maximize", [True, False])
def test_what_is_not_finite_is_worse_than_all_that_is(maximize):
    finite = sorted([0.0, -1e300, 1e300, 3.5], key=lambda value: badness(value, maximize))
    assert finite == sorted(finite, reverse=maximize)
    for bad in (*BAD, None):
        assert badness(bad, maximize) > max(badness(value, maximize) for value in finite)


def fit(task, *hooks, rate=0.3, seed=1):
    return train.fit(
        program_of(task, rate), (X, Y), validation=(X, Y), batch_size=4, epochs=4,
        key=jax.random.key(seed), hooks=hooks, progress=False,
    )  # fmt: skip


def program_of(task, rate=0.3):
    return train.Supervised(nn.Dense(3), task, optax.sgd(rate))


STATE = jax.eval_shape(program_of(train.Classification(3)).init, jax.random.key(0), (X, Y))


def test_an_unknown_direction_is_rejected_before_the_first_step(tmp_path):
    seen = []
    with pytest.raises(ValueError) as caught:
        fit(Scored(3), seen.append, train.EarlyStopping("validation_novel"))
    assert str(caught.value) == (
        "the direction of 'validation_novel' is unknown: write EarlyStopping('validation_novel', "
        "maximize=True) or maximize=False, or return train.Mean(value, maximize=True) from the "
        "program; known are accuracy, f1, loss, validation_accuracy, validation_f1, validation_loss"
    )
    with pytest.raises(ValueError, match=r"write Checkpoints\(..., best='.*', maximize=True\) or"):
        fit(Scored(3), seen.append, train.Checkpoints(str(tmp_path), best="validation_novel"))
    with pytest.raises(
        ValueError, match=r"'f2' is not a metric.*write Checkpoints\(..., best='f1'\)"
    ):
        fit(Scored(3), seen.append, train.Checkpoints(str(tmp_path), best="f2"))
    with pytest.raises(
        ValueError, match=r"'los' is not a metric of this run.*write EarlyStopping\('loss'\)"
    ):
        fit(Scored(3), seen.append, train.EarlyStopping("los"))
    assert not seen
    with pytest.raises(
        TypeError, match=r"EarlyStopping.maximize must be None or True if larger.*, got 'f1'"
    ):
        train.EarlyStopping("f1", maximize="f1")  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"Checkpoints.maximize must be None or True if.*, got 'max'"
    ):
        train.Checkpoints("a", maximize="max")  # type: ignore[arg-type]


def test_the_best_checkpoint_has_the_largest_f1_of_scikit_learn(tmp_path):
    """The records' F1 is scikit-learn's, and the best checkpoint is the one where it is largest."""
    net, scores, states = nn.Dense(3), [], []

    def measure(event):
        found = np.asarray(net.apply(event.state.params, X)).argmax(-1)
        scores.append(f1_score(np.asarray(Y) == 0, found == 0, zero_division=0))  # type: ignore
        states.append(jax.tree.map(np.array, event.state.params))

    checkpoints = train.Checkpoints(str(tmp_path), best="validation_f1", keep=1)
    # At this rate the F1 goes up and down; it is largest in the second record.
    _, history = fit(Scored(3), measure, checkpoints, rate=12.0, seed=2)
    np.testing.assert_allclose([record["validation_f1"] for record in history], scores, rtol=1e-6)
    assert 0 < np.argmax(scores) < len(scores) - 1
    assert np.argmax(scores) != np.argmin(scores)
    best = checkpoints.restore(STATE, "best")
    jax.tree.map(np.testing.assert_array_equal, best.params, states[int(np.argmax(scores))])


def test_early_stopping_takes_the_direction_of_the_task():
    class Rising(train.Classification):
        directions = {"count": "maximize"}  # noqa: RUF012

        def metrics(self, outputs, targets):
            return {"count": jnp.sum(outputs[:, 0] * 0) + 1.0}

    # It never becomes better than in the first record: two more are waited for.
    stop = train.EarlyStopping("validation_count", patience=2)
    _, history = fit(Rising(3), stop)
    assert len(history) == 3


class Given(train.Program):
    """Its metric "f1" takes the given values, one per step."""

    values: Any

    def init(self, key, batch):
        return jnp.int32(0)

    def step(self, state, batch):
        return state + 1, {"f1": self.values[state]}


def run(values, *hooks):
    program = Given(jnp.array(values, jnp.float32))
    options = {"key": jax.random.key(0), "steps": len(values), "every": 1, "progress": False}
    return train.fit(program, hooks=hooks, **options)[1]


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("bad", BAD)
def test_a_value_that_is_not_finite_is_never_the_best(tmp_path, bad, maximize):
    sign = 1 if maximize else -1
    values = [bad, sign * 1.0, bad, sign * 3.0, sign * 2.0, bad, sign * 4.0]
    settings = {"every": train.Every(steps=100), "at_end": False, "keep": 10}
    kept = train.Checkpoints(str(tmp_path), best="f1", maximize=maximize, **settings)
    run(values, train.EarlyStopping("f1", patience=3, maximize=maximize), kept)
    saved = sorted(int(one.name) for one in tmp_path.iterdir() if one.name.isdigit())
    assert saved == [2, 4, 7]
    two = train.EarlyStopping("f1", patience=2, maximize=maximize)
    reasons = []
    for event in train.run(
        Given(jnp.array(values, jnp.float32)), key=jax.random.key(0), steps=7, every=1, hooks=[two]
    ):
        reasons.append(event.stop)
    reason = f"f1 has not become better than {sign * 3} for 2 records"
    assert reasons == [None] * 5 + [reason]
    for event in train.run(
        Given(jnp.full(3, bad)), key=jax.random.key(0), steps=3, every=1, hooks=[two]
    ):
        reasons.append(event.stop)
    assert reasons[-2:] == [None, "f1 has not been finite for 2 records"]


def test_early_stopping_waits_for_a_margin():
    values = [3.0, 1.0, 2.0, 0.95, 1.5, 0.94, 1.1]
    stop = train.EarlyStopping("f1", patience=2, margin=0.1, maximize=False)
    assert len(run(values, stop)) == 4
    with pytest.raises(ValueError, match=r"EarlyStopping.patience must be an int >= 1, got 0"):
        train.EarlyStopping(patience=0)


def test_after_a_nan_the_best_is_still_saved(tmp_path):
    """One validation loss of NaN, by a metric that is NaN once; the best of the others is kept."""
    losses = []

    class Once(train.Classification):
        directions = {"score": "maximize"}  # noqa: RUF012

        def metrics(self, outputs, targets):
            # NaN while the mean output of class 0 is large: in the first record only.
            loss = self(outputs, targets)
            return {"score": jnp.where(loss > FIRST, jnp.nan, -loss)}

    _, plain = fit(train.Classification(3))
    losses = [record["validation_loss"] for record in plain]
    assert losses == sorted(losses, reverse=True)
    FIRST = (losses[0] + losses[1]) / 2
    checkpoints = train.Checkpoints(
        str(tmp_path), train.Every(epochs=100), best="validation_score", keep=1, at_end=False
    )
    _, history = fit(Once(3), checkpoints)
    scores = [record["validation_score"] for record in history]
    assert np.isnan(scores[0])
    assert np.isfinite(scores[1:]).all()
    assert int(checkpoints.restore(STATE, "best").step) == 12


def test_a_run_resumed_with_another_best_compares_by_that_alone(tmp_path):
    """An F1 of 0.5 from an earlier call is not compared with minus a loss of 1.9."""
    folder, rates = str(tmp_path), {"rate": 12.0, "seed": 2}

    def up_to(event):
        return train.Stop("enough") if len(event.history) >= 2 else None

    options = {"every": train.Every(epochs=100), "keep": 1}
    by_f1 = train.Checkpoints(folder, best="validation_f1", **options)
    by_loss = train.Checkpoints(folder, best="validation_loss", **options)
    fit(Scored(3), up_to, by_f1, **rates)
    _, history = fit(Scored(3), by_loss, **rates)
    losses = [record["validation_loss"] for record in history]
    assert int(np.argmin(losses)) == 2  # after the first call, which is of the first two
    assert int(by_loss.restore(STATE, "best").step) == 3 * 3
    turned = train.Checkpoints(folder, best="validation_loss", maximize=True)
    with pytest.raises(FileNotFoundError, match="has no checkpoint 'best'"):
        turned.restore(STATE, "best")


def test_a_loss_scale_that_could_never_come_down_is_refused():
    with pytest.raises(ValueError, match="initial must be a finite number >= 1, got inf"):
        train.dynamic_loss_scale(optax.sgd(0.1), initial=float("inf"))
    with pytest.raises(ValueError, match=r"EarlyStopping.margin must be a number >= 0, got nan"):
        train.EarlyStopping(margin=float("nan"))

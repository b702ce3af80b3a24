"""Divergence: the first step, and the place in it, that gave a value that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data as sources
from jaxnn import train
from jaxnn.data.order import epoch_order

KEY = jax.random.key(0)
BAD = 11  # the step whose batch has a bad row


class Sum(train.Program):
    """Adds the batches; the loss is the mean of the batch."""

    def init(self, key, batch):
        return {"total": jnp.float32(0), "steps": jnp.int32(0)}

    def step(self, state, batch):
        total = state["total"] + batch.sum()
        return {"total": total, "steps": state["steps"] + 1}, {"loss": batch.mean()}


def rows(bad):
    """Data whose bad row comes in step BAD of the run."""
    x = np.ones((64, 2), "f")
    x[epoch_order(KEY, 0, 64)[4 * (BAD - 1)]] = bad
    return x


def diverged(program, data, **options):
    hooks = [train.Divergence(retries=1)]
    given = {"key": KEY, "epochs": 2, "batch_size": 4, "every": 4, "progress": False}
    with (
        pytest.warns(RuntimeWarning, match="rolled back") as found,
        pytest.raises(train.Diverged) as error,
    ):
        train.fit(program, data, hooks=hooks, **given | options)
    return str(found[0].message), str(error.value)


class Always(Sum):
    """Not finite from step 11 on."""

    def step(self, state, batch):
        after, metrics = super().step(state, batch)
        loss = jnp.where(state["steps"] >= BAD - 1, jnp.nan, 1.0)
        return after, {"loss": loss + 0 * metrics["loss"]}


@pytest.mark.parametrize("data", ["arrays", "source"])
def test_the_first_step_of_any_program(data):
    x = np.ones((64, 2), "f")
    x = x if data == "arrays" else sources.HostArrays(x, x)
    program = Always() if data == "arrays" else OfPairs()
    first, _ = diverged(program, x)
    assert "the first value that is not finite came in step 11, at the metric 'loss'" in first


class OfPairs(Always):
    def init(self, key, batch):
        return super().init(key, batch[0])

    def step(self, state, batch):
        return super().step(state, batch[0])


def test_an_array_of_the_state_is_named():
    class Inf(Sum):
        def step(self, state, batch):
            after, _ = super().step(state, batch)
            return after, {"loss": after["total"]}

    x = rows(np.inf)
    with pytest.warns(RuntimeWarning, match=r"came in step 11, at total of the state\)"):
        train.fit(
            Inf(), x, key=KEY, epochs=1, batch_size=4, every=4, progress=False,
            hooks=[train.Divergence(retries=9)],
        )  # fmt: skip


def minimize(net, x, hooks, rate=1e-3, **more):
    program = train.Supervised(net, train.Regression(), optax.sgd(rate))
    given = {"key": KEY, "epochs": 1, "batch_size": 4, "every": 4, "progress": False}
    return train.fit(program, (x, np.ones(64, "f")), hooks=hooks, **given | more)


def test_the_layer_of_an_objective_is_named():
    """log gives NaN of the bad row, which is negative, and the layer after it gets that."""
    net = nn.Sequential(jnp.log, nn.Dense(1))
    with pytest.warns(RuntimeWarning, match=r"came in step 11, at 0\)"):
        minimize(net, rows(-1.0), [train.Divergence(retries=3)])


def test_the_loss_is_named_if_the_outputs_are_finite():
    net = nn.Sequential(nn.Dense(1))
    with pytest.warns(RuntimeWarning, match="step 11, at the loss, of outputs that are finite"):
        minimize(net, rows(1e30), [train.Divergence(retries=3)])


def test_the_gradient_is_named_if_the_loss_is_finite():
    """The gradient of sqrt(|w x|) at w = 0 is infinite, and the next loss is not finite."""
    net = nn.Sequential(nn.Dense(1, bias=False, w_init=nn.constant(0.0)), jnp.abs, jnp.sqrt)
    with (
        pytest.warns(RuntimeWarning, match=r"step 1, at the gradient of 0/w\)"),
        pytest.raises(train.Diverged),
    ):
        minimize(net, np.ones((64, 2), "f"), [train.Divergence(retries=1)])


def test_without_retries_the_first_array_is_named():
    with pytest.raises(train.Diverged, match="total is the first array that is not finite"):
        train.fit(Sum(), rows(np.inf), key=KEY, epochs=1, batch_size=4, progress=False)


def test_a_run_that_was_rolled_back_resumes_bitwise(tmp_path):
    """The bad batch is in step 11, records are every 4 steps, and checkpoints every 5."""

    def fit(folder, stop_after=None):
        hooks = [
            train.Divergence(retries=3),
            train.Checkpoints(str(tmp_path / folder), train.Every(steps=5)),
        ]
        given = {"key": KEY, "epochs": 1, "batch_size": 4, "every": 4, "hooks": hooks}
        program = train.Supervised(
            nn.Sequential(jnp.log, nn.Dense(1)), train.Regression(), optax.adam(1e-2)
        )
        state, history = None, []
        for event in train.run(program, (rows(-1.0), np.ones(64, "f")), **given):
            state, history = event.state, [dict(record) for record in event.history]
            if event.step == stop_after:
                break
        return state, history

    with pytest.warns(RuntimeWarning, match="rolled back"):
        whole, history = fit("whole")
    with pytest.warns(RuntimeWarning, match="rolled back"):
        fit("broken", 12)
        again, records = fit("broken")
    assert repr(history) == repr(records)
    assert [len(history), history[2]["step"]] == [4, 12]
    pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)

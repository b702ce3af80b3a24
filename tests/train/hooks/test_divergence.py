"""Divergence: what is not finite is named, and a run that was rolled back resumes bitwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.data.source import epoch_order

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


def test_without_retries_the_first_array_is_named():
    with pytest.raises(train.Diverged, match="total of the state is the first array that is"):
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

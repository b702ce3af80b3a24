"""What a run keeps on the device: one copy of its state, or two with roll back, at any time.

The arrays of these tests have shapes that no other array has, so the live ones can be counted.
"""

import jax
import jax.numpy as jnp
import pytest

from jaxnn import train

SHAPE = (61, 67)
LEAVES = 5
KEY = jax.random.key(0)


class Sums(train.Program):
    """Adds to its arrays; step 6 gives NaN unless the run has been rolled back."""

    fails: bool = False

    def init(self, key, batch):
        return {"sums": [jnp.full(SHAPE, float(i)) for i in range(LEAVES)], "key": key}

    def step(self, state, batch):
        failing = jnp.all(jax.random.key_data(state["key"]) == jax.random.key_data(KEY))
        number = state["sums"][0][0, 0]
        add = jnp.where(failing & (number == 5) & self.fails, jnp.nan, 1.0)
        sums = [leaf + add for leaf in state["sums"]]
        return state | {"sums": sums}, {"loss": sums[0].mean()}


def live(shape=SHAPE):
    return sum(array.shape == shape for array in jax.live_arrays())


@pytest.fixture
def counted(monkeypatch):
    """The live arrays at each copy of an array of a state."""
    counts = []
    put = jax.device_put

    def device_put(array, *arguments, **options):
        result = put(array, *arguments, **options)
        if getattr(result, "shape", None) == SHAPE:
            counts.append(live())
        return result

    monkeypatch.setattr(jax, "device_put", device_put)
    return counts


def test_a_run_has_one_copy_of_its_state(counted):
    before, found = live(), []
    for event in train.run(
        Sums(), key=KEY, steps=6, every=2, hooks=[lambda _: found.append(live())]
    ):
        found.append(live())
        assert event.state["sums"][0].shape == SHAPE
    assert {count - before for count in found} == {LEAVES}
    # The state is copied once, array by array, since a program may hold what `init` returns.
    assert [count - before for count in counted] == [LEAVES + 1] * LEAVES


def test_a_given_state_is_copied_once():
    state = Sums().init(KEY, None)
    before, found = live(), []
    train.fit(
        Sums(), key=KEY, steps=4, every=2, state=state, progress=False,
        hooks=[lambda _: found.append(live())],
    )  # fmt: skip
    assert {count - before for count in found} == {LEAVES}
    assert not state["sums"][0].is_deleted()


def test_two_copies_with_roll_back(counted):
    """Also while a state is copied, when the run goes back, and when it looks for the cause."""
    before, found = live(), []
    with pytest.warns(RuntimeWarning, match=r"sums/0 .* is the first array .*: rolled back"):
        state, history = train.fit(
            Sums(fails=True), key=KEY, steps=12, every=4, progress=False,
            hooks=[train.Divergence(retries=1), lambda _: found.append(live())],
        )  # fmt: skip
    assert [record["step"] for record in history] == [4, 8, 12]
    assert state["sums"][0][0, 0] == 8  # the four failed steps count towards the twelve
    assert {count - before for count in found} == {2 * LEAVES}
    assert counted and max(counted) - before <= 2 * LEAVES + 1

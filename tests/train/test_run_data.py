"""Runs on data of every kind, compared with the same batches as arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, train
from jaxnn.data.source import epoch_order

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(30, 4)).astype("f")
Y = np.random.default_rng(1).integers(0, 3, 30)
PROGRAM = train.Supervised(nn.Dense(3), train.Classification(3), optax.adam(1e-2))


def by_hand(batches):
    """The state after a step on each batch, and the losses."""
    step, state, losses = train.make_step(PROGRAM), None, []
    for batch in batches:
        state = PROGRAM.init(KEY, batch) if state is None else state
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def epoch_batches(epochs, size=8):
    for epoch in range(epochs):
        for chosen in epoch_order(KEY, epoch, 30)[: 30 // size * size].reshape(-1, size):
            yield X[chosen], Y[chosen]


def in_order(size=8):
    for begin in range(0, 30, size):
        yield X[begin : begin + size], Y[begin : begin + size]


def assert_equal(one, other):
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


class Loader:
    """An iterable of batches with a length, as a DataLoader of torch."""

    def __iter__(self):
        return in_order()

    def __len__(self):
        return 4


def test_host_arrays_give_the_run_of_arrays():
    expected, losses = by_hand(epoch_batches(2))
    for given in ((X, Y), data.HostArrays(X, Y), data.HostArrays((X, Y))):
        state, history = train.fit(
            PROGRAM, given, key=KEY, epochs=2, batch_size=8, every=1, progress=False
        )
        assert_equal(state, expected)
        assert [one["loss"] for one in history] == losses


@pytest.mark.parametrize("given", [Loader(), in_order])
def test_streams_are_read_in_their_order(given):
    expected, losses = by_hand([*in_order(), *in_order()])
    state, history = train.fit(PROGRAM, given, key=KEY, epochs=2, progress=False)
    assert_equal(state, expected)
    assert [one["epoch"] for one in history] == [1, 2]
    assert [one["step"] for one in history] == [4, 8]
    rows = np.array([8, 8, 8, 6])
    np.testing.assert_allclose(
        [one["loss"] for one in history],
        [np.sum(losses[:4] * rows) / 30, np.sum(losses[4:] * rows) / 30],
        rtol=1e-6,  # each batch adds its losses in float32
    )


def test_a_generator_is_one_epoch():
    expected, _ = by_hand(in_order())
    state, history = train.fit(PROGRAM, in_order(), key=KEY, epochs=1, progress=False)
    assert_equal(state, expected)
    assert history[-1]["step"] == 4
    state, history = train.fit(PROGRAM, in_order(), key=KEY, steps=3, progress=False)
    assert_equal(state, by_hand(list(in_order())[:3])[0])
    with pytest.raises(ValueError, match=r"is read once, so it has one epoch, got epochs=2"):
        train.fit(PROGRAM, in_order(), key=KEY, epochs=2, progress=False)
    with pytest.raises(ValueError, match=r"ended before the run|no batches left"):
        train.fit(PROGRAM, in_order(), key=KEY, steps=5, progress=False)


def test_a_stream_is_rejected_with_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"Checkpoints cannot be used with Stream\(Loader\)"):
        train.fit(
            PROGRAM,
            Loader(),
            key=KEY,
            epochs=1,
            hooks=[train.Checkpoints(str(tmp_path))],
            progress=False,
        )


def test_host_arrays_resume_bitwise(tmp_path):
    given = {"key": KEY, "epochs": 3, "batch_size": 8}
    source = data.HostArrays(X, Y)
    whole, history = train.fit(PROGRAM, source, **given, progress=False)
    hooks = [train.Checkpoints(str(tmp_path), train.Every(steps=2))]
    for event in train.run(PROGRAM, source, **given, hooks=hooks):
        if event.step == 3:
            break
    again, records = train.fit(PROGRAM, source, **given, hooks=hooks, progress=False)
    assert_equal(whole, again)
    assert records == history


class Words(nn.Composite):
    """Dict batches: tokens with a mask, and a second output."""

    embedding: nn.Layer
    head: nn.Layer

    def forward(self, batch):
        logits = self.head(self.embedding(batch["tokens"]))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["next"])
        mask = batch["mask"]
        correct = mask * (logits.argmax(-1) == batch["next"])
        return train.Ratio((mask * losses).sum(), mask.sum()), {
            "accuracy": train.Ratio(correct.sum(), mask.sum(), maximize=True)
        }

    def predict(self, batch):
        logits = self.head(self.embedding(batch["tokens"]))
        return {"next": logits.argmax(-1), "logits": logits}


def test_dicts_of_rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (40, 6))
    mask = (np.arange(6) < rng.integers(1, 7, 40)[:, None]).astype("f")
    rows = {"tokens": tokens, "next": (tokens + 1) % 5, "mask": mask}
    program = train.Minimize(Words(nn.Embedding(5, 8), nn.Dense(5)), optax.adam(0.1))
    state, history = train.fit(
        program, rows, key=KEY, epochs=30, batch_size=8, validation=rows, progress=False
    )
    assert history[-1]["validation_accuracy"] == 1.0
    assert history[-1]["accuracy"] == 1.0
    found = train.predict(program, state, rows, batch_size=7)
    assert found["next"].shape == (40, 6)
    assert found["logits"].shape == (40, 6, 5)
    np.testing.assert_array_equal(found["next"], rows["next"])
    for size in (40, 7):
        expected = _masked(program, state, rows)  # a log softmax near 0 is known to float32's 1e-7
        assert train.evaluate(program, state, rows, batch_size=size)["loss"] == pytest.approx(
            expected, rel=1e-5, abs=1e-6
        )


def _masked(program, state, rows):
    logits = np.asarray(train.predict(program, state, rows)["logits"], np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(logits, rows["next"][..., None], -1)[..., 0]
    return (losses * rows["mask"]).sum() / rows["mask"].sum()


def test_augmented_data_get_the_key_of_the_step():
    def noise(key, batch):
        x, y = batch
        return x + jax.random.normal(key, x.shape), y

    given = {"key": KEY, "epochs": 1, "batch_size": 8, "progress": False}
    state, _ = train.fit(PROGRAM, data.Augmented((X, Y), noise), **given)
    noisy = [
        noise(jax.random.fold_in(jax.random.fold_in(KEY, i), 1), (jnp.asarray(x), y))
        for i, (x, y) in enumerate(epoch_batches(1))
    ]
    expected, _ = by_hand(noisy)
    assert expected is not None
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("source", [lambda x, y: (x, y), data.HostArrays, lambda x, y: Batch(x, y)])
def test_labels_and_numbers_are_checked(source):
    wrong = Y.copy()
    wrong[3] = 7
    options = {"key": KEY, "epochs": 1, "batch_size": 8, "progress": False}
    with pytest.raises(ValueError, match=r"label 7 at row \d"):
        train.fit(PROGRAM, source(X, wrong), **options)
    with pytest.raises(ValueError, match=r"label 7 at row 3"):
        train.fit(PROGRAM, (X, Y), validation=(X, wrong), **options)
    bad = X.copy()
    bad[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"(inputs|x must be finite).*nan"):
        train.fit(PROGRAM, source(bad, Y), **options)


class Batch:
    """A stream of two batches."""

    def __init__(self, x, y):
        self._batch = x, y

    def __iter__(self):
        for begin in (0, 8):
            yield jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + 8], self._batch)


def test_validation_data_of_another_structure_are_named():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (40, 6))
    rows = {"tokens": tokens, "next": tokens, "mask": np.ones((40, 6), "f")}
    program = train.Minimize(Words(nn.Embedding(5, 8), nn.Dense(5)), optax.adam(0.1))
    wrong = {"tokens": tokens, "next": tokens}
    with pytest.raises(ValueError, match=r"validation data differs from the training data.*mask"):
        train.fit(program, rows, key=KEY, epochs=1, batch_size=8, validation=wrong, progress=False)
    weighted = X, Y, np.ones(30, "f")  # a third part is welcome where the program takes it
    _, history = train.fit(
        PROGRAM, weighted, key=KEY, epochs=1, batch_size=8, validation=(X, Y), progress=False
    )
    assert "validation_loss" in history[-1]


def test_rows_that_differ_are_named():
    with pytest.raises(ValueError, match=r"training data"):
        train.fit(PROGRAM, (X, Y[:-1]), key=KEY, epochs=1, progress=False)

"""Labels out of range, ignored labels, and labels of small integer types, against closed forms.

The mean over labels that are not ignored, and -100 as the ignored label, are those of
torch.nn.CrossEntropyLoss: sum of -log softmax(outputs)[label] / number of labels kept.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, parallel, train

RNG = np.random.default_rng(3)
OUTPUTS = RNG.normal(size=(2, 3, 5)).astype(np.float32)
LABELS = np.array([[0, 4, -100], [-100, 2, 1]])
KEPT = LABELS != -100


def program_of(task, outputs):
    return train.Supervised(nn.Dense(outputs), task, optax.sgd(0.1))


def log_probabilities(outputs):
    wide = outputs.astype(np.float64)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def picked(outputs, labels):
    return np.take_along_axis(log_probabilities(outputs), labels[..., None], -1)[..., 0]


@pytest.mark.parametrize("task", [train.Classification(5), train.NextToken(5)], ids=str)
def test_ignored_labels_are_left_out(task):
    expected = -picked(OUTPUTS, np.where(KEPT, LABELS, 0))[KEPT].mean()
    spoilt = np.where(KEPT[..., None], OUTPUTS, np.nan)  # nothing there may have an effect
    loss, grads = jax.jit(jax.value_and_grad(task))(spoilt, LABELS)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # d loss / d outputs = (softmax - one-hot) / labels kept, and 0 for the others
    softmax = np.exp(log_probabilities(OUTPUTS))
    slope = (softmax - np.eye(5)[np.where(KEPT, LABELS, 0)]) * KEPT[..., None] / KEPT.sum()
    np.testing.assert_allclose(grads, slope, atol=1e-7)
    correct = (OUTPUTS.argmax(-1) == LABELS)[KEPT].mean()
    metrics = jax.jit(task.metrics)(OUTPUTS, LABELS)
    np.testing.assert_allclose(metrics["accuracy"], correct, rtol=1e-6)
    if "bits" in metrics:
        np.testing.assert_allclose(metrics["bits"], expected / np.log(2), rtol=1e-6)


def test_binary_leaves_out_ignored_labels():
    z, y = OUTPUTS[0, :, :1], np.array([1, -100, 0])
    p = 1 / (1 + np.exp(-z[:, 0].astype(np.float64)))
    task = train.BinaryClassification()
    np.testing.assert_allclose(task(z, y), -(np.log(p[0]) + np.log(1 - p[2])) / 2, rtol=1e-6)
    accuracy = ((p[0] > 0.5) + (p[2] <= 0.5)) / 2
    np.testing.assert_allclose(task.metrics(z, y)["accuracy"], accuracy)


@pytest.mark.parametrize("ignore", [-1, 255, 0])
def test_any_label_can_be_ignored(ignore):
    """0 is the padding token of many vocabularies; a class that is ignored is never a target."""
    task = train.Classification(5, ignore=ignore)
    labels = np.array([ignore, 3, 1])
    expected = -picked(OUTPUTS[0, 1:], labels[1:]).mean()
    np.testing.assert_allclose(task(OUTPUTS[0], labels), expected, rtol=1e-6)
    assert eval(repr(task), dict(vars(train))) == task


def test_only_ignored_labels_give_a_loss_of_zero():
    run = jax.jit(jax.value_and_grad(train.Classification(5)))
    loss, grads = run(OUTPUTS[0], np.full(3, -100))
    assert loss == 0
    np.testing.assert_array_equal(grads, 0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "task",
    [train.Classification(5), train.NextToken(5), train.Classification(5, ignore=None)],
    ids=str,
)
def test_a_label_out_of_range_is_no_other_class(task, compiled):
    def run(outputs, labels):
        return *jax.value_and_grad(task)(outputs, labels), task.metrics(outputs, labels)

    run = jax.jit(run) if compiled else run
    for label in (-1, -101, 5, 7, 2**31 - 1):
        labels = np.array([[0, 1, 2], [3, label, 4]])
        loss, grads, metrics = run(OUTPUTS, labels)
        assert np.isnan(loss)
        assert np.isnan(np.asarray(grads)[1, 1]).all()
        assert all(np.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("label", [-1, 2, 7])
def test_binary_has_two_labels(label):
    loss, metrics = train.BinaryClassification(), train.BinaryClassification().metrics
    assert np.isnan(loss(OUTPUTS[0, :, :1], jnp.array([0, 1, label])))
    assert np.isnan(metrics(OUTPUTS[0, :, :1], jnp.array([0, 1, label]))["accuracy"])


# Class 256 + i has the largest output: in 8 bits it would be equal to label i.
SIX = np.arange(6)
FAR = np.zeros((6, 1000), np.float32)
FAR[SIX, 256 + SIX] = 9


@functools.cache
def counted(dtypes):
    """The accuracy, the loss, and mixed labels for labels of each type, of one program."""
    task = train.Classification(1000)

    @jax.jit
    def run(outputs, labels):
        x, key = jnp.zeros((6, 2, 2)), jax.random.key(0)
        mixed = [mix(key, x, labels, classes=1000)[1] for mix in (data.mixup, data.cutmix)]
        return {
            dtype: (task.metrics(outputs, one)["accuracy"], task(outputs, one), soft)
            for (dtype, one), *soft in zip(
                labels.items(), *(soft.values() for soft in mixed), strict=True
            )
        }

    return run(FAR, {dtype: SIX.astype(dtype) for dtype in dtypes})


QUICK, SLOW = ("int8", "uint8", "uint32"), ("int16", "uint16")


@pytest.mark.parametrize(
    "dtype", [*QUICK, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in SLOW)]
)
def test_small_integer_types_count_as_int32(dtype):
    accuracy, loss, mixed = counted(QUICK if dtype in QUICK else SLOW)[dtype]
    assert accuracy == 0
    np.testing.assert_allclose(loss, -picked(FAR, SIX).mean(), rtol=1e-5)
    for soft in map(np.asarray, mixed):
        np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
        assert not soft[:, 6:].any()


def test_a_mixed_label_out_of_range_is_nan():
    mixup = jax.jit(functools.partial(data.mixup, classes=5))
    _, soft = mixup(jax.random.key(0), np.zeros((2, 1), np.float32), np.array([5, 6]))
    assert np.isnan(soft).all()


def test_a_step_does_not_train_another_class():
    batch = jnp.ones((4, 2)), jnp.full((4,), -1)
    program = program_of(train.Classification(5), 5)
    _, metrics = train.make_step(program)(program.init(jax.random.key(0), batch), batch)
    assert np.isnan(float(metrics["loss"]))


@pytest.mark.parametrize("label", [2**32 + 1, 2**32 - 100, np.iinfo(np.int64).min])
def test_labels_of_64_bits_do_not_wrap(label):
    """Their lower 32 bits are a class or the ignored label; NaN cast to int64 is the last one."""
    program = program_of(train.Classification(5), 5)
    batch = np.ones((4, 2), np.float32), np.array([0, 1, 2, label])
    placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
    steps = [
        (train.make_step(program), batch),
        (
            train.make_step(program, placement=placement),
            parallel.shard_batch(batch, placement.mesh),
        ),
    ]
    for step, given in steps:
        state = parallel.init(program, jax.random.key(0), batch, placement)
        assert np.isnan(float(step(state, given)[1]["loss"]))


class Batches:
    """A source that a user wrote: the same batch again and again."""

    def __init__(self, *batch):
        self.batch = batch

    def steps_per_epoch(self, batch_size):
        return 2

    def spec(self, batch_size):
        return tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.batch)

    def open(self, key, batch_size, position=None, *, process=(0, 1)):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.batch

    def position(self):
        return {}

    def close(self):
        pass


@pytest.mark.parametrize("source", ["arrays", "host arrays", "own source", "evaluate"])
def test_training_refuses_labels_out_of_range(source):
    x, y = np.ones((4, 2), np.float32), np.array([0, 1, 7, -100], np.int32)
    program = program_of(train.Classification(5), 5)
    made = {"arrays": (x, y), "host arrays": data.HostArrays(x, y), "own source": Batches(x, y)}
    with pytest.raises(ValueError, match=r"label 7 at row \d"):
        if source == "evaluate":
            train.evaluate(program, program.init(jax.random.key(0), (x, y)), (x, y))
        else:
            train.fit(program, made[source], batch_size=4, epochs=1, key=jax.random.key(0))


def test_ignored_labels_train():
    x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 2, -100], np.int8)
    _, history = train.fit(
        train.Supervised(nn.Dense(3), train.Classification(3), optax.adam(0.1)),
        (x, y),
        batch_size=4,
        epochs=40,
        key=jax.random.key(0),
        validation=(x, y),
        progress=False,
    )
    assert history[-1]["validation_accuracy"] == 1  # of three
    assert history[-1]["loss"] < 0.1


def test_checked_names_the_label():
    task = train.Classification(5)
    with pytest.raises(Exception, match=r"label 7 is outside of \[0, 5\)"):
        nn.checkify(lambda outputs, labels: task(outputs, labels))(OUTPUTS[0], jnp.array([0, 7, 1]))


@pytest.mark.parametrize("ignore", [True, 1.0, "-100"])
def test_ignore_is_a_label(ignore):
    with pytest.raises(
        ValueError, match=r"BinaryClassification.ignore must be None or an int, got .*; write ign"
    ):
        train.BinaryClassification(ignore=ignore)


@pytest.mark.parametrize("label", [2**32, 2**32 + 1, -(2**40), 2**63 - 1])
def test_a_label_of_more_than_32_bits_is_no_other_class(label):
    """JAX would keep its lower 32 bits: those of 2**32 + 1 are the label 1."""
    task, labels = train.Classification(5), np.array([label, 0, 1])
    assert np.isnan(task(OUTPUTS[0], labels))
    assert np.isnan(task.metrics(OUTPUTS[0], labels)["accuracy"])


def test_probabilities_that_are_not_finite_give_no_accuracy():
    """As `data.mixup` makes them of labels out of range."""
    soft = np.array([[1.0, 0, 0, 0, 0], [np.nan] * 5, [0, 1, 0, 0, 0]], np.float32)
    assert np.isnan(train.Classification(5).metrics(OUTPUTS[0], soft)["accuracy"])


def test_a_label_out_of_range_in_a_source_is_named_by_its_row_in_the_batch():
    class Rows(data.HostArrays):
        def check(self, *arguments, **options):
            """Leave the labels to the batches, as sources that are not arrays do."""

    x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 7, 1])
    with pytest.raises(
        ValueError, match=r"a batch of the training data: the targets hold label 7 at row \d,"
    ):
        train.fit(
            program_of(train.Classification(2), 2),
            Rows(x, y),
            batch_size=4,
            epochs=1,
            key=jax.random.key(0),
        )


def test_label_smoothing_in_a_subclass_leaves_out_ignored_labels():
    """torch.nn.CrossEntropyLoss(label_smoothing=s): (1 - s) * -log p[y] + s * mean of -log p."""

    class Smoothed(train.Classification):
        share: float = 0.1

        def __call__(self, outputs, targets):
            logits, labels = self._wide(outputs, targets), self._labels(targets)
            soft = optax.smooth_labels(jax.nn.one_hot(labels.targets, self.number), self.share)
            return labels.ratio(optax.softmax_cross_entropy(labels.select(logits), soft)).value

    every = -log_probabilities(OUTPUTS)
    hard = -picked(OUTPUTS, np.where(KEPT, LABELS, 0))
    expected = (0.9 * hard + 0.1 * every.mean(-1))[KEPT].mean()
    np.testing.assert_allclose(Smoothed(5)(OUTPUTS, LABELS), expected, rtol=1e-6)
    assert np.isnan(Smoothed(5)(OUTPUTS, np.full_like(LABELS, 5)))


def test_a_rejected_label_names_the_task_to_write():
    x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 7, 1])
    for task, advice in (
        (
            train.BinaryClassification(),
            r"write train.Classification\(n\) if it is one of n classes, or the label -100",
        ),
        (train.NextToken(2), r"write train.NextToken\(n\) if it is one of n classes"),
    ):
        program = program_of(task, task.outputs)
        with pytest.raises(ValueError, match=advice):
            train.evaluate(program, program.init(jax.random.key(0), (x, y)), (x, y))


@pytest.mark.parametrize("source", [lambda x, y: (x, y), data.HostArrays])
def test_integer_targets_of_several_labels_are_checked(source):
    """A program reads a source for evaluation, too; floats are probabilities."""
    x, y = np.zeros((4, 2), np.float32), np.array([[0, 1, 0], [1, 1, 0], [0, 7, 0], [1, 0, 0]])
    program, key = program_of(train.MultiLabelClassification(3), 3), jax.random.key(0)
    match = r"holds? label 7 at row \d, position \(1,\), but MultiLabelClassification\(3\) needs"
    with pytest.raises(ValueError, match=match):
        train.fit(program, source(x, y), key=key, batch_size=4, epochs=1)
    state = program.init(key, (x, y))
    with pytest.raises(ValueError, match=match):
        train.evaluate(program, state, source(x, y))
    y = y / 7
    assert np.isfinite(train.evaluate(program, state, source(x, y))["loss"])

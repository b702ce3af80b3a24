"""Data of any kind and structure: the batches are those of NumPy indexing, written by hand."""

import collections
import functools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import data
from jaxnn.data.source import Batches, Source

KEY = jax.random.key(3)
WORDS = np.asarray(jax.random.key_data(KEY))
X, Y = np.arange(22.0, dtype=np.float32).reshape(11, 2), np.arange(11)
Tokens = collections.namedtuple("Tokens", "ids mask")


def arrays(rows):
    kinds = st.sampled_from([np.float32, np.int32, np.bool_])
    shapes = st.lists(st.integers(1, 3), max_size=2)

    def made(kind, shape):
        count = rows * int(np.prod(shape))
        return (np.arange(count).reshape(rows, *shape) % 5).astype(kind)

    return st.builds(made, kinds, shapes)


def trees(rows):
    def inside(leaf):
        several = st.lists(leaf, min_size=1, max_size=3)
        named = st.dictionaries(st.sampled_from("abc"), leaf, min_size=1, max_size=3)
        return st.one_of(several.map(tuple), several, named, st.builds(Tokens, leaf, leaf))

    return st.recursive(arrays(rows), inside, max_leaves=5).filter(
        lambda t: not isinstance(t, list)
    )


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def take(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def expected_batches(tree, rows, size, count):
    """What epoch after epoch gives, by hand."""
    steps = rows // size
    orders = [data.epoch_order(WORDS, epoch, rows) for epoch in range(count // steps + 1)]
    return [
        take(tree, orders[i // steps][i % steps * size : (i % steps + 1) * size])
        for i in range(count)
    ]


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 7))
def test_host_arrays_of_any_structure_from_every_position(draw, rows):
    tree = draw.draw(trees(rows))
    size = draw.draw(st.integers(1, rows))
    source = data.HostArrays(tree)
    assert data.check_rows(tree) == rows
    assert data.as_source(source) is source and data.is_resumable(source)
    spec = source.spec(size)
    assert jax.tree.structure(spec) == jax.tree.structure(tree)
    assert all(leaf.shape[0] == size for leaf in jax.tree.leaves(spec))
    expected = expected_batches(tree, rows, size, 5)
    batches, positions = source.open(KEY, size), []
    for batch in expected:
        positions.append(json.loads(json.dumps(batches.position())))
        assert_equal(next(batches), batch)
    done = draw.draw(st.integers(0, 4))
    again = data.HostArrays(tree).open(KEY, size, positions[done])
    for batch in expected[done:]:
        assert_equal(next(again), batch)
    for found in (source, tree):
        parts = list(data.pieces(found, size))
        assert_equal(jax.tree.map(lambda *a: np.concatenate(a), *parts), tree)
        assert {len(jax.tree.leaves(p)[0]) for p in parts[:-1]} <= {size}


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(1, 6))
def test_a_pytree_of_rows_is_itself(draw, rows):
    tree = draw.draw(trees(rows))
    assert_equal(data.as_source(tree), tree)
    found = data.fingerprint_of(tree)
    assert len(found) == len(jax.tree.leaves(tree))
    assert found == data.fingerprint_of(jax.tree.map(np.copy, tree))
    changed = jax.tree.leaves(tree)[0]
    other = jax.tree.map(lambda a: ~a if a.dtype == bool else a + 1, changed)
    leaves, structure = jax.tree.flatten(tree)
    assert found != data.fingerprint_of(structure.unflatten([other, *leaves[1:]]))


def test_every_accepted_kind_is_rows_or_a_source():
    assert data.as_source(None) is None and data.fingerprint_of(None) == {}
    assert_equal(data.as_source([X, Y]), (X, Y))
    part = data.Examples(X, np.zeros(11, np.float32))
    assert_equal(data.as_source(data.Dataset("toy", part, part, part)), part)
    on_device = jnp.asarray(X)
    assert data.as_source({"x": on_device})["x"] is on_device
    for stream in ([X, Y].__iter__(), lambda: [X], (x for x in [X]), functools.partial(list, [X])):
        assert isinstance(data.as_source(stream), data.Stream)
        assert isinstance(data.as_source(stream), Source)
    traced = []
    jax.jit(lambda x: traced.append(data.as_source({"x": x})))(X)
    assert traced[0]["x"].shape == X.shape


# ---- frames ----


class Series:
    """A column as polars has it."""

    def __init__(self, values, nulls=0):
        self.values, self.nulls, self.dtype = values, nulls, f"kind of {values.dtype}"

    def null_count(self):
        return self.nulls

    def to_numpy(self):
        return self.values

    def __array__(self, dtype=None, copy=None):
        return self.values


class Frame:
    """A table as polars has it."""

    dtypes = property(lambda self: [one.dtype for one in self.held.values()])
    columns = property(lambda self: list(self.held))

    def __init__(self, **columns):
        self.held = {n: c if isinstance(c, Series) else Series(c) for n, c in columns.items()}

    def __getitem__(self, name):
        return self.held[name]

    def __iter__(self):
        return iter(self.held.values())


def test_a_frame_is_the_dict_of_its_columns():
    columns = {"a": np.arange(5), "b": np.linspace(0, 1, 5)}
    assert_equal(data.as_source(Frame(**columns)), columns)
    pair = data.as_source((Frame(**columns), Series(np.arange(5))))
    assert_equal(pair, (columns, np.arange(5)))
    assert_equal(data.HostArrays(Frame(**columns), Series(np.arange(5))).tree, pair)


@pytest.mark.parametrize(
    ("frame", "error", "text"),
    [
        (
            Frame(city=np.array(["a", "b"], object)),
            TypeError,
            "training data/city: the column has dtype kind of object, expected numbers: write "
            "np.unique(frame['city'], return_inverse=True)[1] for integers that stand for the "
            "values",
        ),
        (
            Frame(when=np.array(["2020-01-01"], "datetime64[s]")),
            TypeError,
            "training data/when: the column has dtype kind of datetime64[s], expected numbers: "
            "write (a - a.min()) / np.timedelta64(1, 's') for seconds, with a = "
            "np.asarray(frame['when'])",
        ),
        (
            Frame(age=Series(np.array([1.0, np.nan]), nulls=1)),
            ValueError,
            "training data/age: 1 of 2 values are missing; expected a number in each row: fill "
            "them in (fillna of pandas, fill_null of polars and pyarrow), or add a column that "
            "masks them",
        ),
        (
            Frame(x=np.array([[1.0], [2.0, 3.0]], object)),
            TypeError,
            "training data/x: the column has dtype kind of object, expected numbers: write "
            "np.stack(frame['x']) for rows of equal shape",
        ),
    ],
)
def test_a_column_that_holds_no_numbers_is_named(frame, error, text):
    with pytest.raises(error) as raised:
        data.as_source(frame)
    assert str(raised.value) == text


def test_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(4), "b": np.linspace(0, 1, 4), "c": [True, False] * 2})
    columns = {name: frame[name].to_numpy() for name in "abc"}
    assert_equal(data.as_source(frame), columns)
    assert_equal(data.as_source((frame[["a"]], frame["b"])), ({"a": columns["a"]}, columns["b"]))
    for column in (["x", "y", None, "x"], pandas.array([1, 2, None, 3], "Int64")):
        with pytest.raises(ValueError, match="training data/d: 1 of 4 values are missing"):
            data.as_source(frame.assign(d=column))
    for column in (["x", "y", "z", "x"], pandas.Categorical(["x", "y", "z", "x"])):
        with pytest.raises(
            TypeError, match=r"d: the column has dtype .* write np.unique\(frame\['d"
        ):
            data.as_source(frame.assign(d=column))
    with pytest.raises(TypeError, match=r"columns named \[0, 1\], .* write frame.to_numpy\(\)"):
        data.as_source(pandas.DataFrame(np.zeros((3, 2))))
    with pytest.raises(ValueError, match=r"several columns named a, expected one of each name"):
        data.as_source(pandas.DataFrame(np.zeros((3, 2)), columns=["a", "a"]))


def test_tables_of_polars_and_pyarrow():
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"a": np.arange(4), "b": np.linspace(0, 1, 4), "c": np.array([True, False] * 2)}
    table = pyarrow.table(columns)
    assert_equal(data.as_source(table), columns)
    assert_equal(data.as_source(table.to_batches()[0]), columns)
    with pytest.raises(ValueError, match="training data/a: 1 of 2 values are missing"):
        data.as_source(pyarrow.table({"a": [1, None]}))
    with pytest.raises(TypeError, match="training data/a: the column has dtype string, expected"):
        data.as_source(pyarrow.table({"a": ["x", "y"]}))
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(columns)
    assert_equal(data.as_source(frame), columns)
    assert_equal(data.as_source((frame, frame["a"])), (columns, columns["a"]))
    with pytest.raises(TypeError, match=r"LazyFrame, which has not been read: write frame.collect"):
        data.as_source(frame.lazy())
    with pytest.raises(ValueError, match="training data/a: 1 of 2 values are missing"):
        data.as_source(polars.DataFrame({"a": [1, None]}))
    with pytest.raises(TypeError, match="training data/a: the column has dtype String, expected"):
        data.as_source(polars.DataFrame({"a": ["x", "y"]}))


# ---- checks ----


@pytest.mark.parametrize(
    ("tree", "error", "text"),
    [
        ({}, TypeError, r"training data: no arrays in \{\}; .* data=None for a program that makes"),
        ({"x": [1.0, 2.0]}, TypeError, r"training data/x/0 is a float, 1.0, .* write np.asarray"),
        (
            {"x": X, "n": np.float32(1)},
            TypeError,
            r"training data/n is a float32, .* array with one",
        ),
        (
            {"x": X, "n": np.array(1)},
            ValueError,
            r"training data/n has shape \(\), .* np.full\(rows",
        ),
        ({"t": np.array(["a", "b"])}, TypeError, r"training data/t has dtype <U1, .* np.unique\(a"),
        (
            {"tokens": {"ids": X, "mask": X[:7]}},
            ValueError,
            "leaves differ in their number of rows: training data/tokens/ids has 11, training "
            "data/tokens/mask has 7; .* see all shapes",
        ),
        ((X[:0], Y[:0]), ValueError, r"training data: no rows: \(float32\[0,2\], int64\[0\]\)"),
        ("rows", TypeError, "training data is a str, expected a pytree of arrays, a frame"),
        (3.5, TypeError, r"training data is a float, .* write \(x, y\) with np.asarray"),
        (
            data.Text("toy", Y, Y, Y, ("a",)),
            TypeError,
            r"training data is a Text, .* write text.windows\(128\)",
        ),
        (type("Rows", (), {"__getitem__": None, "__len__": None})(), TypeError, "DataLoader"),
    ],
)
def test_data_that_cannot_be_trained_on_are_named(tree, error, text):
    with pytest.raises(error, match=text):
        data.as_source(tree)


def test_numbers_that_are_not_finite_are_found_in_every_piece(monkeypatch):
    monkeypatch.setattr("jaxnn.data.rows.PIECE", 32)  # four rows
    bad = X.copy()
    bad[9, 1], bad[10, 0] = np.nan, np.inf
    for tree in ({"a": {"x": bad}}, {"a": {"x": jnp.asarray(bad)}}):
        assert data.check_rows(tree) == 11  # may lie behind a mask
        with pytest.raises(ValueError) as error:
            data.check_finite(tree, "data")
        assert str(error.value) == (
            "data/a/x holds nan at row 9, position (1,) (2 of 11 rows are not finite), expected "
            "finite numbers. Find the step that makes them: write np.isfinite(x).all() after each. "
            "Missing values can be filled in, or masked by weights of 0"
        )
    data.check_finite({"x": X, "y": Y, "z": jnp.asarray(X)})


def test_another_structure_is_named():
    first = {"x": X, "y": (Y, Y)}
    data.check_like({"x": X[:3, :1], "y": [Y[:3], Y[:3]]}, first, "it")
    data.check_like(data.Examples(X, Y), (X, Y), "validation data")
    for other, text in [
        ({"x": X}, r"it differs from the training data in its structure: it has no y/0 \(int64\["),
        (
            {**first, "mask": Y},
            r"structure: it has mask \(int64\[11\]\). Write a pytree like \{x: f",
        ),
        ({**first, "x": Y}, "its x is int64.11., which has 1 axes and not 2"),
        (X, r"it has no x .*; it has one leaf \(float32\[11,2\]\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            data.check_like(other, first, "it", "the training data")
    with pytest.raises(ValueError, match=r"structure: PyTreeDef\(\(\*, None\)\) and not "):
        data.check_like((X, None), (X,), "it")


# ---- streams ----


class Tensor:
    """An array as torch holds it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


class Loader:
    """Batches of tensors from the rows in a new order each epoch, as a DataLoader of torch."""

    def __init__(self, size=4, claims=None):
        self.size, self.claims, self.epoch = size, claims, -1

    def __len__(self):
        return self.claims or -(-11 // self.size)

    def __iter__(self):
        self.epoch += 1
        for rows in np.split(np.roll(np.arange(11), self.epoch), range(self.size, 11, self.size)):
            yield [Tensor(X[rows]), Tensor(Y[rows])]


def test_a_loader_is_read_again_each_epoch():
    loader = Loader()
    source = data.as_source(loader)
    assert not data.is_resumable(source) and source.epochs is None
    assert source.steps_per_epoch(4) == source.steps_per_epoch() == 3
    spec = source.spec()
    assert [leaf.shape for leaf in spec] == [(4, 2), (4,)]
    assert loader.epoch == 0  # the batch that gave the spec is not lost:
    batches = source.open(KEY, 4)
    assert isinstance(batches, Batches) and batches.position() is None
    for epoch in range(3):
        for begin in (0, 4, 8):
            rows = np.roll(np.arange(11), epoch)[begin : begin + 4]
            assert_equal(next(batches), (X[rows], Y[rows]))
    assert [len(y) for _, y in data.pieces(source, 100)] == [4, 4, 3]
    assert data.fingerprint_of(source)["length"] == "3"


def test_a_function_is_called_once_per_epoch():
    calls, ended = [], []

    def batches():
        calls.append(1)
        try:
            for rows in ([0, 1], [2, 3], [4]):
                yield {"x": X[rows]}
        finally:
            ended.append(1)

    source = data.as_source(batches)
    assert source.steps_per_epoch() is None and source.epochs is None
    assert source.spec()["x"].shape == (2, 2) and len(calls) == 1
    for epoch in range(3):
        found = list(source.open(KEY))
        assert [len(b["x"]) for b in found] == [2, 2, 1] and len(calls) == epoch + 1
    opened = source.open(KEY)
    next(opened)
    opened.close()
    assert len(ended) == 4 and list(opened) == []
    code = data.fingerprint_of(source)["function"]
    assert any(key.startswith("code of ") for key in code)


def test_an_iterator_is_read_once_and_may_be_continued():
    iterator = ({"x": X[[i]]} for i in range(5))
    source = data.as_source(iterator)
    assert source.steps_per_epoch() is None and source.epochs == 1
    assert source.spec()["x"].shape == (1, 2)
    first = source.open(KEY)
    assert [next(first)["x"][0, 0] for _ in range(2)] == [0, 2]
    first.close()
    assert [b["x"][0, 0] for b in data.as_source(iterator).open(KEY)] == [4, 6, 8]
    with pytest.raises(ValueError, match=r"generator has no batches left; .* write epochs=1, or"):
        next(source.open(KEY))


def test_batches_are_copied_from_arrays_that_are_used_again():
    def batches():
        buffer = np.zeros((2, 3), np.float32)
        for i in range(4):
            buffer[...] = i
            yield buffer

    with data.prefetched(data.as_source(batches).open(KEY)) as found:
        assert [float(batch[0, 0]) for batch in found] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("made", "error", "text"),
    [
        (
            lambda: data.as_source(Loader()).open(KEY, 8),
            ValueError,
            r"batch_size is 8, but the batches of the Loader have 4 rows: leave batch_size out, or "
            r"make batches of 8 rows, such as DataLoader\(dataset, batch_size=8\)",
        ),
        (
            lambda: data.as_source(Loader()).open(KEY, 4, process=(0, 2)),
            ValueError,
            "have 4 rows in each of 2 processes",
        ),
        (
            lambda: data.as_source(Loader()).open(KEY, 4, {"batches": 1}),
            ValueError,
            r"the Loader cannot return to a position, so the run cannot be resumed: write data=\(x",
        ),
        (
            lambda: list(zip(range(4), data.as_source(Loader(claims=2)).open(KEY), strict=False)),
            ValueError,
            r"len\(\) of the Loader is 2, but an epoch has more batches: correct its __len__",
        ),
        (
            lambda: list(zip(range(4), data.as_source(Loader(claims=5)).open(KEY), strict=False)),
            ValueError,
            r"len\(\) of the Loader is 5, but an epoch has 3 batches",
        ),
        (
            lambda: data.as_source(lambda: 3).spec(),
            TypeError,
            r"the function <lambda> returned 3, expected an iterator of batches: write yield batch",
        ),
        (
            lambda: data.Stream([]).spec(),
            ValueError,
            "the list has no batches: see what it filters",
        ),
        (
            lambda: data.Stream(3),
            TypeError,
            r"Stream takes an iterable of batches, .* got 3: write",
        ),
        (
            lambda: list(data.Stream([(X, Y), (X, Y[:3])]).once()),
            ValueError,
            r"batch 1 of the list: leaves differ in their number of rows: batch 1 of the list/0 h",
        ),
        (
            lambda: list(data.Stream([{"x": X, "y": Y}, {"x": X}]).once()),
            ValueError,
            r"batch 1 of the list differs from the first batch in its structure: it has no y \(int",
        ),
        (
            lambda: data.check_resumable(data.Augmented(data.as_source(Loader()), print_batch)),
            ValueError,
            r"Checkpoints cannot be used with Stream\(Loader\), which cannot return to a position",
        ),
    ],
)
def test_streams_say_what_to_write(made, error, text):
    with pytest.raises(error, match=text):
        made()


def test_loaders_of_torch():
    torch = pytest.importorskip("torch")
    utils = torch.utils.data
    dataset = utils.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    source = data.as_source(utils.DataLoader(dataset, batch_size=4))
    assert source.steps_per_epoch(4) == 3
    batches = source.open(KEY)
    for _ in range(2):
        for rows in (slice(0, 4), slice(4, 8), slice(8, 11)):
            assert_equal(next(batches), (X[rows], Y[rows]))
    assert "TensorDataset of 11" in data.fingerprint_of(source)["dataset"]
    named = [{"x": torch.ones(3, dtype=torch.bfloat16), "n": i} for i in range(4)]
    workers = utils.DataLoader(named, batch_size=2)  # type: ignore[arg-type]
    (first, second) = data.as_source(workers).once()
    assert first["x"].dtype == jnp.bfloat16 and second["n"].tolist() == [2, 3]
    assert_equal(data.as_source({"x": torch.from_numpy(X)}), {"x": X})

    class Rows(utils.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    endless = data.as_source(utils.DataLoader(Rows(), batch_size=2))
    assert endless.steps_per_epoch() is None
    assert [batch.tolist() for batch in endless.open(KEY)] == [[0, 1], [2]]
    with pytest.raises(
        TypeError, match=r"is a TensorDataset, .* write torch.utils.data.DataLoader"
    ):
        data.as_source(dataset)


# ---- records ----


def test_records_are_a_source(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    file = tmp_path / "rows.array_record"
    writer = module.ArrayRecordWriter(str(file), "group_size:1")
    for row in range(11):
        writer.write(bytes([row]))
    writer.close()

    def decode(raw):
        return {"x": X[raw[0]], "label": raw[0]}

    tree = {"x": X, "label": Y}
    source = data.as_source(data.Records([file], decode))
    assert source.steps_per_epoch(4) == 2 and source.spec(4)["x"].shape == (4, 2)
    batches, positions = source.open(KEY, 4), []
    expected = expected_batches(tree, 11, 4, 5)
    for batch in expected:
        positions.append(batches.position())
        assert_equal(next(batches), batch)
    batches.close()
    again = data.Records([file], decode).open(KEY, 4, positions[3])
    assert_equal(next(again), expected[3])
    again.close()
    parts = list(data.pieces(source, 4))
    assert_equal(jax.tree.map(lambda *a: np.concatenate(a), *parts), tree)
    uneven = data.Records([file], lambda raw: np.zeros(1 + (raw[0] == 2)))
    with pytest.raises(
        ValueError, match=r"record 2 is decoded to float64\[2\], and record 0 of the"
    ):
        next(uneven.once(4))


# ---- augmentation ----


def print_batch(key, batch):
    return batch


def noisy(key, batch):
    return {**batch, "x": batch["x"] + jax.random.normal(key, batch["x"].shape)}


def test_augmented_batches_are_those_of_the_function():
    tree = {"x": X, "mask": Y}
    augmented = data.Augmented(tree, noisy)
    accepted = data.as_source(augmented)
    assert isinstance(accepted, data.Augmented) and accepted.function is noisy
    assert_equal(accepted.source, tree)
    assert (
        repr(augmented)
        == f"Augmented({{x: float32[11,2], mask: int64[11]}}, {noisy.__module__}.noisy)"
    )
    found = jax.jit(augmented.augment)(KEY, tree)
    np.testing.assert_allclose(found["x"], X + jax.random.normal(KEY, X.shape), rtol=1e-6)
    assert found["mask"] is not None
    twice = data.Augmented(augmented, noisy)
    noise = sum(jax.random.normal(jax.random.fold_in(KEY, i), X.shape) for i in range(2))
    np.testing.assert_allclose(twice.augment(KEY, tree)["x"], X + noise, rtol=1e-6)
    assert twice.functions == (noisy, noisy)
    over = data.as_source(data.Augmented(Loader(), noisy))
    assert isinstance(over, data.Augmented) and isinstance(over.source, data.Stream)
    assert data.fingerprint_of(augmented) != data.fingerprint_of(data.Augmented(tree, print_batch))
    assert len(data.fingerprint_of(twice)["augmentation"]) == 2


def test_functions_of_the_inputs_or_of_a_pair_apply_to_pairs():
    images = jax.random.normal(KEY, (4, 6, 6))
    labels, weights = jnp.arange(4), jnp.ones(4)
    flipped = data.random_flip(KEY, images)
    for batch in ((images, labels), data.Examples(images, labels), (images, labels, weights)):
        found = data.Augmented(batch, data.random_flip).augment(KEY, batch)
        assert_equal(found, type(batch)(*(flipped, *batch[1:])) if hasattr(batch, "_fields")
                     else (flipped, *batch[1:]))  # fmt: skip
    assert_equal(data.Augmented(images, data.random_flip).augment(KEY, images), flipped)
    mix = functools.partial(data.mixup, classes=4)
    found = data.Augmented((images, labels), mix).augment(KEY, (images, labels))
    assert_equal(found, data.mixup(KEY, images, labels, classes=4))
    several = data.Augmentation(data.random_flip, mix)
    found = data.Augmented((images, labels), several).augment(KEY, (images, labels))
    assert_equal(found, several(KEY, images, labels))
    with pytest.raises(TypeError, match=r"takes \(key, x, y\), but a batch is a tuple of 3: write"):
        data.Augmented((images, labels, weights), mix).augment(KEY, (images, labels, weights))
    with pytest.raises(TypeError, match=r"of \(key, batch\), .* write data.Augmented\(source, dat"):
        data.Augmented(X, lambda batch: batch)
    with pytest.raises(
        TypeError, match=r"cannot be hashed, .* write a function, or functools.part"
    ):
        data.Augmented(
            X, type("F", (), {"__hash__": None, "__call__": lambda self, key, batch: batch})()
        )


def test_mixtures_of_pytrees_are_those_of_their_leaves():
    x = {"a": jnp.asarray(X), "b": jnp.asarray(X)[:, ::-1]}
    y = (jnp.asarray(Y), jnp.asarray(X))
    mixed, soft = data.mixup(KEY, x, y, classes=11)
    for name, leaf in x.items():
        assert_equal(mixed[name], data.mixup(KEY, leaf, y[1])[0])
    assert_equal(soft, tuple(data.mixup(KEY, x["a"], leaf, classes=11)[1] for leaf in y))
    images = jnp.zeros((11, 4, 4))
    _, soft = data.cutmix(KEY, images, y, classes=11)
    assert_equal(soft, tuple(data.cutmix(KEY, images, leaf, classes=11)[1] for leaf in y))
    with pytest.raises(TypeError, match="mixup: x/n has dtype int32, wanted floats"):
        data.mixup(KEY, {"n": jnp.arange(11)}, X)


# ---- reading ahead ----


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("jaxnn-")]


def test_streams_are_read_ahead_and_their_errors_are_their_own():
    def batches():
        yield {"x": X[:4]}
        yield {"x": X[4:8]}
        raise OSError("the disk is gone")

    source = data.as_source(batches)
    with data.prefetched(source.open(KEY)) as found:
        assert float(found.peek()["x"][0, 0]) == float(found.peek()["x"][0, 0]) == 0
        assert [float(next(found)["x"][0, 0]) for _ in range(2)] == [0, 8]
        assert found.position() is None
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                found.peek()
    assert not threads()


def test_batches_of_other_shapes_are_not_stacked():
    kept = []

    class Counted(data.Stream):
        pass

    source = Counted(Loader())
    with data.prefetched(source.open(KEY, 4), counts=[2, 3, 1]) as found:
        for batch in found:
            kept.append(batch[1].shape)
    # epochs of batches of 4, 4, and 3 rows; counts end after 2, 5, and 6 batches
    assert kept == [(2, 4), (1, 3), (2, 4), (1, 3)]


def test_the_position_of_a_batch_of_another_shape_is_its_own():
    class Uneven:
        read = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.read += 1
            return np.zeros(2 if self.read % 3 else 1)

        def position(self):
            return {"batches": self.read}

        def close(self):
            pass

    with data.prefetched(Uneven(), counts=[4, 2]) as found:
        positions = [(next(found).shape, found.position()["batches"]) for _ in range(4)]
    assert positions == [((2, 2), 2), ((1, 1), 3), ((1, 2), 4), ((1, 2), 5)]


def test_a_dataset_of_any_structure():
    part = data.Examples({"a": X, "b": Y}, (Y, X))
    toy = data.Dataset("toy", part, part, part)
    assert repr(toy) == (
        "Dataset('toy': train 11, validation 11, test 11; x/a (2,) float32, x/b () int64, "
        "regression)"
    )
    both = toy.train_and_validation
    assert_equal(both, jax.tree.map(lambda a: np.concatenate([a, a]), part))
    assert toy.map(x=lambda x: x["a"]).train.x is X
    with pytest.raises(
        ValueError, match=r"toy.train: leaves differ in .*: toy.train/x/a has 11, toy"
    ):
        data.Dataset("toy", data.Examples({"a": X}, Y[:4]), part, part)

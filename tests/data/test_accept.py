"""Data of any kind and structure: the batches are those of NumPy indexing, written by hand."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import data
from jaxnn.data.source import Source
from tests.data.trees import KEY, X, Y, assert_equal, expected_batches, trees


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


# ---- checks ----


@pytest.mark.parametrize(
    ("tree", "error", "text"),
    [
        (
            {},
            TypeError,
            r"training data must be a pytree of arrays, got \{\}; .* data=None for a program that",
        ),
        (
            {"x": [1.0, 2.0]},
            TypeError,
            r"training data/x/0 must be an array .*, got 1.0; write np.asarray",
        ),
        (
            {"x": X, "n": np.float32(1)},
            TypeError,
            r"training data/n must be an array of numbers with one row per ex",
        ),
        (
            {"x": X, "n": np.array(1)},
            TypeError,
            r"training data/n must be .*, got int64\[\]; .* np.full\(rows",
        ),
        ({"t": np.array(["a", "b"])}, TypeError, r"training data/t must be an .* np.unique\(a"),
        (
            {"tokens": {"ids": X, "mask": X[:7]}},
            ValueError,
            "same number of rows in every leaf, at least 1, got training data/tokens/ids: 11, "
            "training data/tokens/mask: 7; .* see all shapes",
        ),
        (
            {"x": np.ma.masked_less(X, 3)},
            TypeError,
            r"training data/x must be .* MaskedArray; write a.filled\(0\), and pass ~np.ma.getmask",
        ),
        ((X[:0], Y[:0]), ValueError, "got training data/0: 0, training data/1: 0; write"),
        ("rows", TypeError, "training data must be a pytree of arrays, a frame, .* got a str"),
        (3.5, TypeError, r"training data must be .*, got a float; write \(x, y\) with np.asarray"),
        (
            data.Text("toy", Y, Y, Y, ("a",)),
            TypeError,
            r"training data must be .*, got a Text; write text.windows\(128\)",
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
            "data/a/x must be finite, got nan at row 9, position (1,) (2 of 11 rows are not "
            "finite); write np.isfinite(x).all() after each step that makes it. Missing values can "
            "be filled in, or masked by weights of 0"
        )
    data.check_finite({"x": X, "y": Y, "z": jnp.asarray(X)})


def test_another_structure_is_named():
    first = {"x": X, "y": (Y, Y)}
    data.check_like({"x": X[:3, :1], "y": [Y[:3], Y[:3]]}, first, "it")
    data.check_like(data.Examples(X, Y), (X, Y), "validation data")
    for other, text in [
        (
            {"x": X},
            r"it differs from the training data in its structure:\s+it has no y/0 \(int64\[",
        ),
        (
            {**first, "mask": Y},
            r"structure: it has mask \(int64\[11\]\); write a pytree like \{x: f",
        ),
        ({**first, "x": Y}, "its x is int64.11., which has 1 axes and not 2"),
        (X, r"(?s)it has no x .*  it has one leaf \(float32\[11,2\]\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            data.check_like(other, first, "it", "the training data")
    with pytest.raises(ValueError, match=r"structure: PyTreeDef\(\(\*, None\)\) and not "):
        data.check_like((X, None), (X,), "it")


# ---- records and data sets ----


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
        ValueError, match=r"toy.train must have .* toy.train/x/a: 11, toy.train/y: 4"
    ):
        data.Dataset("toy", data.Examples({"a": X}, Y[:4]), part, part)


def test_a_pytree_is_split_as_its_arrays():
    tree = {"a": X, "b": (Y,)}
    floats = Y.astype(np.float32)
    for found, expected in zip(
        data.split((tree, {"y": Y}), 0.3), data.split((X, floats), 0.3), strict=True
    ):
        assert_equal(found.x, {"a": expected.x, "b": (expected.y.astype(Y.dtype),)})
        assert_equal(found.y, {"y": expected.y.astype(Y.dtype)})
    labels = np.array([0, 1] * 5 + [1])
    kept, held = data.split((tree, labels), 0.4)
    assert sorted(held.y.tolist()) == [0, 0, 1, 1] and kept.x["a"].shape == (7, 2)

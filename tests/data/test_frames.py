"""Frames are dicts of columns: of pandas, polars, pyarrow, and anything with their methods."""

import numpy as np
import pytest

from jaxnn import data
from tests.data.trees import assert_equal


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
            "training data/city must hold numbers, got dtype kind of object; write "
            "np.unique(frame['city'], return_inverse=True)[1] to encode the values as integers",
        ),
        (
            Frame(when=np.array(["2020-01-01"], "datetime64[s]")),
            TypeError,
            "training data/when must hold numbers, got dtype kind of datetime64[s]; write "
            "(a - a.min()) / np.timedelta64(1, 's') for seconds, with a = "
            "np.asarray(frame['when'])",
        ),
        (
            Frame(age=Series(np.array([1.0, np.nan]), nulls=1)),
            ValueError,
            "training data/age must have a number in each row, but 1 of 2 values are missing; fill "
            "them in (fillna of pandas, fill_null of polars and pyarrow), or add a column that "
            "masks them",
        ),
        (
            Frame(x=np.array([[1.0], [2.0, 3.0]], object)),
            TypeError,
            "training data/x must hold numbers, got dtype kind of object; write "
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
        with pytest.raises(
            ValueError, match=r"training data/d must have .* 1 of 4 values are missing"
        ):
            data.as_source(frame.assign(d=column))
    for column in (["x", "y", "z", "x"], pandas.Categorical(["x", "y", "z", "x"])):
        with pytest.raises(
            TypeError, match=r"d must hold numbers, got dtype .* write np.unique\(frame\['d"
        ):
            data.as_source(frame.assign(d=column))
    with pytest.raises(TypeError, match=r"type str, got \[0, 1\]; write frame.to_numpy\(\)"):
        data.as_source(pandas.DataFrame(np.zeros((3, 2))))
    with pytest.raises(TypeError, match=r"must be different names of type str, got \['a', 'a'\]"):
        data.as_source(pandas.DataFrame(np.zeros((3, 2)), columns=["a", "a"]))


def test_tables_of_polars_and_pyarrow():
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"a": np.arange(4), "b": np.linspace(0, 1, 4), "c": np.array([True, False] * 2)}
    table = pyarrow.table(columns)
    assert_equal(data.as_source(table), columns)
    assert_equal(data.as_source(table.to_batches()[0]), columns)
    with pytest.raises(ValueError, match=r"training data/a must have .* 1 of 2 values are missing"):
        data.as_source(pyarrow.table({"a": [1, None]}))
    with pytest.raises(TypeError, match="training data/a must hold numbers, got dtype string"):
        data.as_source(pyarrow.table({"a": ["x", "y"]}))
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(columns)
    assert_equal(data.as_source(frame), columns)
    assert_equal(data.as_source((frame, frame["a"])), (columns, columns["a"]))
    with pytest.raises(
        TypeError, match=r"got a LazyFrame; write frame.collect\(\), which reads it"
    ):
        data.as_source(frame.lazy())
    with pytest.raises(ValueError, match=r"training data/a must have .* 1 of 2 values are missing"):
        data.as_source(polars.DataFrame({"a": [1, None]}))
    with pytest.raises(TypeError, match="training data/a must hold numbers, got dtype String"):
        data.as_source(polars.DataFrame({"a": ["x", "y"]}))

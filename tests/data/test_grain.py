"""Grain pipelines and record files: the pipeline's own batches, positions, and what is damaged."""

import json
import sys

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, train
from jaxnn.data import Grain, Records, prefetched
from jaxnn.data.source import Batches, Source
from jaxnn.installation import install

grain = pytest.importorskip("grain")
KEY = jax.random.key(0)


class Rows:
    """Ten rows (x, y); one of them may not be readable."""

    def __init__(self, bad=-1):
        self.bad = bad

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == self.bad:
            raise OSError(f"row {index} is gone")
        return np.full(2, index, np.float32), np.int32(index)


def pipeline(size=2, rows=None):
    return grain.MapDataset.source(rows or Rows()).shuffle(seed=1).batch(size, drop_remainder=True)


def labels(batches, count):
    return [next(batches)[1].tolist() for _ in range(count)]


def closed(batches, count):
    try:
        return labels(batches, count)
    finally:
        batches.close()


def test_the_pipelines_own_batches_epoch_after_epoch():
    source = Grain(pipeline())
    assert isinstance(source, Source)
    assert source.steps_per_epoch(2) == 5
    batches = source.open(KEY, 2)
    assert isinstance(batches, Batches)
    found = closed(batches, 10)
    repeated = pipeline().repeat()
    assert found == [repeated[i][1].tolist() for i in range(10)]
    first, second = ([row for batch in part for row in batch] for part in (found[:5], found[5:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    x, y = source.spec(2)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((2, 2), np.float32, (2,), np.int32)


@pytest.mark.parametrize("kind", ["map", "iter"])
def test_a_position_goes_on_where_it_was_taken(kind):
    def source():
        return Grain(pipeline() if kind == "map" else pipeline().to_iter_dataset(), steps=5)

    whole = closed(source().open(KEY, 2), 8)
    with prefetched(source().open(KEY, 2)) as batches:
        labels(batches, 3)
        kept = json.loads(json.dumps(batches.position()))
    assert kept["batches"] == 3
    assert closed(source().open(KEY, 2, kept), 5) == whole[3:]


def test_what_ends_begins_again():
    found = closed(Grain(pipeline().to_iter_dataset(), steps=5).open(KEY, 2), 10)
    assert found[5:] == found[:5]
    empty = Grain(pipeline().to_iter_dataset().filter(lambda row: False), steps=5).open(KEY, 2)
    with pytest.raises(ValueError, match="the Grain pipeline has no batches"):
        closed(empty, 1)


def test_processes_share_the_batches():
    """Two processes with batches of two see what one process with batches of four sees."""
    whole = closed(Grain(pipeline(4)).open(KEY, 4), 4)
    source = Grain(pipeline(2))
    assert source.steps_per_epoch(4) == 2 == Grain(pipeline(4)).steps_per_epoch(4)
    shares = [closed(source.open(KEY, 4, process=(i, 2)), 4) for i in range(2)]
    assert [[*a, *b] for a, b in zip(*shares, strict=True)] == whole
    endless = Grain(pipeline(2)[:4].repeat(), steps=2)
    shares = [closed(endless.open(KEY, 4, process=(i, 2)), 4) for i in range(2)]
    assert [[*a, *b] for a, b in zip(*shares, strict=True)] == whole


@pytest.mark.slow  # worker processes take seconds to start
def test_worker_processes_and_their_position():
    workers = grain.MultiprocessingOptions(num_workers=2)
    source = Grain(pipeline().repeat().to_iter_dataset().mp_prefetch(workers), steps=5)
    batches = source.open(KEY, 2)
    first = labels(batches, 3)
    kept = json.loads(json.dumps(batches.position()))
    rest = closed(batches, 4)
    assert closed(source.open(KEY, 2, kept), 4) == rest
    assert len(first) == 3


def with_workers(count):
    """The pipeline read by so many worker processes, which start when the first batch is asked."""
    read = pipeline().repeat().to_iter_dataset()
    return read.mp_prefetch(grain.MultiprocessingOptions(num_workers=count)) if count else read


@pytest.mark.parametrize(("then", "now"), [(1, 2), (2, 1), (0, 2), (2, 0)])
def test_a_position_of_another_number_of_workers_is_refused(then, now):
    kept = {"batches": 3, "batch_size": 2, "workers": then, "grain": {}}
    with pytest.raises(ValueError) as error:
        Grain(with_workers(now), steps=5).open(KEY, 2, kept)
    assert str(error.value) == (
        "the position in the data is that of another run, whose batches differ: its workers is "
        f"{then}, not {now}; continue with the same data, batch_size, key, and workers, or begin a "
        "new run"
    )


def test_a_position_that_grain_does_not_understand_is_refused():
    kept = {"batches": 3, "batch_size": 2, "workers": 0, "grain": {"exhausted": [0]}}
    with pytest.raises(
        ValueError, match=r"that of another Grain pipeline, and .* \(KeyError: 'next_i"
    ):
        Grain(with_workers(0), steps=5).open(KEY, 2, kept)


class Shifted(grain.transforms.Map):
    """A transformation that holds a number."""

    def __init__(self, by):
        self.by = by

    def map(self, row):
        return row[0] + self.by, row[1]


def test_what_determines_the_batches_is_in_the_fingerprint():
    source = grain.MapDataset.source(Rows())
    batched = source.shuffle(seed=1).map(Shifted(1)).batch(2, drop_remainder=True)
    print_of = Grain(batched).fingerprint()
    assert json.loads(json.dumps(print_of)) == print_of == Grain(batched).fingerprint()
    read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)
    ahead, usual = batched.to_iter_dataset(read), batched.to_iter_dataset()
    assert Grain(ahead, 5).fingerprint() == Grain(usual, 5).fingerprint()
    others = {
        "seed": source.shuffle(seed=2).map(Shifted(1)).batch(2, drop_remainder=True),
        "number": source.shuffle(seed=1).map(Shifted(2)).batch(2, drop_remainder=True),
        "rows": source[:8].shuffle(seed=1).map(Shifted(1)).batch(2, drop_remainder=True),
        "size": source.shuffle(seed=1).map(Shifted(1)).batch(5, drop_remainder=True),
        "kind": usual,
    }
    prints = [Grain(other, steps=5).fingerprint() for other in others.values()]
    assert all(one != print_of for one in prints)


def test_batches_of_any_structure_from_every_position():
    named = pipeline(rows=Rows()).map(lambda batch: {"x": batch[0], "label": [batch[1]]})
    source = data.as_source(named)
    assert isinstance(source, Grain) and source.steps_per_epoch(2) == 5
    spec = source.spec(2)
    assert (spec["x"].shape, spec["label"][0].dtype) == ((2, 2), np.int32)
    batches = source.open(KEY, 2)
    whole, positions = [], []
    for _ in range(7):
        positions.append(json.loads(json.dumps(batches.position())))
        whole.append(next(batches)["label"][0].tolist())
    batches.close()
    repeated = pipeline().repeat()
    assert whole == [repeated[i][1].tolist() for i in range(7)]
    again = source.open(KEY, 2, positions[4])
    assert [next(again)["label"][0].tolist() for _ in range(3)] == whole[4:]
    again.close()
    assert [batch["label"][0].tolist() for batch in source.once(2)] == [
        pipeline()[i][1].tolist() for i in range(5)
    ]
    assert set(source.fingerprint()["first batch"]) == {"x", "label/0"}
    with pytest.raises(data.NoEpochs, match="does not have a known number of batches"):
        next(Grain(named.repeat()).once(2))


def test_a_batch_of_another_structure_is_named():
    def uneven(batch):
        return {"x": batch[0]} if 5 in batch[1] else {"x": batch[0], "label": batch[1]}

    in_order = grain.MapDataset.source(Rows()).batch(2, drop_remainder=True).map(uneven)
    batches = Grain(in_order).open(KEY, 2)
    try:
        assert [next(batches)["label"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
        with pytest.raises(ValueError, match=r"batch 2 of the Grain pipeline differs from the fir.*"
                           r"structure: it has no label \(int32\[2\]\); write"):  # fmt: skip
            next(batches)
    finally:
        batches.close()


def test_errors():
    with pytest.raises(
        TypeError, match=r"must be a grain.MapDataset or grain.IterDataset, got \[1"
    ):
        Grain([1, 2])
    with pytest.raises(ValueError, match=r"Grain.steps must be None or an int >= 1, got 0"):
        Grain(pipeline(), steps=0)
    for endless in (pipeline().repeat(), pipeline().to_iter_dataset()):
        with pytest.raises(ValueError, match=r"does not have a known number.*steps=1000\)"):
            Grain(endless).steps_per_epoch(2)
    with pytest.raises(ValueError, match=r"batches of 2 rows, which do not make .*=3; write data"):
        Grain(pipeline()).steps_per_epoch(3)
    with pytest.raises(ValueError, match=r"5 batches of 2 rows, which do not make .* a smaller"):
        Grain(pipeline()).steps_per_epoch(16)
    with pytest.raises(ValueError) as error:
        closed(Grain(pipeline(), steps=5).open(KEY, 4), 1)
    assert str(error.value) == (
        "batch 0 of the Grain pipeline must be of 4 rows, this process's part of batch_size 4, got "
        "(float32[2,2], int32[2]); write dataset.batch(4, drop_remainder=True)"
    )
    single = Grain(grain.MapDataset.source(Rows()).map(lambda row: row[0]))
    program = train.Supervised(nn.Dense(1), train.Regression(), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"batch of train.Supervised must be \(inputs, targets\)"):
        train.fit(program, single, key=KEY, epochs=1, batch_size=2)
    with pytest.raises(ValueError, match=r"(?s)its batch_size is None, not 2.*its workers is None"):
        Grain(pipeline()).open(KEY, 2, {"batches": 1, "rows": 10})


def test_a_row_that_cannot_be_read_or_trained_on():
    in_order = grain.MapDataset.source(Rows(bad=5)).batch(2, drop_remainder=True)
    batches = Grain(in_order).open(KEY, 2)
    assert labels(batches, 2) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError) as error:
        closed(batches, 1)
    assert str(error.value).startswith("batch 2 of the Grain pipeline cannot be read: OSError: ")
    assert "row 5 is gone" in str(error.value)
    lost = grain.MapDataset.source(Rows()).map(lambda row: (row[0] / 0.0, row[1])).batch(2)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match="x must be finite, got nan at"),
    ):
        closed(Grain(lost).open(KEY, 2), 1)


def written(file, records):
    from array_record.python import array_record_module  # type: ignore[attr-defined]

    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return file


def damaged(file, record):
    """Turn one bit of the record's bytes round."""
    raw = bytearray(file.read_bytes())
    raw[raw.index(record) + len(record) // 2] ^= 1
    file.write_bytes(raw)


RAW = [np.random.default_rng(i).bytes(64) for i in range(7)]  # not to be compressed


def records(folder):
    return [written(folder / "a.rec", RAW[:4]), written(folder / "b.rec", RAW[4:])]


def test_records_of_several_files_in_a_pipeline(tmp_path):
    files = records(tmp_path)
    found = Records(files, bytes)
    assert len(found) == 7 and [found[i] for i in range(7)] == RAW
    assert repr(found) == "Records(7 records in 2 files)"
    with pytest.raises(IndexError):
        found[7]
    example = lambda raw: (np.frombuffer(raw, np.uint8), np.int32(raw[0]))  # noqa: E731
    batches = grain.MapDataset.source(Records(files, example)).batch(7)
    x, _ = next(Grain(batches).open(KEY, 7))
    assert [row.tobytes() for row in x] == RAW


def test_a_damaged_record_is_named_or_left_out(tmp_path):
    files = records(tmp_path)
    damaged(files[1], RAW[5])
    strict = Records(files, bytes)
    assert [strict[i] for i in (0, 1, 2, 3, 4, 6)] == [*RAW[:5], RAW[6]]
    with pytest.raises(ValueError, match=r"record 1 of .*b.rec cannot be read \(.*hash mismatch"):
        strict[5]
    loose = Records(files, bytes, skip=True)
    with pytest.warns(UserWarning, match=r"record 1 of .*b.rec cannot be .*; it is left out"):
        assert [loose[i] for i in range(7)] == [*RAW[:5], RAW[6], RAW[6]]


def test_a_record_that_does_not_decode_is_named(tmp_path):
    def decode(raw):
        if raw == RAW[3]:
            raise KeyError("label")
        return raw

    with pytest.raises(ValueError, match=r"record 3 of .*a.rec cannot be read \(KeyError: 'label'"):
        Records(records(tmp_path), decode)[3]
    with pytest.warns(UserWarning, match=r"record 3 of .*a.rec cannot be read"):
        loose = Records(records(tmp_path), decode, skip=True)
        assert loose[3] == RAW[0]  # the file's first comes after its last


@pytest.mark.parametrize("size", [0, 1000, 70_000])
def test_a_file_that_is_cut_short(tmp_path, size):
    files = records(tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a.rec has no readable records: it is truncated"):
        Records(files, bytes)
    with pytest.warns(UserWarning, match=r"a.rec has no readable records.*; it is left out"):
        assert len(Records(files, bytes, skip=True)) == 3
    with pytest.raises(FileNotFoundError, match=r"c.rec"):
        Records([tmp_path / "c.rec"], bytes)
    with pytest.raises(ValueError, match=r"Records.files must be a sequence of .*, got 'a.rec'"):
        Records("a.rec", bytes)


@pytest.mark.parametrize(
    ("module", "make", "said"),
    [
        ("grain", lambda: Grain(None), "pipelines are read by grain"),
        (
            "array_record.python.array_record_module",
            lambda: Records([__file__], bytes),
            "records are read by array-record",
        ),
    ],
)
def test_a_library_that_is_not_there(monkeypatch, module, make, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        make()
    assert str(error.value) == f"{said}, which is not installed: write {install('grain')}"

"""Log: the file of a run holds the records of its history, whatever happened to it."""

import contextlib
import json
import os

import jax
import jax.numpy as jnp
import pytest

from jaxnn import train

KEY = jax.random.key(0)
MANY = {"key": KEY, "steps": 12, "every": 2}


class Halve(train.Program):
    """The loss before step i is 1 / 2**i."""

    def init(self, key, batch):
        return jnp.float32(1)

    def step(self, state, batch):
        return state / 2, {"loss": state}


class Blow(Halve):
    """The loss is infinite from step 5 on."""

    def step(self, state, batch):
        return state * 1e10, {"loss": state}


def run(hooks, stop_after=None, **options):
    for event in train.run(Halve(), hooks=hooks, **MANY | options):
        if event.step == stop_after:
            break


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def expected(steps):
    """Means of 1 / 2**i over pairs of steps."""
    return [{"step": n, "loss": (0.5 ** (n - 2) + 0.5 ** (n - 1)) / 2} for n in steps]


def test_each_record_is_a_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    run([train.Log(file)])
    assert lines(file) == expected(range(2, 13, 2))


def test_numbers_that_are_not_finite_are_text(tmp_path):
    file = tmp_path / "metrics.jsonl"
    list(train.run(Blow(), key=KEY, steps=6, every=2, hooks=[train.Log(str(file))]))
    assert lines(file)[-1] == {"step": 6, "loss": "inf"}


def emptied(file):
    file.write_text("")


def removed(file):
    file.unlink()


def cut(file):
    os.truncate(file, file.stat().st_size - 5)


def first_line_lost(file):
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[1:]))


def untouched(file):
    pass


@pytest.mark.parametrize("lose", [untouched, emptied, removed, cut, first_line_lost])
def test_lines_lost_before_a_resume_are_written_again(tmp_path, lose):
    file, kept = tmp_path / "metrics.jsonl", train.Checkpoints(str(tmp_path / "c"), train.Every(4))
    run([train.Log(file), kept], stop_after=10)  # the last checkpoint is that after step 8
    lose(file)
    run([train.Log(file), kept])
    assert lines(file) == expected(range(2, 13, 2))


def test_a_complete_run_that_is_called_once_more_repairs_its_file(tmp_path):
    file, kept = tmp_path / "metrics.jsonl", train.Checkpoints(str(tmp_path / "c"))
    run([train.Log(file), kept])
    removed(file)
    run([train.Log(file), kept])
    assert lines(file) == expected(range(2, 13, 2))


def test_the_file_of_another_run_is_kept(tmp_path):
    file, kept = tmp_path / "metrics.jsonl", train.Checkpoints(str(tmp_path / "c"), train.Every(4))
    run([train.Log(file), kept], stop_after=10)
    other = '{"step": 2, "loss": 7.0}\n'
    file.write_text(other)
    with pytest.raises(
        ValueError, match="has a record of step 2 that is not in the history of the"
    ):
        run([train.Log(file), kept])
    assert file.read_text() == other


def test_a_file_with_lines_needs_checkpoints(tmp_path):
    file = tmp_path / "metrics.jsonl"
    run([train.Log(file)])
    with pytest.raises(FileExistsError, match="it has the lines of another run"):
        run([train.Log(file)])


class Fails:
    """A logger that fails at some calls, and keeps what it is given."""

    def __init__(self, failing):
        self.failing, self.calls, self.kept, self.opened = failing, 0, [], None

    @contextlib.contextmanager
    def open(self, step, config, history):
        self.opened = step, config

        def log(record):
            self.calls += 1
            if self.calls in self.failing:
                raise OSError("the disk is full")
            self.kept.append(record["step"])

        yield log


def test_a_logger_that_fails_for_a_while_gets_all_records():
    logger = Fails(failing=(2, 3))
    with pytest.warns(RuntimeWarning, match=r"failed \(OSError: the disk is full\); the run") as w:
        run([train.Log(logger, config={"rate": 0.5})])
    assert logger.kept == [2, 4, 6, 8, 10, 12]
    assert logger.opened == (None, {"rate": 0.5})
    assert len(w) == 1


def test_a_logger_that_fails_costs_no_state():
    with pytest.warns(RuntimeWarning) as found:
        state, history = train.fit(
            Halve(), hooks=[train.Log(Fails(range(1, 99)))], progress=False, **MANY
        )
    assert float(state) == 0.5**12
    assert len(history) == 6
    assert "lacks 6 records, which are in the history of the run" in str(found[-1].message)


def test_what_is_not_a_logger_is_rejected():
    with pytest.raises(
        TypeError,
        match=r'must be paths and loggers, got 3; write train.Log\("metrics.jsonl"',
    ):
        train.Log(3)  # type: ignore[arg-type]

"""Progress: lines elsewhere, a bar on a terminal, a display in a notebook."""

import contextlib
import io
import os
import subprocess
import sys
import time
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.train.hooks import reporting
from jaxnn.train.record import Record

KEY = jax.random.key(0)


class Halve(train.Program):
    def init(self, key, batch):
        return jnp.float32(1)

    def step(self, state, batch):
        return state / 2, {"loss": state}


def fit(**options: Any):
    given: dict[str, Any] = {"steps": 4, "every": 2}
    return train.fit(Halve(), key=KEY, **given | options)


def test_lines_without_escape_codes(capsys):
    fit()
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in shown] == [
        ["step 2/4", "loss 0.75"],
        ["step 4/4", "loss 0.1875"],
    ]
    assert shown[-1].endswith("0:00:00 left")
    assert "\x1b" not in "".join(shown)


def test_it_is_turned_off(capsys):
    fit(progress=False)
    list(train.run(Halve(), key=KEY, steps=4))
    assert capsys.readouterr() == ("", "")


def test_it_is_shown_once_if_it_is_also_a_hook(capsys):
    fit(hooks=[train.Progress()])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_epochs_and_validation_are_shown(capsys):
    class Mean(train.Program):
        def init(self, key, batch):
            return jnp.float32(0)

        def step(self, state, batch):
            return state, {"loss": batch.mean()}

        def evaluate(self, state, batch, *, key):
            return {"loss": batch.mean()}

    train.fit(Mean(), np.full((4, 1), 2.0, "f"), key=KEY, epochs=2, batch_size=2,
              validation=np.full((2, 1), 3.0, "f"))  # fmt: skip
    first, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("step 2/4  epoch 1  loss 2  validation loss 3  0:00:0")


def test_a_terminal_gets_a_bar_and_lines():
    program = """
import jax, jax.numpy as jnp
from jaxnn import train
class Halve(train.Program):
    def init(self, key, batch): return jnp.float32(1)
    def step(self, state, batch): return state / 2, {"loss": state}
train.fit(Halve(), key=jax.random.key(0), steps=4, every=2)
"""
    pty = pytest.importorskip("pty")
    pytest.importorskip("rich")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=follower, env=os.environ | {"TERM": "xterm"}
    )
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    assert b"step 2/4  loss 0.75" in shown
    assert b"2/4" in shown
    assert b"steps, left" in shown


def test_a_notebook_gets_one_display_that_is_updated(monkeypatch):
    pages = []

    class Handle:
        def update(self, page):
            pages.append(page)

    def display(page, display_id):
        pages.append(page)
        return Handle()

    shell = type("ZMQInteractiveShell", (), {})()
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    displays = types.SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    fit()
    # The empty page, the first record, and at the end what came within a second.
    assert len(pages) == 3
    assert '<progress value="4" max="4">' in pages[-1]
    assert "step 2/4  loss 0.75" in pages[-1]


def test_many_quick_records_are_drawn_at_once(monkeypatch):
    """To draw takes milliseconds, and a record of this program takes less than one."""
    shown = []

    def display():
        return lambda total, step: contextlib.nullcontext(lambda *given: shown.append(given))

    monkeypatch.setattr(reporting, "_display", display)
    began = time.perf_counter()
    fit(steps=300, every=1)
    assert len(shown) <= 3 + (time.perf_counter() - began) / reporting.SECONDS
    assert [line.split("  ")[0] for _, lines in shown for line in lines] == [
        f"step {step}/300" for step in range(1, 301)
    ]


def test_output_that_fails_does_not_stop_the_run(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError("the terminal is gone")

    monkeypatch.setattr(sys, "stdout", Gone())
    state, _ = fit()
    assert float(state) == 0.5**4


def test_metrics_are_not_read_between_records(monkeypatch):
    """Only the bar moves there: reading would wait for the device."""
    monkeypatch.setattr(reporting, "SECONDS", 0.0)
    fetched = []
    plain = Record.plain
    monkeypatch.setattr(Record, "plain", lambda self: fetched.append(1) or plain(self))
    shown = []

    def display():
        return lambda total, step: contextlib.nullcontext(lambda *given: shown.append(given))

    monkeypatch.setattr(reporting, "_display", display)
    list(train.run(Halve(), key=KEY, steps=2500, hooks=[train.Progress()]))
    assert [step for step, _ in shown] == [1000, 2000, 2500, 2500]
    assert [len(lines) for _, lines in shown] == [0, 0, 1, 0]
    assert len(fetched) == 1


def test_a_run_whose_length_is_not_known_shows_its_steps(capsys):
    """Epochs of a generator end when it does."""

    class Mean(train.Program):
        def init(self, key, batch):
            return jnp.float32(0)

        def step(self, state, batch):
            return state, {"loss": batch.mean()}

    def batches():
        yield from np.full((3, 2, 1), 2.0, "f")

    train.fit(Mean(), batches, key=KEY, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 3  epoch 1  loss 2", "step 6  epoch 2  loss 2"]

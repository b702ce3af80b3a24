"""Hooks that do something wrong: the error names them, and nothing of the run is lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train

KEY = jax.random.key(0)


class Halve(train.Program):
    def init(self, key, batch):
        return jnp.float32(1)

    def step(self, state, batch):
        return state / 2, {"loss": state}


def fit(hooks, **options):
    given = {"key": KEY, "steps": 8, "every": 2, "progress": False}
    return train.fit(Halve(), hooks=hooks, **given | options)


class Counts(train.Hook):
    """Remembers what `kinds` says, of the kind that it begins with, or of another."""

    def __init__(self, begin, then):
        self.memory, self.then = begin, then

    def begin(self, state):
        return self.memory

    def see(self, memory, event):
        return self.then, None


class Returns(train.Hook):
    def __init__(self, result):
        self.result = result

    def see(self, memory, event):
        return self.result


@pytest.mark.parametrize("result", [None, 3, (None,), (None, None, None)])
def test_see_returns_a_memory_and_an_action(result):
    with pytest.raises(
        TypeError,
        match=r"the result of see must be the memory and an action, .*, got .*write return",
    ):
        fit([Returns(result)])


def test_an_action_is_one_of_three():
    with pytest.raises(
        TypeError, match=r"None, a train.Stop, or a train.RollBack, got \(None, 'stop'\)"
    ):
        fit([Returns((None, "stop"))])


@pytest.mark.parametrize("memory", ["text", {"a": object()}, [jax.ShapeDtypeStruct((), "f")]])
def test_a_memory_is_of_arrays_and_numbers(memory):
    with pytest.raises(TypeError, match="a hook's memory is a pytree of arrays and numbers, which"):
        fit([Counts(memory, memory)])
    with pytest.raises(TypeError, match="a hook's memory is a pytree of arrays and numbers, which"):
        fit([Counts(None, memory)])


@pytest.mark.parametrize(
    ("begin", "then", "text"),
    [
        (None, {"n": 1}, "n is a number instead of nothing"),
        ({"n": 1}, {}, "n is missing instead of a number"),
        ({"n": 1}, {"n": np.zeros(2)}, r"n is float64\[2\] instead of a number"),
        ((1,), [1], r"it is PyTreeDef\(\[\*\]\) instead of PyTreeDef\(\(\*,\)\)"),
        (np.zeros(2, "f"), np.zeros(3, "f"), r"the memory is float32\[3\] instead of float32\[2\]"),
    ],
)
def test_a_memory_keeps_its_structure(begin, then, text):
    with pytest.raises(TypeError, match=f"which keeps its structure.*{text}") as found:
        fit([Counts(begin, then)])
    assert found.value.__notes__[0].endswith("in see, after step 2")


def test_a_memory_of_another_structure_than_in_the_checkpoint(tmp_path):
    kept = train.Checkpoints(str(tmp_path))
    fit([Counts({"n": 1}, {"n": 2}), kept])
    text = r"the checkpoint has Counts/0/n of the memory of .*Counts.*begins with Counts/0/m"
    with pytest.warns(RuntimeWarning, match=text):
        fit([Counts({"m": 1}, {"m": 2}), kept], steps=10)


def test_a_hook_with_arrays_is_added_when_a_run_is_resumed(tmp_path):
    kept = train.Checkpoints(str(tmp_path))
    fit([kept])
    seen = []

    class Sees(Counts):
        def see(self, memory, event):
            seen.append((event.step, float(memory["a"])))
            return {"a": memory["a"] + 1}, None

    fit([Sees({"a": jnp.float32(5)}, None), kept], steps=12)
    assert seen == [(10, 5.0), (12, 6.0)]


@pytest.mark.parametrize("call", ["open", "check", "begin", "see"])
def test_a_hook_that_raises_is_named_and_leaves_whole_files(tmp_path, call):
    def fails(self, *arguments):
        if call == "see" and arguments[1].step < 6:
            return None, None
        raise ZeroDivisionError("oops")

    Failing = type("Failing", (train.Hook,), {call: fails, "__repr__": lambda self: "Failing()"})
    file, kept = tmp_path / "metrics.jsonl", train.Checkpoints(str(tmp_path / "c"), train.Every(2))
    with pytest.raises(ZeroDivisionError) as found:
        fit([train.Log(file), Failing(), kept])
    assert f"raised by the hook Failing() in {call}" in found.value.__notes__[0]
    if call == "see":
        assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4, 6]
    state, history = fit([train.Log(file), kept])  # nothing is locked, and the run is resumed
    assert float(state) == 0.5**8
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4, 6, 8]
    assert len(history) == 4


def test_the_note_does_not_print_data():
    x = np.arange(1e4).reshape(-1, 1)
    with pytest.raises(
        ValueError, match=r"evaluate must be at least one metric by name, got \{\}; write"
    ) as found:
        fit([train.Evaluate(x)])
    assert found.value.__notes__ == ["raised by the hook Evaluate(data=float64[10000,1]) in check"]

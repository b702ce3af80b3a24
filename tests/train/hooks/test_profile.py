"""Profile: a trace of chosen steps of a program."""

import jax
import jax.numpy as jnp
import pytest

from jaxnn import train
from jaxnn.train.hooks import measurement as profiles


class Halve(train.Program):
    def init(self, key, batch):
        return jnp.float32(1)

    def step(self, state, batch):
        return state / 2, {"loss": state}


def fit(hooks, steps=12):
    return train.fit(Halve(), key=jax.random.key(0), steps=steps, hooks=hooks, progress=False)


def test_a_trace_is_written(tmp_path):
    _, history = fit([train.Profile(str(tmp_path / "trace"), first=4, steps=2)])
    assert [*(tmp_path / "trace").rglob("*.xplane.pb")]
    assert len(history) == 1  # a trace makes no record


@pytest.mark.parametrize(("first", "steps", "expected"), [
    (4, 2, [("start", 4), ("stop", 6)]),
    (0, 3, [("start", 0), ("stop", 3)]),
    (10, 9, [("start", 10), ("stop", 12)]),
    (50, 1, []),
])  # fmt: skip
def test_the_steps_of_the_trace(tmp_path, monkeypatch, first, steps, expected):
    seen, at = [], [0]
    start = lambda folder: seen.append(("start", at[0]))  # noqa: E731
    monkeypatch.setattr(profiles.jax.profiler, "start_trace", start)
    monkeypatch.setattr(profiles.jax.profiler, "stop_trace", lambda: seen.append(("stop", at[0])))

    class Where(train.Hook):
        @property
        def ends(self):
            return tuple(range(13))

        def is_due(self, now, since):
            at[0] = now.step
            return False

        def see(self, memory, event):
            at[0] = event.step
            return memory, None

    fit([Where(), train.Profile(str(tmp_path), first=first, steps=steps)])
    assert seen == expected


def test_a_trace_that_cannot_be_written_is_an_error_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    with pytest.raises(NotADirectoryError, match="file/trace"):
        fit([seen.append, train.Profile(str(tmp_path / "file" / "trace"), first=1, steps=1)])
    assert not seen

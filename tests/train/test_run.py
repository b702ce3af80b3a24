"""Runs: a fold of a program with hooks, compared with loops written by hand."""

import functools
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import interop, train
from jaxnn.data.source import epoch_order

KEY = jax.random.key(0)
TRACES: list[int] = []
X = np.random.default_rng(0).normal(size=(50, 4)).astype("f")
Y = np.random.default_rng(1).integers(0, 3, 50)
NET = nn.Sequential(nn.Dense(8), jax.nn.relu, nn.Dropout(0.1), nn.Dense(3))
PROGRAM = train.Supervised(NET, train.Classification(3), optax.adam(1e-2))


class Decay(train.Program):
    """A program that makes its own data: x becomes x * rate, with noise."""

    rate: float = 0.9

    def init(self, key, batch):
        return {"x": 1.0, "key": key, "i": jnp.int32(0)}

    def step(self, state, batch):
        noise = 1e-3 * jax.random.normal(jax.random.fold_in(state["key"], state["i"]))
        x = state["x"] * self.rate + noise
        return state | {"x": x, "i": state["i"] + 1}, {"x": x}


def same(one, other):
    """Whether two trees are equal to the bit."""

    def words(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(words(a), words(b), equal_nan=True) for a, b in pairs)


def options(**more):
    return {"key": KEY, "epochs": 4, "batch_size": 8, "progress": False} | more


def test_a_run_equals_a_loop_written_by_hand():
    state, history = train.fit(PROGRAM, (X, Y), **options())
    step, expected = train.make_step(PROGRAM), PROGRAM.init(KEY, (X[:8], Y[:8]))
    means = []
    for epoch in range(4):
        rows = epoch_order(KEY, epoch, 50)[:48].reshape(6, 8)
        parts = []
        for chosen in rows:
            expected, metrics = step(expected, (X[chosen], Y[chosen]))
            parts.append(float(metrics["loss"]))
        means.append(np.mean(parts))
    assert same(state, expected)
    np.testing.assert_allclose([one["loss"] for one in history], means, rtol=1e-12)
    assert [one["step"] for one in history] == [6, 12, 18, 24]


@pytest.mark.parametrize("every", [1, 5, train.Every(steps=7), train.Every(epochs=2)])
def test_records_do_not_change_the_state(every):
    state, _ = train.fit(PROGRAM, (X, Y), **options())
    again, history = train.fit(PROGRAM, (X, Y), **options(every=every))
    assert same(state, again)
    assert history[-1]["step"] == 24


def test_a_program_without_data():
    state, history = train.fit(Decay(), key=KEY, steps=10, every=5, progress=False)
    x, values = 1.0, []
    for i in range(10):
        x = x * np.float32(0.9) + 1e-3 * jax.random.normal(jax.random.fold_in(KEY, i))
        values.append(float(x))
    np.testing.assert_allclose(state["x"], x, rtol=1e-6)
    np.testing.assert_allclose(
        [one["x"] for one in history], [np.mean(values[:5]), np.mean(values[5:])], rtol=1e-6
    )


def hooks(folder):
    return [
        train.Evaluate((X[:20], Y[:20])),
        train.EarlyStopping("validation_loss", patience=3),
        train.Divergence(retries=2),
        train.Checkpoints(str(folder), train.Every(steps=5)),
    ]


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_broken_run_resumes_bitwise(tmp_path, stop_at):
    whole, history = train.fit(PROGRAM, (X, Y), **options(hooks=hooks(tmp_path / "whole")))
    given = options(hooks=hooks(tmp_path / "broken"))
    given.pop("progress")
    for event in train.run(PROGRAM, (X, Y), **given):
        if len(event.history) == stop_at:
            break
    again, records = train.fit(PROGRAM, (X, Y), **options(hooks=hooks(tmp_path / "broken")))
    assert same(whole, again)
    assert history == records


def test_a_run_without_data_resumes_bitwise(tmp_path):
    given = {"key": KEY, "steps": 40, "every": 10}
    whole, history = train.fit(Decay(), **given, progress=False)
    for event in train.run(Decay(), **given, hooks=[train.Checkpoints(str(tmp_path))]):
        if event.step == 20:
            break
    again, records = train.fit(
        Decay(), **given, hooks=[train.Checkpoints(str(tmp_path))], progress=False
    )
    assert same(whole, again)
    assert history == records


def test_a_stopped_run_stays_stopped(tmp_path):
    def stop(event):
        return train.Stop("enough") if event.step == 12 else None

    given = options(hooks=[stop, train.Checkpoints(str(tmp_path))])
    state, history = train.fit(PROGRAM, (X, Y), **given)
    assert history[-1]["step"] == 12
    again, records = train.fit(PROGRAM, (X, Y), **given)
    assert same(state, again)
    assert records == history


@pytest.mark.filterwarnings("ignore:the checkpoint has .* begins again")
def test_hooks_may_change_when_a_run_resumes(tmp_path):
    whole, _ = train.fit(PROGRAM, (X, Y), **options())
    checkpoints = train.Checkpoints(str(tmp_path), train.Every(steps=5))
    several = [
        [train.Divergence(retries=1)],  # with an array that the next does not know
        [train.EarlyStopping("loss", patience=9)],
        [train.Divergence(retries=1), train.EarlyStopping("loss", patience=9)],
    ]
    state = None
    for i, before in enumerate(several):
        given = options(hooks=[*before, checkpoints], epochs=i + 2)
        state, _ = train.fit(PROGRAM, (X, Y), **given)
    assert same(whole, state)


@pytest.mark.parametrize(
    ("program", "data", "short", "long"),
    [(Decay(), None, {"steps": 6}, {"steps": 12}), (PROGRAM, (X, Y), {"epochs": 2}, {"epochs": 4})],
)
def test_a_finished_run_is_made_longer(tmp_path, program, data, short, long):
    given = {"key": KEY, "batch_size": 8, "progress": False}
    whole, _ = train.fit(program, data, **given, **long)
    hooks = [train.Checkpoints(str(tmp_path))]
    train.fit(program, data, **given, **short, hooks=hooks)
    longer, history = train.fit(program, data, **given, **long, hooks=hooks)
    assert same(whole, longer)
    assert history[-1]["step"] == (12 if data is None else 24)
    with pytest.raises(ValueError, match=r"write (steps=12|epochs=4) or more, or name another"):
        train.fit(program, data, **given, **short, hooks=hooks)


def test_a_stop_between_records_ends_with_a_record(tmp_path):
    class Early(train.Hook):
        every = train.Every(steps=4)

        def see(self, memory, event):
            return memory, None if event.is_record else train.Stop("early")

    hooks = [Early(), train.Checkpoints(str(tmp_path))]
    state, history = train.fit(Decay(), key=KEY, steps=20, every=10, hooks=hooks, progress=False)
    assert [one["step"] for one in history] == [4]
    expected, _ = train.fit(Decay(), key=KEY, steps=4, progress=False)
    assert same(state, expected)
    assert [int(one.name) for one in tmp_path.iterdir() if one.is_dir()] == [4]


def test_another_run_is_refused(tmp_path):
    train.fit(PROGRAM, (X, Y), **options(hooks=hooks(tmp_path)))
    others = {
        "key": {"key": jax.random.key(1)},
        "batch_size": {"batch_size": 10},
        "every": {"every": 3},
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=rf"is a checkpoint of another run:\n  {name}"):
            train.fit(PROGRAM, (X, Y), **options(hooks=hooks(tmp_path)) | other)
    with pytest.raises(ValueError, match=r"data/0: recorded"):
        train.fit(PROGRAM, (X + 1, Y), **options(hooks=hooks(tmp_path)))
    faster = train.Supervised(NET, train.Classification(3), optax.adam(2e-2))
    with pytest.raises(ValueError, match=r"program/"):
        train.fit(faster, (X, Y), **options(hooks=hooks(tmp_path)))


class Unlucky(train.Program):
    """A draw below `chance` makes the number NaN, at a step that depends on the key."""

    chance: float = 0.05

    def init(self, key, batch):
        return {"x": jnp.float32(1), "key": key, "i": jnp.int32(0)}

    def step(self, state, batch):
        draw = jax.random.uniform(jax.random.fold_in(state["key"], state["i"]))
        x = jnp.where(draw < self.chance, jnp.nan, state["x"] * 0.99)
        return state | {"x": x, "i": state["i"] + 1}, {"loss": x}


def test_a_roll_back_takes_other_draws_and_counts_the_failed_steps():
    watch = train.Divergence(retries=20)
    with pytest.warns(RuntimeWarning, match="rolled back"):
        state, history = train.fit(
            Unlucky(), key=KEY, steps=100, every=10, hooks=[watch], progress=False
        )
    failed = sum(not np.isfinite(one["loss"]) for one in history)
    assert failed > 0
    assert np.isfinite(state["x"])
    assert history[-1]["step"] == 100
    assert int(state["i"]) == 100 - 10 * failed


@pytest.mark.filterwarnings("ignore:.*rolled back")
@pytest.mark.parametrize("stop_at", [2, 5, 7])
def test_a_roll_back_after_a_resume_is_the_same(tmp_path, stop_at):
    given = {"key": KEY, "steps": 100, "every": 10}

    def both():
        checkpoints = train.Checkpoints(str(tmp_path), train.Every(steps=7))
        return [train.Divergence(retries=20), checkpoints]

    whole, history = train.fit(
        Unlucky(), **given, hooks=[train.Divergence(retries=20)], progress=False
    )
    for event in train.run(Unlucky(), **given, hooks=both()):
        if len(event.history) == stop_at:
            break
    again, records = train.fit(Unlucky(), **given, hooks=both(), progress=False)
    assert same(whole, again)
    np.testing.assert_equal(records, history)


def test_fit_raises_for_a_loss_that_is_not_finite():
    with pytest.raises(train.Diverged, match=r"loss is nan after step \d+.*; x of the state is"):
        train.fit(Unlucky(0.5), key=KEY, steps=20, every=5, progress=False)


def test_a_changed_number_traces_nothing():
    class Counted(train.Program):
        rate: float

        def init(self, key, batch):
            return jnp.float32(1)

        def step(self, state, batch):
            # By its name, since data that the code refers to belong to the program.
            vars(sys.modules[__name__])["TRACES"].append(1)
            return state * self.rate, {"x": state}

    for rate in (0.5, 0.25, 0.125):
        state, _ = train.fit(Counted(rate), key=KEY, steps=3, progress=False)
        assert float(state) == rate**3
    assert len(TRACES) == 1


def test_a_changed_helper_takes_effect():
    space: dict[str, Any] = {"train": train, "jnp": jnp}
    code = """
    class P(train.Program):
        def init(self, key, batch): return jnp.float32(0)
        def step(self, s, batch): return s + helper(), {"loss": s}
    """
    # As typed into a notebook: the code of files that are not the user's counts by its name.
    cell = functools.partial(compile, filename="<cell>", mode="exec")
    exec(cell("def helper(): return 1.0\n" + textwrap.dedent(code)), space)
    first, _ = train.fit(space["P"](), key=KEY, steps=3, progress=False)
    exec(cell("def helper(): return 100.0\n"), space)
    second, _ = train.fit(space["P"](), key=KEY, steps=3, progress=False)
    assert (float(first), float(second)) == (3.0, 300.0)


def step_program(function, state=0.0):
    """A program of a step and a state."""

    class Given(train.Program):
        def init(self, key, batch):
            return jax.tree.map(jnp.float32, state)

        def step(self, state, batch):
            return function(state)

    return Given()


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (lambda s: s, TypeError, "must be the new state and metrics, got float32"),
        (
            lambda s: ({"new": s}, {}),
            ValueError,
            r"(?s)Given.step must return .* the state is missing instead of float32\[\].* new",
        ),
        (
            lambda s: (s.astype(jnp.bfloat16), {}),
            ValueError,
            r"the state is bfloat16\[\] instead of float32\[\]",
        ),
        (
            lambda s: (s, {"loss": jnp.ones(2)}),
            ValueError,
            "the metric 'loss' of .* must be a real scalar, got",
        ),
    ],
)
def test_a_step_that_does_not_fit(function, error, text):
    with pytest.raises(error, match=text):
        train.fit(step_program(function), key=KEY, steps=3, progress=False)


def test_bad_lengths_and_hooks():
    fine = step_program(lambda s: (s, {"loss": s}))
    with pytest.raises(ValueError, match=r"epochs= or steps=, got neither; write epochs=10"):
        train.fit(fine, key=KEY, progress=False)
    with pytest.raises(ValueError, match="got both"):
        train.fit(fine, key=KEY, epochs=1, steps=1, progress=False)
    with pytest.raises(ValueError, match=r"no epochs without data of known length"):
        train.fit(fine, key=KEY, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"batch_size must be an int from 1 to 50, got 51"):
        train.fit(PROGRAM, (X, Y), key=KEY, epochs=1, batch_size=51, progress=False)
    with pytest.raises(
        ValueError,
        match=r"train.Checkpoints last.*write hooks=\[EarlyStopping\(metric='loss'\), Checkpoints",
    ):
        late = [train.Checkpoints("never"), train.EarlyStopping("loss")]
        train.fit(fine, key=KEY, steps=1, hooks=late)
    with pytest.raises(
        TypeError,
        match=r"hooks\[0\] must be a train.Hook or a function of an event, got 3; write hooks=\[",
    ):
        train.fit(fine, key=KEY, steps=1, hooks=[3])
    with pytest.raises(
        ValueError,
        match=r"'validation_loss' is not a metric of .*; write EarlyStopping\('loss'\)",
    ):
        watch = [train.EarlyStopping("validation_loss")]
        train.fit(fine, key=KEY, steps=1, hooks=watch, progress=False)
    with pytest.raises(ValueError, match=r"the direction of 'x' is unknown: write EarlyStopping"):
        train.fit(Decay(), key=KEY, steps=1, hooks=[train.EarlyStopping("x")], progress=False)


def test_plain_parameters_are_no_state():
    params = NET.init(KEY, X)
    advice = r"trained must be .*, got .*; write train\.Weights\(params, net\.init_state\(x\)\) for"
    for call in (
        lambda: train.save_weights("weights.safetensors", NET, params),
        lambda: train.evaluation_params(params),
        lambda: interop.export(NET, params, X),
        lambda: interop.pack_onnx(NET, params, X),
    ):
        with pytest.raises(TypeError, match=advice):
            call()
    advice = r"must be a train.TrainState, got .*=train\.Weights\(params, net\.init_state\(x\)"
    for call in (
        lambda: train.evaluate(PROGRAM, params, (X, Y)),
        lambda: train.predict(PROGRAM, params, X),
    ):
        with pytest.raises(TypeError, match=advice):
            call()


def test_an_error_of_a_hook_names_the_hook():
    def broken(event):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        train.fit(Decay(), key=KEY, steps=1, hooks=[broken], progress=False)
    assert "raised by the hook Callback" in caught.value.__notes__[0]
    assert "after step 1" in caught.value.__notes__[0]


@pytest.mark.slow  # tests/train/test_checkpoint.py kills a run each time
def test_a_killed_run_resumes_in_another_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import hashlib, os, sys
            import jax, numpy as np, optax
            import jaxnn as nn
            from jaxnn import train

            x = np.random.default_rng(0).normal(size=(40, 3)).astype("f")
            program = train.Supervised(nn.Dense(1), train.Regression(), optax.adam(1e-2))
            folder, die = sys.argv[1], sys.argv[2] == "die"
            hooks = [
                train.Evaluate((x, x[:, 0])),
                train.EarlyStopping("validation_loss"),
                train.Checkpoints(folder, train.Every(steps=3)),
                ]

            def kill(event):
                if die and event.step == 10:
                    os._exit(9)

            state, history = train.fit(
                program, (x, x[:, 0]), key=jax.random.key(0), epochs=4, batch_size=8,
                hooks=[kill, *hooks], progress=False,
            )
            words = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
            print(hashlib.sha256(words).hexdigest(), history)
            """
        )
    )

    def start(folder, how):
        command = [sys.executable, str(script), str(tmp_path / folder), how]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert start("killed", "die").returncode == 9
    resumed, whole = start("killed", "live"), start("whole", "live")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout

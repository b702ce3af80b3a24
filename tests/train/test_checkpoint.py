"""Checkpoints: a killed run ends bitwise as if it never was; damaged ones are not used."""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import pickle
import random
import shutil
import signal
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

import jaxnn as nn
from jaxnn import data, train
from jaxnn.files.reading import FileError
from jaxnn.train import checkpoint
from tests.train.resumable import NET, digest, examples, main

EPOCHS = 6
TASK = train.Classification(3)


@pytest.fixture(scope="module")
def server():
    """Processes come from one that has imported everything and never computed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.resumable"])
    return context


@contextlib.contextmanager
def begun(server, folder):
    """A process at its beginning, and where it tells its end."""
    listened, told = server.Pipe(duplex=False)
    process = server.Process(target=main, args=(str(folder), EPOCHS, told))
    process.start()
    told.close()
    assert listened.recv() == "begun"
    yield process, listened
    process.join()
    listened.close()


def whole(server, folder):
    """What an uninterrupted run ends with, and how long it takes after its beginning."""
    with begun(server, folder) as (_, told):
        began = time.monotonic()
        return told.recv(), time.monotonic() - began


def killed(server, folder, times, seed):
    """What a run ends with that is killed at random moments and begun again each time."""
    wanted, seconds = whole(server, folder / "whole")
    rng, place, kills = random.Random(seed), folder / "killed", 0
    while kills < times:
        with begun(server, place) as (process, _):
            time.sleep(rng.uniform(0.2, 1.0) * seconds)  # some of it is compiling
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                kills += 1
            else:  # it was at its end already: once more from the beginning
                place = folder / f"killed-{kills}-{rng.random()}"
    return whole(server, place)[0], wanted


def test_a_run_killed_at_a_moment_ends_with_the_same_bits(server, tmp_path):
    end, wanted = killed(server, tmp_path, 1, seed=0)
    assert end == wanted


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_with_the_same_bits(server, tmp_path):
    end, wanted = killed(server, tmp_path, 20, seed=1)
    assert end == wanted


def fit(folder, epochs=2, net: nn.Layer = NET, optimizer=None, arguments=None, **options):
    """A small run; `arguments` are of `fit` and `Supervised`, and `options` of `Checkpoints`."""
    options = {"every": train.Every(epochs=1), "keep": 2} | options
    parts = {
        "net": net,
        "task": TASK,
        "optimizer": optimizer or optax.adam(1e-2),
        "data": examples(),
        "validation": examples(),
        "batch_size": 16,
        "key": jax.random.key(3),
        **(arguments or {}),
    }
    names = ("net", "task", "optimizer", "accumulate", "precision")
    program = train.Supervised(**{name: parts.pop(name) for name in names if name in parts})
    hooks = [] if folder is None else [train.Checkpoints(str(folder), **options)]
    return train.fit(program, **parts, epochs=epochs, hooks=hooks, progress=False)


def changed(x):
    """The array with one number changed by the last bit."""
    x = x.copy()
    x[7, 3] = np.nextafter(x[7, 3], np.inf)
    return x


@pytest.fixture(scope="module")
def uninterrupted():
    return digest(*fit(None, 5))


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_a_run_goes_on_from_the_newest(tmp_path, uninterrupted):
    for epochs in (1, 2, 2, 5):
        ts, history = fit(tmp_path, epochs)
        assert [record["epoch"] for record in history] == list(range(1, epochs + 1))
    assert digest(ts, history) == uninterrupted
    assert names(tmp_path) == ["24", "30", "run.lock"]


def test_the_best_is_kept_and_found(tmp_path):
    _, history = fit(tmp_path, 6, keep=1, best="validation_loss", optimizer=optax.sgd(1.5))
    losses = [record["validation_loss"] for record in history]
    best = int(np.argmin(losses))
    kept = train.Checkpoints(str(tmp_path), best="validation_loss")
    assert names(tmp_path) == [*sorted({"36", str(6 * (best + 1))}), "run.lock"]
    program = train.Supervised(NET, TASK, optax.sgd(1.5))
    like = jax.eval_shape(program.init, jax.random.key(0), examples())
    found = kept.restore(like, "best")
    again = train.evaluate(program, found, examples())
    np.testing.assert_allclose(again["loss"], losses[best], rtol=1e-6)
    assert int(kept.restore(like).step) == 36
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint 7; there are those after"):
        kept.restore(like, 7)


def other_network():
    return nn.Sequential(nn.Dense(16), nn.BatchNorm(), jax.nn.relu, nn.Dropout(0.3), nn.Dense(3))


def shifted(key, x):
    return x


# What determines the numbers of a run: an argument of `fit`, and the line about it.
OTHER_RUNS = {
    "batch size": ({"batch_size": 8}, "batch_size: recorded 16, now 8"),
    "key": ({"key": jax.random.key(4)}, "key: recorded threefry2x32 uint32[2] "),
    "rows": (
        {"data": tuple(part[:80] for part in examples())},
        "data/0: recorded float32[96,8] ",
    ),
    "one number": ({"data": (changed(examples()[0]), examples()[1])}, "data/0: recorded float32[9"),
    "one label": ({"data": (examples()[0], examples()[1][::-1])}, "data/1: recorded int32[96] "),
    "validation": (
        {"validation": tuple(p[:9] for p in examples())},
        "validation/0: recorded float32[9",
    ),
    "no validation": ({"validation": None}, "validation: recorded {'0': 'float32[96,8] "),
    "rate": ({"optimizer": optax.adam(2e-2)}, "step_size: recorded -0.01, now -0.02"),
    "moment": ({"optimizer": optax.adam(1e-2, b2=0.99)}, "b2: recorded 0.999, now 0.99"),
    "network": (
        {"net": other_network()},
        "Dropout(0.2), Dense(3)), Classification(3)), now Superv",
    ),
    "task": (
        {"task": lambda o, t: TASK(o, t)},
        "Classification(3)), now SupervisedLoss(Sequential(Dense(16)",
    ),
    "augment": (
        {"data": data.Augmented(examples(), shifted)},
        "tests.train.test_checkpoint.shifted",
    ),
    "accumulate": ({"accumulate": 2}, "/accumulate: recorded 1, now 2"),
    "precision": (
        {"precision": nn.Precision(compute="bfloat16")},
        "/precision: recorded None, now Precision()",
    ),
    "records": ({"every": 3}, "every: recorded None, now 3"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run that was saved after two epochs; nobody writes into its folder."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    fit(folder)
    return folder


@pytest.mark.parametrize("name", OTHER_RUNS)
def test_another_run_is_refused_and_the_folder_left_alone(saved, name):
    changes, line = OTHER_RUNS[name]
    before = {file: file.read_bytes() for file in saved.rglob("*") if file.is_file()}
    with pytest.raises(ValueError) as caught:
        fit(saved, 3, arguments=changes)
    assert f"{saved / '12'} is a checkpoint of another run:" in str(caught.value)
    assert line in str(caught.value)
    assert "To start this one, write Checkpoints(...) with another folder." in str(caught.value)
    assert {file: file.read_bytes() for file in saved.rglob("*") if file.is_file()} == before


def test_a_run_of_fewer_epochs_is_refused(saved):
    with pytest.raises(
        ValueError, match=r"has done 12 steps, and this one is 6 steps long; write epochs=2"
    ):
        fit(saved, 1)


class Gain(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return self.inner(x) * 2.0


def test_changed_code_of_a_layer_is_refused_and_a_changed_comment_is_not(tmp_path, monkeypatch):
    net = Gain(nn.Dense(3))
    fit(tmp_path, 1, net=net)

    def same(self, x):
        """Now it has documentation."""
        # And a comment.
        return self.inner(x) * 2.0

    def other(self, x):
        return self.inner(x) * 3.0

    for forward in (same, other):
        forward.__qualname__, forward.__name__ = "Gain.forward", "forward"
    monkeypatch.setattr(Gain, "forward", same)
    fit(tmp_path, 2, net=net)
    monkeypatch.setattr(Gain, "forward", other)
    with pytest.raises(ValueError, match=r"\n  program.*: the code of Gain changed\n"):
        fit(tmp_path, 3, net=net)


def test_a_forced_run_says_what_differs_and_every_later_checkpoint_records_it(tmp_path):
    fit(tmp_path, 1)
    with pytest.warns(RuntimeWarning, match=r"because of force=True:\n  batch_size: recorded 16"):
        fit(tmp_path, 2, arguments={"batch_size": 8}, force=True)
    progress = json.loads((tmp_path / "24" / "progress" / "metadata").read_text())
    assert "batch_size: recorded 16, now 8" in progress["forced"][0]
    fit(tmp_path, 3, arguments={"batch_size": 8})  # it is the run now, and its past is kept
    progress = json.loads((tmp_path / "36" / "progress" / "metadata").read_text())
    assert "batch_size: recorded 16, now 8" in progress["forced"][0]


def test_other_versions_are_a_warning(tmp_path, saved, monkeypatch, uninterrupted):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(checkpoint, "version", lambda name: "0.0.1")
    with pytest.warns(RuntimeWarning, match=r"other versions, so that .*: jax: recorded .*0.0.1"):
        assert digest(*fit(tmp_path, 5)) == uninterrupted


def test_data_on_the_host_and_on_the_device_are_one(tmp_path, saved, uninterrupted):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    x, y = examples()
    data = jnp.asarray(x), y.astype(np.int64)  # int32 on the device, as before
    assert digest(*fit(tmp_path, 5, arguments={"data": data})) == uninterrupted


@pytest.fixture(scope="module")
def four_epochs(tmp_path_factory):
    """The folder of a run of four epochs; nobody writes into it."""
    folder = tmp_path_factory.mktemp("four") / "run"
    fit(folder, 4)
    return folder


@pytest.mark.parametrize("harm", ["truncated", "flipped", "removed", "metadata"])
def test_a_damaged_newest_is_reported_and_the_one_before_used(
    tmp_path, four_epochs, uninterrupted, harm
):
    shutil.copytree(four_epochs, tmp_path, dirs_exist_ok=True)
    files = [one for one in (tmp_path / "24" / "state").rglob("*") if one.is_file()]
    file = max(files, key=lambda one: one.stat().st_size)
    if harm == "metadata":
        (tmp_path / "24" / "seal.json").unlink()  # as if killed just before it
        file = tmp_path / "24" / "state" / "_METADATA"
    contents = bytearray(file.read_bytes())
    if harm == "removed":
        file.unlink()
    elif harm == "flipped":
        contents[len(contents) // 2] ^= 1
        file.write_bytes(contents)
    else:
        file.write_bytes(contents[: len(contents) // 2])
    with pytest.warns(RuntimeWarning, match=r"after step 24 is damaged \(.*the one before it is"):
        end = fit(tmp_path, 5)
    assert digest(*end) == uninterrupted
    assert "damaged-24" in names(tmp_path)


# Characters that orbax, a shell, a URI, or a pattern reads as something else.
ODD = [
    "a[1]b",
    "[a-z]*?",
    "a\\b",
    "**",
    "a b\nc",
    "é漢%20#$HOME'\"",
    "-a.",
    "~",
    b"a\xff",
    "x" * 200,
    "gs:",  # with what follows it, the beginning of a URL
]


@pytest.mark.parametrize(
    "parts", [ODD, *(pytest.param([name], marks=pytest.mark.slow) for name in ODD)], ids=repr
)
def test_a_folder_of_any_name_is_resumed(tmp_path, parts, recwarn):
    folder = tmp_path.joinpath(*map(os.fsdecode, parts))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for epochs in (1, 2):
            small(folder, epochs)
    assert names(folder) == ["4", "8", "run.lock"]
    assert int(train.Checkpoints(str(folder)).restore(small_state(), 4).step) == 4


@pytest.mark.parametrize(
    "impl", ["threefry2x32", "unsafe_rbg", pytest.param("rbg", marks=pytest.mark.slow)]
)
def test_a_random_key_in_the_state_of_an_optimizer_is_resumed(tmp_path, impl):
    key = jax.random.key(5, impl=impl)
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, key=key), optax.sgd(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        whole, _ = small(tmp_path / "whole", 2, optimizer)
        small(tmp_path / "parts", 1, optimizer)
        resumed, _ = small(tmp_path / "parts", 2, optimizer)
    assert jax.random.key_data(key).shape  # no step took it
    a, b = (jax.random.key_data(ts.opt_state[0].rng_key) for ts in (whole, resumed))
    assert jax.random.key_impl(resumed.opt_state[0].rng_key) == impl
    assert (a == b).all() and (whole.params["w"] == resumed.params["w"]).all()
    like = jax.eval_shape(lambda: whole)
    found = train.Checkpoints(str(tmp_path / "whole")).restore(like)
    assert (jax.random.key_data(found.opt_state[0].rng_key) == a).all()


class Ramp:
    """A source without a method `fingerprint`, of rows that depend on an attribute."""

    def __init__(self, slope):
        self.slope = slope

    def arrays(self):
        x = np.linspace(0, 1, 96, dtype=np.float32).reshape(32, 3)
        return data.HostArrays(x, self.slope * x[:, 0])

    def steps_per_epoch(self, batch_size):
        return self.arrays().steps_per_epoch(batch_size)

    def spec(self, batch_size):
        return self.arrays().spec(batch_size)

    def open(self, key, batch_size, position=None, *, process=(0, 1)):
        return self.arrays().open(key, batch_size, position, process=process)


def test_another_source_of_the_same_class_is_refused(tmp_path):
    def run(epochs, slope):
        return train.fit(
            small_program(), Ramp(slope), batch_size=8, epochs=epochs, key=jax.random.key(0),
            hooks=[train.Checkpoints(str(tmp_path))], progress=False,
        )  # fmt: skip

    run(1, 2.0)
    assert len(run(2, 2.0)[1]) == 2
    with pytest.raises(ValueError, match=r"data/slope: recorded 2\.0, now 3\.0"):
        run(3, 3.0)


def test_a_relative_folder_and_one_behind_a_link_are_resumed(tmp_path, monkeypatch):
    (tmp_path / "real[1]").mkdir()
    (tmp_path / "link").symlink_to("real[1]")
    monkeypatch.chdir(tmp_path)
    for epochs, folder in enumerate(("link/a", "real[1]/a", str(tmp_path / "link" / "a")), 1):
        _, history = small(folder, epochs)
        assert len(history) == epochs
    assert int(train.Checkpoints("link/a").restore(small_state()).step) == 12


def small_program(optimizer=None):
    return train.Supervised(nn.Dense(1), train.Regression(), optimizer or optax.sgd(0.1))


def small_state():
    batch = jnp.zeros((8, 3)), jnp.zeros(8)
    return jax.eval_shape(small_program().init, jax.random.key(0), batch)


def small(folder, epochs, optimizer=None):
    x = np.ones((32, 3), np.float32)
    return train.fit(
        small_program(optimizer), (x, x[:, 0]), batch_size=8, epochs=epochs,
        key=jax.random.key(0), hooks=[train.Checkpoints(str(folder))], progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("out of memory"),
        PermissionError(13, "Permission denied"),
        TypeError("dtype float8 is not supported"),
        NotImplementedError("written by orbax 99"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("part", ["metadata", "restore"])
def test_an_error_that_is_no_damage_is_raised_and_the_folder_left_alone(
    tmp_path, monkeypatch, error, part
):
    def fails(*_, **__):
        raise error

    small(tmp_path, 1)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(orbax.checkpoint.StandardCheckpointHandler, part, fails)
        expected = FileError if isinstance(error, TypeError) else type(error)
        with pytest.raises(expected) as caught:
            small(tmp_path, 2)
    assert error in (caught.value, caught.value.__cause__)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert len(small(tmp_path, 2)[1]) == 2


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_no_damage(tmp_path):
    small(tmp_path, 1)
    file = next(one for one in (tmp_path / "4" / "state").rglob("*") if one.is_file())
    file.chmod(0)
    with pytest.raises(PermissionError):
        small(tmp_path, 2)
    file.chmod(0o600)
    assert len(small(tmp_path, 2)[1]) == 2


def resealed(folder):
    """Compute the checksums of a checkpoint again, as someone who alters it would."""
    sums = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "seal.json"
    }
    (folder / "seal.json").write_text(json.dumps(sums))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "run"
    small(folder, 1)
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("history", [{"loss": "x"}]),
        ("history", [{"loss": [1.0]}]),
        ("sums", {"loss": "x"}),
        ("sums", {"loss": None}),
        ("sums", {"\x1b[31mred": [1.0]}),
        ("step", -1),
        ("step", True),
        ("memories", {"EarlyStopping/0/best": "x"}),
        ("stop", "x"),
        ("seconds", float("nan")),
        ("versions", {"python": 5}),
        ("forced", [5]),
        ("identity", {"\x1b[31mred": "\ud800"}),
    ],
)
def test_a_sealed_checkpoint_with_other_progress_is_refused(tmp_path, small_run, field, value):
    folder = pathlib.Path(shutil.copytree(small_run, tmp_path / "run"))
    file = folder / "4" / "progress" / "metadata"
    about = json.loads(file.read_text())
    about[field] = value
    file.write_text(json.dumps(about))
    resealed(folder / "4")
    with pytest.raises(ValueError) as caught:
        small(folder, 2)
    text = str(caught.value)
    assert text.startswith(str(folder / "4"))
    assert "\x1b" not in text and "\ud800" not in text
    assert len(text.splitlines()) == 1 or field == "identity"  # a line for each difference
    assert (folder / "4").is_dir()


def test_a_sealed_checkpoint_with_other_arrays_is_refused(tmp_path, small_run):
    folder = pathlib.Path(shutil.copytree(small_run, tmp_path / "run"))
    (folder / "4" / "state" / "_METADATA").write_text('{"tree_metadata": 5}')
    resealed(folder / "4")
    with pytest.raises(FileError, match="although its files match their checksums") as caught:
        small(folder, 2)
    assert str(caught.value).startswith(f"{folder / '4'} cannot be read")
    assert (folder / "4").is_dir()


def test_a_file_too_many_is_no_damage(tmp_path):
    small(tmp_path, 1)
    (tmp_path / "4" / ".DS_Store").write_bytes(b"a file manager was here")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        small(tmp_path, 2)


def test_a_checkpoint_of_another_schema_is_left_alone(tmp_path):
    small(tmp_path, 1)
    file = tmp_path / "4" / "progress" / "metadata"
    file.write_text(file.read_text().replace('"schema": 4', '"schema": 1'))
    (tmp_path / "4" / "seal.json").unlink()
    with pytest.raises(ValueError, match=r"4 has the schema 1, and this version of jaxnn reads 4"):
        small(tmp_path, 2)
    assert names(tmp_path) == ["4", "run.lock"]


def test_a_checkpoint_of_another_program_is_refused_path_by_path(tmp_path):
    fit(tmp_path, 1)
    other = nn.Sequential(nn.Dense(5), nn.Dense(3))
    with pytest.raises(ValueError) as caught:
        fit(tmp_path, 2, net=other, arguments={"batch_size": 8})
    message = str(caught.value)
    recorded, now = f"SupervisedLoss({NET!r}, {TASK!r})", f"SupervisedLoss({other!r}, {TASK!r})"
    assert f"recorded {recorded}, now {now}" in message
    assert "batch_size: recorded 16, now 8" in message
    with pytest.raises(ValueError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it does not claim that it resumed
        fit(tmp_path, 2, net=other, force=True)
    message = str(caught.value)
    assert "is a checkpoint of another program" in message
    assert "state/params/0/w: recorded float32[8,16], now float32[8,5]" in message
    assert "state/params/4/b: recorded float32[3], now nothing" in message
    assert (
        "It was written for Minimize(objective=SupervisedLoss(Sequential(Dense(16), BatchNorm()"
        in message
    )
    with pytest.raises(
        ValueError, match=r"opt_state/0/mu/0/b: recorded float32\[16\], now nothing"
    ):
        fit(tmp_path, 2, optimizer=optax.sgd(0.1), force=True)
    assert names(tmp_path) == ["6", "run.lock"]


def test_two_runs_into_one_folder(tmp_path):
    def another(event):
        with pytest.raises(OSError, match=r"another run works in .* or name another folder"):
            fit(tmp_path)

    hooks = [another, train.Checkpoints(str(tmp_path))]
    x = np.ones((32, 3), np.float32)
    train.fit(
        small_program(), (x, x[:, 0]), key=jax.random.key(0), epochs=1, hooks=hooks, progress=False,
        batch_size=8,
    )  # fmt: skip
    shutil.rmtree(tmp_path)
    fit(tmp_path, 1)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(OSError, match=r"cannot keep checkpoints in .*Nothing was trained; name"):
        fit(tmp_path / "file" / "checkpoints")


def test_a_checkpoint_that_cannot_be_written_is_a_warning_and_the_run_continues(
    tmp_path, monkeypatch, uninterrupted
):
    fit(tmp_path, 2)
    write = checkpoint.write_checkpoint

    def full(folder, *given):
        if folder.name == "18":
            raise OSError(28, "No space left on device")
        write(folder, *given)

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    with pytest.warns(RuntimeWarning, match=r"could not be written in .*No space left .*step 12"):
        end = fit(tmp_path, 5)
    assert digest(*end) == uninterrupted


def test_a_full_disk_is_a_warning_without_the_tracebacks_of_orbax(tmp_path, caplog, monkeypatch):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    fit(tmp_path / "before", 1)  # compiles: JAX's cache of programs could not be written, either
    caplog.clear()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # the system refuses to write
        with pytest.warns(RuntimeWarning, match=r"could not be written in .*\(File too large\)"):
            fit(tmp_path / "full", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    logging.getLogger("absl").error("of another library")
    assert [record.getMessage() for record in caplog.records] == ["of another library"]
    assert not unraisable


def test_a_signal_ends_the_dispatch_saves_and_says_how_to_resume(tmp_path, uninterrupted):
    def ask(event):
        if event.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(train.Interrupted) as caught:
        train.fit(
            train.Supervised(NET, TASK, optax.adam(1e-2)), examples(), validation=examples(),
            batch_size=16, epochs=5, key=jax.random.key(3), progress=False,
            hooks=[ask, train.Checkpoints(str(tmp_path))],
        )  # fmt: skip
    step = caught.value.args[0].split()[6]  # of the dispatch that ended after the signal
    assert step in ("12", "18")
    assert str(caught.value) == (
        f"SIGTERM: the run stopped after step {step} of 30; the checkpoint after step {step} is in "
        f"{tmp_path}, and the same call resumes from it"
    )
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert digest(*fit(tmp_path, 5)) == uninterrupted


class Malicious:
    def __reduce__(self):
        return (pathlib.Path("/tmp/jaxnn-was-here").touch, ())


def test_nothing_is_unpickled_and_no_path_leads_out(tmp_path):
    """Files that a checkpoint does not list are never opened; listed names are only compared."""
    folder = tmp_path / "checkpoints"
    fit(folder, 2)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not to be read")
    mark = pathlib.Path("/tmp/jaxnn-was-here")
    mark.unlink(missing_ok=True)
    (folder / "12" / "seal.json").unlink()
    for file in (folder / "12").rglob("*"):
        if file.is_file() and file.name in ("_METADATA", "metadata", "_sharding"):
            text = file.read_text().replace("params/0/w", "../../../outside/secret")
            file.write_text(text)
    (folder / "12" / "state" / "payload.pkl").write_bytes(pickle.dumps(Malicious()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            ts, _ = fit(folder, 3)
        except ValueError as error:
            assert "another program" in str(error)
        else:
            assert np.isfinite(np.asarray(ts.params[0]["w"])).all()
    (folder / "999").symlink_to(outside)
    (folder / "998").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises((ValueError, FileNotFoundError)):
            train.Checkpoints(str(folder)).restore(jnp.zeros(3), 999)
    assert not mark.exists()
    assert (outside / "secret").read_text() == "not to be read"
    assert names(outside) == ["secret"]

"""Checkpoints: a run that was killed ends with the same bits, and damage is told, not used."""

import contextlib
import multiprocessing
import pathlib
import pickle
import random
import signal
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
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


def test_a_run_killed_at_two_moments_ends_with_the_same_bits(server, tmp_path):
    end, wanted = killed(server, tmp_path, 2, seed=0)
    assert end == wanted


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_with_the_same_bits(server, tmp_path):
    end, wanted = killed(server, tmp_path, 20, seed=1)
    assert end == wanted


def fit(folder, epochs=2, net=NET, optimizer=None, **options):
    x, y = examples()
    options = {"every": train.Every(epochs=1), "keep": 2} | options
    return train.fit(
        net,
        TASK,
        optimizer or optax.adam(1e-2),
        (x, y),
        validation=(x, y),
        batch_size=16,
        epochs=epochs,
        key=jax.random.key(3),
        checkpoints=None if folder is None else train.Checkpoints(str(folder), **options),
    )


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
    like = train.TrainState.create(NET, optax.sgd(1.5), jax.random.key(0), examples()[0])
    found = kept.restore(NET, like, "best")
    again = train.evaluate(NET, TASK, found, examples())
    # Another batching of the sum over 96 examples.
    np.testing.assert_allclose(again["loss"], losses[best], rtol=1e-6)
    assert int(kept.restore(NET, like).step) == 36
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint 7; there are those after"):
        kept.restore(NET, like, 7)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "removed", "metadata"])
def test_a_damaged_newest_is_told_and_the_one_before_used(tmp_path, uninterrupted, harm):
    fit(tmp_path, 4)
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


def test_a_checkpoint_of_another_network_or_optimizer_is_refused_path_by_path(tmp_path):
    fit(tmp_path, 1)
    other = nn.Serial(nn.Dense(5), nn.Dense(3))
    with pytest.raises(ValueError) as caught:
        fit(tmp_path, 2, net=other)
    message = str(caught.value)
    assert "is a checkpoint of another network or optimizer" in message
    assert "params/0/w: wanted float32[8,5], got float32[8,16]" in message
    assert "params/4/b: wanted nothing, got float32[3]" in message
    assert f"It was written for {NET!r}" in message
    with pytest.raises(ValueError, match=r"opt_state/0/mu/0/b: wanted nothing, got float32"):
        fit(tmp_path, 2, optimizer=optax.sgd(0.1))
    assert names(tmp_path) == ["6", "run.lock"]


def test_two_runs_into_one_folder(tmp_path):
    held = train.Checkpoints(str(tmp_path)).open(NET)
    with held, pytest.raises(OSError, match=r"another run is at work in .*name another folder"):
        fit(tmp_path)
    fit(tmp_path, 1)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(OSError, match=r"cannot keep checkpoints in .*Nothing was trained; name"):
        fit(tmp_path / "file" / "checkpoints")


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_run_goes_on(
    tmp_path, monkeypatch, uninterrupted
):
    fit(tmp_path, 2)
    opened = train.checkpoint.CheckpointFolder._opened

    def full(self):
        manager = opened(self)
        if self.saved is None or self.saved < 18:
            monkeypatch.setattr(manager, "save", raise_full)
        return manager

    def raise_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train.checkpoint.CheckpointFolder, "_opened", full)
    with pytest.warns(RuntimeWarning, match=r"could not be written in .*No space left .*step 12"):
        end = fit(tmp_path, 5)
    assert digest(*end) == uninterrupted


def test_a_signal_ends_the_dispatch_saves_and_says_how_to_go_on(tmp_path, uninterrupted):
    def ask(ts, record):
        if record["epoch"] == 2:
            signal.raise_signal(signal.SIGTERM)

    x, y = examples()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(train.Interrupted) as caught:
        train.fit(
            NET, TASK, optax.adam(1e-2), (x, y), validation=(x, y), batch_size=16, epochs=5,
            key=jax.random.key(3), checkpoints=train.Checkpoints(str(tmp_path)), callbacks=[ask],
        )  # fmt: skip
    assert str(caught.value) == (
        f"SIGTERM: the run stopped after step 12 of 30; the checkpoint after step 12 is in "
        f"{tmp_path}, and the same call goes on from it"
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
            assert "another network" in str(error)
        else:
            assert np.isfinite(np.asarray(ts.params[0]["w"])).all()
    (folder / "999").symlink_to(outside)
    (folder / "998").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises((ValueError, FileNotFoundError)):
            train.Checkpoints(str(folder)).restore(NET, jnp.zeros(3), 999)
    assert not mark.exists()
    assert (outside / "secret").read_text() == "not to be read"
    assert names(outside) == ["secret"]

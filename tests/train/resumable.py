"""A small run with checkpoints, in a process of its own, to be killed and begun again.

python tests/train/resumable.py FOLDER EPOCHS     ends with a line: the SHA-256 of all it has
"""

import hashlib
import json

import jax
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  imported once, before the processes are forked

import jaxnn as nn
from jaxnn import train
from jaxnn.train.loop import TIMINGS

NET = nn.Sequential(nn.Dense(16), nn.BatchNorm(), jax.nn.relu, nn.Dropout(0.2), nn.Dense(3))


def examples():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 96).astype(np.int32)
    x = np.eye(3, 8, dtype=np.float32)[y] * 3 + rng.normal(size=(96, 8)).astype(np.float32)
    return x, y


def main(folder: str, epochs: int, told) -> None:
    """Tell through a connection that it began, and at the end the SHA-256 of all that it has."""
    x, y = examples()
    told.send("begun")
    ts, history = train.fit(
        NET,
        train.Classification(3),
        train.with_ema(optax.adam(1e-3), 0.9),
        (x, y),
        validation=(x, y),
        batch_size=16,
        epochs=epochs,
        key=jax.random.key(3),
        every=train.Every(steps=4),
        steps_per_dispatch=3,
        checkpoints=train.Checkpoints(folder, train.Every(steps=5), keep=2, best="validation_loss"),
    )
    told.send(digest(ts, history))


def digest(ts, history) -> str:
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(ts):
        whole.update(np.asarray(leaf).tobytes())
    records = [{k: v for k, v in r.items() if k not in TIMINGS} for r in history]
    whole.update(json.dumps(records).encode())
    return whole.hexdigest()

"""A run of a small program with checkpoints that kills its process after the third step.

python -m tests.gallery.killed NAME FOLDER die     ends by SIGKILL
python -m tests.gallery.killed NAME FOLDER live    prints the SHA-256 of the state and the history
"""

import hashlib
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import train
from tests.gallery.programs import small


def digest(state, history):
    """The SHA-256 of a state and a history."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.update(np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes())
    return f"{found.hexdigest()} {history}"


def main(name, folder, how):
    """Train; die after the last step, which no checkpoint has, or live."""

    def kill(event):
        if how == "die" and event.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    program, data, options = small(name)
    hooks = [kill, train.Checkpoints(folder)]
    print(digest(*train.fit(program, data, hooks=hooks, progress=False, **options)))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The order in which an epoch visits the rows of the training data."""

from typing import Any

import numpy as np

from jaxnn.keys import key_words


def epoch_order(key: Any, epoch: int, rows: int) -> np.ndarray[Any, Any]:
    """The order in which an epoch visits the rows, int32 (rows,): a permutation.

    It sorts the raw words of a Philox generator keyed by `key`, a random key or its words as a
    numpy array, and `epoch`, so it is the same wherever and whenever it is drawn.

    >>> import jax
    >>> sorted(epoch_order(jax.random.key(0), 3, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    words = key_words(key).astype(np.uint64)
    seed = [int(words[::2].sum()) % 2**64, int(words[1::2].sum()) % 2**64]
    generator = np.random.Philox(key=np.array(seed, np.uint64), counter=[0, 0, 0, epoch])
    return np.argsort(generator.random_raw(rows), kind="stable").astype(np.int32)

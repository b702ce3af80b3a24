"""Mamba2: transformers' mixer on the same weights, and the recurrence step by step."""

from typing import Any

import jax
import numpy as np

import jaxnn as nn
from jaxnn import interop
from jaxnn.layers.state_space import chunked_scan
from tests.fixtures.layers import stored
from tests.layers.agreement import normals
from tests.near import assert_near

A = stored("mamba2")
NET = nn.Mamba2(4, 4, 3, groups=2, kernel_size=3, chunk_size=4, bias=True)


def converted(prefix: str) -> Any:
    """The weights of the mixer, or the gradients: the fixture halves the weights."""
    factor = 2.0 if prefix else 0.5
    a = {k.removeprefix(prefix): factor * v for k, v in A.items() if k.startswith(prefix)}
    weights = {k: a[k] for k in a if "." in k or k in ("A_log", "dt_bias", "D")}
    if not prefix:  # without the gradients
        weights = {k: v for k, v in weights.items() if f"d{k}" in A}
    return interop.from_torch(NET, weights, A["x"]).params


def test_as_transformers():
    params = converted("")

    @jax.jit
    def run(params, x, dy):
        y, pull = jax.vjp(NET.apply, params, x)
        return y, pull(dy)

    y, (by_params, by_x) = run(params, A["x"], A["dy"])
    assert_near(y, A["y"])
    assert_near((by_params, by_x), (converted("d"), A["dx"]))


def test_a_scan_in_chunks_is_the_recurrence():
    """With several sequences in a row, states before the first step, and any size of a chunk."""
    rows, length, heads, p, groups, n = 2, 7, 4, 2, 2, 3
    log_decay = -np.abs(normals(0, rows, length, heads))
    v, h = normals(1, rows, length, heads, p), normals(2, rows, heads, p, n)
    b, c = (normals(i, rows, length, groups, n) for i in (3, 4))
    sequence = np.array([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1]])
    state, last, ys = np.float64(h), np.zeros(rows, int), []
    for t in range(length):
        state = np.where((sequence[:, t] == last)[:, None, None, None], state, 0)
        decay = np.exp(np.asarray(log_decay, np.float64)[:, t, :, None, None])
        wide_b, wide_c = (np.repeat(np.float64(a[:, t]), heads // groups, 1) for a in (b, c))
        state = decay * state + np.asarray(v, np.float64)[:, t, ..., None] * wide_b[:, :, None]
        ys.append((state * wide_c[:, :, None]).sum(-1))
        last = sequence[:, t]
    wanted = np.float32(np.stack(ys, 1)), np.float32(state)

    @jax.jit
    def run(*given: Any):
        return [chunked_scan(*given, size) for size in (1, 3, 7, 64)]  # type: ignore[call-arg]

    for found in run(log_decay, v, b, c, h, sequence):
        assert_near(found, wanted)

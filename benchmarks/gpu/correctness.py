"""Comparison of the results of the accelerator with those of the CPU."""

import concurrent.futures
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from benchmarks.gpu.driver import LIMIT

TOLERANCE = 1e-3
"""Of the largest number of an array: float32 sums in another order, through some layers."""
BOUND = 0.03
"""Of float32's gradient: what a gradient summed in bfloat16 may be off."""
BEYOND = 4.0
"""How many times as far from float64 as the CPU's float32 a device may be beyond the tolerance."""
LAST = 20.0
"""Seconds before the end of the part after which no further case is begun."""


class Found(NamedTuple):
    """How far a device is from the CPU, and both from float64 if that is more than the tolerance.

    Args:
        difference: between the two, of an array's largest number.
        device: between the device and float64.
        cpu: between the CPU's float32 and float64.
    """

    difference: float
    device: float = 0.0
    cpu: float = 0.0


def device(small: bool) -> Iterator[str]:
    """The chip and the versions."""
    from benchmarks.report import environment

    found = jax.devices()[0]
    yield f"{found.device_kind} ({found.platform}); {environment()}"


def cases(small: bool) -> Iterator[str]:
    """Every case of tests/cases.py, forward and gradient, in float32 at the highest precision."""
    sys.modules.setdefault("pytest", _pytest())
    from tests.cases import CASES

    # First the cases that have differed before, then all that the time allows.
    first = ("DecoderLayer", "Remat of BatchNorm")
    chosen = CASES[:4] if small else sorted(CASES, key=lambda case: case.name not in first)
    ends = time.monotonic() + float(os.environ.get(LIMIT, 110.0)) - LAST
    worst: list[tuple[float, str]] = []
    wrong: list[str] = []
    beyond: list[str] = []
    left = 0
    with concurrent.futures.ThreadPoolExecutor(2 if small else os.cpu_count()) as threads:
        found = {threads.submit(_compared, case, ends): case for case in chosen}
        for future in concurrent.futures.as_completed(found):
            name = str(found[future])
            try:
                result = future.result()
            except Exception as error:
                print(traceback.format_exc(limit=3), file=sys.stderr)
                text = str(error).splitlines()[0][:120] if str(error) else ""
                wrong.append(f"- {name}: {type(error).__name__}: {text}")
                continue
            if result is None:
                left += 1
                continue
            worst.append((result.difference, name))
            if not result.difference <= TOLERANCE:
                fine = result.device <= max(TOLERANCE, BEYOND * result.cpu)
                (beyond if fine else wrong).append(
                    f"- {name}: differs by {result.difference:.2g}; from float64, the device by "
                    f"{result.device:.2g} and the CPU by {result.cpu:.2g}"
                )
    yield (
        f"{len(worst)} of {len(chosen)} cases compared with the CPU, "
        f"{len(wrong)} wrong or failed, {left} not reached in time"
    )
    if worst:
        largest, name = max(worst)
        yield f"largest difference {largest:.2g} of an array's largest number ({name})"
    yield from wrong
    if beyond:
        yield "beyond the tolerance, but as near to float64 as the CPU's float32 is:"
    yield from beyond


def _pytest() -> Any:
    """pytest if it is installed; the cases use it for marks only, which are not needed here."""
    try:
        import pytest
    except ModuleNotFoundError:
        return mock.MagicMock()
    return pytest


def _compared(case: Any, ends: float) -> Found | None:
    """How far the device and the CPU are from each other; None if the time is over.

    If they differ by more than the tolerance, both are compared with float64 on the CPU.
    """
    if time.monotonic() > ends:
        return None
    cpu = jax.devices("cpu")[0]
    expected, found = (_results(case, place) for place in (cpu, jax.devices()[0]))
    difference = _largest(expected, found)
    if difference <= TOLERANCE:
        return Found(difference)
    with jax.enable_x64(True):
        exact = _results(case, cpu, np.float64)
    return Found(difference, _largest(exact, found), _largest(exact, expected))


def _results(case: Any, place: Any, dtype: Any = None) -> list[Any]:
    """The output and the gradients of a case on a device, from the same numbers in any type."""
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(False):
        params, state, inputs = jax.device_get((case.init(), case.state, case.arrays()))
        key = jax.device_get(jax.random.key_data(jax.random.key(1)))

    def loss(arrays: Any, state: Any, inputs: Any, words: Any) -> Any:
        params, floats = arrays
        given = jax.tree.map(lambda a, b: b if a is None else a, floats, inputs, is_leaf=_is_none)
        drawn = jax.random.wrap_key_data(words)
        output, _ = case.eager(params, state, drawn, given, bool(case.state or case.draws))
        return sum(map(_weighted, jax.tree.leaves(output)), 0.0), output

    if dtype is not None:
        params, state, inputs = jax.tree.map(
            lambda a: a.astype(dtype) if a.dtype == np.float32 else a, (params, state, inputs)
        )
    floats = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, inputs)
    with jax.default_matmul_precision("highest"):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        given = jax.device_put(((params, floats), state, inputs, key), place)
        return jax.tree.leaves(jax.device_get(step(*given)))


def _largest(expected: list[Any], found: list[Any]) -> float:
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _weighted(output: Any) -> Any:
    """The sum of an output with weights that differ, so that every element has a gradient."""
    if not jnp.issubdtype(output.dtype, jnp.floating):
        return jnp.float32(0)
    weights = jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
    wide = jnp.promote_types(output.dtype, jnp.float32)
    return jnp.sum(output.astype(wide) * weights.astype(wide))


def _difference(a: Any, b: Any) -> float:
    if a.size == 0 or not np.issubdtype(np.asarray(a).dtype, np.number):
        return 0.0
    a, b = (np.asarray(one, np.float64) for one in (a, b))
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-3)) if a.size else 0.0


def sums(small: bool) -> Iterator[str]:
    """Gradients of parameters that many outputs share, in half precision, over those in float32."""
    n = 256 if small else 4096
    rows, ids = jnp.ones((n, 3)), jnp.zeros((n,), jnp.int32)
    sequence = jnp.ones((1, n, 4))
    nets = {
        "Embedding": (nn.Embedding(4, 2), ids),
        "Dense": (nn.Dense(2), rows),
        "LayerNorm": (nn.LayerNorm(), jnp.tile(jnp.arange(3.0), (n, 1))),
        "RMSNorm": (nn.RMSNorm(), rows),
        "Conv": (nn.Conv(2, 3), sequence),
        "Recurrent LSTM": (nn.Recurrent(nn.LSTMCell(2)), sequence[:, : min(n, 1024)]),
    }
    for name, (net, x) in nets.items():
        params = net.init(jax.random.key(0), x)
        expected = _gradient(net, params, x)
        for kind in ("bfloat16", "float16"):
            found = _gradient(nn.Precision(net, kind), params, x)
            pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
            off = max(_difference(a, b) for a, b in pairs)
            verdict = "" if off <= BOUND else f" **over the bound of {BOUND:.0%}**"
            yield f"- {name}, {kind}: off by {off:.2%}{verdict}"


def _gradient(net: nn.Layer, params: Any, x: Any) -> Any:
    def loss(params: Any) -> Any:
        return jnp.mean(net.apply(params, x).astype(jnp.float32) ** 2)

    return jax.device_get(jax.jit(jax.grad(loss))(params))

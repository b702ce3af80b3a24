"""GPT-2 124M, trained in bfloat16 on tokens at random: tokens per second and FLOP utilization.

All sides have learned positions, a tied head, GELU by tanh, no dropout, float32 parameters, and
AdamW. The FLOPs of a token are 6 N + 12 L T W (parameters N, layers L, length T, width W: Chowdhery
et al., PaLM, 2022, appendix B), for every side, over the peak of the chip in bfloat16.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.networks.sizes import GPT2, GPTSizes

BATCH = 16
SMALL = GPTSizes(layers=2, width=32, heads=2, words=64, length=16)
RATE, DECAY = 3e-4, 0.1


def gpt2_jaxnn(small: bool) -> Iterator[str]:
    """By `train.make_step`: blocks as a Repeat and in a row, own and fused attention."""
    import jax
    import optax

    import jaxnn as nn
    from jaxnn import train
    from jaxnn.models import GPT

    sizes, x, y = _setting(small)
    given = (sizes.layers, sizes.width, sizes.heads)
    model = GPT(*given, length=sizes.length)
    task, optimizer = train.NextToken(sizes.words), optax.adamw(RATE, weight_decay=DECAY)
    precision = nn.Precision(compute="bfloat16")
    repeated = model.network(sizes.words)
    key = jax.random.key(0)
    row, _ = nn.unstack_layers(repeated, repeated.init(key, x))
    nets = {"blocks repeated": repeated, "blocks in a row": row}
    if jax.default_backend() == "gpu":
        nets["blocks in a row, cuDNN attention"] = _fused(row)
    for name, net in nets.items():
        try:
            ts = train.TrainState.create(net, optimizer, key, x)
            step = train.make_step(net, task, optimizer, precision=precision)
            batch = jax.device_put((x, y))

            def one(step: Any = step, batch: Any = batch) -> Any:
                nonlocal ts
                ts, metrics = step(ts, batch)
                return metrics["loss"]

            yield _line(f"jaxnn, {name}", one, jax.block_until_ready, sizes, small)
            del ts
        except Exception as error:  # the other forms are still worth their time
            yield _failure(name, error)


def gpt2_flax_nnx(small: bool) -> Iterator[str]:
    """By `nnx.jit`, with donated state."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from benchmarks.networks.flax_nnx import GPT

    sizes, x, y = _setting(small)
    model = GPT(nnx.Rngs(0), sizes, jnp.bfloat16)
    optimizer = nnx.Optimizer(model, optax.adamw(RATE, weight_decay=DECAY), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            logits = model(x).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    batch = jax.device_put((x, y))
    yield _line(
        "flax nnx", lambda: step(model, optimizer, *batch), jax.block_until_ready, sizes, small
    )


def gpt2_torch(small: bool) -> Iterator[str]:
    """By `torch.compile` with autocast and fused AdamW; eager if compiling fails."""
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks.networks.torch_ import GPT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes, x, y = _setting(small)
    torch.set_float32_matmul_precision("high")
    model = GPT(sizes).to(device)
    tokens, targets = (torch.from_numpy(a).long().to(device) for a in (x, y))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=DECAY, fused=device == "cuda"
    )

    def step_of(forward: Any) -> Callable[[], Any]:
        def step() -> Any:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                logits = forward(tokens)
                value = torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
            value.backward()
            optimizer.step()
            return value.detach()

        return step

    def wait(value: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return value

    for name, forward in {"torch.compile": torch.compile(model), "torch, eager": model}.items():
        if small and name == "torch.compile":
            continue  # needs a C++ compiler and a minute
        try:
            yield _line(name, step_of(forward), wait, sizes, small)
            return
        except Exception as error:
            yield _failure(name, error)


def _fused(net: Any) -> Any:
    """The network with `implementation="cudnn"` in every attention layer."""
    import dataclasses

    import jaxnn as nn

    def changed(path: Any, layer: Any) -> Any:
        if isinstance(layer, nn.MultiHeadAttention):
            return dataclasses.replace(layer, implementation="cudnn")
        return layer

    return nn.map_layers(changed, net)


def _setting(small: bool) -> tuple[GPTSizes, np.ndarray, np.ndarray]:
    sizes = SMALL if small else GPT2
    random = np.random.default_rng(0)
    shape = 2, (2 if small else BATCH), sizes.length
    x, y = random.integers(sizes.words, size=shape).astype(np.int32)
    return sizes, x, y


def parameters_of(sizes: GPTSizes) -> int:
    """The parameters of such a GPT with a tied head.

    >>> parameters_of(GPT2)  # the published 124M
    124439808
    """
    w = sizes.width
    block = 4 * w * w + 4 * w + 8 * w * w + 5 * w + 4 * w
    return (sizes.words + sizes.length) * w + sizes.layers * block + 2 * w


def _line(
    name: str, step: Callable[[], Any], wait: Callable[[Any], Any], sizes: GPTSizes, small: bool
) -> str:
    """The speed of a step as a line: its first call compiles."""
    began = time.perf_counter()
    first = float(wait(step()))
    compiling = time.perf_counter() - began
    rounds, each = (3, 2) if small else (7, 5)
    wait(step())
    seconds = []
    loss = first
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(each):
            loss = step()
        loss = float(wait(loss))
        seconds.append((time.perf_counter() - began) / each)
    median = statistics.median(seconds)
    tokens = (2 if small else BATCH) * sizes.length
    flops = 6 * parameters_of(sizes) + 12 * sizes.layers * sizes.length * sizes.width
    peak = _peak()
    used = "" if peak is None else f", FLOP utilization {flops * tokens / median / peak:.1%}"
    return (
        f"- {name}: {1e3 * median:.2f} ms a step of {tokens:,} tokens, {tokens / median:,.0f} "
        f"tokens/s{used}; first step {compiling:.1f} s; loss {first:.3f}, then {loss:.3f}"
    )


def _peak() -> float | None:
    import jax

    from jaxnn.train.device import peak_flops

    return peak_flops(jax.devices()[0].device_kind)


def _failure(name: str, error: Exception) -> str:
    return f"- {name}: failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"

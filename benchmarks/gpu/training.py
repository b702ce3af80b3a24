"""GPT-2 124M, trained in bfloat16 on tokens at random: tokens per second and FLOP utilization.

All sides have learned positions, a tied head, GELU by tanh, no dropout, float32 parameters, and
AdamW. The FLOPs of a token are 6 N + 12 L T W (parameters N, layers L, length T, width W: Chowdhery
et al., PaLM, 2022, appendix B), for every side, over the peak of the chip in bfloat16. Peak memory
is that of the process, so the variants of a part are in the order of what they need.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.gpu.measure import failure, memory, speed, torch_memory, torch_wait
from benchmarks.networks.sizes import GPT2, GPTSizes

BATCH = 16
SMALL = GPTSizes(layers=1, width=32, heads=2, words=64, length=16)
RATE, DECAY = 3e-4, 0.1


def gpt2_jaxnn(small: bool) -> Iterator[str]:
    """By `train.make_step` of a program: cuDNN's attention, blocks repeated and in a row."""
    fused = _network(small, _fused())
    name = f"jaxnn, {'cuDNN' if _fused() else 'default'} attention"
    yield from _trained(f"{name}, blocks repeated", fused, small)
    yield from _trained(f"{name}, blocks in a row", _in_a_row(fused, small), small)


def gpt2_jaxnn_default(small: bool) -> Iterator[str]:
    """The same in plain XLA, as `models.GPT` is without arguments."""
    net = _network(small)
    yield from _trained("jaxnn, default attention, blocks repeated", net, small)
    row = _in_a_row(net, small)
    yield from _trained("jaxnn, default attention, blocks in a row", row, small)


def gpt2_ablation(small: bool) -> Iterator[str]:
    """The cost of each part: each line changes one thing of `gpt2_jaxnn` with blocks in a row."""
    row = _in_a_row(_network(small, _fused()), small)
    yield from _trained("recomputed (nn.Remat)", _recomputed(row), small)
    with mock.patch("jaxnn.train.examples.picked", _scattered):
        yield from _trained("the label's gradient a scatter", row, small)
    with mock.patch("jaxnn.layers.attention.attention", _unprotected):
        yield from _trained("NaN not kept apart", row, small)
    if not small:
        yield from _trained("no metrics", row, small, metrics=False)


def gpt2_flax_nnx(small: bool) -> Iterator[str]:
    """By `nnx.jit`, with donated state; with cuDNN's attention, too."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from benchmarks.networks.flax_nnx import GPT

    sizes, x, y = _setting(small)

    @nnx.jit(donate_argnums=(0, 1))
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            logits = model(x).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    def cudnn(query: Any, key: Any, value: Any, **_: Any) -> jax.Array:
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation="cudnn"
        )

    ways: dict[str, Any] = {"flax nnx, default attention": None}
    if _fused():
        ways = {"flax nnx, cuDNN attention": cudnn} | ways
    for name, attention in ways.items():
        try:
            began = time.perf_counter()
            model = GPT(nnx.Rngs(0), sizes, jnp.bfloat16)
            for block in model.blocks if attention else ():
                block.attention.attention_fn = attention
            optimizer = nnx.Optimizer(model, optax.adamw(RATE, weight_decay=DECAY), wrt=nnx.Param)
            jax.block_until_ready(nnx.state((model, optimizer)))
            started = time.perf_counter() - began
            batch = jax.device_put((x, y))
            run = functools.partial(step, model, optimizer, *batch)
            yield _line(name, run, jax.block_until_ready, sizes, small, started) + memory()
            del model, optimizer, run
        except Exception as error:
            yield failure(name, error)


def gpt2_equinox(small: bool) -> Iterator[str]:
    """By `eqx.filter_jit`, with donated arrays; parameters cast to bfloat16 in the loss."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    from benchmarks.networks.equinox_ import GPT

    sizes, x, y = _setting(small)
    optimizer = optax.adamw(RATE, weight_decay=DECAY)
    began = time.perf_counter()
    model = GPT(jax.random.key(0), sizes)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))
    jax.block_until_ready((eqx.filter(model, eqx.is_array), opt_state))
    started = time.perf_counter() - began

    @eqx.filter_jit(donate="all-except-first")
    def compiled(batch: Any, model: Any, opt_state: Any) -> Any:
        x, y = batch

        def loss(model: Any) -> jax.Array:
            half = jax.tree.map(
                lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, model
            )
            logits, _ = jax.vmap(half, (0, None), (0, None))(x, None)
            logits = logits.astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = optimizer.update(gradients, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, value

    batch = jax.device_put((x, y))

    def step() -> Any:
        nonlocal model, opt_state
        model, opt_state, value = compiled(batch, model, opt_state)
        return value

    yield _line("equinox", step, jax.block_until_ready, sizes, small, started) + memory()


def gpt2_torch(small: bool) -> Iterator[str]:
    """By `torch.compile` with autocast and fused AdamW; eager if compiling fails."""
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks.networks.torch_ import GPT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes, x, y = _setting(small)
    torch.set_float32_matmul_precision("high")
    began = time.perf_counter()
    model = GPT(sizes).to(device)
    tokens, targets = (torch.from_numpy(a).long().to(device) for a in (x, y))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=DECAY, fused=device == "cuda"
    )
    started = time.perf_counter() - began

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

    for name, forward in {"torch.compile": torch.compile(model), "torch, eager": model}.items():
        if small and name == "torch.compile":
            continue  # needs a C++ compiler and a minute
        try:
            line = _line(name, step_of(forward), torch_wait, sizes, small, started)
            yield line + torch_memory()
            return
        except Exception as error:
            yield failure(name, error)


def _fused() -> str | None:
    """cuDNN's attention on a GPU; the default on a CPU, which has none."""
    import jax

    return "cudnn" if jax.default_backend() == "gpu" else None


def _network(small: bool, implementation: str | None = None) -> Any:
    from jaxnn.models import GPT

    sizes, _, _ = _setting(small)
    model = GPT(sizes.layers, sizes.width, sizes.heads, length=sizes.length)
    return dataclasses.replace(model, implementation=implementation).network(sizes.words)


def _in_a_row(net: Any, small: bool) -> Any:
    return in_a_row(net, _setting(small)[1])


def in_a_row(net: Any, x: Any) -> Any:
    """A network with its blocks in a row: compiled longer, without copies out of stacks."""
    import jax

    import jaxnn as nn

    found: list[Any] = []

    def build() -> Any:
        row, params = nn.unstack_layers(net, net.init(jax.random.key(0), x))
        found.append(row)
        return params

    jax.eval_shape(build)
    return found[0]


def _recomputed(net: Any) -> Any:
    """A network with blocks in a row, which keep only their products for the backward pass."""
    import jaxnn as nn

    blocks = (nn.Remat(block, "products") for block in net.blocks._children())
    return dataclasses.replace(net, blocks=nn.Sequential(*blocks))


def _scattered(x: Any, index: Any) -> Any:
    """x[..., index], whose gradient is a scatter."""
    import jax.numpy as jnp

    return jnp.take_along_axis(x, index[..., None], -1)[..., 0]


def _unprotected(q: Any, k: Any, v: Any, *, segment_ids: Any = None, **options: Any) -> Any:
    """Attention that lets NaN in a later value reach earlier positions."""
    from jaxnn.functional.attention import attend

    return attend(q, k, v, **options)


def _trained(name: str, net: Any, small: bool, metrics: bool = True) -> Iterator[str]:
    """A line for a network trained by a program."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnn as nn
    from jaxnn import train
    from jaxnn.functional.gradients import picked

    def loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked(logits, targets))

    sizes, x, y = _setting(small)
    program = train.Supervised(
        net,
        train.NextToken(sizes.words) if metrics else loss,
        optax.adamw(RATE, weight_decay=DECAY),
        precision=nn.Precision(compute="bfloat16"),
    )
    try:
        batch = jax.device_put((x, y))
        began = time.perf_counter()
        state = jax.block_until_ready(program.init(jax.random.key(0), batch))
        started = time.perf_counter() - began
        compiled = train.make_step(program)

        def step() -> Any:
            nonlocal state
            state, found = compiled(state, batch)
            return found["loss"]

        yield _line(name, step, jax.block_until_ready, sizes, small, started) + memory()
        del state
    except Exception as error:  # the other variants are still worth their time
        yield failure(name, error)
    jax.clear_caches()  # equal programs share compiled code, with another function patched, too


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
    name: str,
    step: Callable[[], Any],
    wait: Callable[[Any], Any],
    sizes: GPTSizes,
    small: bool,
    started: float,
) -> str:
    """The speed of a step as a line: its first call compiles."""
    found = speed(step, wait, small)
    tokens = (2 if small else BATCH) * sizes.length
    flops = 6 * parameters_of(sizes) + 12 * sizes.layers * sizes.length * sizes.width
    peak = _peak()
    used = f", FLOP utilization {flops * tokens / found.seconds / peak:.1%}" if peak else ""
    return (
        f"- {name}: {1e3 * found.seconds:.2f} ms a step of {tokens:,} tokens, "
        f"{tokens / found.seconds:,.0f} tokens/s{used}; init {started:.1f} s, first step "
        f"{found.first:.1f} s; loss {found.start:.3f}, then {found.end:.3f}"
    )


def _peak() -> float | None:
    import jax

    from jaxnn.train.hooks.measurement import peak_flops

    return peak_flops(jax.devices()[0].device_kind)

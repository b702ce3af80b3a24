"""An LSTM of characters in training, and GPT-2 124M that decodes with its cache: tokens/s."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.measure import failure, memory, speed, torch_memory, torch_wait
from benchmarks.gpu.training import SMALL, in_a_row
from benchmarks.networks.sizes import GPT2, GPTSizes

ROWS, LENGTH, UNITS, WORDS = 64, 256, 1024, 84
PROMPT, TOKENS = 32, 128
MANY = (1, 64)
"""Sequences that are decoded at once."""


def lstm_jaxnn(small: bool) -> Iterator[str]:
    """Two layers by `models.CharLSTM`, a scan of cells."""
    import jax
    import optax

    import jaxnn as nn
    from jaxnn import train
    from jaxnn.models import CharLSTM

    net = CharLSTM(width=_units(small), layers=2).network(WORDS)
    batch = jax.device_put(_characters(small))
    for kind in ("bfloat16", "float32"):
        precision = nn.Precision(compute=kind)
        task, optimizer = train.NextToken(WORDS), optax.adam(1e-3)
        program = train.Supervised(net, task, optimizer, precision=precision)
        state, compiled = program.init(jax.random.key(0), batch), train.make_step(program)

        def step(compiled: Any = compiled) -> Any:
            nonlocal state
            state, metrics = compiled(state, batch)
            return metrics["loss"]

        yield _trained(f"jaxnn, {kind}", step, jax.block_until_ready, small) + memory()


def lstm_torch(small: bool) -> Iterator[str]:
    """Two layers by `nn.LSTM`, which is cuDNN's on a GPU."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    x, y = (torch.from_numpy(a).long().to(device) for a in _characters(small))
    units = _units(small)
    parts = {
        "embedding": nn.Embedding(WORDS, units),
        "lstm": nn.LSTM(units, units, 2, batch_first=True),
        "head": nn.Linear(units, WORDS),
    }
    model = nn.ModuleDict(parts).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for kind in ("bfloat16", "float32"):

        def step(kind: str = kind) -> Any:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=kind == "bfloat16"):
                logits = model["head"](model["lstm"](model["embedding"](x))[0])
                value = nn.functional.cross_entropy(logits.flatten(0, -2).float(), y.flatten())
            value.backward()
            optimizer.step()
            return value.detach()

        try:
            yield _trained(f"torch, {kind}", step, torch_wait, small) + torch_memory()
        except Exception as error:
            yield failure(f"torch, {kind}", error)


def decode_jaxnn(small: bool) -> Iterator[str]:
    """By `nn.generate`, greedy, parameters in bfloat16: the prompt is read in the same time."""
    import jax
    import jax.numpy as jnp

    import jaxnn as nn
    from jaxnn.models import GPT

    sizes = _sizes(small)
    repeated = GPT(sizes.layers, sizes.width, sizes.heads, length=sizes.length).network(sizes.words)
    net = in_a_row(repeated, np.zeros((1, 8), np.int32))
    params = jax.jit(net.init)(jax.random.key(0), jax.ShapeDtypeStruct((1, 8), jnp.int32))
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    for rows in MANY[: 1 if small else None]:
        prompts = np.ones((rows, _prompt(small)), np.int32)

        def run(prompts: Any = prompts) -> Any:
            steps = _tokens(small)
            return nn.generate(net, params, prompts, steps=steps, temperature=0).tokens

        yield _decoded(f"jaxnn, {rows} at once", run, rows, small)


def decode_torch(small: bool) -> Iterator[str]:
    """With a cache of fixed size, greedy, a token a call: eager, and by `torch.compile`."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = _sizes(small)
    for compiled in (False,) if small else (True, False):
        for rows in MANY[: 1 if small else None]:
            name = f"torch, {'compiled' if compiled else 'eager'}, {rows} at once"
            try:
                model = _torch_decoder(sizes, rows).to(device, torch.bfloat16)
                forward = torch.compile(model, mode="reduce-overhead") if compiled else model

                def run(forward: Any = forward, rows: int = rows) -> Any:
                    token = torch.ones((rows, 1), dtype=torch.long, device=device)
                    found = []
                    for place in range(_prompt(small) + _tokens(small)):
                        at = torch.tensor([place], device=device)
                        following = forward(token, at).clone()
                        if place >= _prompt(small):
                            token = following
                            found.append(following)
                    return torch.cat(found, 1).cpu().numpy()

                with torch.no_grad():
                    yield _decoded(name, run, rows, small)
            except Exception as error:
                yield failure(name, error)


def _torch_decoder(sizes: GPTSizes, rows: int) -> Any:
    """A GPT from one token and its place to the next one, which keeps keys and values."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    width, heads = sizes.width, sizes.heads

    class Block(nn.Module):
        keys: Any
        values: Any

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            shape = (rows, heads, sizes.length, width // heads)
            self.register_buffer("keys", torch.zeros(shape))
            self.register_buffer("values", torch.zeros(shape))

        def forward(self, x: Any, at: Any, mask: Any) -> Any:
            parts = self.inputs(self.norm1(x)).view(rows, 1, 3, heads, -1).permute(2, 0, 3, 1, 4)
            self.keys.index_copy_(2, at, parts[1])
            self.values.index_copy_(2, at, parts[2])
            y = nn.functional.scaled_dot_product_attention(
                parts[0], self.keys, self.values, attn_mask=mask
            )
            x = x + self.output(y.transpose(1, 2).reshape(rows, 1, width))
            h = nn.functional.gelu(self.up(self.norm2(x)), approximate="tanh")
            return x + self.down(h)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(sizes.words, width)
            self.positions = nn.Embedding(sizes.length, width)
            self.blocks = nn.ModuleList(Block() for _ in range(sizes.layers))
            self.norm = nn.LayerNorm(width)

        def forward(self, token: Any, at: Any) -> Any:
            x = self.embedding(token) + self.positions(at)
            mask = torch.arange(sizes.length, device=at.device)[None, None, None] <= at
            for block in self.blocks:
                x = block(x, at, mask)
            return (self.norm(x) @ self.embedding.weight.T).argmax(-1)

    return Decoder()


def _sizes(small: bool) -> GPTSizes:
    return SMALL if small else GPT2


def _prompt(small: bool) -> int:
    return 4 if small else PROMPT


def _tokens(small: bool) -> int:
    return 4 if small else TOKENS


def _units(small: bool) -> int:
    return 8 if small else UNITS


def _characters(small: bool) -> tuple[np.ndarray, np.ndarray]:
    shape = (2, 8) if small else (ROWS, LENGTH)
    x, y = np.random.default_rng(0).integers(WORDS, size=(2, *shape)).astype(np.int32)
    return x, y


def _trained(name: str, step: Callable[[], Any], wait: Any, small: bool) -> str:
    found = speed(step, wait, small)
    tokens = _characters(small)[0].size
    return (
        f"- {name}: {1e3 * found.seconds:.2f} ms a step of {tokens:,} tokens, "
        f"{tokens / found.seconds:,.0f} tokens/s; first step {found.first:.1f} s; loss "
        f"{found.start:.3f}, then {found.end:.3f}"
    )


def _decoded(name: str, run: Callable[[], Any], rows: int, small: bool) -> str:
    """The speed of a run that returns its tokens on the host, the second of two at least."""
    began = time.perf_counter()
    run()
    first, seconds = time.perf_counter() - began, []
    for _ in range(1 if small else 3):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    best = min(seconds)
    return (
        f"- {name}: {1e3 * best / _tokens(small):.3f} ms a token, "
        f"{rows * _tokens(small) / best:,.0f} tokens/s; first run {first:.1f} s"
    )

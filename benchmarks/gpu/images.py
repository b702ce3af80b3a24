"""ResNet-50 on images at random, 224 x 224, trained in bfloat16: images per second.

All sides have float32 parameters, batch norm with its statistics in float32, and SGD with momentum.
Networks have bottlenecks with the stride in the 3 x 3 convolution; torch's images have their
channels last in memory, as JAX's have.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.measure import memory, speed, torch_memory, torch_wait

BATCH, SIDE, CLASSES = 128, 224, 1000
STAGES = (3, 4, 6, 3)
RATE, MOMENTUM = 0.1, 0.9


def resnet_jaxnn(small: bool) -> Iterator[str]:
    """`models.ResNet.resnet50` by a program."""
    import jax
    import optax

    import jaxnn as nn
    from jaxnn import train
    from jaxnn.models import ResNet

    model = ResNet(stages=(1,), width=4, bottleneck=True) if small else ResNet.resnet50()
    batch = jax.device_put(_batch(small))
    program = train.Supervised(
        model.network(CLASSES),
        train.Classification(CLASSES),
        optax.sgd(RATE, MOMENTUM),
        precision=nn.Precision(compute="bfloat16"),
    )
    began = time.perf_counter()
    state = jax.block_until_ready(program.init(jax.random.key(0), batch))
    started = time.perf_counter() - began
    compiled = train.make_step(program)

    def step() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics["loss"]

    yield _line("jaxnn", step, jax.block_until_ready, small, started) + memory()


def resnet_flax_nnx(small: bool) -> Iterator[str]:
    """By `nnx.jit`, with donated state."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    batch = jax.device_put(_batch(small))
    began = time.perf_counter()
    model = _nnx_network(nnx.Rngs(0), small)
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, MOMENTUM), wrt=nnx.Param)
    jax.block_until_ready(nnx.state((model, optimizer)))
    started = time.perf_counter() - began

    @nnx.jit(donate_argnums=(0, 1))
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            logits = model(x).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    run: Callable[[], Any] = lambda: step(model, optimizer, *batch)  # noqa: E731
    yield _line("flax nnx", run, jax.block_until_ready, small, started) + memory()


def resnet_torch(small: bool) -> Iterator[str]:
    """By `torch.compile` with autocast, channels last in memory; eager on a CPU."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    torch.backends.cudnn.benchmark = True
    model = _torch_network(small).to(device, memory_format=torch.channels_last)
    x, y = _batch(small)
    images = torch.from_numpy(x).to(device).permute(0, 3, 1, 2)  # channels last, as they lie
    targets = torch.from_numpy(y).long().to(device)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    started = time.perf_counter() - began
    forward = model if small else torch.compile(model)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            value = torch.nn.functional.cross_entropy(forward(images), targets)
        value.backward()
        optimizer.step()
        return value.detach()

    name = "torch, eager" if small else "torch.compile"
    yield _line(name, step, torch_wait, small, started) + torch_memory()


def _nnx_network(rngs: Any, small: bool) -> Any:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    given = {"dtype": jnp.bfloat16, "rngs": rngs}

    class Convolution(nnx.Module):
        def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
            window, strides, padding = (size, size), (stride, stride), size // 2
            self.convolution = nnx.Conv(
                inputs, outputs, window, strides, padding=padding, use_bias=False, **given
            )
            self.norm = nnx.BatchNorm(outputs, momentum=0.9, **given)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.convolution(x))

    class Block(nnx.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            self.first = Convolution(inputs, width, 1)
            self.second = Convolution(width, width, 3, stride)
            self.third = Convolution(width, 4 * width, 1)
            resized = stride > 1 or inputs != 4 * width
            self.shortcut = Convolution(inputs, 4 * width, 1, stride) if resized else None

        def __call__(self, x: jax.Array) -> jax.Array:
            y = self.third(nnx.relu(self.second(nnx.relu(self.first(x)))))
            return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    class ResNet(nnx.Module):
        def __init__(self) -> None:
            self.stem = Convolution(3, _width(small), 7, 2)
            self.blocks = nnx.List([Block(*sizes) for sizes in _blocks(small)])
            self.head = nnx.Linear(4 * _blocks(small)[-1][1], CLASSES, **given)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.stem(x.astype(jnp.bfloat16)))
            padding: Any = ((1, 1), (1, 1))
            x = nnx.max_pool(x, (3, 3), (2, 2), padding=padding)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((1, 2)))

    return ResNet()


def _torch_network(small: bool) -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            relu = nn.ReLU(inplace=True)
            first, second = convolution(inputs, width, 1), convolution(width, width, 3, stride)
            self.branch = nn.Sequential(first, relu, second, relu, convolution(width, 4 * width, 1))
            resized = stride > 1 or inputs != 4 * width
            self.shortcut = convolution(inputs, 4 * width, 1, stride) if resized else nn.Identity()

        def forward(self, x: Any) -> Any:
            return torch.relu(self.branch(x) + self.shortcut(x))

    return nn.Sequential(
        convolution(3, _width(small), 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *(Block(*sizes) for sizes in _blocks(small)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * _blocks(small)[-1][1], CLASSES),
    )


def _width(small: bool) -> int:
    return 4 if small else 64


def _blocks(small: bool) -> list[tuple[int, int, int]]:
    """Inputs, width, and stride of each block."""
    found, inputs = [], _width(small)
    for stage, number in enumerate((1,) if small else STAGES):
        for block in range(number):
            width = _width(small) * 2**stage
            found.append((inputs, width, 2 if stage and not block else 1))
            inputs = 4 * width
    return found


def _batch(small: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    rows, side = (2, 32) if small else (BATCH, SIDE)
    x = random.standard_normal((rows, side, side, 3), np.float32)
    return x, random.integers(CLASSES, size=rows).astype(np.int32)


def _line(name: str, step: Any, wait: Any, small: bool, started: float) -> str:
    found = speed(step, wait, small)
    rows = 2 if small else BATCH
    return (
        f"- {name}: {1e3 * found.seconds:.2f} ms a step of {rows} images, "
        f"{rows / found.seconds:,.0f} images/s; init {started:.1f} s, first step "
        f"{found.first:.1f} s; loss {found.start:.3f}, then {found.end:.3f}"
    )

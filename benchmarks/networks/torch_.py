"""PyTorch, eager, on the CPU; the GPT is of any size."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from benchmarks.networks.sizes import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    GPT_SMALL,
    LEARNING_RATE,
    STACKED,
    UNITS,
    WORDS,
    GPTSizes,
    Sides,
)


def resnet() -> dict[str, Sides]:
    """Convolutions and batch norm; images come with their channels last and are turned once."""
    return {"torch": sides(_ResNet())}


def gpt() -> dict[str, Sides]:
    """`scaled_dot_product_attention` with `is_causal`."""
    return {"torch": sides(GPT())}


def lstm() -> dict[str, Sides]:
    """`nn.LSTM`."""
    return {"torch": sides(_LSTM())}


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> Any:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        resized = stride > 1 or inputs != outputs
        self.shortcut = _convolution(inputs, outputs, 1, stride) if resized else nn.Identity()

    def forward(self, x: Any) -> Any:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class _ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, CHANNELS[0], 3, 1)
        blocks, inputs = [], CHANNELS[0]
        for stage, channels in enumerate(CHANNELS):
            for block in range(BLOCKS):
                blocks.append(_Residual(inputs, channels, 2 if stage and not block else 1))
                inputs = channels
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, CLASSES)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.stem(x.permute(0, 3, 1, 2)))
        return self.head(self.blocks(x).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        rows, length, width = x.shape
        parts = self.inputs(self.norm1(x)).view(rows, length, 3, self.heads, -1)
        parts = parts.permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(rows, length, width))
        h = nn.functional.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(h)


class GPT(nn.Module):
    """A GPT with norms first and a tied head."""

    def __init__(self, sizes: GPTSizes = GPT_SMALL) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.words, sizes.width)
        self.positions = nn.Embedding(sizes.length, sizes.width)
        blocks = [_Block(sizes.width, sizes.heads) for _ in range(sizes.layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, tokens: Any) -> Any:
        """The logits (..., T, words) of tokens (..., T)."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.norm(self.blocks(x)) @ self.embedding.weight.T


class _LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, STACKED, batch_first=True)
        self.head = nn.Linear(UNITS, WORDS)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.lstm(self.embedding(tokens))[0])


def sides(model: Any) -> Sides:
    """A model in inference, and its training step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def tensor(array: Any) -> Any:
        found = torch.from_numpy(np.array(array))
        return found if found.is_floating_point() else found.long()

    def forward(x: Any) -> Any:
        model.eval()
        with torch.no_grad():
            return model(tensor(x))

    def step(x: Any, y: Any) -> Any:
        model.train()
        optimizer.zero_grad()
        logits, targets = model(tensor(x)), tensor(y)
        value = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
        value.backward()
        optimizer.step()
        return value.detach()

    return Sides(forward, step)

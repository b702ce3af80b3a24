"""The sizes that all networks share, and data to run them on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE = 1e-3

# ResNet-18 in the form for CIFAR: a 3 x 3 stem, four stages of two blocks.
IMAGES, CLASSES = (8, 32, 32, 3), 10
CHANNELS, BLOCKS = (64, 128, 256, 512), 2

# A small GPT of characters.
TOKENS, WORDS = (4, 128), 84
LAYERS, WIDTH, HEADS = 6, 384, 6


class GPTSizes(NamedTuple):
    """The sizes of a GPT; `length` is the number of learned positions."""

    layers: int = LAYERS
    width: int = WIDTH
    heads: int = HEADS
    words: int = WORDS
    length: int = 256


GPT_SMALL = GPTSizes()
GPT2 = GPTSizes(layers=12, width=768, heads=12, words=50257, length=1024)


# BERT-base with a classifier of pairs of sentences, and ConvNeXt-T.
PAIRS, BERT_WORDS, BERT_CLASSES = (2, 128), 30522, 2
PHOTOS, OBJECTS = (2, 224, 224, 3), 1000

# A Mamba-2 of characters: the batch and the width of the GPT, and heads and states as published.
MAMBA_LAYERS, MAMBA_WIDTH, HEAD_DIM, STATE, CHUNK = 6, 384, 64, 128, 64

# A character model of two LSTM layers.
CHARACTERS, UNITS, STACKED = (32, 64), 256, 2


class Sides(NamedTuple):
    """What is timed.

    Args:
        forward: outputs of a batch, in inference.
        step: takes a batch and its targets, trains a held network by one step; its loss.
        lower: takes a batch and its targets, and returns "forward" and "step" as lowered by JAX.
            Default: None, for a library without JAX.
    """

    forward: Callable[[Any], Any]
    step: Callable[[Any, Any], Any]
    lower: Callable[[Any, Any], dict[str, Any]] | None = None


def batch(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, at random."""
    random = np.random.default_rng(0)
    if kind == "resnet":
        x = random.normal(size=IMAGES).astype(np.float32)
        return x, random.integers(CLASSES, size=IMAGES[0]).astype(np.int32)
    if kind == "convnext":
        x = random.normal(size=PHOTOS).astype(np.float32)
        return x, random.integers(OBJECTS, size=PHOTOS[0]).astype(np.int32)
    if kind == "bert":
        x = random.integers(BERT_WORDS, size=PAIRS).astype(np.int32)
        return x, random.integers(BERT_CLASSES, size=PAIRS[0]).astype(np.int32)
    shape = CHARACTERS if kind == "lstm" else TOKENS
    x, y = random.integers(WORDS, size=(2, *shape)).astype(np.int32)
    return x, y

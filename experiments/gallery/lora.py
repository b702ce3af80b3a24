"""LoRA on a GPT-2 from torch: from Python's manual to Python's source code.

Hu et al., LoRA: low-rank adaptation of large language models, 2021. `gpt2.npz`
has the weights of a small GPT2LMHeadModel of transformers, and logits that
torch computes from them; `_gpt2.py` made it. `nn.Inference` keeps the weights
as they are, and adapters of rank 4 are trained on the text of a module of the
standard library, character by character. They are then added to the weights.

    python -m experiments.gallery.lora

Expected nats per character of the test text, with Python 3.11, in 25 seconds
on two CPU cores: 1.82 before and 1.13 after. The logits before differ from
those of torch by 2e-5.
"""

import argparse
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from jaxnn import data, interop, train
from jaxnn.data.dataset import split_text
from jaxnn.models import GPT

FILE, LENGTH = Path(__file__).with_name("gpt2.npz"), 64
GPT2 = GPT(layers=2, width=48, num_heads=4, length=LENGTH).network(outputs=96)


def weights() -> tuple[train.Weights, np.ndarray, np.ndarray]:
    """The weights of torch, and tokens with their logits."""
    arrays = {name: array.astype("f") for name, array in np.load(FILE).items()}
    tokens, logits = arrays.pop("tokens").astype(int), arrays.pop("logits")
    return interop.from_torch(GPT2, arrays, tokens, names=interop.GPT2), tokens, logits


def source(module: ModuleType = argparse) -> data.Dataset:
    """The source code of a module in windows; the last fifth of them is the test."""
    text = inspect.getsource(module)
    vocabulary = data.python_reference().vocabulary
    text = "".join(symbol for symbol in text if symbol in vocabulary)
    return split_text(text, vocabulary, name=module.__name__).windows(LENGTH)


def adapted(net: nn.Layer, given: train.Weights, rank: int = 4) -> tuple[nn.Layer, Any]:
    """A network with adapters around its weights, which stay, and its parameters."""
    key, tokens = jax.random.key(1), np.zeros((1, LENGTH), int)
    net, match = nn.Inference(net), "blocks/**/w"
    return nn.add_lora(net, given.params, key, tokens, rank=rank, match=match)


def program(net: nn.Layer, params: Any, rate: float | train.Schedule = 1e-3) -> train.Minimize:
    """The program that trains the adapters."""
    adam = train.Optimizer(optax.adam, learning_rate=rate)
    return train.Supervised(net, train.NextToken(96), adam, initial=params)


def main(steps: int = 1000) -> dict[str, float]:
    """Train adapters, and measure the loss in nats per character before and after."""
    (given, tokens, logits), code = weights(), source()
    net, params = adapted(GPT2, given)
    trained, key = program(net, params, train.Cosine(1e-2, steps=steps)), jax.random.key(0)
    before = trained.init(key, code.test)
    rows = code.train_and_validation
    state, _ = train.fit(trained, rows, key=key, steps=steps, batch_size=32)
    plain, params = nn.merge_lora(net, state.params)
    merged = plain.apply(params, code.test.x)
    return {
        "difference from torch": float(abs(GPT2.apply(given.params, tokens) - logits).max()),
        "before": train.evaluate(trained, before, code.test)["loss"],
        "after": train.evaluate(trained, state, code.test)["loss"],
        "merged": float(train.NextToken(96)(merged, code.test.y)),
    }


if __name__ == "__main__":
    print(main())

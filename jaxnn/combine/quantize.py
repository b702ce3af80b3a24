"""quantize: a trained network whose weights are int8 numbers, for inference."""

from functools import partial
from typing import Any

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
from ..layers.bilinear import Bilinear
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.convolution_transpose import ConvTranspose
from ..layers.dense import Dense
from ..layers.einsum import Einsum
from ..layers.embedding import Embedding, EmbeddingBag
from ..layers.gated import GatedFeedForward
from ..layers.patch import PatchEmbedding
from ..tree import edit_children, inside
from .capture import capture
from .ensemble import Ensemble
from .inference import Inference
from .precision import Precision
from .remat import Remat
from .repeat import Repeat
from .residual import Residual
from .weight_norm import each_of_stack

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
# Wrappers whose parameters are those of the layer inside, or stacks of them.
TRANSPARENT = (Inference, Precision, Remat, Residual, capture)
STACKING = (Ensemble, Repeat)
LARGEST = 127


class Quantized(Wrapper):
    """A layer with the weights w = scale * q, where q is int8: what `quantize` makes.

    The parameter w becomes w/q, int8 of its shape, and w/scale, float32, with an axis of 1 in place
    of each that is summed over. Biases and scales of norms stay. Products are taken of scale * q,
    so the arithmetic is that of the layer itself. `init` draws what `quantize` makes of the
    layer's own draw. Raises ValueError in training, and TypeError around another layer than Dense,
    Einsum, Bilinear, the convolutions, embeddings, MultiHeadAttention and GatedFeedForward.
    """

    inner: LayerLike

    def __post_init__(self) -> None:
        """Check the kind of layer."""
        if not isinstance(self.wrapped, KINDS):
            raise TypeError(
                f"Quantized wants one of {', '.join(kind.__name__ for kind in KINDS)}, got "
                f"{self.wrapped!r}; write nn.quantize(net, params) for a network"
            )

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """With the int8 numbers and the scale of each weight."""

        def split(path: paths.Path, param: Param) -> Any:
            if not _is_weight(path, param):
                return param
            axes = _summed(self.wrapped, param.ndim)
            shape = tuple(1 if i in axes else n for i, n in enumerate(param.shape))
            wide = jnp.promote_types(param.dtype, jnp.float32)
            return {
                "q": Param(param.shape, Rounded(param.init, axes), "int8", lift=1),
                "scale": Param(shape, Steps(param.init, axes, param.shape), wide, lift=1),
            }

        return paths.map_with_path(split, params), state

    def lower(self, call: Call) -> Call:
        """With the weights themselves."""
        if call.train:
            raise ValueError(
                "has int8 weights, which cannot be trained: train the network that nn.quantize "
                "was given"
            )
        return call.replace(params=_whole(call.params, ()))


def quantize(net: Layer, params: Any) -> tuple[Layer, Any]:
    """`net` with int8 weights, and its parameters: a quarter of the memory of float32.

    For each output of a layer (a feature of a product, a channel of a convolution, a row of a
    table) with weights w

        scale = max |w| / 127,   q = round(w / scale),   |w - scale * q| <= scale / 2

    Weights of Dense, Einsum, Bilinear, convolutions, embeddings, MultiHeadAttention and
    GatedFeedForward are quantized, those stacked by `Repeat` or `Ensemble` one by one; all other
    parameters stay as they are, and so do layers that compute their weights, as in `WeightNorm`,
    and recurrent cells. It is for inference: training raises. Works under `jax.jit`. Raises
    ValueError where nothing can be quantized.

    Reference: Jacob et al., Quantization and training of neural networks for efficient
    integer-arithmetic-only inference, 2018.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net, x = nn.Sequential(nn.Dense(64), jax.nn.relu, nn.Dense(10)), jnp.ones((2, 256))
    >>> params = net.init(jax.random.key(0), x)
    >>> small, small_params = quantize(net, params)
    >>> jax.tree.map(jnp.shape, small_params[0])
    {'b': (64,), 'w': {'q': (256, 64), 'scale': (1, 64)}}
    >>> y, z = net.apply(params, x), small.apply(small_params, x)
    >>> bool(jnp.max(jnp.abs(y - z)) < 0.02 * jnp.max(jnp.abs(y)))
    True
    """
    if not isinstance(net, Layer):
        raise TypeError(f"quantize wants a layer, got {net!r}; write nn.quantize(net, params)")
    new = _edited(net, params)
    if new[0] == net:
        shown = repr(net)
        raise ValueError(
            f"no layer of {shown if len(shown) <= 80 else type(net).__name__ + '(...)'} has "
            f"weights that can be quantized: those of {', '.join(k.__name__ for k in KINDS)} can"
        )
    return new


def to_int8(w: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """q in int8 and scale in at least float32, one for all weights along `axes`: w is scale * q.

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
    """The int8 numbers of what another initializer draws."""

    init: InitFn
    axes: tuple[int, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.int8) -> jax.Array:
        """An array of int8."""
        return to_int8(self.init(key, shape, jnp.float32), self.axes)[0].astype(dtype)


class Steps(Initializer):
    """The scales of what another initializer draws at `shape`."""

    init: InitFn
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array of scales, from the very draw that the int8 numbers have."""
        return to_int8(self.init(key, self.shape, jnp.float32), self.axes)[1].astype(dtype)


def _is_weight(path: paths.Path, leaf: Any) -> bool:
    return path[-1:] == ("w",) and len(leaf.shape) > 1


def _summed(layer: Layer, ndim: int) -> tuple[int, ...]:
    """The axes of a weight along which all have one scale: those that an output sums over."""
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
    """The parameters of the layer inside."""
    if isinstance(tree, dict) and tree.keys() == {"q", "scale"}:
        return tree["q"].astype(tree["scale"].dtype) * tree["scale"]
    if isinstance(tree, dict):
        return {name: _whole(item, (*path, name)) for name, item in tree.items()}
    if hasattr(tree, "shape") and _is_weight(path, tree):
        raise Mismatch(
            f"{paths.text(path)!r} is a dict of int8 numbers q and their scale, got "
            f"{describe(tree)}; write net, params = nn.quantize(net, params)"
        )
    return tree


def _edited(layer: Any, params: Any, depth: int = 0) -> tuple[Any, Any]:
    """A layer and its parameters, which have `depth` stacked axes in front."""
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

"""Numeric types: Precision sets the type of computation, and quantize stores weights as int8."""

from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arrays import as_floating, is_floating
from ..core import paths
from ..core.calls import Call, Next, Outcome
from ..core.composite import Wrapper
from ..core.declarations import Param
from ..core.layer import Layer, LayerLike
from ..explain.text import Mismatch
from ..fields import code
from ..functional.linear import Int8Weight
from ..initializers import InitFn, Initializer, Shape
from ..layers import check_not_training, path_pattern
from ..layers.attention import MultiHeadAttention
from ..layers.blocks import GatedFeedForward
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.embedding import Embedding, EmbeddingBag, PatchEmbedding
from ..layers.linear import Bilinear, Dense, Einsum
from ..layers.patches import ConvTranspose
from ..tree import check_found, check_layer, edit_children, inside, layers
from ..validation import Accepts, instance
from . import Residual
from .reparametrization import each_of_stack
from .transforms import Ensemble, Inference, Remat, Repeat, capture


def _names_floating_type(name: Any) -> bool:
    try:
        return isinstance(name, str) and jnp.issubdtype(jnp.dtype(name), jnp.floating)
    except TypeError:
        return False


_COMPUTE = Accepts(
    "the name of a floating type, such as 'bfloat16', 'float16', or 'float32'",
    _names_floating_type,
)


class Casting(NamedTuple):
    """The type in which parameters are used: `compute`, except in and below layers whose path after
    `start` segments matches `keep`.

    A primitive casts its parameters itself, at each call, so that the gradients of several calls,
    or of the steps of a scan, are added in the type of the parameters.
    """

    compute: str
    keep: str | None = None
    start: int = 0

    def cast(self, params: Any, path: paths.Path) -> Any:
        """Return the parameters of the layer at `path`, each in the type in which it is used."""
        if self.keep is None:
            return as_floating(params, self.compute)

        def leaf(path: paths.Path, item: Any) -> Any:
            return item if self.keeps(path[:-1]) else as_floating(item, self.compute)

        return paths.map_with_path(leaf, params, path)

    def keeps(self, path: paths.Path) -> bool:
        """Return whether the layer at `path` or one above it is kept."""
        below = path[self.start :]
        above = (paths.text(below[:n]) for n in range(1, len(below) + 1))
        return self.keep is not None and any(paths.matches(self.keep, name) for name in above)


class Precision(Wrapper):
    """Compute a network in the floating type `compute`.

    Floating inputs and parameters are cast to `compute`, and outputs are cast back to the type of
    the first floating input (or of the parameters, if all inputs are integers). Integers and state
    are unchanged. Parameters keep their type, and so do gradients and updates. Each layer casts its
    parameters where it uses them.

    Some results are computed in at least float32, regardless of `compute`: statistics, softmax,
    losses, and the gradient of a parameter that is used many times (a bias, a table, a weight in a
    scan, or the weights of a layer that is called many times). In custom layers, use `shared_sum`,
    `shared_product`, and `shared_rows` of `jaxnn.functional.gradients` for `y + b`, `y * scale`,
    and `table[ids]`. Matrix products and convolutions return arrays of type `compute`; their sums
    accumulate in float32 on TPUs, GPUs, and CPUs.

    Without a network it is a policy, `Precision(compute="bfloat16")`, for
    `train.Supervised(..., precision=...)`; `dataclasses.replace(policy, inner=net)` applies it to
    a network.

    Args:
        inner: Network, a layer or a function. Default: None, for a policy.
        compute: Name of a floating type. Default: "bfloat16".
        keep: Path pattern of layers, such as `"**/norm*"`, that compute in the type of their
            parameters (without parameters, in the default type), with all layers below them. Their
            inputs are widened, and their outputs are cast to `compute`. Default: None.

    Raises:
        ValueError: If `compute` is not the name of a floating type, or if no layer matches `keep`.

    Reference: Micikevicius et al., Mixed precision training, 2018.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Precision(Dense(4), compute="bfloat16")
    >>> x = jnp.ones((2, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> params["w"].dtype.name, net.apply(params, x).dtype.name
    ('float32', 'float32')
    """

    inner: LayerLike | None = None  # type: ignore[assignment]
    compute: Annotated[str, _COMPUTE] = "bfloat16"
    keep: Annotated[str | None, None | path_pattern] = None

    def _normalize_fields(self) -> None:
        if self.inner is None:  # a policy, to be applied to a network later
            Layer._normalize_fields(self)
        else:
            super()._normalize_fields()

    def __post_init__(self) -> None:
        """Check that `keep` matches a layer."""
        if self.keep is not None and self.inner is not None:
            found = [paths.text(path) for path in dict(layers(self.wrapped)) if path]
            check_found(
                any(paths.matches(self.keep, name) for name in found),
                self.wrapped,
                f"matches Precision.keep={self.keep!r}",
                f"layers are: {', '.join(found) or 'none below the network itself'}",
            )

    @property
    def wrapped(self) -> Layer:
        """The inner layer; raises TypeError for a policy without one."""
        if self.inner is None:
            raise TypeError(
                f"{self!r} is a policy without a network: write nn.Precision(net, "
                f"{self.compute!r}), or train.Supervised(net, task, optimizer, precision=...)"
            )
        return super().wrapped

    def _evaluate(self, call: Call) -> Outcome:
        inputs, named = as_floating((call.inputs, call.named), self.compute)
        below = call.replace(inputs=inputs, named=named, casting=Casting(self.compute))
        # While only shapes are known, what is kept does not matter: the output is cast below.
        if self.keep is not None and not call.abstract:
            casting = Casting(self.compute, self.keep, len(call.path))
            below = below.replace(casting=casting).intercepted(
                partial(_kept, self.keep, self.compute)
            )
        outcome = self._inside(below)
        params = call.params.declared.params if call.abstract else call.cast_params()
        outside = _floating_type((call.inputs, call.named, params))
        return outcome._replace(output=as_floating(outcome.output, outside))

    def __repr__(self) -> str:
        parts = [] if self.inner is None else [code(self.inner)]
        if self.compute != "bfloat16":
            parts.append(f"compute={self.compute!r}")
        if self.keep is not None:
            parts.append(f"keep={self.keep!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _kept(keep: str, compute: str, path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
    """Compute a kept layer and all layers below it in the type of its parameters."""
    fits = [paths.matches(keep, paths.text(path[:n])) for n in range(1, len(path) + 1)]
    if call.inner or True not in fits or fits.index(True) + 1 < len(path):
        return next(call)
    own = _floating_type(call.params)
    inputs, named = as_floating((call.inputs, call.named), own)
    outcome = next(call.replace(inputs=inputs, named=named, casting=None))
    return outcome._replace(output=as_floating(outcome.output, compute))


def _floating_type(trees: Any) -> Any:
    """Return the type of the first floating array, or the default floating type."""
    found = (leaf.dtype for leaf in jax.tree.leaves(trees) if is_floating(leaf))
    return next(found, jnp.result_type(float))


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
# Layers that multiply by all of their weights with `functional.linear`, or look up rows.
FUSED = (Dense, Embedding, GatedFeedForward, MultiHeadAttention)
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
        ValueError: If it is called in training.
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
        check_not_training(self, call.train, "has int8 weights", "nn.quantize")
        return call.replace(params=_joined(call.params, (), isinstance(self.wrapped, FUSED)))


def quantize(net: Layer, params: Any) -> tuple[Layer, Any]:
    """Convert the weights of a network to int8: a quarter of the memory of float32.

    For each output of a layer (a feature of a product, a channel of a convolution, a row of a
    table) with weights w,

        scale = max |w| / 127,   q = round(w / scale),   |w - scale * q| <= scale / 2

    The weights of Dense, Einsum, Bilinear, PatchEmbedding, MultiHeadAttention, GatedFeedForward,
    convolutions, and embeddings are quantized; those stacked by `Repeat` or `Ensemble` are
    quantized separately. All other parameters are unchanged, including those of recurrent cells and
    of layers that compute their weights, such as `WeightNorm`. The result is for inference, and
    raises an error in training. The function works under `jax.jit`.

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
    can = ", ".join(kind.__name__ for kind in KINDS)
    check_found(new[0] != net, net, "can be quantized", f"these can: {can}")
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


_quantized = Accepts(
    "a dict of int8 values q and their scale",
    lambda tree: isinstance(tree, dict) and tree.keys() == {"q", "scale"},
    Mismatch,
    "write net, params = nn.quantize(net, params)",
    abstract=True,
)


def _joined(tree: Any, path: paths.Path, fused: bool) -> Any:
    """Return the parameters of the inner layer, with weights as `Int8Weight` if `fused`."""
    if _quantized.passes(tree):
        weight = Int8Weight(**tree)
        return weight if fused else weight.whole()
    if isinstance(tree, dict):
        return {name: _joined(item, (*path, name), fused) for name, item in tree.items()}
    if hasattr(tree, "shape") and _is_weight(path, tree):
        _quantized(tree, repr(paths.text(path)))  # raises
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

"""Wrappers that compute weights from other parameters: WeightNorm, SpectralNorm, and LoRA."""

import dataclasses
import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import Param, Variable, abstract, declared
from ..core.layer import LayerLike
from ..explain.layer_errors import check_state
from ..explain.text import Mismatch
from ..functional.linear import wider_type
from ..functional.normalization import spectral_norm, weight_norm
from ..initializers import InitFn, Initializer, Shape, lecun_normal, zeros
from ..layers import path_pattern
from ..tree import layers
from ..validation import Accepts, check_none, number, positive
from .transforms import Inference


class _Computed(Wrapper):
    """Base of wrappers that compute each weight whose path fits `match` from several parameters.

    A subclass defines `_declare_parts(weight)`, the declared parts by name, given the declaration
    of the part with the shape of the weight; `_accepts`, a check of the parts; and
    `_weight(parts)`, the weight.
    """

    _least = 1  # smallest number of axes of a weight

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Declare the parts of each weight."""
        check_fits(self, params, self._least)

        def split(path: paths.Path, param: Param) -> Any:
            if not paths.matches(self.match, paths.text(path)):
                return param
            stack = tuple((levels + 1, n) for levels, n in param.stack)
            below = dataclasses.replace(param, stack=stack, lift=param.lift + 1)
            return self._declare_parts(below)

        return paths.map_with_path(split, params), state

    def lower(self, call: Call) -> Call:
        """Compute each weight from its parts."""
        return call.replace(params=self.merge(call.params))

    def merge(self, params: Any, path: paths.Path = ()) -> Any:
        """Return the parameters of the inner layer, in which each weight is computed.

        Args:
            params: Parameters of this layer, or of a part of it.
            path: Path of `params` in the parameters of this layer. Default: (), for all of them.
        """
        if paths.matches(self.match, paths.text(path)):
            self._accepts(params, repr(paths.text(path)))
            return self._weight(params)
        if isinstance(params, dict):
            return {name: self.merge(item, (*path, name)) for name, item in params.items()}
        if isinstance(params, tuple):
            items = [self.merge(item, (*path, str(i))) for i, item in enumerate(params)]
            return paths.same_kind(params, items)
        return params


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, dict) or pair.keys() != {"v", "g"}:
        return False
    v, g = pair["v"], pair["g"]
    return bool(v.ndim and g.ndim) and g.shape == (*v.shape[: g.ndim - 1], v.shape[-1])


class WeightNorm(_Computed):
    """Weight normalization: replace each weight w of a layer by `g * v / |v|`.

    |v| is the norm over all axes but the last. The parameter w becomes w/v, of the same shape, and
    w/g, one length for each feature of the last axis. Initially, w equals the weight that the layer
    itself would draw, up to rounding. Weights stacked by `Repeat` or `Ensemble` inside are
    normalized separately. A v of 0 gives w = 0.

    Args:
        inner: Layer whose weights are normalized.
        match: Path pattern of the parameters to normalize, as for `capture`. Default: `"**/w"`, all
            parameters called w, which includes the tables of embeddings.

    Raises:
        ValueError: If no parameter matches, or if a parameter that matches has no axes.

    Reference: Salimans and Kingma, Weight normalization: a simple reparameterization to accelerate
    training of deep neural networks, 2016.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> params = WeightNorm(Dense(4)).init(jax.random.key(0), jnp.zeros((2, 3)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': {'g': (4,), 'v': (3, 4)}}
    """

    inner: LayerLike
    match: Annotated[str, path_pattern] = "**/w"

    _accepts = Accepts(
        "a dict of the direction v and the lengths g", _is_pair, Mismatch, abstract=True
    )

    def _declare_parts(self, weight: Param) -> dict[str, Param]:
        n = len(weight.stack)
        shape = (*weight.shape[:n], weight.shape[-1])
        length = Lengths(weight.init, weight.slice_shape)
        return {"v": weight, "g": dataclasses.replace(weight, shape=shape, init=length)}

    def _weight(self, parts: Any) -> jax.Array:
        return each_of_stack(weight_norm, parts["g"].ndim - 1)(parts["v"], parts["g"])


class Lengths(Initializer):
    """Return the lengths, over all axes but the last, of what `inner` draws at `shape`."""

    inner: InitFn
    shape: tuple[int, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = float) -> jax.Array:
        """Return the lengths of the v that the same key draws."""
        drawn = self.inner(key, self.shape, dtype)
        return jax.numpy.sqrt((drawn**2).sum(tuple(range(drawn.ndim - 1))))


def each_of_stack(function: Any, depth: int) -> Any:
    """Map `function` over `depth` leading axes of its arguments."""
    for _ in range(depth):
        function = jax.vmap(function)
    return function


def check_fits(layer: Any, params: Any, least: int = 1) -> None:
    """Raise ValueError unless parameters match the pattern, all of at least `least` axes."""
    shapes = {paths.text(path): param.slice_shape for path, param in paths.walk(params)}
    fit = {name: shape for name, shape in shapes.items() if paths.matches(layer.match, name)}
    if not fit or any(len(shape) < least for shape in fit.values()):
        owner = type(layer).__name__
        raise ValueError(
            f"{owner}.match must match parameters, each of at least {least} axes, got "
            f"{layer.match!r}, which matches {fit or 'none'}; parameters are {shapes}; write "
            f"{owner}(layer, match=...)"
        )


class SpectralNorm(Wrapper):
    """Spectral normalization: divide each weight w of a layer by its largest singular value.

    w is used as a matrix: the last axis is its columns, and all other axes are combined to its
    rows. The largest singular value sigma is estimated by `steps` steps of power iteration from the
    state u, float32 of shape (n,), at the weight's path. Training updates u; inference does not.
    Both use sigma after the steps. The initial u is zeros, which selects a fixed direction.
    Gradients treat the singular vectors as constants. Weights stacked by `Repeat` or `Ensemble`
    inside are normalized separately. A weight of 0 stays 0.

    Args:
        inner: Layer whose weights are normalized.
        steps: Number of steps of power iteration per call, at least 1. Default: 1.
        match: Path pattern of the parameters to normalize, as for `capture`. Default: `"**/w"`, all
            parameters called w, which includes the tables of embeddings.

    Raises:
        ValueError: If no parameter matches, if a parameter that matches has no axes, or if `apply`
            receives no state.

    Reference: Miyato et al., Spectral normalization for generative adversarial networks, 2018.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net, x = SpectralNorm(Dense(4)), jnp.zeros((2, 3))
    >>> jax.tree.map(jnp.shape, (net.init(jax.random.key(0), x), net.init_state(x)))
    ({'b': (4,), 'w': (3, 4)}, {'w': {'u': (4,)}})
    """

    inner: LayerLike
    steps: Annotated[int, positive] = 1
    match: Annotated[str, path_pattern] = "**/w"

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Declare the state u of each weight."""
        check_fits(self, params)
        taken = []
        for path, param in paths.walk(params):
            if paths.matches(self.match, paths.text(path)):
                sizes, place = (*param.shape[: len(param.stack)], param.shape[-1]), (*path, "u")
                if _without(state, place)[1] is not None:
                    taken.append(repr(paths.text(place)))
                state = paths.nested(state, place, Variable(sizes, zeros(), "float32"))
        what = "another SpectralNorm inside normalizes the same weight and keeps"
        check_none(taken, what, "exclude it by match=...")
        return params, state

    def _evaluate(self, call: Call) -> Outcome:
        if call.abstract:
            return self._inside(call)
        matched = [
            (path, w)
            for path, w in paths.walk(call.params)
            if paths.matches(self.match, paths.text(path))
        ]
        below, old, slots = call.state, {}, {}
        for path, w in matched:
            below, u = _without(below, (*path, "u"))
            old |= {} if u is None else {(*path, "u"): u}
            shape, stacked = jnp.shape(w) or (1,), max(getattr(u, "ndim", 1) - 1, 0)
            slots[paths.text((*path, "u"))] = jax.ShapeDtypeStruct(
                (*shape[:stacked], shape[-1]), "float32"
            )
        own = {paths.text(path): u for path, u in old.items()}
        check_state(call.replace(state=own), slots)
        new, weights = {}, {}
        for path, w in matched:
            weights[path], new[*path, "u"] = self._normalized(w, old[*path, "u"])
        params = paths.map_with_path(lambda path, w: weights.get(path, w), call.params)
        outcome = self._inside(call.replace(params=params, state=below))
        state = outcome.state
        for path, u in (new if call.train else old).items():
            state = paths.nested(state, path, u)
        return outcome._replace(state=state)

    def _normalized(self, w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return w / sigma in the type of w, and the next u in the type of u."""

        def one(w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            sigma, after = spectral_norm(w, u, self.steps)
            sigma = jnp.where(sigma == 0, jnp.ones_like(sigma), sigma)
            return (w.astype(sigma.dtype) / sigma).astype(w.dtype), after.astype(u.dtype)

        return each_of_stack(one, u.ndim - 1)(w, u)


def _without(tree: Any, path: paths.Path) -> tuple[dict[str, Any], Any]:
    """Return nested dicts without `path` or dicts it leaves empty, and its item or None."""
    head, *rest = path
    if not isinstance(tree, dict) or head not in tree:
        return tree, None
    below, found = _without(tree[head], tuple(rest)) if rest else ({}, tree[head])
    others = {name: item for name, item in tree.items() if name != head}
    return ({**others, head: below} if below else others), found


def _are_parts(parts: Any) -> bool:
    if not isinstance(parts, dict) or parts.keys() != {"base", "down", "up"}:
        return False
    base, down, up = parts["base"], parts["down"], parts["up"]
    depth = down.ndim - 2
    copies, rank = base.shape[:depth], down.shape[-1:]
    wanted = (*copies, math.prod(base.shape[depth:-1]), *rank), (*copies, *rank, base.shape[-1])
    return depth >= 0 and (down.shape, up.shape) == wanted


class LoRA(_Computed):
    """Low-rank adaptation: replace each weight w of a layer by `base + scale * down @ up`.

    The parameter w becomes w/base, the original weight, w/down (n, rank), and w/up (rank, m), where
    m is the last axis of w and n is the product of the others. up starts at 0, so the outputs are
    unchanged at first. Weights stacked by `Repeat` or `Ensemble` inside are adapted separately. The
    sum is computed in at least float32.

    `nn.add_lora` wraps a trained network, and `nn.merge_lora` adds the products to the weights,
    with the same outputs. To train only the adapters, wrap an `nn.Inference`, or use
    `train.partition` with None for all paths except `"**/down"` and `"**/up"`.

    Args:
        inner: Layer whose weights are adapted.
        rank: Number of columns of down, at least 1. Default: 8.
        match: Path pattern of the parameters to adapt, as for `capture`. Default: `"**/w"`, all
            parameters called w, which includes kernels and tables.
        scale: Factor of the product, alpha / rank in the paper. Default: 1.
        down_init: Initializer of down. Default: `lecun_normal()`.

    Raises:
        ValueError: If no parameter matches, or if a parameter that matches has fewer than two axes.

    Reference: Hu et al., LoRA: low-rank adaptation of large language models, 2021.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> params = LoRA(Dense(4), rank=2).init(jax.random.key(0), jnp.zeros((2, 3)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': {'base': (3, 4), 'down': (3, 2), 'up': (2, 4)}}
    """

    inner: LayerLike
    rank: Annotated[int, positive] = 8
    match: Annotated[str, path_pattern] = "**/w"
    scale: Annotated[float, number()] = 1.0
    down_init: InitFn = lecun_normal()

    _least = 2
    _accepts = Accepts(
        "a dict of base, down, and up with matching shapes", _are_parts, Mismatch, abstract=True
    )

    def _declare_parts(self, weight: Param) -> dict[str, Param]:
        *rows, columns = weight.slice_shape
        copies = weight.shape[: len(weight.stack)]
        shape = (*copies, math.prod(rows), self.rank)
        down = Param(shape, self.down_init, weight.dtype, weight.stack)
        up = dataclasses.replace(down, shape=(*copies, self.rank, columns), init=zeros())
        return {"base": weight, "down": down, "up": up}

    def _weight(self, parts: Any) -> jax.Array:
        base, down, up = parts["base"], parts["down"], parts["up"]
        return each_of_stack(functools.partial(_sum, self.scale), down.ndim - 2)(base, down, up)

    def lower(self, call: Call) -> Call:
        """Compute each weight from its base, down, and up."""
        frozen = any(isinstance(one, Inference) for _, one in layers(self.wrapped))
        if frozen and not call.stopped:
            inputs, named = abstract((call.inputs, call.named))
            call = self._stopped(call, declared(self, call.method, inputs, named).params)
        return super().lower(call)

    def _stopped(self, call: Call, spec: Any) -> Call:
        """Return the call without gradients of frozen parameters; adapters keep theirs."""
        frozen = {path for path, param in paths.walk(spec) if param.frozen}
        params = paths.map_with_path(
            lambda path, leaf: lax.stop_gradient(leaf) if path in frozen else leaf, call.params
        )
        return call.replace(params=params, stopped=True)


def _sum(scale: Any, base: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    dtype = wider_type(base.dtype, jnp.float32)
    product = jnp.matmul(down.astype(dtype), up.astype(dtype), precision="highest")
    total = base.astype(dtype) + jnp.asarray(scale, dtype) * product.reshape(base.shape)
    return total.astype(base.dtype)

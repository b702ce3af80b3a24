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
from ..core.declarations import Param, Variable, abstract
from ..core.layer import LayerLike, declared
from ..explain.call_errors import INIT_STATE
from ..explain.text import Mismatch, describe, foreign
from ..functional.linear import wider_type
from ..functional.normalization import spectral_norm, weight_norm
from ..initializers import InitFn, Initializer, Shape, lecun_normal, zeros
from ..layers.checks import path_pattern
from ..tree import layers
from ..validation import Accepts, number, positive
from .transforms import Inference


class WeightNorm(Wrapper):
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

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Declare v and g for each weight."""
        check_fits(self, params)

        def split(path: paths.Path, param: Param) -> Any:
            if not paths.matches(self.match, paths.text(path)):
                return param
            stack = tuple((levels + 1, n) for levels, n in param.stack)
            v = dataclasses.replace(param, stack=stack, lift=param.lift + 1)
            n = len(stack)
            length = Lengths(param.init, param.slice_shape)
            g = dataclasses.replace(v, shape=(*param.shape[:n], param.shape[-1]), init=length)
            return {"v": v, "g": g}

        return paths.map_with_path(split, params), state

    def lower(self, call: Call) -> Call:
        """Compute each weight from its v and g."""
        return call.replace(params=self._joined(call.params, ()))

    def _joined(self, tree: Any, path: paths.Path) -> Any:
        """Return the parameters of the inner layer."""
        if paths.matches(self.match, paths.text(path)):
            return _weight(tree, path)
        if isinstance(tree, dict):
            return {name: self._joined(item, (*path, name)) for name, item in tree.items()}
        if isinstance(tree, tuple):
            return paths.same_kind(
                tree, [self._joined(x, (*path, str(i))) for i, x in enumerate(tree)]
            )
        return tree


def _weight(pair: Any, path: paths.Path) -> jax.Array:
    """Return w from its v and g; raise Mismatch unless `pair` consists of these."""
    _pair(pair, repr(paths.text(path)))
    v, g = pair["v"], pair["g"]
    return each_of_stack(weight_norm, g.ndim - 1)(v, g)


def _is_pair(pair: Any) -> bool:
    if not isinstance(pair, dict) or pair.keys() != {"v", "g"}:
        return False
    v, g = pair["v"], pair["g"]
    return bool(v.ndim and g.ndim) and g.shape == (*v.shape[: g.ndim - 1], v.shape[-1])


_pair = Accepts("a dict of the direction v and the lengths g", _is_pair, Mismatch, abstract=True)


class Lengths(Initializer):
    """Return the lengths, over all axes but the last, of what `inner` draws at `shape`."""

    inner: InitFn
    shape: tuple[int, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = float) -> jax.Array:
        """Return the lengths of what v is drawn as, from the same key."""
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
        for path, param in paths.walk(params):
            if paths.matches(self.match, paths.text(path)):
                sizes = (*param.shape[: len(param.stack)], param.shape[-1])
                state = _with(state, (*path, "u"), Variable(sizes, zeros(), "float32"))
        return params, state

    def _evaluate(self, call: Call) -> Outcome:
        if call.abstract:
            return self._inside(call)
        matched = [
            (path, w)
            for path, w in paths.walk(call.params)
            if paths.matches(self.match, paths.text(path))
        ]
        if call.foreign or not call.state:
            names = ", ".join(paths.text((*path, "u")) for path, _ in matched)
            missing = f"keeps state ({names}), but none was given: {INIT_STATE}"
            raise ValueError(foreign("keeps state") if call.state else missing)
        below, old, new, weights = call.state, {}, {}, {}
        for path, w in matched:
            below, u = _without(below, (*path, "u"))
            _check(path, w, u)
            weights[path], new[path] = self._normalized(w, u)
            old[path] = u
        params = paths.map_with_path(lambda path, w: weights.get(path, w), call.params)
        outcome = self._inside(call.replace(params=params, state=below))
        state = outcome.state
        for path, u in (new if call.train else old).items():
            state = _with(state, (*path, "u"), u)
        return outcome._replace(state=state)

    def _normalized(self, w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return w / sigma in the type of w, and the next u in the type of u."""

        def one(w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            sigma, after = spectral_norm(w, u, self.steps)
            sigma = jnp.where(sigma == 0, jnp.ones_like(sigma), sigma)
            return (w.astype(sigma.dtype) / sigma).astype(w.dtype), after.astype(u.dtype)

        return each_of_stack(one, u.ndim - 1)(w, u)


def _check(path: paths.Path, w: Any, u: Any) -> None:
    """Raise ValueError if the state of a weight does not match the weight."""
    shape = jnp.shape(w)
    if u is None or u.ndim == 0 or u.shape != (*shape[: u.ndim - 1], *shape[-1:]):
        raise ValueError(
            f"the state has {'nothing' if u is None else describe(u)} at "
            f"{paths.text((*path, 'u'))!r} for the weight {describe(w)}; {INIT_STATE}"
        )


def _with(tree: Any, path: paths.Path, item: Any) -> dict[str, Any]:
    """Return nested dicts with `item` at `path`; raise ValueError if the path exists."""
    head, *rest = path
    if not rest and head in tree:
        raise ValueError(f"the state {head!r} of a weight is kept by another SpectralNorm inside")
    return {**tree, head: _with(tree.get(head, {}), tuple(rest), item) if rest else item}


def _without(tree: Any, path: paths.Path) -> tuple[dict[str, Any], Any]:
    """Return nested dicts without `path` or dicts it leaves empty, and its item or None."""
    head, *rest = path
    if not isinstance(tree, dict) or head not in tree:
        return tree, None
    below, found = _without(tree[head], tuple(rest)) if rest else ({}, tree[head])
    others = {name: item for name, item in tree.items() if name != head}
    return ({**others, head: below} if below else others), found


class LoRA(Wrapper):
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

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Declare base, down, and up for each weight."""
        check_fits(self, params, 2)

        def split(path: paths.Path, param: Param) -> Any:
            if not paths.matches(self.match, paths.text(path)):
                return param
            *rows, columns = param.slice_shape
            stack = tuple((levels + 1, n) for levels, n in param.stack)
            copies = param.shape[: len(stack)]
            base = dataclasses.replace(param, stack=stack, lift=param.lift + 1)
            shape = (*copies, math.prod(rows), self.rank)
            down = Param(shape, self.down_init, param.dtype, stack)
            up = dataclasses.replace(down, shape=(*copies, self.rank, columns), init=zeros())
            return {"base": base, "down": down, "up": up}

        return paths.map_with_path(split, params), state

    def lower(self, call: Call) -> Call:
        """Compute each weight from its base, down, and up."""
        frozen = any(isinstance(one, Inference) for _, one in layers(self.wrapped))
        if frozen and not call.stopped:
            inputs, named = abstract((call.inputs, call.named))
            call = self._stopped(call, declared(self, call.method, inputs, named).params)
        return call.replace(params=self.merge(call.params))

    def _stopped(self, call: Call, spec: Any) -> Call:
        """Return the call without gradients of frozen parameters; adapters keep theirs."""
        frozen = {path for path, param in paths.walk(spec) if param.frozen}
        params = paths.map_with_path(
            lambda path, leaf: lax.stop_gradient(leaf) if path in frozen else leaf, call.params
        )
        return call.replace(params=params, stopped=True)

    def merge(self, params: Any, path: paths.Path = ()) -> Any:
        """Return the parameters of the inner layer, with the products added to the weights.

        Args:
            params: Parameters of this layer, or of a part of it.
            path: Path of `params` in the parameters of this layer. Default: (), for all of them.
        """
        if paths.matches(self.match, paths.text(path)):
            return _adapted(params, self.scale, path)
        if isinstance(params, dict):
            return {name: self.merge(item, (*path, name)) for name, item in params.items()}
        if isinstance(params, tuple):
            items = [self.merge(item, (*path, str(i))) for i, item in enumerate(params)]
            return paths.same_kind(params, items)
        return params


def _adapted(parts: Any, scale: Any, path: paths.Path) -> jax.Array:
    """Return the weight from its parts; raise Mismatch if they do not match."""
    _parts(parts, repr(paths.text(path)))
    base, down, up = parts["base"], parts["down"], parts["up"]
    return each_of_stack(functools.partial(_sum, scale), down.ndim - 2)(base, down, up)


def _are_parts(parts: Any) -> bool:
    if not isinstance(parts, dict) or parts.keys() != {"base", "down", "up"}:
        return False
    base, down, up = parts["base"], parts["down"], parts["up"]
    depth = down.ndim - 2
    copies, rank = base.shape[:depth], down.shape[-1:]
    wanted = (*copies, math.prod(base.shape[depth:-1]), *rank), (*copies, *rank, base.shape[-1])
    return depth >= 0 and (down.shape, up.shape) == wanted


_parts = Accepts(
    "a dict of base, down, and up with matching shapes", _are_parts, Mismatch, abstract=True
)


def _sum(scale: Any, base: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    dtype = wider_type(base.dtype, jnp.float32)
    product = jnp.matmul(down.astype(dtype), up.astype(dtype), precision="highest")
    total = base.astype(dtype) + jnp.asarray(scale, dtype) * product.reshape(base.shape)
    return total.astype(base.dtype)

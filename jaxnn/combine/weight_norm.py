"""WeightNorm: weights as the product of a direction and a length."""

import dataclasses
from typing import Annotated, Any

import jax

from ..core import paths
from ..core.calls import Call
from ..core.composite import Wrapper
from ..core.declarations import Param
from ..core.layer import LayerLike
from ..explain.location import Mismatch
from ..explain.text import describe
from ..functional.normalization import weight_norm
from ..initializers import InitFn, Initializer, Shape
from ..layers.checks import path_pattern


class WeightNorm(Wrapper):
    """Weight normalization: replace each weight w of a layer by `g * v / |v|`.

    |v| is the norm over all axes but the last. The parameter w becomes w/v, of the same shape, and
    w/g, one length for each feature of the last axis. Initially, w equals what the layer itself
    would draw, up to rounding. Weights stacked by `Repeat` or `Ensemble` inside are normalized
    separately. A v of 0 gives w = 0.

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
            return paths.like(tree, [self._joined(x, (*path, str(i))) for i, x in enumerate(tree)])
        return tree


def _weight(pair: Any, path: paths.Path) -> jax.Array:
    """Return w from its v and g; raise Mismatch unless `pair` consists of these."""
    if isinstance(pair, dict) and pair.keys() == {"v", "g"}:
        v, g = pair["v"], pair["g"]
        if v.ndim and g.ndim and g.shape == (*v.shape[: g.ndim - 1], v.shape[-1]):
            return each_of_stack(weight_norm, g.ndim - 1)(v, g)
    raise Mismatch(
        f"{paths.text(path)!r} must be a dict of the direction v and the lengths g, got "
        f"{describe(pair)}"
    )


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

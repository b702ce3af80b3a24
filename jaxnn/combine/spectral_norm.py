"""SpectralNorm: weights divided by their largest singular value."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import Variable
from ..core.layer import LayerLike
from ..explain.calls import INIT_STATE
from ..explain.location import foreign
from ..explain.text import describe
from ..functional.normalization import spectral_norm
from ..initializers import zeros
from .weight_norm import check_fits, check_match, each_of_stack


class SpectralNorm(Wrapper):
    """The same layer with w / sigma(w) in place of each weight w: sigma its largest singular value.

    w counts as a matrix: all axes but the last, by the last. sigma is found by `steps` rounds of
    power iteration from the state u, float32 of shape (n,) at the weight's path, which training
    moves on and inference leaves alone; both use sigma after the rounds. The first u of zeros
    stands for a fixed direction. The gradient holds the singular vectors fixed. `match` is the
    pattern of the paths that are normalized, as in `capture`: by default every parameter called w,
    tables of an Embedding included. Weights stacked by `Repeat` or `Ensemble` inside are taken one
    by one; a weight of 0 stays 0. Raises ValueError where nothing fits `match`, or what fits has no
    axes, and without state.

    Reference: Miyato et al., Spectral normalization for generative adversarial networks, 2018.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net, x = SpectralNorm(Dense(4)), jnp.zeros((2, 3))
    >>> jax.tree.map(jnp.shape, (net.init(jax.random.key(0), x), net.init_state(x)))
    ({'b': (4,), 'w': (3, 4)}, {'w': {'u': (4,)}})
    """

    inner: LayerLike
    steps: int = 1
    match: str = "**/w"

    def __post_init__(self) -> None:
        """Check the number of rounds and the pattern."""
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(
                f"SpectralNorm.steps is the number of rounds, an int >= 1; got {self.steps!r}"
            )
        check_match(self)

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """With the state u of each weight."""
        check_fits(self, self.match, params)
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
        if not call.state:
            names = ", ".join(paths.text((*path, "u")) for path, _ in matched)
            raise ValueError(f"keeps state ({names}), but none was given: {INIT_STATE}")
        if call.foreign:
            raise ValueError(foreign("keeps state"))
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
        """w / sigma in the type of w, and the next u in the type of u."""

        def one(w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            sigma, after = spectral_norm(w, u, self.steps)
            sigma = jnp.where(sigma == 0, jnp.ones_like(sigma), sigma)
            return (w.astype(sigma.dtype) / sigma).astype(w.dtype), after.astype(u.dtype)

        return each_of_stack(one, u.ndim - 1)(w, u)


def _check(path: paths.Path, w: Any, u: Any) -> None:
    """Raise ValueError where the state at the path of a weight does not fit it."""
    shape = jnp.shape(w)
    if u is None or u.ndim == 0 or u.shape != (*shape[: u.ndim - 1], *shape[-1:]):
        raise ValueError(
            f"the state has {'nothing' if u is None else describe(u)} at "
            f"{paths.text((*path, 'u'))!r} for the weight {describe(w)}; {INIT_STATE}"
        )


def _with(tree: Any, path: paths.Path, item: Any) -> dict[str, Any]:
    """Nested dicts with `item` at `path`, where nothing may be yet."""
    head, *rest = path
    if not rest and head in tree:
        raise ValueError(f"the state {head!r} of a weight is kept by another SpectralNorm inside")
    return {**tree, head: _with(tree.get(head, {}), tuple(rest), item) if rest else item}


def _without(tree: Any, path: paths.Path) -> tuple[dict[str, Any], Any]:
    """Nested dicts without what is at `path`, and that, or None; dicts left empty go too."""
    head, *rest = path
    if not isinstance(tree, dict) or head not in tree:
        return tree, None
    below, found = _without(tree[head], tuple(rest)) if rest else ({}, tree[head])
    others = {name: item for name, item in tree.items() if name != head}
    return ({**others, head: below} if below else others), found

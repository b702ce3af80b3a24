"""SpectralNorm: weights divided by their largest singular value."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import Variable
from ..core.layer import LayerLike
from ..explain.call_errors import INIT_STATE
from ..explain.location import foreign
from ..explain.text import describe
from ..functional.normalization import spectral_norm
from ..initializers import zeros
from ..layers.checks import path_pattern
from ..validation import positive
from .weight_norm import check_fits, each_of_stack


class SpectralNorm(Wrapper):
    """Spectral normalization: divide each weight w of a layer by its largest singular value.

    w is used as a matrix of all axes but the last by the last. Its largest singular value sigma is
    estimated by `steps` steps of power iteration from the state u, float32 of shape (n,), at the
    weight's path. Training updates u; inference does not. Both use sigma after the steps. The
    initial u of zeros means a fixed direction. Singular vectors are constant in the gradient.
    Weights stacked by `Repeat` or `Ensemble` inside are normalized separately. A weight of 0 stays
    0.

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

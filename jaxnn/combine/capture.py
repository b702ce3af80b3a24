"""capture: return intermediate outputs of a network; Tap gives a value a path."""

from functools import partial
from typing import Annotated, Any

from ..core import paths
from ..core.calls import Call, Next, Outcome
from ..core.composite import Wrapper
from ..core.layer import LayerLike, Primitive
from ..layers.checks import path_pattern


class capture(Wrapper):
    """Return intermediate outputs of a network: the output becomes `(y, {path: value})`.

    The value at a path is the output of the layer there. A second call of the same layer is stored
    under `path@1`, and another method under `path.method`. Under `Repeat` and `Ensemble`, values
    are stacked.

    Args:
        inner: Network, a layer or a function.
        match: Path pattern of the values to return. `*` matches any text within one segment, and
            `**` matches any number of segments. A pattern that ends with `.method` returns what
            this pure method of the layers returns for the same inputs, such as the attention
            weights of `"**/*.weights"`. Default: `"**"`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense, Sequential
    >>> net = capture(Sequential(hidden=Dense(4), act=jax.nn.relu, out=Dense(2)), match="hidden")
    >>> x = jnp.ones((3, 5))
    >>> y, values = net.apply(net.init(jax.random.key(0), x), x)
    >>> y.shape, jax.tree.map(jnp.shape, values)
    ((3, 2), {'hidden': (3, 4)})
    """

    inner: LayerLike
    match: Annotated[str, path_pattern] = "**"

    def _evaluate(self, call: Call) -> Outcome:
        output, state, collected = self._inside(call.intercepted(partial(_seen, self.match)))
        values = collected.get(KIND, {})
        own = {path: item for path, item in values.items() if paths.matches(self.match, path)}
        # An interceptor outside may collect values, too, also some that are not captured here.
        return Outcome((output, own), state, {} if call.interceptor is None else collected)


KIND = "captured"


def _seen(match: str, path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
    """Collect the output of the outermost layer at each path that matches."""
    outcome, place, name = next(call), paths.text(path), ""
    if call.inner or not path:
        return outcome
    above, _, method = match.rpartition(".")
    if call.method == "forward" and layer._has_method(method) and paths.matches(above, place):
        output, name = next(call.replace(method=method)).output, f".{method}"
    elif paths.matches(match, place):
        output = outcome.output
    else:
        return outcome
    if call.foreign:
        raise ValueError(
            f"{place!r} would be captured inside a transform of your own, from which "
            "its value cannot come out; use Repeat, Remat or Ensemble in its place"
        )
    captured = {**outcome.collected.get(KIND, {}), name: output}
    return outcome._replace(collected={**outcome.collected, KIND: captured})


class Tap(Primitive):
    """The identity as a layer, which gives a value a path for `capture`.

    >>> import jax.numpy as jnp
    >>> Tap().apply({}, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, params: Any, x: Any) -> Any:
        """Return the input."""
        return x

"""Precision: the type in which a network computes."""

from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arrays import as_floating, is_floating
from ..core import paths
from ..core.calls import Call, Next, Outcome
from ..core.composite import Wrapper
from ..core.layer import Layer, LayerLike
from ..fields import code
from ..layers.checks import path_pattern
from ..tree import layers
from ..validation import Accepts


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

    A primitive casts its parameters itself, at each call: so the gradients of several calls, or of
    the steps of a scan, are added in the type of the parameters.
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

    Some results are computed in at least float32 whatever `compute` is: statistics, softmax,
    losses, and the gradient of a parameter that is used many times (a bias, a table, a weight in a
    scan, or the weights of a layer that is called many times). In custom layers, use `shared_sum`,
    `shared_product`, and `shared_rows` of `jaxnn.functional.gradients` for `y + b`, `y * scale`,
    and `table[ids]`. Matrix products and convolutions return `compute`; their sums accumulate in
    float32 on TPUs, GPUs, and CPUs.

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
            if not any(paths.matches(self.keep, name) for name in found):
                raise ValueError(
                    f"Precision.keep={self.keep!r} matches no layer; layers are: "
                    f"{', '.join(found) or 'none below the network itself'}"
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

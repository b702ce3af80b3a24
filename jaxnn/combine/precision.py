"""Precision: the type in which a network computes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import Call, Casting, Outcome
from ..core.declarations import Declaration
from ..core.floating import as_floating, is_floating
from ..core.layer import Layer, LayerLike, declared
from ..core.values import code
from ..core.wrapper import Wrapper
from .around import around, places


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
    compute: str = "bfloat16"
    keep: str | None = None

    def _normalize_fields(self) -> None:
        if self.inner is None:  # a policy, to be applied to a network later
            Layer._normalize_fields(self)
        else:
            super()._normalize_fields()

    def __post_init__(self) -> None:
        """Check the fields."""
        try:
            floating = jnp.issubdtype(jnp.dtype(self.compute), jnp.floating)
        except TypeError:
            floating = False
        if not isinstance(self.compute, str) or not floating:
            raise ValueError(
                "Precision.compute must be the name of a floating type, such as 'bfloat16', "
                f"'float16', or 'float32'; got {self.compute!r}"
            )
        if self.keep is None:
            return
        if not isinstance(self.keep, str):
            raise TypeError(
                f"Precision.keep must be a path pattern of layers such as '**/norm*', got "
                f"{self.keep!r}"
            )
        if self.inner is not None:
            found = [paths.text(path) for path in places(self.wrapped)]
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

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        cast = as_floating((inputs, named), self.compute)
        declaration = declared(self._computing(), method, *cast)
        outside = _floating_type((inputs, named, declaration.params))
        return declaration._replace(output=as_floating(declaration.output, outside))

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        outside = _floating_type((inputs, named, call.cast_params()))
        below = dataclasses.replace(call, casting=Casting(self.compute, self.keep))
        given = as_floating((inputs, named), self.compute)
        outcome = self._computing()._evaluate(below, method, *given)
        return outcome._replace(output=as_floating(outcome.output, outside))

    def _computing(self) -> Layer:
        """Return the network with its kept layers wrapped in `Kept`."""
        if self.keep is None:
            return self.wrapped
        return around(self.wrapped, self.keep, lambda layer: Kept(layer, self.compute))

    def __repr__(self) -> str:
        parts = [] if self.inner is None else [code(self.inner)]
        if self.compute != "bfloat16":
            parts.append(f"compute={self.compute!r}")
        if self.keep is not None:
            parts.append(f"keep={self.keep!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


class Kept(Wrapper):
    """A layer within `Precision` that computes in the type of its parameters."""

    inner: LayerLike
    compute: str

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        # Declared types are those of the parameters, whatever the types of the inputs are.
        own = _floating_type(declared(self.wrapped, method, inputs, named).params)
        declaration = declared(self.wrapped, method, *as_floating((inputs, named), own))
        return declaration._replace(output=as_floating(declaration.output, self.compute))

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        own = _floating_type(call.params)
        outcome = self.wrapped._evaluate(call, method, *as_floating((inputs, named), own))
        return outcome._replace(output=as_floating(outcome.output, self.compute))


def _floating_type(trees: Any) -> Any:
    """Return the type of the first floating array, or the default floating type."""
    found = (leaf.dtype for leaf in jax.tree.leaves(trees) if is_floating(leaf))
    return next(found, jnp.result_type(float))

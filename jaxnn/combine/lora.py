"""LoRA: weights with a product of two narrow matrices added, to be trained in their place."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core import paths
from ..core.calls import Call
from ..core.composite import Wrapper
from ..core.declarations import Param, abstract
from ..core.layer import LayerLike, declared
from ..explain.location import Mismatch
from ..explain.text import describe
from ..fields import is_traced
from ..functional.linear import wider_type
from ..initializers import InitFn, lecun_normal, zeros
from ..tree import layers
from .inference import Inference
from .weight_norm import check_fits, check_match, each_of_stack


class LoRA(Wrapper):
    """The same layer with base + scale * down @ up in place of each weight w.

    The parameter w becomes w/base, of its shape and with its numbers, w/down (n, rank) and w/up
    (rank, m): m is the last axis of w, and n all others as one. up starts at 0, so that the layer
    begins as it was. `match` is the pattern of the paths that are adapted, as in `capture`: by
    default every parameter called w, kernels and tables too. Weights stacked by `Repeat` or
    `Ensemble` inside are adapted one by one. `scale` is alpha / rank of the paper. The sum is taken
    in at least float32. Raises ValueError where nothing fits `match`, or what fits has fewer than
    two axes.

    `nn.add_lora` puts it around a trained network, and `nn.merge_lora` adds the products into the
    weights, of which the layer then computes the same. Only the adapters are trained around an
    `nn.Inference`, or by an optimizer by path patterns that has None for all but `"**/down"` and
    `"**/up"`.

    Reference: Hu et al., LoRA: low-rank adaptation of large language models, 2021.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> params = LoRA(Dense(4), rank=2).init(jax.random.key(0), jnp.zeros((2, 3)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (4,), 'w': {'base': (3, 4), 'down': (3, 2), 'up': (2, 4)}}
    """

    inner: LayerLike
    rank: int = 8
    match: str = "**/w"
    scale: float = 1.0
    down_init: InitFn = lecun_normal()

    def __post_init__(self) -> None:
        """Check the rank, the pattern and the scale."""
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ValueError(f"LoRA.rank is an int >= 1, got {self.rank!r}")
        check_match(self)
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not is_traced(self.scale) and not number:
            raise TypeError(f"LoRA.scale is a number, got {self.scale!r}")

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """With base, down and up of each weight."""
        check_fits(self, self.match, params)

        def split(path: paths.Path, param: Param) -> Any:
            if not paths.matches(self.match, paths.text(path)):
                return param
            *rows, columns = param.slice_shape
            if not rows:
                raise ValueError(
                    f"{paths.text(path)!r} has the one axis {param.slice_shape}, which LoRA "
                    "cannot adapt: choose others by match=..."
                )
            stack = tuple((levels + 1, n) for levels, n in param.stack)
            copies = param.shape[: len(stack)]
            base = dataclasses.replace(param, stack=stack, lift=param.lift + 1)
            shape = (*copies, math.prod(rows), self.rank)
            down = Param(shape, self.down_init, param.dtype, stack)
            up = dataclasses.replace(down, shape=(*copies, self.rank, columns), init=zeros())
            return {"base": base, "down": down, "up": up}

        return paths.map_with_path(split, params), state

    def lower(self, call: Call) -> Call:
        """With each weight of its base, down and up."""
        frozen = any(isinstance(one, Inference) for _, one in layers(self.wrapped))
        if frozen and not call.stopped:
            inputs, named = abstract((call.inputs, call.named))
            call = self._stopped(call, declared(self, call.method, inputs, named).params)
        return call.replace(params=self.merge(call.params))

    def _stopped(self, call: Call, spec: Any) -> Call:
        """The call, without gradients of the frozen parameters: the adapters have some."""
        frozen = {path for path, param in paths.walk(spec) if param.frozen}
        params = paths.map_with_path(
            lambda path, leaf: lax.stop_gradient(leaf) if path in frozen else leaf, call.params
        )
        return call.replace(params=params, stopped=True)

    def merge(self, params: Any, path: paths.Path = ()) -> Any:
        """The parameters of the inner layer, in which the products are added to the weights."""
        if paths.matches(self.match, paths.text(path)):
            return _weight(params, self.scale, path)
        if isinstance(params, dict):
            return {name: self.merge(item, (*path, name)) for name, item in params.items()}
        if isinstance(params, tuple):
            items = [self.merge(item, (*path, str(i))) for i, item in enumerate(params)]
            return paths.like(params, items)
        return params


def _weight(parts: Any, scale: Any, path: paths.Path) -> jax.Array:
    """The weight from its parts; Mismatch where they do not fit each other."""
    if isinstance(parts, dict) and parts.keys() == {"base", "down", "up"}:
        base, down, up = parts["base"], parts["down"], parts["up"]
        depth = down.ndim - 2
        copies = base.shape[:depth]
        sizes = math.prod(base.shape[depth:-1]), base.shape[-1]
        if depth >= 0 and (down.shape, up.shape) == (
            (*copies, sizes[0], down.shape[-1]),
            (*copies, down.shape[-1], sizes[1]),
        ):
            return each_of_stack(functools.partial(_sum, scale), depth)(base, down, up)
    raise Mismatch(
        f"{paths.text(path)!r} is a dict of base, down and up that fit each other, got "
        f"{describe(parts)}"
    )


def _sum(scale: Any, base: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    dtype = wider_type(base.dtype, jnp.float32)
    product = jnp.matmul(down.astype(dtype), up.astype(dtype), precision="highest")
    total = base.astype(dtype) + jnp.asarray(scale, dtype) * product.reshape(base.shape)
    return total.astype(base.dtype)

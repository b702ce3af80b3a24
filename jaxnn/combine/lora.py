"""LoRA: weights plus a trainable product of two narrow matrices."""

import dataclasses
import functools
import math
from typing import Annotated, Any

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
from ..functional.linear import wider_type
from ..initializers import InitFn, lecun_normal, zeros
from ..layers.checks import path_pattern
from ..tree import layers
from ..validation import number, positive
from .inference import Inference
from .weight_normalization import check_fits, each_of_stack


class LoRA(Wrapper):
    """Low-rank adaptation: replace each weight w of a layer by `base + scale * down @ up`.

    The parameter w becomes w/base, the original weight, w/down (n, rank), and w/up (rank, m), where
    m is the last axis of w and n is the product of the others. up starts at 0, so the layer starts
    unchanged. Weights stacked by `Repeat` or `Ensemble` inside are adapted separately. The sum is
    computed in at least float32.

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
            params: Parameters of this layer.
            path: Path of `params` within them. Default: ().
        """
        if paths.matches(self.match, paths.text(path)):
            return _weight(params, self.scale, path)
        if isinstance(params, dict):
            return {name: self.merge(item, (*path, name)) for name, item in params.items()}
        if isinstance(params, tuple):
            items = [self.merge(item, (*path, str(i))) for i, item in enumerate(params)]
            return paths.like(params, items)
        return params


def _weight(parts: Any, scale: Any, path: paths.Path) -> jax.Array:
    """Return the weight from its parts; raise Mismatch if they do not match."""
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
        f"{paths.text(path)!r} must be a dict of base, down, and up with matching shapes, got "
        f"{describe(parts)}"
    )


def _sum(scale: Any, base: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    dtype = wider_type(base.dtype, jnp.float32)
    product = jnp.matmul(down.astype(dtype), up.astype(dtype), precision="highest")
    total = base.astype(dtype) + jnp.asarray(scale, dtype) * product.reshape(base.shape)
    return total.astype(base.dtype)

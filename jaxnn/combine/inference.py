"""Inference: a part of a network that is not trained."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jax import lax

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.declarations import Declaration
from ..core.layer import Layer, LayerLike, declared
from ..core.wrapper import Wrapper
from ..layers.checks import check_not_training


class Inference(Wrapper):
    """Run a layer in inference mode, even while the network around it is trained.

    Inside, `train` is False, no key is needed or passed, and parameters are constants:

        y = layer.apply(lax.stop_gradient(params), x, state=state)

    Gradients with respect to the inputs are computed. State is read and returned unchanged, except
    for the caches of `nn.with_cache`, which are updated. `train.Minimize`, `train.Supervised`, and
    all other training steps exclude the parameters from the optimizer: they have no moments, no
    weight decay, and do not count in a global norm. They remain part of the network's parameters,
    at the same paths as without this wrapper.

    The adapters of an `nn.LoRA` outside `Inference` are trained, so
    `nn.add_lora(nn.Inference(net), params, key, x)` fine-tunes a network whose own parameters do
    not change. The parameters of an `nn.WeightNorm` outside `Inference` are constants, since they
    replace weights inside.

    Args:
        inner: Layer or function.

    Raises:
        ValueError: In training, if a layer inside keeps a cache.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> teacher = nn.Sequential(nn.Dense(2), nn.Dropout(0.5))
    >>> net, x = nn.Sequential(teacher=Inference(teacher), head=nn.Dense(3)), jnp.ones((1, 4))
    >>> params = net.init(jax.random.key(0), x)
    >>> gradient = jax.grad(lambda params: net.apply(params, x, train=True).sum())(params)
    >>> float(jnp.abs(gradient["teacher"][0]["w"]).sum()), gradient["head"]["b"].tolist()
    (0.0, [1.0, 1.0, 1.0])
    """

    inner: LayerLike

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        declaration = declared(self.wrapped, method, inputs, named)
        params = paths.map_with_path(
            lambda _, param: dataclasses.replace(param, frozen=True), declaration.params
        )
        return declaration._replace(params=params)

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        caching = next((one for one in layers_in(self.wrapped) if getattr(one, "cache", 0)), None)
        if caching is not None:
            check_not_training(caching, call.train)
        below = dataclasses.replace(
            call,
            params=call.params if call.stopped else lax.stop_gradient(call.params),
            key=None,
            train=False,
            # State that does not change may be read inside a user's own transform.
            foreign=call.foreign and caching is not None,
        )
        outcome = self.wrapped._evaluate(below, method, inputs, named)
        state = call.state or {}
        if caching is not None:
            state = _with_caches(self.wrapped, state, outcome.state)
        return outcome._replace(state=state)


def layers_in(item: Any) -> Iterator[Layer]:
    """Yield a layer and all layers in it, or all layers in nested dicts and tuples."""
    if isinstance(item, Layer):
        yield item
        item = item.wrapped if isinstance(item, Wrapper) else item._children()
        if isinstance(item, Layer):
            yield from layers_in(item)
            return
    for _, child in paths.walk(item):
        if isinstance(child, Layer):
            yield from layers_in(child)


def _with_caches(item: Any, before: Any, after: Any) -> Any:
    """Return the state `before`, with the caches of `after`."""
    if isinstance(item, Layer):
        if getattr(item, "cache", 0):
            return after
        item = item.wrapped if isinstance(item, Wrapper) else item._children()
        if isinstance(item, Layer):
            return _with_caches(item, before, after)
    if not isinstance(item, dict | tuple):
        return before
    children = item if isinstance(item, dict) else {str(i): child for i, child in enumerate(item)}
    return {
        name: _with_caches(children[name], old, after[name]) if name in children else old
        for name, old in before.items()
    }

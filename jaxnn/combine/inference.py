"""Inference: a part of a network that is not trained."""

import dataclasses
from typing import Any

from jax import lax

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import Wrapper
from ..core.layer import LayerLike
from ..layers.checks import check_not_training
from ..tree import layers


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

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Freeze every parameter."""
        frozen = paths.map_with_path(lambda _, p: dataclasses.replace(p, frozen=True), params)
        return frozen, state

    def _evaluate(self, call: Call) -> Outcome:
        caching = {
            path: layer for path, layer in layers(self.wrapped) if getattr(layer, "cache", 0)
        }
        for layer in caching.values():
            check_not_training(layer, call.train)
        outcome = self._inside(
            call.replace(
                params=call.params if call.stopped else lax.stop_gradient(call.params),
                key=None,
                train=False,
                # State that does not change may be read inside a user's own transform.
                foreign=call.foreign and bool(caching),
            )
        )
        after = dict(paths.walk(outcome.state))

        def kept(path: paths.Path, before: Any) -> Any:
            cached = any(path[: len(place)] == place for place in caching)
            return after[path] if cached else before

        return outcome._replace(state=paths.map_with_path(kept, call.state or {}))

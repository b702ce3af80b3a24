"""The module of flax.linen that holds a network; `to_linen` makes one."""

from typing import Any

from flax import linen

from ..core.layer import Layer


class Network(linen.Module):
    """A network as a module; see `to_linen`."""

    net: Layer

    @linen.compact
    def __call__(self, *inputs: Any, train: bool = False, **named: Any) -> Any:
        """Return the network's output; in training, update the state in the collection."""
        net = self.net
        params = self.param("net", lambda key: net.init(key, *inputs, **named))
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        begun: Any = {}
        if not self.has_variable("batch_stats", "net"):
            drawn = self.make_rng("params") if self.has_rng("params") else None
            begun = net.init_state(*inputs, key=drawn, **named)
            if not begun:
                return net.apply(params, *inputs, key=key, train=train, **named)
        kept = self.variable("batch_stats", "net", lambda: begun)
        output, state = net.apply(params, *inputs, state=kept.value, key=key, train=train, **named)
        if train and not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            kept.value = state
        return output

"""What users write, for pyright to accept in standard mode."""

from collections.abc import Callable
from typing import Any, assert_type

import jax
import jax.numpy as jnp

import jaxnn as nn


class Scale(nn.Primitive):
    size: int
    start: float = 1.0

    def parameters(self, x: jax.Array) -> dict[str, nn.Param]:
        return {"scale": nn.Param((self.size,), nn.constant(self.start))}

    def forward(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x * params["scale"]


class Count(nn.Primitive):
    def variables(self, x: jax.Array) -> dict[str, nn.Variable]:
        return {"n": nn.Variable((), nn.zeros())}

    def forward(
        self, params: Any, x: jax.Array, *, state: dict[str, Any], train: bool
    ) -> tuple[jax.Array, dict[str, Any]]:
        return x, {"n": state["n"] + train}


class Block(nn.Composite):
    norm: nn.Layer
    blocks: tuple[nn.Layer, ...]
    act: nn.LayerLike
    skip: nn.Layer | None = None
    heads: dict[str, nn.Layer] | None = None

    def forward(self, x: jax.Array, *, key: jax.Array | None, train: bool) -> jax.Array:
        x = self.norm(x)
        for block in self.blocks:
            x = x + block(x)
        return x if self.skip is None else x + self.skip(x)


class Tied(nn.Composite):
    embed: nn.Layer
    features: int = 4

    def forward(self, ids: jax.Array) -> jax.Array:
        scale = jnp.sqrt(self.features)
        other = self.embed.layer.apply(self.embed.params, ids)
        return self.embed.attend(self.embed(ids) * scale + other)


block = Block(nn.LayerNorm(), (Scale(3), Scale(size=3, start=2.0)), jax.nn.relu)
net = nn.Sequential(block, jax.nn.relu, nn.Remat(nn.Dense(2)), lambda x: x + 1)
tower: nn.Layer = nn.Parallel(a=nn.Repeat(block, 2), b=nn.Ensemble(nn.Tap(), 2), merge=None)
activation: Callable[..., Any] = jax.nn.gelu


def run(params: Any, state: dict[str, Any], x: jax.Array, key: jax.Array) -> None:
    assert_type(net.apply(params, x, state=state, key=key, train=True), tuple[Any, dict[str, Any]])
    y = net.apply(params, x)
    assert_type(y, Any)
    assert_type(block.norm, nn.Layer)

"""Low-rank adapters: nothing at first, alone in training, and nothing again when merged."""

from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.core import paths
from jaxnn.explain.text import Mismatch
from tests.cases import KEY
from tests.layers.agreement import normals

NET = nn.Sequential(
    body=nn.Repeat(nn.Residual(nn.Sequential(nn.Dense(3), jnp.tanh)), 2),
    image=nn.Reshape((1, 3, 1)),
    conv=nn.Conv(2, (1, 2)),
    head=nn.Sequential(nn.Flatten(), nn.Dense(4)),
)
X = normals(0, 2, 3)


@pytest.fixture(scope="module")
def params():
    return NET.init(KEY, X)


def tuned(params, **options):
    """An adapted network whose adapters do something."""
    net, more = nn.add_lora(NET, params, KEY, X, rank=2, **options)
    return net, jax.tree.map(lambda a: a + 0.1, more)


def test_the_same_function_at_first_and_the_weights_kept(params):
    net, more = nn.add_lora(NET, params, KEY, X, rank=2)
    np.testing.assert_array_equal(net.apply(more, X), NET.apply(params, X))
    assert more["body"][0]["w"]["base"] is params["body"][0]["w"]
    shapes = jax.tree.map(jnp.shape, more)
    assert shapes["body"][0]["w"] == {"base": (2, 3, 3), "down": (2, 3, 2), "up": (2, 2, 3)}
    assert shapes["conv"]["w"] == {"base": (1, 2, 1, 2), "down": (2, 2), "up": (2, 2)}
    spec = net.spec(X)
    assert jax.tree.map(lambda p: p.shape, spec) == shapes


def test_its_own_init_draws_what_the_network_would(params):
    """And the adapters are those of `add_lora`, by their paths."""
    net, more = nn.add_lora(NET, params, KEY, X, rank=2)
    chex.assert_trees_all_close(net.init(KEY, X), more, rtol=1e-6)
    other, _ = nn.add_lora(NET, params, jax.random.key(1), X, rank=2)
    assert other == net


def test_merged_is_unmerged(params):
    """To the bit, under Repeat and in a convolution too; and in numpy's float64 to rounding."""
    net, more = tuned(params, scale=0.5)
    plain, merged = nn.merge_lora(net, more)
    assert plain == NET
    np.testing.assert_array_equal(plain.apply(merged, X), net.apply(more, X))
    assert not np.allclose(plain.apply(merged, X), NET.apply(params, X))
    for copy in range(2):
        parts = {k: np.asarray(a[copy], np.float64) for k, a in more["body"][0]["w"].items()}
        expected = parts["base"] + 0.5 * parts["down"] @ parts["up"]
        np.testing.assert_allclose(merged["body"][0]["w"][copy], expected, rtol=1e-6)


def test_merged_wherever_the_wrapper_stands(params):
    for net in (
        nn.Sequential(nn.LoRA(nn.Dense(3), 2), jnp.tanh),
        nn.Repeat(nn.LoRA(nn.Residual(nn.Dense(3)), 1), 2),
        nn.Remat(nn.Ensemble(nn.LoRA(nn.Sequential(a=nn.Dense(2)), 1, scale=2.0), 2)),
        nn.LoRA(nn.LoRA(nn.Dense(2), 1), 2, match="w/base"),
    ):
        weights = jax.tree.map(lambda a: a + 0.1, net.init(KEY, X))
        plain, merged = nn.merge_lora(net, weights)
        assert "LoRA" not in repr(plain)
        np.testing.assert_array_equal(plain.apply(merged, X), net.apply(weights, X))


def test_adapters_train_alone(params):
    """By an optimizer that has None for all else; the rest stays to the bit, and merges after."""
    net, params = nn.add_lora(
        NET, jax.tree.map(jnp.copy, params), KEY, X, rank=2, match="body/**/w"
    )
    start = jax.tree.map(jnp.copy, params)
    optimizer = train.partition({"**/down": optax.adam(0.1), "**/up": optax.adam(0.1), "**": None})
    loss = lambda y, targets: jnp.mean(y**2)  # noqa: E731
    program = train.Supervised(net, loss, optimizer, initial=params)
    ts, step = program.init(KEY, (X, X)), train.make_step(program)
    losses = []
    for _ in range(5):
        ts, metrics = step(ts, (X, X))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    pairs = zip(paths.walk(start), paths.walk(ts.params), strict=True)
    moved = {paths.text(path) for (path, one), (_, other) in pairs if (one != other).any()}
    assert moved == {"body/0/w/down", "body/0/w/up"}
    plain, merged = nn.merge_lora(net, ts.params)
    np.testing.assert_array_equal(plain.apply(merged, X), net.apply(ts.params, X))


def test_refused(params):
    with pytest.raises(
        ValueError, match=r"got 'x/\*', which matches none; parameters are \{'body/0"
    ):
        nn.add_lora(NET, params, KEY, X, match="x/*")
    with pytest.raises(
        ValueError,
        match=r"LoRA.match must .* of at least 2 axes, got .*'b': \(4,\)",
    ):
        nn.LoRA(nn.Dense(4), match="b").spec(X)
    with pytest.raises(ValueError, match=r"not those of this network .*: head/1/b: declared \(4"):
        wrong = {**params, "head": ({}, {**params["head"][1], "b": jnp.ones(5)})}
        nn.add_lora(NET, wrong, KEY, X)
    with pytest.raises(ValueError, match=r"no layer of .* is wrapped in LoRA"):
        nn.merge_lora(NET, params)
    with pytest.raises(
        TypeError, match=r"add_lora.net must be a layer, got 3; write nn.add_lora\("
    ):
        nn.add_lora(cast(Any, 3), params, KEY, X)
    with pytest.raises(ValueError, match=r"LoRA.rank must be an int >= 1, got 0"):
        nn.LoRA(nn.Dense(3), rank=0)
    with pytest.raises(ValueError, match=r"LoRA.scale must be a number, got 'a'"):
        nn.LoRA(nn.Dense(3), scale=cast(Any, "a"))
    net, more = tuned(params)
    more["conv"]["w"]["up"] = jnp.ones((3, 3))
    with pytest.raises(ValueError, match=r"conv/w/up: declared \(2, 2\), got \(3, 3\)"):
        net.apply(more, X)
    with pytest.raises(Mismatch, match="'conv/w' must be a dict of base, down, and up with"):
        nn.merge_lora(net, more)

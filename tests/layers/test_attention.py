"""Attention and the transformer's layers: against torch's outputs and gradients, flax and equinox
on the same weights, and what they refuse. The function itself is tested in tests/functional."""

from typing import Any, cast

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.normalization import rms_norm
from tests.fixtures.attention import ATTENTION, FILE, LAYERS
from tests.layers.agreement import KEY, applied, assert_agree, normals
from tests.near import assert_near

TORCH = dict(np.load(FILE))
X = normals(0, 2, 5, 6)
INPUTS, NAMED = ("x", "memory"), ("mask", "bias", "segment_ids", "memory_segment_ids")


def nested(flat: dict[str, Any]) -> Any:
    """Parameters by path, as a tree; numbers make a tuple, whose second place is a function's."""
    tree: dict[str, Any] = {}
    for path, a in flat.items():
        *above, last = path.split("/")
        below = tree
        for segment in above:
            below = below.setdefault(segment, {})
        below[last] = a
    if "feed_forward" in tree:
        tree["feed_forward"] = (tree["feed_forward"]["0"], {}, tree["feed_forward"]["2"])
    return tree


@pytest.mark.parametrize("name", [*ATTENTION, *LAYERS])
def test_as_torch(name: str):
    """Outputs, and the gradients of inputs and parameters for torch's cotangent."""
    found = {k.split(":")[1]: a for k, a in TORCH.items() if k.startswith(f"{name}:")}
    layer = (ATTENTION | LAYERS)[name][0]
    paths = [k for k in found if k.endswith(("/w", "/b", "/scale")) and f"d{k}" in found]
    params = nested({k: found[k] for k in paths})
    inputs = [found[k] for k in INPUTS if k in found]
    named = {k: found[k] for k in NAMED if k in found}

    @jax.jit
    def run(params, inputs, dy):
        def output(params, inputs):
            y = layer.apply(params, *inputs, **named)
            return y * (named["segment_ids"] != 0)[..., None] if "segment_ids" in named else y

        y, pull = jax.vjp(output, params, inputs)
        return y, *pull(dy)

    gradients = nested({k: found[f"d{k}"] for k in paths})
    expected = (found["y"], gradients, [found[f"d{k}"] for k in INPUTS if k in found])
    assert_near(run(params, inputs, found["dy"]), expected)


def weights(net: nn.Layer, *inputs: Any, **named: Any) -> Any:
    """Random parameters, the biases too."""
    leaves, tree = jax.tree.flatten(net.init(KEY, *inputs, **named))
    return jax.tree.unflatten(
        tree, [0.5 * normals(i, *a.shape) for i, a in enumerate(leaves, start=20)]
    )


def test_as_flax():
    mask = np.random.default_rng(0).random((2, 1, 5, 5)) < 0.7
    mask[..., 0] = True
    peer = flax.linen.MultiHeadDotProductAttention(2, qkv_features=8, out_features=3)

    def theirs(params, x):
        def leaf(name, p):
            if name == "out":
                return {"kernel": p["w"].reshape(2, 4, 3), "bias": p["b"]}
            return {"kernel": p["w"].reshape(6, 2, 4), "bias": p["b"].reshape(2, 4)}

        variables = {name: leaf(name, p) for name, p in params.items()}
        return peer.apply({"params": variables}, x, mask=mask)

    net = nn.MultiHeadAttention(2, 4, features=3)
    assert_agree(
        lambda params, x: net.apply(params, x, mask=jnp.asarray(mask)), theirs, weights(net, X), X
    )


def test_as_equinox():
    """Attention to a memory of other features, without biases; equinox has no batch axes."""
    memory = normals(1, 2, 3, 4)
    net = nn.MultiHeadAttention(2, 3, features=5, bias=False)

    def theirs(params, x, memory):
        peer = eqx.nn.MultiheadAttention(2, 6, 4, 4, 5, qk_size=3, vo_size=3, key=jax.random.key(0))
        names = ("query_proj", "key_proj", "value_proj", "output_proj")
        new = [params[n]["w"].T for n in ("query", "key", "value", "out")]
        peer = eqx.tree_at(lambda p: [getattr(p, n).weight for n in names], peer, new)
        return jax.vmap(lambda x, m: peer(x, m, m))(x, memory)

    assert_agree(net.apply, theirs, weights(net, X, memory), X, memory)


def test_norm_of_queries_and_keys():
    """The same as an attention whose queries and keys, one feature a head, are so normalized."""
    net = nn.MultiHeadAttention(6, query_key_norm=True, norm_eps=0.1, bias=False)
    params = weights(net, X)

    @jax.jit
    def expected(params, x):
        q, k = (
            rms_norm((x @ params[name]["w"])[..., None], eps=0.1) * params[f"{name}_norm"]["scale"]
            for name in ("query", "key")
        )
        v = (x @ params["value"]["w"])[..., None]
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
        return jnp.einsum("bhts,bshd->bthd", weights, v)[..., 0] @ params["out"]["w"]

    assert_near(applied(net, params, X), expected(params, X))
    assert {name: jax.tree.map(jnp.shape, params[name]) for name in ("query_norm", "key_norm")} == {
        "query_norm": {"scale": (1,)},
        "key_norm": {"scale": (1,)},
    }


def test_segments_are_sequences_apart():
    """For queries and memory alike; what is packed equals what is alone."""
    net, across = (
        nn.MultiHeadAttention(2, 4, rotary=nn.RotaryEmbedding(), window=2),
        nn.MultiHeadAttention(2, 4),
    )
    params, memory = weights(net, X), normals(1, 1, 4, 6)
    segment_ids = jnp.array([[7, 7, 7, 4, 4], [0, 2, 2, 2, 2]])
    numbers: dict[str, Any] = {
        "segment_ids": segment_ids[:1] // 3,
        "memory_segment_ids": jnp.array([[1, 2, 2, 0]]),
    }

    @jax.jit
    def run(x, memory):
        y = net.apply(params, x, segment_ids=segment_ids)
        alone = [net.apply(params, part) for part in (x[0, :3], x[0, 3:], x[1, 1:])]
        z = across.apply(params, x[:1], memory, **numbers)
        parts = (x[0, :3], memory[0, 1:3]), (x[0, 3:], memory[0, :1])
        alone += [across.apply(params, *part) for part in parts]
        return [y[0, :3], y[0, 3:], y[1, 1:], z[0, :3], z[0, 3:]], alone

    assert_near(*run(X, memory))


def test_dropout_needs_a_key_only_where_there_is_one():
    net = nn.MultiHeadAttention(2)
    params = net.init(KEY, X)
    plain = applied(net, params, X)
    np.testing.assert_array_equal(applied(net, params, X, train=True), plain)
    dropped = nn.MultiHeadAttention(2, dropout=0.5)
    with pytest.raises(ValueError, match="draws random numbers in training, but no key was given"):
        dropped.apply(params, X, train=True)
    y = applied(dropped, params, X, key=KEY, train=True)
    assert not np.allclose(y, plain)
    run = jax.jit(
        lambda rate: nn.MultiHeadAttention(2, dropout=rate).apply(params, X, key=KEY, train=True)
    )
    assert_near(run(0.5), y)


def test_rows_that_see_nothing_have_the_bias():
    net = nn.MultiHeadAttention(2)
    params = weights(net, X)
    mask = np.ones((5, 5), bool)
    mask[2] = False
    y = np.asarray(applied(net, params, X, mask=mask))
    assert_near(y[:, 2], np.broadcast_to(params["out"]["b"], (2, 6)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.MultiHeadAttention(0),
            "MultiHeadAttention.num_heads must be an int >= 1, got 0",
        ),
        (
            lambda: nn.MultiHeadAttention(4, num_kv_heads=3),
            "num_kv_heads must be a divisor of num_heads=4, got 3",
        ),
        (
            lambda: nn.MultiHeadAttention(2, rotary=cast(Any, True)),
            r"rotary must be None or nn.RotaryEmbedding\(...\), got True",
        ),
        (
            lambda: nn.MultiHeadAttention(2, dropout=1.0),
            r"dropout must be a dropout rate in \[0, 1\), got 1.0",
        ),
        (
            lambda: nn.MultiHeadAttention(2, implementation="flash"),
            "'xla', or 'cudnn', got 'flash'",
        ),
        (
            lambda: nn.MultiHeadAttention(2, soft_cap=0.0),
            "soft_cap must be None or a number > 0, got 0.0",
        ),
        (
            lambda: nn.MultiHeadAttention(2, cache=-1),
            r"cache must be a number of positions, an int >= 0 \(0 for no cache\), got -1",
        ),
        (
            lambda: nn.MultiHeadAttention(2, causal=cast(Any, 1)),
            "causal must be True or False, got 1",
        ),
    ],
)
def test_settings_refused(make: Any, text: str):
    with pytest.raises((ValueError, TypeError), match=text):
        make()


@pytest.mark.parametrize(
    ("net", "inputs", "text"),
    [
        (
            nn.MultiHeadAttention(4),
            (X,),
            r"the features of float32.*, 6, must be a multiple of 4: change num_heads",
        ),
        (
            nn.MultiHeadAttention(2),
            (X[0, 0],),
            r"of shape \(\.\.\., T, features\), got float32\[6\]",
        ),
        (nn.MultiHeadAttention(2), (X[:, :0],), r"at least one step, got float32\[2,0,6\]"),
        (nn.MultiHeadAttention(2), (X, X[0]), "x and memory must have equal axes before"),
        (
            nn.MultiHeadAttention(2, causal=True),
            (X, X),
            "causal cannot be used with a memory",
        ),
        (
            nn.MultiHeadAttention(2, rotary=nn.RotaryEmbedding()),
            (X,),
            "rotates 3 of a head's 3; choose head_dim",
        ),
    ],
)
def test_inputs_refused(net: Any, inputs: Any, text: str):
    with pytest.raises(ValueError, match=rf"at 'block', MultiHeadAttention.*{text}"):
        _At(net).init(KEY, *inputs)


class _At(nn.Composite):
    block: nn.Layer

    def forward(self, *inputs: Any) -> Any:
        return self.block(*inputs)


def test_named_inputs_refused():
    net = nn.MultiHeadAttention(2)
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match=r"at the root.*mask must be \(T, S\).*\(2, 2, 5, 5\)"):
        net.apply(params, X, mask=np.ones((4, 4), bool))
    with pytest.raises(TypeError, match=r"at the root.*got bool.*or mask=\.\.\."):
        nn.MultiHeadAttention(2, alibi=True).apply(params, X, bias=np.ones((5, 5), bool))
    dynamic = nn.MultiHeadAttention(
        1, rotary=nn.RotaryEmbedding(scaling=nn.DynamicNTKScaling(2.0, 3))
    )
    assert jax.eval_shape(dynamic.apply, params, X).shape == X.shape
    with pytest.raises(
        ValueError, match=r"at the root.*a row with segment_ids has sequences of several"
    ):
        dynamic.apply(params, X, segment_ids=np.ones((2, 5), int))
    with pytest.raises(
        ValueError, match=r"segment_ids must be of the shape .*\(2, 5\), got int32\[5\]"
    ):
        net.apply(params, X, segment_ids=np.ones(5, int))
    with pytest.raises(ValueError, match=r"memory_segment_ids must be of the shape .*\(2, 5\)"):
        net.apply(params, X, X, memory_segment_ids=np.ones((2, 4), int))

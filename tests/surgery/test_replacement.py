"""replace: what a path reaches, what stays, what is refused, and that it can be undone."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxnn as nn


class Block(nn.Composite):
    norm: nn.Layer | None
    mlp: nn.LayerLike
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"Block.scale is a number > 0, got {self.scale!r}")

    def forward(self, x):
        return x + self.scale * self.mlp(x if self.norm is None else self.norm(x))


class Stack(nn.Composite):
    blocks: tuple[nn.Layer, ...]
    heads: dict[str, nn.Layer]

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return {name: head(x) for name, head in self.heads.items()}


BLOCK = Block(nn.LayerNorm(), nn.Sequential(up=nn.Dense(16), act=jax.nn.gelu, down=nn.Dense(8)))
STACK = Stack((BLOCK, nn.Repeat(nn.Remat(BLOCK), 3)), {"a": nn.Dense(2), "b": nn.Dense(3)})


def test_a_layer():
    net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
    assert nn.replace(net, "1", jnp.tanh) == nn.Sequential(nn.Dense(128), jnp.tanh, nn.Dense(10))
    named = nn.Sequential(hidden=nn.Dense(128), out=nn.Dense(10))
    assert nn.replace(named, "out", nn.Dense(3)) == nn.Sequential(
        hidden=nn.Dense(128), out=nn.Dense(3)
    )
    assert net == nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))


def test_the_order_of_named_layers_stays():
    net = nn.Sequential(b=nn.Dense(1), a=nn.Dense(2), c=nn.Dense(3))
    assert (
        repr(nn.replace(net, "b", nn.Dense(9))) == "Sequential(b=Dense(9), a=Dense(2), c=Dense(3))"
    )


def test_a_setting():
    net = nn.Sequential(hidden=nn.Dense(128), act=jax.nn.relu)
    assert nn.replace(net, "hidden/features", 64) == nn.Sequential(
        hidden=nn.Dense(64), act=jax.nn.relu
    )
    assert nn.replace(nn.Dense(3), "w_init", nn.zeros()) == nn.Dense(3, w_init=nn.zeros())
    assert nn.replace(BLOCK, "scale", 0.5) == dataclasses.replace(BLOCK, scale=0.5)
    pair = nn.Parallel(nn.Dense(2), nn.Dense(2))
    assert nn.replace(pair, "merge", sum) == nn.Parallel(nn.Dense(2), nn.Dense(2), merge=sum)


def test_through_tuples_and_dicts():
    deep = nn.replace(STACK, "blocks/0/mlp/up/features", 32)
    assert deep.blocks[0].mlp.layers["up"] == nn.Dense(32)  # type: ignore[attr-defined]
    assert deep.blocks[1] == STACK.blocks[1]
    assert nn.replace(STACK, "heads/b", nn.Dense(7)).heads["b"] == nn.Dense(7)
    assert nn.replace(STACK, "blocks", (BLOCK,) * 5).blocks == (BLOCK,) * 5
    heads = nn.replace(STACK, "heads", {"c": jnp.tanh})
    assert heads == Stack(STACK.blocks, {"c": jnp.tanh})  # type: ignore[dict-item]


def test_an_optional_child():
    without = nn.replace(BLOCK, "norm", None)
    assert without == Block(None, BLOCK.mlp)
    assert nn.replace(without, "norm", nn.LayerNorm()) == BLOCK


def test_wrappers_add_no_level_and_stay():
    wrapped = nn.Repeat(nn.Remat(nn.Residual(BLOCK)), 4)
    changed = nn.Repeat(nn.Remat(nn.Residual(nn.replace(BLOCK, "mlp/up", nn.Dense(32)))), 4)
    assert nn.replace(wrapped, "mlp/up", nn.Dense(32)) == changed
    assert nn.replace(nn.Sequential(a=wrapped), "a/mlp/up/features", 32) == nn.Sequential(a=changed)


def test_settings_of_wrappers():
    assert nn.replace(nn.Repeat(nn.Remat(BLOCK), 4), "n", 6) == nn.Repeat(nn.Remat(BLOCK), 6)
    assert nn.replace(nn.Remat(nn.Repeat(BLOCK, 4)), "n", 6) == nn.Remat(nn.Repeat(BLOCK, 6))
    net = nn.Sequential(blocks=nn.Repeat(nn.Remat(BLOCK), 4))
    assert nn.replace(net, "blocks/scale", 0.5) == nn.Sequential(
        blocks=nn.Repeat(nn.Remat(dataclasses.replace(BLOCK, scale=0.5)), 4)
    )
    precise = nn.Precision(net)
    assert nn.replace(precise, "compute", "float16") == nn.Precision(net, compute="float16")


def test_a_path_to_wrappers_takes_them_all_and_inner_leaves_them():
    net = nn.Sequential(blocks=nn.Repeat(nn.Remat(BLOCK), 4))
    assert nn.replace(net, "blocks", nn.Dense(3)) == nn.Sequential(blocks=nn.Dense(3))
    assert nn.replace(net, "blocks/inner", nn.Dense(3)) == nn.Sequential(
        blocks=nn.Repeat(nn.Remat(nn.Dense(3)), 4)
    )
    assert nn.replace(nn.Residual(nn.Dense(3)), "inner", jnp.tanh) == nn.Residual(jnp.tanh)


def test_a_child_goes_before_a_wrappers_setting():
    net = nn.Repeat(nn.Sequential(n=nn.Dense(3), inner=nn.Dense(3)), 2)
    changed = nn.replace(nn.replace(net, "n", jnp.tanh), "inner", jnp.sin)
    assert changed == nn.Repeat(nn.Sequential(n=jnp.tanh, inner=jnp.sin), 2)


def test_parameters_of_what_stays_stay():
    x, key = jnp.ones((2, 8)), jax.random.key(0)
    net = nn.Sequential(hidden=nn.Dense(8), out=nn.Dense(3))
    old, new = net.init(key, x), nn.replace(net, "out/features", 7).init(key, x)
    assert jnp.array_equal(old["hidden"]["w"], new["hidden"]["w"])
    assert (old["out"]["w"].shape, new["out"]["w"].shape) == ((8, 3), (8, 7))


def test_a_traced_number():
    net = nn.Sequential(nn.Dropout(0.5))

    @jax.jit
    def zeros(rate, key):
        y = nn.replace(net, "0/rate", rate).apply(({},), jnp.ones(10_000), key=key, train=True)
        return (y == 0).mean()

    assert zeros(0.25, jax.random.key(0)) == pytest.approx(0.25, abs=0.03)  # 7 standard deviations


@pytest.mark.parametrize(
    ("net", "path", "value", "kind", "text"),
    [
        (
            nn.Sequential(nn.Dense(3)),
            "0/features",
            0,
            ValueError,
            "Dense.features must be an int >= 1",
        ),
        (STACK, "blocks/1/scale", -1.0, ValueError, "Block.scale is a number > 0, got -1.0"),
        (STACK, "blocks/1/n", 0, ValueError, "Repeat.n must be a number of copies"),
        (
            nn.Sequential(nn.Dense(3)),
            "0",
            5,
            TypeError,
            "Sequential.layers[0] must be a layer or a function, got 5",
        ),
        (
            nn.Sequential(nn.Dense(3)),
            "0",
            None,
            TypeError,
            "Sequential[0] must be a layer or a function",
        ),
        (nn.Remat(nn.Dense(3)), "inner", 5, TypeError, "Remat.inner must be a layer or a function"),
        (STACK, "blocks", [BLOCK], TypeError, "Stack.blocks got a list"),
        (nn.Dense(3), "w_init", jnp.ones(3), TypeError, "Dense.w_init got an array"),
        (
            nn.Parallel(nn.Dense(3)),
            "merge",
            5,
            TypeError,
            "Parallel.merge must be None or a plain function",
        ),
    ],
)
def test_a_wrong_value_raises_as_the_constructor_does(net, path, value, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        nn.replace(net, path, value)


@pytest.mark.parametrize(
    ("net", "path", "text"),
    [
        (
            nn.Sequential(hidden=nn.Dense(3)),
            "hiden/features",
            "there is no 'hiden/features': the network is Sequential(hidden=Dense(3)), which does "
            "not have 'hiden'; did you mean 'hidden'?",
        ),
        (
            nn.Sequential(hidden=nn.Dense(3)),
            "hidden/feature",
            "there is no 'hidden/feature': 'hidden' is Dense(3), which does not have 'feature'; "
            "did you mean 'features'?",
        ),
        (
            STACK,
            "blocks/2/mlp",
            "there is no 'blocks/2/mlp': 'blocks' is a tuple of 2, which does not have '2'; "
            "known are '0', '1'",
        ),
        (
            STACK,
            "heads/c",
            "there is no 'heads/c': 'heads' is a dict of 2, which does not have 'c'; known are "
            "'a', 'b'",
        ),
        (
            nn.Sequential(nn.Dense(3)),
            "0/features/x",
            "there is no '0/features/x': '0/features' is 3, a setting, which does not have 'x'; "
            "there are none",
        ),
        (
            nn.Repeat(nn.Dense(3), 2),
            "feature",
            "there is no 'feature': the network is Repeat(Dense(3), 2), which does not have "
            "'feature'; did you mean 'features'?",
        ),
        (nn.Sequential(nn.Dense(3)), "0//features", "which does not have ''"),
        (nn.Sequential(nn.Dense(3)), "00", "which does not have '00'"),
        (nn.Sequential(nn.Dense(3)), "-1", "which does not have '-1'"),
        (
            nn.Sequential(a=nn.Repeat(nn.Remat(nn.Repeat(nn.Dense(3), 2)), 2)),
            "a/n",
            "'a/n' could be a setting of Repeat and Repeat, which have the same path: replace "
            "the whole layer there",
        ),
        (nn.Dense(3), "", "the path '' is the network itself"),
    ],
)
def test_a_path_that_leads_nowhere(net, path, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.replace(net, path, nn.Dense(3))


def test_what_is_no_network_or_path():
    with pytest.raises(TypeError, match=r"replace.net must be a layer, got 3"):
        nn.replace(3, "a", nn.Dense(3))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="path must be text such as 'blocks/3/mlp', got 0"):
        nn.replace(nn.Sequential(nn.Dense(3)), 0, nn.Dense(3))  # type: ignore[arg-type]


names = st.sampled_from(["a", "b", "hidden", "n", "inner", "blocks"])
leaves = st.one_of(
    st.builds(nn.Dense, st.integers(1, 9), bias=st.booleans()),
    st.just(nn.LayerNorm()),
    st.floats(0, 0.5).map(nn.Dropout),
)


def combined(layers):
    return st.one_of(
        st.lists(layers, max_size=3).map(lambda items: nn.Sequential(*items)),
        st.dictionaries(names, layers, max_size=3).map(lambda items: nn.Sequential(**items)),
        st.lists(layers, max_size=3).map(lambda items: nn.Parallel(*items, merge=sum)),
        st.builds(nn.Repeat, layers, st.integers(1, 5)),
        layers.map(nn.Remat),
        layers.map(nn.Residual),
        st.builds(nn.Precision, layers, st.sampled_from(["bfloat16", "float32"])),
        st.builds(Block, st.none() | layers, layers, st.floats(0.5, 2.0)),
    )


nets = st.recursive(leaves, combined, max_leaves=8)


def everything_at(net, path=()):
    """Every path below `net` that can be replaced, with what is there: written independently."""
    children = net._children()
    while isinstance(children, nn.Layer):  # a wrapper adds no path
        children = children._children()
    named = children.items() if isinstance(children, dict) else enumerate(children)
    for name, child in named:
        if child is not None:
            yield "/".join((*path, str(name))), child
            yield from everything_at(child, (*path, str(name)))
    if isinstance(net, nn.Dense):
        yield "/".join((*path, "features")), net.features
        yield "/".join((*path, "bias")), net.bias


@given(nets, st.data())
def test_replacing_and_replacing_back_is_the_identity(net, data):
    places = list(everything_at(net))
    if not places:
        return
    path, there = data.draw(st.sampled_from(places))
    other = data.draw(nets) if isinstance(there, nn.Layer) else type(there)(not there)
    if path.endswith("features"):
        other = data.draw(st.integers(1, 9))
    before = repr(net)
    assert nn.replace(net, path, there) == net
    changed = nn.replace(net, path, other)
    assert dict(everything_at(changed))[path] == other
    assert (changed == net) == (other == there and type(other) is type(there))
    assert nn.replace(changed, path, there) == net
    assert repr(net) == before

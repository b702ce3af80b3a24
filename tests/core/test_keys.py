"""Keys follow paths: other layers never move a layer's numbers."""

import zlib

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = jnp.ones((4, 64))


COLLIDING = "plumless", "buckeroo"  # two English words of one CRC-32


class Named(nn.Composite):
    """Children called by name, in the order of the dict, side by side."""

    parts: dict[str, nn.Layer]

    def forward(self, x):
        return {name: part(x) for name, part in self.parts.items()}


def test_fold_is_the_crc_of_the_text():
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value in the catalog of CRCs
    expected = jax.random.fold_in(KEY, zlib.crc32(b"dense"))
    assert nn.fold_in(KEY, "dense") == expected
    assert nn.fold_in(KEY, 3) == nn.fold_in(KEY, "3")


@pytest.mark.parametrize("kind", ["parameters", "dropout"])
def test_other_siblings_change_nothing(kind: str):
    layer = nn.Dense(3) if kind == "parameters" else nn.Dropout(0.5)

    def numbers(*names):
        net = Named(dict.fromkeys(names, layer))
        params = net.init(KEY, X)
        return (
            params["parts"] if kind == "parameters" else net.apply(params, X, key=KEY, train=True)
        )

    base = numbers("a", "b")
    for names in [("b", "a"), ("a", "b", "c"), ("z", "a", "b"), ("b",), ("a",)]:
        found = numbers(*names)
        for name in set(names) & {"a", "b"}:
            same = jax.tree.map(lambda p, q: bool((p == q).all()), found[name], base[name])
            assert all(jax.tree.leaves(same))
    assert any((p != q).any() for p, q in zip(*map(jax.tree.leaves, base.values()), strict=True))


def test_names_of_one_hash_are_refused():
    one, other = COLLIDING
    assert zlib.crc32(one.encode()) == zlib.crc32(other.encode())
    pair: dict[str, nn.LayerLike] = {one: nn.Dense(3), other: nn.Dense(3)}
    for make in (
        lambda: nn.Sequential(**pair),
        lambda: nn.Residual(nn.Sequential(nn.Parallel(**pair))),
        lambda: Named({one: nn.Dense(3), other: nn.Dense(3)}),
    ):
        with pytest.raises(ValueError, match=f"{one}.*{other}.*same CRC-32"):
            make().init(KEY, X)


def test_parameters_of_one_hash_are_refused():
    one, other = COLLIDING

    class Pair(nn.Primitive):
        def parameters(self, x):
            return {one: nn.Param(()), other: nn.Param(())}

        def forward(self, params, x):
            return x

    with pytest.raises(ValueError, match="same CRC-32"):
        Pair().init(KEY, X)


def test_a_second_call_draws_anew_and_shares_parameters():
    class Twice(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(x), self.inner(x)

    net = Twice(nn.Sequential(nn.Dense(64), nn.Dropout(0.5)))
    params = net.init(KEY, X)
    assert jax.tree.map(jnp.shape, params) == {"inner": ({"b": (64,), "w": (64, 64)}, {})}
    first, second = net.apply(params, X, key=KEY, train=True)
    assert ((first == 0) != (second == 0)).any()
    alone = net.inner.apply(params["inner"], X, key=nn.fold_in(KEY, "inner"), train=True)
    assert (first == alone).all()
    first, second = net.apply(params, X)
    assert (first == second).all()


def test_one_value_in_two_fields_is_two_layers():
    class Two(nn.Composite):
        a: nn.Layer
        b: nn.Layer

        def forward(self, x):
            return self.a(x), self.b(x)

    dense = nn.Dense(3)
    params = Two(dense, dense).init(KEY, X)
    assert (params["a"]["w"] != params["b"]["w"]).any()
    one, other = Two(nn.Dropout(0.5), nn.Dropout(0.5)).apply(
        {"a": {}, "b": {}}, X, key=KEY, train=True
    )
    assert (one != other).any()


def test_a_composite_has_a_key_of_its_own():
    """Neither its children nor its parent draw the same."""

    class Noise(nn.Composite):
        inner: nn.Layer

        def forward(self, x, *, key, train):
            own = jax.random.bits(key) if train else None
            return own, self.inner(x)

    net = Noise(Noise(nn.Tap()))
    own, (below, _) = net.apply(net.init(KEY, X), X, key=KEY, train=True)
    assert len({int(own), int(below), int(jax.random.bits(KEY))}) == 3

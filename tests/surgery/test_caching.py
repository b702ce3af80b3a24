"""with_cache: which layers keep what, and errors; tests/laws/test_chunk.py is its law."""

import functools
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, applied, normals
from tests.near import assert_near

X = np.asarray(normals(0, 2, 6, 4))


def test_every_layer_that_can_keep_is_reached():
    attention = nn.MultiHeadAttention(2, causal=True)
    block = nn.Remat(nn.Sequential(attention=nn.Residual(attention), mlp=nn.Dense(4)))
    net = nn.Sequential(
        nn.LearnedPositions(9), nn.Repeat(block, 2), nn.Parallel(a=attention, b=jax.nn.relu)
    )
    kept = nn.MultiHeadAttention(2, causal=True, cache=5)
    block = nn.Remat(nn.Sequential(attention=nn.Residual(kept), mlp=nn.Dense(4)))
    expected = nn.Sequential(
        nn.LearnedPositions(9, cache=5), nn.Repeat(block, 2), nn.Parallel(a=kept, b=jax.nn.relu)
    )
    found = nn.with_cache(net, 5)
    assert found == expected and hash(found) == hash(expected)
    assert nn.with_cache(found, 7) == nn.with_cache(net, 7) != found
    shape = found.init_state(X[:, :1])["1"]["attention"]["keys"].shape
    assert shape == (2, 2, 2, 5, 2)  # copies, rows, heads, slots, features


def test_optional_children_stay_none():
    net = nn.EncoderLayer(nn.MultiHeadAttention(2, causal=True), nn.Dense(4))
    assert nn.with_cache(net, 3).attention == nn.MultiHeadAttention(2, causal=True, cache=3)
    assert nn.with_cache(net, 3).dropout is None


def test_a_network_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no layer of Sequential.* can keep a cache; .* at: none"):
        nn.with_cache(nn.Sequential(nn.Dense(3), jax.nn.relu))
    with pytest.raises(ValueError, match=r"length must be an int >= 1, got 0; write nn.with_cache"):
        nn.with_cache(nn.MultiHeadAttention(2, causal=True), 0)
    with pytest.raises(TypeError, match=r"with_cache.net must be a layer, got 3"):
        nn.with_cache(cast(Any, 3))


class Translation(nn.Composite):
    """An encoder that looks both ways, and a decoder that looks at what the encoder gives."""

    encoder: nn.Layer
    decoder: nn.Layer

    def forward(self, source, target):
        return self.decoder(target, self.encoder(source))


ENCODER = nn.Sequential(
    nn.SinusoidalPositions(),
    nn.Repeat(nn.EncoderLayer(nn.MultiHeadAttention(2), nn.Dense(4)), 2),
    nn.Bidirectional(nn.Recurrent(nn.GRUCell(2)), merge=lambda a, b: jnp.concatenate([a, b], -1)),
)


class Decoder(nn.Composite):
    positions: nn.Layer
    layers: tuple[nn.Layer, ...]

    def forward(self, x, memory):
        x = self.positions(x)
        for layer in self.layers:
            x = layer(x, memory)
        return x


DECODER = Decoder(
    nn.LearnedPositions(9),
    (nn.DecoderLayer(nn.MultiHeadAttention(2, causal=True), nn.MultiHeadAttention(2), nn.Dense(4)),)
    * 2,
)


@pytest.mark.parametrize("match", ["decoder", "dec*", lambda path, layer: layer == DECODER])
def test_a_cache_in_a_part_of_a_network(match):
    """A cached decoder with an encoder that gets its whole input: any split is the whole."""
    net = Translation(ENCODER, DECODER)
    source, target = X[:, :4], np.asarray(normals(1, 2, 6, 4))
    cached = nn.with_cache(net, 6, match)
    assert cached == Translation(ENCODER, nn.with_cache(DECODER, 6))
    if match != "decoder":
        return  # an equal network, which is run once
    params = net.init(KEY, source, target)
    chex.assert_trees_all_equal(cached.init(KEY, source, target), params)
    whole = jax.jit(net.apply)(params, source, target)
    run = jax.jit(lambda source, piece, state: cached.apply(params, source, piece, state=state))
    for split in ((1,) * 6, (4, 1, 1)):
        state, outputs, begin = cached.init_state(source, target[:, :1]), [], 0
        assert list(state) == ["decoder"]
        for length in split:
            y, state = run(source, target[:, begin : begin + length], state)
            outputs.append(np.asarray(y))
            begin += length
        assert_near(np.concatenate(outputs, 1), whole)


def test_parts_are_chosen_by_path_and_keep_what_they_have():
    attention = nn.MultiHeadAttention(2, causal=True)
    net = nn.Sequential(
        a=attention, blocks=nn.Repeat(nn.Remat(nn.Sequential(x=attention, y=attention)), 2)
    )
    assert nn.with_cache(net, 5) == nn.with_cache(net, 5)
    assert nn.with_cache(net, 5, "**") == nn.with_cache(net, 5)
    kept = nn.MultiHeadAttention(2, causal=True, cache=5)
    other = nn.MultiHeadAttention(2, causal=True, cache=7)
    found = nn.with_cache(nn.with_cache(net, 5, "blocks/y"), 7, "a")
    inside = nn.Sequential(x=attention, y=kept)
    assert found == nn.Sequential(a=other, blocks=nn.Repeat(nn.Remat(inside), 2))
    seen = []
    nn.with_cache(net, 5, lambda path, layer: seen.append((path, type(layer))) or path == "a")
    assert seen[:2] == [("", nn.Sequential), ("a", nn.MultiHeadAttention)]
    assert ("blocks/x", nn.MultiHeadAttention) in seen and ("blocks", nn.Remat) in seen
    # Other wrappers and layers below what fits come with it.
    assert nn.with_cache(net, 5, lambda path, layer: isinstance(layer, nn.Repeat)) == nn.Sequential(
        a=attention,
        blocks=nn.with_cache(nn.Repeat(nn.Remat(nn.Sequential(x=attention, y=attention)), 2), 5),
    )


def test_a_match_that_fits_nothing_is_refused():
    net = nn.Sequential(a=nn.MultiHeadAttention(2, causal=True), b=nn.Dense(4))
    with pytest.raises(ValueError, match=r"fits match='b', or is below a layer .* at: 'a'"):
        nn.with_cache(net, 5, match="b")
    with pytest.raises(ValueError, match="are at: ''"):
        nn.with_cache(nn.MultiHeadAttention(2, causal=True), match="b")
    with pytest.raises(
        TypeError, match=r"match must be None or a pattern .*, or a function .* got 3"
    ):
        nn.with_cache(net, 5, match=cast(Any, 3))
    with pytest.raises(
        TypeError, match=r"with_cache.net must be a layer, got 3; write nn.with_cache\(net"
    ):
        nn.with_cache(cast(Any, 3))


@functools.partial(jax.jit, static_argnums=0)
def step(net: nn.Layer, params: Any, x: Any, state: Any) -> Any:
    return net.apply(params, x, state=state)


def decode(net: nn.Layer, params: Any, x: Any, *split: int) -> Any:
    """The outputs of the pieces of x, and the last state."""
    state, outputs, begin = net.init_state(x[..., :1, :]), [], 0
    for length in split:
        y, state = step(net, params, x[..., begin : begin + length, :], state)
        outputs.append(np.asarray(y))
        begin += length
    return np.concatenate(outputs, -2), state


def test_writing_past_the_length():
    """Raises where the position is known; NaN, and NaN ever after, where it is not."""
    net = nn.with_cache(nn.MultiHeadAttention(2, causal=True), 4)
    params = net.init(KEY, X[:, :1])
    _, state = decode(net, params, X, 3)
    with pytest.raises(
        ValueError,
        match=r"cache of 4 positions holds 3, so 2 more .*with_cache\(net, leng",
    ):
        net.apply(params, X[:, :2], state=state)
    with pytest.raises(ValueError, match="holds 0, so 6 more do not fit"):
        net.init_state(X)
    y, state = step(net, params, X[:, 3:4], state)
    assert np.isfinite(y).all()
    for _ in range(2):
        y, state = step(net, params, X[:, 4:5], state)
        assert np.isnan(y).all()


def test_a_ring_has_no_end():
    """A window of 2 kept in 2 slots, far past the cache's length; chunks longer than the ring."""
    net = nn.MultiHeadAttention(2, causal=True, window=2, rotary=nn.RotaryEmbedding())
    cached = nn.with_cache(net, 4)
    params = net.init(KEY, X)
    assert cached.init_state(X)["keys"].shape == (2, 2, 2, 2)
    y, state = decode(cached, params, X, 5, 1)
    assert_near(y, jax.jit(net.apply)(params, X))
    assert state["count"]["position"].tolist() == [6, 6]


def test_a_chunk_without_segments_goes_on_with_the_last():
    """After a chunk marked 2; and the padding before the first one changes nothing."""
    net = nn.Sequential(
        nn.SinusoidalPositions(),
        nn.MultiHeadAttention(2, causal=True, rotary=nn.RotaryEmbedding()),
        nn.MultiHeadAttention(2, causal=True, window=2, alibi=True),
    )
    params, segment_ids = net.init(KEY, X), np.array([[2, 2, 2], [0, 0, 2]])
    cached = nn.with_cache(net, 6)

    @jax.jit
    def run(x):
        state = cached.init_state(x[:, :1])
        first, state = cached.apply(params, x[:, :3], state=state, segment_ids=segment_ids)
        then, _ = cached.apply(params, x[:, 3:], state=state)
        return (
            jnp.concatenate([first, then], 1),
            net.apply(params, x[0]),
            net.apply(params, x[1, 2:]),
        )

    y, whole, padded = run(X)
    assert_near(np.asarray(y)[0], whole)
    assert_near(np.asarray(y)[1, 2:], padded)


def test_axes_in_front():
    net = nn.Sequential(
        nn.LearnedPositions(6),
        nn.MultiHeadAttention(2, causal=True),
        nn.MultiHeadAttention(2, causal=True, window=2),
    )
    params, apply = net.init(KEY, X), jax.jit(net.apply)
    assert_near(decode(nn.with_cache(net, 6), params, X[0], 2, 4)[0], apply(params, X[0]))
    more = X.reshape(2, 1, 6, 4)
    assert_near(decode(nn.with_cache(net, 6), params, more, 6)[0], apply(params, more))


def test_decoding_is_one_program():
    """One token costs the same work at any position: the same program, whose arrays all have the
    cache's length or a chunk's."""
    net = nn.with_cache(nn.MultiHeadAttention(2, causal=True), 6)
    params, state = net.init(KEY, X[:, :1]), net.init_state(X[:, :1])

    @jax.jit
    @chex.assert_max_traces(1)
    def run(x, state):
        return net.apply(params, x, state=state)

    for t in range(6):
        _, state = run(X[:, t : t + 1], state)


def test_the_cache_has_the_type_of_the_computation():
    net = nn.with_cache(nn.Precision(nn.MultiHeadAttention(2, causal=True), "bfloat16"), 6)
    state = net.init_state(X)
    assert state["keys"].dtype == state["values"].dtype == jnp.bfloat16
    params = net.init(KEY, X)
    y, after = step(net, params, X, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    exact, _ = step(net.wrapped, params, X, state)
    np.testing.assert_allclose(y, exact, atol=0.05)  # values of some units, rounded to 2**-8


def test_state_of_the_network_beside_its_cache():
    """The vectors of SpectralNorm, which training left, next to keys and values."""
    net = nn.SpectralNorm(nn.MultiHeadAttention(2, causal=True))
    params = net.init(KEY, X)
    _, trained = applied(net, params, X, state=net.init_state(X), train=True)
    expected, _ = step(net, params, X, trained)
    cached = nn.with_cache(net, 6)
    fresh = cached.init_state(X[:, :1])
    assert fresh.keys() - trained.keys() >= {"keys", "values"}
    outputs, state = [], fresh | trained
    for piece in (X[:, :2], X[:, 2:3], X[:, 3:]):
        y, state = step(cached, params, piece, state)
        outputs.append(y)
    assert_near(jnp.concatenate(outputs, 1), expected)
    chex.assert_trees_all_equal({name: state[name] for name in trained}, trained)


def test_memory_is_not_cached():
    net, memory = nn.MultiHeadAttention(2), normals(1, 2, 3, 4)
    cached = nn.with_cache(net, 8)
    params = net.init(KEY, X, memory)
    assert cached.init_state(X, memory) == {}
    y = applied(cached, params, X[:, 2:3], memory)
    assert_near(y, applied(net, params, X, memory)[:, 2:3])


def test_refused_with_a_cache():
    net = nn.with_cache(nn.MultiHeadAttention(2, causal=True), 8)
    params, state = net.init(KEY, X), net.init_state(X)
    with pytest.raises(
        ValueError, match="cache of 8 positions, which is for inference only: train the"
    ):
        net.apply(params, X, state=state, train=True)
    with pytest.raises(ValueError, match="a mask or a bias does not cover the cached keys"):
        net.apply(params, X, state=state, mask=jnp.ones((6, 6), bool))
    with pytest.raises(ValueError, match=r"keeps state \(keys, values, .*init_state\(x\)"):
        net.apply(params, X)
    with pytest.raises(ValueError, match=r"attends to later positions.*causal=True"):
        nn.with_cache(nn.MultiHeadAttention(2), 8).init(KEY, X)
    rotary = nn.RotaryEmbedding(scaling=nn.DynamicNTKScaling(2.0, 16))
    with pytest.raises(ValueError, match=r"changes the angles of all positions.*nn.NTKScaling"):
        nn.with_cache(nn.MultiHeadAttention(2, causal=True, rotary=rotary), 8)
    with pytest.raises(ValueError, match="for inference only: train the network"):
        positions = nn.with_cache(nn.SinusoidalPositions(), 8)
        positions.apply({}, X, state=positions.init_state(X), train=True)

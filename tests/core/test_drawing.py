"""Drawing: every parameter has the numbers that its initializer gives at the key of its path.

The key is folded here by hand, from what a path key is: CRC-32 of each segment in turn. The numbers
come from `jax.random` and `jax.nn.initializers`.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as peers

import jaxnn as nn

pytestmark = pytest.mark.usefixtures("rows_of_users")
KEY = jax.random.key(7)
X = jnp.ones((2, 4))


def key_at(path, root=KEY):
    return functools.reduce(
        lambda key, segment: jax.random.fold_in(key, zlib.crc32(segment.encode())),
        path.split("/"),
        root,
    )


def assert_same(drawn, expected):
    assert drawn.dtype == expected.dtype and drawn.shape == expected.shape
    # Another program of the same steps: 2 units in the last place.
    rounding = 2 * float(jnp.finfo(drawn.dtype).eps)
    one, other = np.asarray(drawn, np.float64), np.asarray(expected, np.float64)
    size = np.abs(other).max(initial=0.0)
    np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding * size)


INITIALIZERS = {
    "normal": (nn.normal(0.3), peers.normal(0.3)),
    "truncated": (nn.truncated_normal(0.3, -1.0, 2.0), peers.truncated_normal(0.3, None, -1, 2)),
    "cut below": (
        nn.truncated_normal(1.0, -1.0, float("inf")),
        lambda key, shape, dtype: jax.random.truncated_normal(key, -1.0, jnp.inf, shape, dtype),
    ),
    "cut above": (
        nn.truncated_normal(1.0, -float("inf"), 1.0),
        lambda key, shape, dtype: jax.random.truncated_normal(key, -jnp.inf, 1.0, shape, dtype),
    ),
    "uniform": (
        nn.uniform(-0.5, 2.0),
        lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -0.5, 2.0),
    ),
}


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_sizes_about_the_length_of_a_row(name, size):
    ours, theirs = INITIALIZERS[name]
    params = nn.LearnedArray((size,), ours).init(KEY)
    if size:
        assert_same(params["w"], theirs(key_at("w"), (size,), jnp.float32))
    assert params["w"].shape == (size,)


def test_many_parameters_of_several_kinds():
    kinds = list(INITIALIZERS.values())
    layers: dict[str, nn.Layer] = {}
    layers |= {f"n{i}": nn.LearnedArray((i % 7 + 1, 600), kinds[i % 5][0]) for i in range(150)}

    class Many(nn.Composite):
        layers: dict[str, nn.Layer]

        def forward(self):
            return [layer() for layer in self.layers.values()]

    params = Many(layers).init(KEY)["layers"]
    for i in (0, 1, 2, 3, 4, 63, 64, 65, 128, 149):
        expected = kinds[i % 5][1](key_at(f"layers/n{i}/w"), (i % 7 + 1, 600), jnp.float32)
        assert_same(params[f"n{i}"]["w"], expected)


def he(path, shape, root=KEY, dtype=jnp.float32):
    return peers.he_normal()(key_at(path, root), shape, dtype)


def test_stacked_and_nested():
    inner = nn.Sequential(b=nn.Ensemble(nn.Repeat(nn.Dense(4), 3), 2), c=lambda y: y.mean(0))
    w = nn.Sequential(a=nn.Repeat(inner, 2)).init(KEY, X)["a"]["b"]["w"]
    assert w.shape == (2, 2, 3, 4, 4)
    for i in range(2):
        for j in range(2):
            for k in range(3):
                assert_same(w[i, j, k], he(f"a/{i}/b/{j}/{k}/w", (4, 4)))


@pytest.mark.parametrize("depth", [15, 16, 17, 40])
def test_deep_paths(depth):
    net = nn.Dense(4)
    for _ in range(depth):
        net = nn.Sequential(deeper=net)
    w = jax.tree.leaves(net.init(KEY, X))[1]
    assert_same(w, he("deeper/" * depth + "w", (4, 4)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_type_that_is_declared(dtype):
    class Typed(nn.Primitive):
        def parameters(self, x):
            return {"w": nn.Param((x.shape[-1], 5), nn.he_normal(), dtype)}

        def forward(self, params, x):
            return x

    with jax.enable_x64(dtype == "float64"):
        drawn = nn.Sequential(a=Typed()).init(KEY, X)["a"]["w"]
        assert_same(drawn, he("a/w", (4, 5), dtype=jnp.dtype(dtype)))


def test_the_default_type_follows_x64():
    with jax.enable_x64(True):
        assert_same(nn.Dense(5).init(KEY, X)["w"], he("w", (4, 5), dtype=jnp.float64))
    assert nn.Dense(5).init(KEY, X)["w"].dtype == jnp.float32


def test_functions_of_the_users_own():
    def cauchy(key, shape, dtype):
        return jax.random.cauchy(key, shape, dtype)

    net = nn.Sequential(
        jaxs=nn.Dense(5, w_init=jax.nn.initializers.he_normal()),
        own=nn.Dense(5, w_init=cauchy),
        partial=nn.Dense(5, w_init=functools.partial(cauchy)),
    )
    params = net.init(KEY, X)
    assert_same(params["jaxs"]["w"], he("jaxs/w", (4, 5)))
    assert_same(params["own"]["w"], cauchy(key_at("own/w"), (5, 5), jnp.float32))
    assert_same(params["partial"]["w"], cauchy(key_at("partial/w"), (5, 5), jnp.float32))


def test_a_function_gives_what_the_declaration_says():
    net = nn.Dense(5, w_init=lambda key, shape, dtype: jnp.ones(shape, jnp.bfloat16))
    assert net.init(KEY, X)["w"].dtype == jnp.float32


CALLS = []


class counted(nn.Initializer):
    by: float

    def __call__(self, key, shape, dtype=jnp.float32):
        CALLS.append(shape)
        return self.by * jax.random.normal(key, shape, dtype)


def test_the_program_of_a_value_serves_every_seed_and_one_for_each_number():
    """Calls are traces; under another's trace nothing is kept."""
    CALLS.clear()
    for seed, by in ((0, 1.0), (1, 1.0), (1, 2.0), (2, 2.0)):
        key = jax.random.key(seed)
        w = nn.Sequential(a=nn.Dense(5, w_init=counted(by))).init(key, X)["a"]["w"]
        assert_same(w, by * jax.random.normal(key_at("a/w", key), (4, 5)))
    assert CALLS == [(4, 5)] * 2
    traced = jax.jit(lambda by: nn.Dense(5, w_init=counted(by)).init(KEY, X)["w"])
    assert_same(traced(2.0), 2 * jax.random.normal(key_at("w"), (4, 5)))
    assert_same(traced(3.0), 3 * jax.random.normal(key_at("w"), (4, 5)))
    assert CALLS == [(4, 5)] * 3


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_other_generators(kind):
    root = jax.random.key(1, impl=kind)
    inner = nn.Sequential(nn.Dense(4), nn.Dense(4))
    params = nn.Sequential(a=nn.Dense(4), b=nn.Repeat(inner, 2)).init(root, X)
    assert_same(params["a"]["w"], he("a/w", (4, 4), root))
    for i in range(2):
        for j in range(2):
            assert_same(params["b"][j]["w"][i], he(f"b/{i}/{j}/w", (4, 4), root))


def test_an_old_style_key_gives_the_same():
    old = nn.Dense(5).init(jax.random.PRNGKey(7), X)["w"]
    assert_same(old, he("w", (4, 5)))


@pytest.mark.parametrize("partitionable", [True, False])
def test_eager_jitted_and_mapped(partitionable):
    net = nn.Sequential(a=nn.Dense(4), b=nn.Repeat(nn.Dense(4), 2))
    with jax.threefry_partitionable(partitionable):
        eager = net.init(KEY, X)
        jitted = jax.jit(net.init)(KEY, X)
        constant = jax.jit(lambda: net.init(KEY, X))()
        several = jax.vmap(net.init, (0, None))(jnp.stack([jax.random.key(1), KEY]), X)
        for params in (eager, jitted, constant, jax.tree.map(lambda a: a[1], several)):
            assert_same(params["a"]["w"], he("a/w", (4, 4)))
            for i in range(2):
                assert_same(params["b"]["w"][i], he(f"b/{i}/w", (4, 4)))


def test_shapes_without_numbers():
    shapes = jax.eval_shape(nn.Repeat(nn.Dense(4), 3).init, KEY, X)
    assert jax.tree.map(lambda a: a.shape, shapes) == {"w": (3, 4, 4), "b": (3, 4)}


def test_a_traced_deviation_beside_a_known_one():
    @jax.jit
    def init(stddev):
        return nn.Sequential(
            a=nn.Dense(4, w_init=nn.normal(stddev)), b=nn.Dense(4, w_init=nn.normal(0.3))
        ).init(KEY, X)

    params = init(0.3)
    for name in "ab":
        assert_same(params[name]["w"], peers.normal(0.3)(key_at(f"{name}/w"), (4, 4), jnp.float32))
    assert_same(init(0.6)["a"]["w"], 2 * params["a"]["w"])


def test_what_a_stax_pair_draws():
    def init_fun(key, x):
        one, other = jax.random.split(key)
        shape = x.shape[-1:]
        return jax.random.normal(one, shape), {"s": (jax.random.normal(other, shape), 2.0)}

    params = nn.Sequential(pair=nn.layer(init_fun, lambda params, x: x)).init(KEY, X)["pair"]
    one, other = jax.random.split(key_at("pair"))
    assert_same(params[0], jax.random.normal(one, (4,)))
    assert_same(params[1]["s"][0], jax.random.normal(other, (4,)))
    assert params[1]["s"][1] == 2.0

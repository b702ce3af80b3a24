"""Precision: what is kept, what a policy is, and in which type sums are taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

SEEN: list[tuple[str, ...]] = []


class Scale(nn.Primitive):
    """x * scale, which notes the types that it computes in."""

    def parameters(self, x):
        return {"scale": nn.Param((x.shape[-1],), nn.ones())}

    def forward(self, params, x):
        SEEN.append((str(x.dtype), str(params["scale"].dtype)))
        return x * params["scale"].astype(x.dtype)


def noted(x):
    """The identity, which notes the type that it is given."""
    SEEN.append((str(x.dtype),))
    return x


def types(net, *inputs):
    """What the layers of `net` see when it is applied, each once."""
    params = net.init(KEY, *inputs)
    SEEN.clear()
    y = net.apply(params, *inputs)
    return list(dict.fromkeys(SEEN)), y.dtype


BLOCK = nn.Residual(nn.Sequential(up=nn.Dense(4), norm1=Scale(), act=noted))


@pytest.mark.parametrize(
    "net",
    [
        BLOCK,
        nn.Sequential(blocks=nn.Repeat(BLOCK, 2)),
        nn.Remat(nn.Sequential(nn.Remat(BLOCK))),
        nn.Sequential(nn.capture(BLOCK, "none"), lambda pair: pair[0]),
    ],
    ids=["residual", "repeat", "remat", "capture"],
)
def test_what_is_kept_computes_in_its_parameters_type_and_the_rest_in_the_other(net):
    half, full = nn.Precision(net), nn.Precision(net, keep="**/norm*")
    assert types(half, X) == ([("bfloat16", "bfloat16"), ("bfloat16",)], np.float32)
    assert types(full, X) == ([("float32", "float32"), ("bfloat16",)], np.float32)


def test_products_are_in_bfloat16_and_the_norm_in_float32():
    """As the jaxpr says, forward and backward; parameters and gradients are float32."""
    net = nn.Precision(nn.Sequential(nn.Dense(8), nn.LayerNorm(), nn.Dense(1)), keep="1")
    params = net.init(KEY, X)

    def loss(params):
        return jnp.sum(net.apply(params, X))

    equations = list(flat(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    by_name: dict[str, set[str]] = {}
    for equation in equations:
        kinds = {str(var.aval.dtype) for var in equation.invars if hasattr(var.aval, "dtype")}
        by_name.setdefault(equation.primitive.name, set()).update(kinds)
    assert by_name["dot_general"] == {"bfloat16"}
    assert by_name["rsqrt"] == {"float32"}
    assert by_name["mul"] == {"float32"}  # by the scale, there and back
    grads = jax.eval_shape(jax.grad(loss), params)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((params, grads))} == {"float32"}


def flat(jaxpr):
    for equation in jaxpr.eqns:
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        yield from (one for below in inner for one in flat(below))
        if not inner:
            yield equation


def test_a_scale_that_bfloat16_cannot_hold():
    """1 + 2**-10 rounds to 1 in bfloat16: kept, it moves a sum of 1024 by 1."""
    net = nn.Sequential(norm=Scale(), sum=lambda x: jnp.sum(x, dtype=jnp.float32) * jnp.ones(1))
    params = {"norm": {"scale": jnp.full(1024, 1 + 2.0**-10)}, "sum": {}}
    x = np.full((1024,), 256.0, np.float32)
    assert float(nn.Precision(net).apply(params, x)[0]) == 256 * 1024
    every = nn.Precision(net, keep="**")
    np.testing.assert_allclose(every.apply(params, x), 256 * 1024, rtol=2.0**-8)  # rounds again
    assert float(dataclasses.replace(every, compute="float32").apply(params, x)[0]) == 256 * 1025


def test_embeddings_and_other_methods_are_kept():
    """A table that is looked up and that is the output head too."""

    class Tied(nn.Composite):
        embed: nn.Layer
        body: nn.Layer

        def forward(self, ids):
            return self.embed.attend(self.body(self.embed(ids)))

    net, ids = Tied(nn.Embedding(7, 4), nn.Sequential(noted)), np.array([1, 2])
    precise = nn.Precision(net, keep="embed")
    assert types(precise, ids) == ([("bfloat16",)], np.float32)
    params = net.init(KEY, ids)
    jaxpr = str(jax.make_jaxpr(lambda p: precise.apply(p, ids))(params))
    assert "bf16[7,4]" not in jaxpr  # the table is never rounded


def test_a_policy_is_put_around_a_network_by_the_program():
    net = nn.Sequential(nn.Dense(8), jnp.tanh, nn.Dense(1))
    policy = nn.Precision(compute="bfloat16", keep="2")
    assert repr(policy) == "Precision(keep='2')"
    wrapped = dataclasses.replace(policy, inner=net)
    assert wrapped == nn.Precision(net, keep="2")
    assert eval(repr(wrapped), vars(nn) | {"jax": jax}) == wrapped
    optimizer, found, batch = optax.adam(1e-2), [], (X, X[:, 0])
    for one, precision in ((wrapped, None), (net, policy)):
        program = train.Supervised(one, train.Regression(), optimizer, precision=precision)
        found.append(train.make_step(program)(program.init(KEY, batch), batch))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


ONES = np.ones((1, 4096), np.float32)


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Dense(1, bias=False, w_init=nn.ones()), ONES),
        (nn.Einsum("bn,nm->bm", (4096, 1), bias=False, w_init=nn.ones()), ONES),
        (nn.Conv(1, (64, 64), padding="valid", bias=False, w_init=nn.ones()), ONES),
    ],
    ids=["Dense", "Einsum", "Conv"],
)
def test_sums_of_products_accumulate_in_float32(layer, x, compute):
    """4,096 ones: a sum in the type itself stops at 256, or 2,048, where 1 more is rounded off."""
    if isinstance(layer, nn.Conv):
        x = x.reshape(1, 64, 64, 1)
    net = nn.Precision(layer, compute)
    params = net.init(KEY, x)
    assert float(net.apply(params, x).reshape(())) == 4096.0
    # and backwards: the gradient of the one weight is a sum over 4,096 rows
    rows = np.ones((4096, 1), np.float32)
    one = nn.Precision(nn.Dense(1, bias=False), compute)
    grads = jax.grad(lambda p: jnp.sum(one.apply(p, rows)))(one.init(KEY, rows))
    assert float(grads["w"][0, 0]) == 4096.0


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: nn.Precision(nn.Sequential(a=nn.Dense(3), b=BLOCK), keep="**/gone"),
            ValueError,
            r"no layer of .* matches Precision.keep='\*\*/gone'; layers are: a, b, b/up, b/norm1",
        ),
        (
            lambda: nn.Precision(nn.Dense(3), keep=("a",)),  # type: ignore[arg-type]
            TypeError,
            r"Precision.keep must be None or a path pattern such as '\*\*/w', got \('a',\)",
        ),
        (
            lambda: nn.Precision(compute="float16").init(KEY, X),
            TypeError,
            r"Precision\(compute='float16'\) is a policy without a network: write nn.Precision\(n",
        ),
        (
            lambda: train.Supervised(
                nn.Dense(1), train.Regression(), optax.sgd(1), precision=nn.Precision(nn.Dense(1))
            ),
            TypeError,
            r"precision must be None or a policy without a network, got .*; write nn.Prec",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make, error, text):
    with pytest.raises(error, match=text):
        make()

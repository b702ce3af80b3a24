"""GPT in both of its forms: causal, in pieces, in half precision, with a rate that is traced."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.attention import attention
from jaxnn.models import GPT, CharLSTM, ViT
from tests.cases import KEY
from tests.near import assert_near

GPT2 = GPT(layers=2, width=8, num_heads=2, length=9)
LLAMA = GPT(
    layers=2,
    width=8,
    num_heads=4,
    num_kv_heads=2,
    positions="rotary",
    norm="rms",
    feed_forward="swiglu",
    bias=False,
    tied=False,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 7)), jnp.int32)
every_form = pytest.mark.parametrize(
    "model", [GPT2, LLAMA, CharLSTM(width=8)], ids=["gpt2", "llama", "lstm"]
)


def random(net: nn.Layer) -> Any:
    """Parameters of size 0.5, among which nothing is near 0 or all the same."""
    draw = np.random.default_rng(1).normal
    spec = net.spec(TOKENS)
    return jax.tree.map(lambda p: draw(scale=0.5, size=p.shape).astype(p.dtype), spec)


@every_form
def test_logits_depend_on_no_later_token(model: GPT):
    """A token of the middle changes the logits from there on, and none before."""
    net = model.network(11)
    params, apply = random(net), jax.jit(net.apply)
    y, z = apply(params, TOKENS), apply(params, TOKENS.at[:, 3].add(1) % 11)
    assert_near(z[:, :3], y[:, :3])
    assert (np.abs(z - y)[:, 3:].max(-1) > 1e-3).all()


@every_form
def test_in_pieces(model: GPT):
    """Token by token and in chunks, in a cache, it is the whole; left padding is skipped."""
    net = model.network(11)
    params, cached = random(net), nn.with_cache(net, length=8)
    whole = jax.jit(net.apply)(params, TOKENS)

    @jax.jit
    def run(tokens, segment_ids, state):
        return cached.apply(params, tokens, segment_ids=segment_ids, state=state)

    whole_row = np.asarray(TOKENS)
    padded = np.pad(whole_row, ((0, 0), (1, 0)))
    segment_ids = np.broadcast_to(np.arange(8) > 0, (2, 8)).astype(np.int32)
    for tokens, marks, split in (
        (whole_row, np.ones_like(whole_row), (1,) * 7),
        (padded, segment_ids, (4, 4)),
    ):
        state, outputs, begin = cached.init_state(tokens[:, :1]), [], 0
        for length in split:
            piece = slice(begin, begin + length)
            y, state = run(tokens[:, piece], marks[:, piece], state)
            outputs.append(np.asarray(y))
            begin += length
        assert_near(np.concatenate(outputs, 1)[:, -7:], whole)


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_half_precision(model: GPT):
    """Under Precision: logits near those of float32, and gradients float32 as parameters are."""
    net = model.network(11)
    params, half = random(net), nn.Precision(net, "bfloat16")
    exact, y = jax.jit(lambda params: [one.apply(params, TOKENS) for one in (net, half)])(params)
    assert y.dtype == jnp.float32
    # Each of some twenty roundings on the way is half a unit of 2**-8 of the largest number.
    np.testing.assert_allclose(y, exact, atol=20 * 2**-9 * float(jnp.abs(exact).max()))
    gradient = jax.eval_shape(jax.grad(lambda params: half.apply(params, TOKENS).sum()), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)


def test_the_rate_may_be_traced():
    """One program for all rates, with the numbers of a rate that is known."""
    net = GPT2.network(11)
    params = random(net)

    @jax.jit
    def run(rate):
        net = dataclasses.replace(GPT2, dropout=rate).network(11)
        return net.apply(params, TOKENS, key=KEY, train=True)

    known = dataclasses.replace(GPT2, dropout=0.5).network(11)
    assert_near(run(0.5), jax.jit(lambda: known.apply(params, TOKENS, key=KEY, train=True))())


def test_the_body_of_a_block_is_traced_once():
    """The program of 12 blocks is as long as that of 2."""

    def lines(layers: int) -> int:
        net = dataclasses.replace(LLAMA, layers=layers).network(11)
        params = jax.eval_shape(net.init, KEY, TOKENS)
        loss = lambda params: net.apply(params, TOKENS).sum()  # noqa: E731
        return len(str(jax.make_jaxpr(jax.grad(loss))(params)).splitlines())

    assert lines(12) == lines(2)


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_the_last_weights_of_a_branch_begin_smaller_with_depth(model: GPT):
    """Radford et al., 2019, section 2.3: by 1 / sqrt(N) for N residual branches, two a block."""
    net = dataclasses.replace(model, layers=8, width=64, hidden=256).network(200)
    params = jax.jit(net.init)(KEY, TOKENS)
    branches = params["blocks"]["attention"], params["blocks"]["feed_forward"]
    matrices = {
        f"{b}/{n}": one["w"]
        for b, branch in enumerate(branches)
        for n, one in branch.items()
        if one
    }
    assert len(matrices) == (6 if model is GPT2 else 7)
    for name, w in matrices.items():
        wanted = 0.02 / 16**0.5 if name in ("0/out", "1/down") else 0.02
        # Five errors of the standard deviation of so many normal numbers.
        assert float(w.std()) == pytest.approx(wanted, rel=5 / (2 * w.size) ** 0.5)
    table = params["embedding"]["w"]
    assert float(table.std()) == pytest.approx(0.02, rel=5 / (2 * table.size) ** 0.5)


def test_a_sequence_longer_than_the_positions():
    net = GPT2.network(11)
    with pytest.raises(ValueError, match=r"at 'positions'.* has 9 positions"):
        net.init(KEY, jnp.zeros((1, 10), jnp.int32))


def test_fused_attention_is_one_argument():
    """Parameters need no GPU, and neither does an error that says what to write."""
    fused = dataclasses.replace(GPT2, implementation="cudnn").network(11)
    assert isinstance(fused.blocks.inner.inner.attention, nn.MultiHeadAttention)
    assert fused.blocks.inner.inner.attention.implementation == "cudnn"
    params = fused.init(KEY, TOKENS)
    chex.assert_trees_all_equal(params, GPT2.network(11).init(KEY, TOKENS))
    assert fused.spec(TOKENS) == GPT2.network(11).spec(TOKENS)
    with pytest.raises(ValueError, match=r"at 'blocks/attention'.* got q float32.*: write nn.Prec"):
        fused.apply(params, TOKENS)
    vit = ViT(image=8, patch=4, layers=1, width=16, num_heads=2, implementation="cudnn").network(3)
    vit.init(KEY, jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"at 'blocks/attention'.* got q float32"):
        vit.apply(vit.init(KEY, jnp.ones((1, 8, 8, 3))), jnp.ones((1, 8, 8, 3)))


def test_shapes_inferred_in_a_jitted_function_are_not_taken_for_numbers():
    """The function's program is cached; it must not compute something else than the kernel."""

    @jax.jit
    def attend(q: jax.Array) -> jax.Array:
        return attention(q, q, q, implementation="cudnn")

    class Net(nn.Composite):
        def forward(self, x: jax.Array) -> jax.Array:
            return attend(x)

    x = jnp.ones((1, 4, 2, 8))
    assert Net().init(KEY, x) == {}
    assert np.isnan(Net().apply({}, x)).all()
    with pytest.raises(ValueError, match="got q float32"):
        attention(x, x, x, implementation="cudnn")

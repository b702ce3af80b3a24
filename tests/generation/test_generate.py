"""generate against recomputing everything at each token, and its draws against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import jaxnn as nn
from jaxnn.fields import is_traced
from jaxnn.generation.prompts import compiled, prefill
from jaxnn.models import GPT, CharLSTM
from tests.cases import host

KEY, V = jax.random.key(0), 11
PROMPTS = [[1, 2, 3, 4], [7], [5, 6]]
NETS = {
    "gpt": GPT(layers=2, width=16, num_heads=4, length=16),
    "llama": GPT(
        layers=1, width=16, num_heads=4, num_kv_heads=2, hidden=24, positions="rotary",
        norm="rms", feed_forward="swiglu", bias=False, tied=False,
    ),
    "lstm": CharLSTM(width=8, layers=2),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tried:
    """A network with parameters large enough for logits that differ."""

    net: nn.Layer
    params: object

    def generate(self, prompts, **options):
        return nn.generate(self.net, self.params, prompts, **options)

    def recomputed(self, prompt, steps):
        """The likeliest tokens after a prompt, by a full forward for each, without a cache."""
        tokens, new = list(prompt), []
        forward = jax.jit(self.net.apply)
        for _ in range(steps):
            # Filled up at the end, which a causal network does not see: one program for all.
            row = np.array([tokens + [0] * (12 - len(tokens))])
            logits = np.asarray(forward(self.params, row))
            new.append(int(logits[0, len(tokens) - 1].argmax()))
            tokens.append(new[-1])
        return new


def made(name):
    """A network with parameters large enough for logits that differ."""
    net = NETS[name].network(V)
    params = host(net.init(KEY, np.zeros((1, 3), int)))
    return Tried(net, jax.tree.map(lambda p: p * 4, params))


@pytest.fixture(scope="module")
def gpt():
    return made("gpt")


@pytest.mark.parametrize("name", NETS)
def test_greedy_is_the_argmax_of_the_full_forward_for_prompts_of_any_length(name):
    tried = made(name)
    new = tried.generate(PROMPTS, steps=6, temperature=0.0)
    assert new.tokens.tolist() == [tried.recomputed(prompt, 6) for prompt in PROMPTS]
    assert new.lengths.tolist() == [6, 6, 6]
    assert len({tuple(row) for row in new.tokens.tolist()}) > 1


def test_one_prompt_alone_has_no_axis_of_rows(gpt):
    new = gpt.generate(jnp.array(PROMPTS[0]), steps=6, temperature=0.0)
    assert new.tokens.tolist() == gpt.recomputed(PROMPTS[0], 6)
    assert new.lengths.shape == () and new.lengths == 6


def test_a_row_ends_with_its_stop_token_and_the_loop_with_the_last_row():
    """The loop's steps are counted by a callback in the network."""
    ran = []

    class Counted(nn.Composite):
        net: nn.Layer

        def forward(self, tokens):
            jax.debug.callback(lambda _: ran.append(1), tokens[0, 0])
            return self.net(tokens)

    net = Counted(made("lstm").net)
    params = jax.tree.map(lambda p: p * 4, net.init(KEY, jnp.zeros((1, 3), int)))

    def generate(*stop):
        ran.clear()
        stop = [*stop, *[-1] * (V - len(stop))]  # as many: one program
        found = nn.generate(net, params, [[1], [7], [5]], steps=6, temperature=0.0, stop=stop)
        jax.block_until_ready(found)
        jax.effects_barrier()
        return found.tokens.tolist(), found.lengths.tolist(), len(ran)

    free, lengths, steps = generate()
    assert (lengths, steps) == ([6, 6, 6], 6)
    stop = {free[0][2], free[1][0]}
    tokens, lengths, steps = generate(*stop)
    wanted = [next((i + 1 for i, t in enumerate(row) if t in stop), 6) for row in free]
    assert lengths == wanted and steps == max(wanted)
    assert tokens == [row[:n] + [row[n - 1]] * (6 - n) for row, n in zip(free, wanted, strict=True)]
    assert generate(*range(V)) == ([[row[0]] * 6 for row in free], [1, 1, 1], 1)


def test_a_second_call_traces_nothing_whatever_the_numbers(gpt, monkeypatch):
    traced = []
    apply = nn.Layer.apply

    def counted(self, params, tokens, **more):
        if is_traced(tokens):
            traced.append(tokens.shape)
        return apply(self, params, tokens, **more)

    monkeypatch.setattr(nn.Layer, "apply", counted)
    options = {"steps": 7, "top_k": 3, "top_p": 0.9}
    gpt.generate(PROMPTS, key=KEY, **options)
    # One program reads the prompts but their last tokens, and one goes on token by token; the
    # body of a loop may be traced twice, to find the types of what it carries.
    assert set(traced) == {(3, 3), (3, 1)} and traced.count((3, 3)) == 1 and len(traced) <= 3
    traced.clear()
    options |= {"top_k": 5, "top_p": 0.5}
    for temperature in (0.0, 2):
        gpt.generate([[4], [5, 1, 2, 9], [6]], key=KEY, temperature=temperature, **options)
        gpt.generate(np.ones((3, 4), int), key=jax.random.key(3), stop=[], **options)
    assert traced == []


def test_blocks_in_a_repeat_are_decoded_as_blocks_in_a_row(gpt):
    """The equations of one step are equal: no scan reads parameters or caches from a stack."""

    def step(net, params):
        def found(jaxpr):
            for equation in jaxpr.eqns:
                if equation.primitive.name == "while":
                    yield str(equation.params["body_jaxpr"])
                for below in jaxprs_in_params(equation.params):
                    yield from found(below)

        def new(params):
            return nn.generate(net, params, PROMPTS, steps=3, temperature=0).tokens

        (body,) = found(jax.make_jaxpr(new)(params).jaxpr)
        return body

    row, row_params = nn.unstack_layers(gpt.net, gpt.params)
    assert row != gpt.net and row_params["blocks"][1]
    body = step(gpt.net, gpt.params)
    assert body == step(row, row_params) and "scan[" not in body


def test_draws_are_those_of_the_networks_distribution(gpt):
    """A first token in each of 4,000 equal rows; chi-square below its 99.99th percentile."""
    from scipy.stats import chi2

    logits = np.asarray(gpt.net.apply(gpt.params, jnp.array([[3, 1]]))[0, -1], np.float64)
    prompts = np.tile([3, 1], (4000, 1))

    def counts(top_k=V, top_p=1.0):
        options = {"temperature": 2.0, "top_k": top_k, "top_p": top_p}
        new = gpt.generate(prompts, steps=1, key=KEY, **options)
        return np.bincount(np.asarray(new.tokens[:, 0]), minlength=V)

    def fits(found, p):
        assert found[p == 0].sum() == 0
        expected = 4000 * p[p > 0]
        statistic = ((found[p > 0] - expected) ** 2 / expected).sum()
        return statistic < chi2.ppf(0.9999, (p > 0).sum() - 1)

    p = np.exp(logits / 2) / np.exp(logits / 2).sum()
    assert fits(counts(), p)
    best = np.argsort(-p)[:3]
    of_best = np.zeros(V)
    of_best[best] = p[best] / p[best].sum()
    assert fits(counts(top_k=3), of_best)
    share = float((p[best[0]] + p[best[1]]) / 2 + p[best[0]] / 2)  # between one token and two
    of_two = np.zeros(V)
    of_two[best[:2]] = p[best[:2]] / p[best[:2]].sum()
    assert fits(counts(top_p=share), of_two)


def test_it_is_a_pure_function_of_its_key_under_jit_and_vmap(gpt):
    def draw(key, temperature):
        return gpt.generate(
            jnp.array([[1, 2], [3, 4]]), steps=4, key=key, temperature=temperature
        ).tokens

    keys = jax.random.split(KEY, 3)
    alone = [draw(key, 1.5) for key in keys]
    mapped = jax.jit(jax.vmap(draw, (0, None)))(keys, 1.5)
    np.testing.assert_array_equal(mapped, np.stack(alone))
    assert not np.array_equal(alone[0], alone[1])


def test_half_precision_parameters_generate(gpt):
    half = jax.tree.map(lambda p: p.astype("bfloat16"), gpt.params)
    new = nn.generate(gpt.net, half, PROMPTS, steps=3, temperature=0.0)
    assert new.tokens.shape == (3, 3)


@pytest.mark.parametrize(
    ("prompts", "options", "text"),
    [
        ([], {}, r"prompts must be integer tokens \(T,\) or .*, got float64\[0\]"),
        ([[1], []], {}, r"at least one token in each row, got float64\[0\]"),
        (np.zeros((2, 0), int), {}, r"at least one token in each row, got int64\[0\]"),
        ([[1], [0.5]], {}, r"prompts must be integer tokens .*, got float64\[1\]"),
        ("abc", {}, r"prompts must be integer tokens .*, got <U3\[\]"),
        (np.zeros((1, 1, 1), int), {}, r"prompts must be integer tokens .*, got int64\[1,1,1\]"),
        ([[1], [3, 11]], {}, r"prompt 1 contains token 11 at 1, expected 0 \.\. 10"),
        ([[1, -1], [3]], {}, r"prompt 0 contains token -1 at 1, expected 0 \.\. 10"),
        (
            np.array([[1, 2**32 + 1]]),
            {},
            "prompt 0 contains token 4294967297 at 1, expected 0",
        ),
        (
            [[1], [2**32 + 1]],
            {},
            "prompt 1 contains token 4294967297 at 0, expected 0",
        ),
        (
            [[1]],
            {"stop": [1.7]},
            r"stop must be integer tokens, got float64\[1\]; write for example stop=\[0\]",
        ),
        ([[1]], {"key": None}, r"sampling requires a key: write key=jax.random.key\(0\)"),
        ([[1]], {"temperature": -1.0}, "temperature must be a number >= 0"),
        ([[1]], {"top_k": 0}, "top_k must be None or an int >= 1"),
        ([[1]], {"top_p": 2.0}, "top_p must be None or a probability"),
        ([[1]], {"steps": 0}, "steps must be an int >= 1, got 0; write nn.generate"),
        ([[1] * 18], {}, "16"),
        ([[1] * 14], {"steps": 5}, "logits of row 0 are NaN at new token 3, which is token 17"),
    ],
)
def test_what_cannot_be_written_on_from_is_refused(gpt, prompts, options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        gpt.generate(prompts, **{"steps": 2, "key": KEY, **options})


def test_networks_that_cannot_write_are_refused():
    mixer = nn.Sequential(nn.Embedding(V, 4), nn.Dense(V))
    params = mixer.init(KEY, jnp.zeros((1, 2), int))
    with pytest.raises(ValueError, match=r"no layer of .* can keep a cache; "):
        nn.generate(mixer, params, [[1]], steps=1, temperature=0)
    with pytest.raises(
        ValueError, match="layer of the network takes: generate from prompts of one"
    ):
        nn.generate(mixer, params, [[1], [1, 2]], steps=1, temperature=0)
    pooled = nn.Sequential(nn.Embedding(V, 4), nn.Flatten(), nn.Dense(V))
    with pytest.raises(ValueError, match=r"logits \(1, 2, vocabulary\), got float32\["):
        nn.generate(pooled, {}, [[1, 2]], steps=1, temperature=0)
    with pytest.raises(TypeError, match=r"generate.net must be a layer, got"):
        nn.generate(GPT(), {}, [[1]], steps=1)  # pyright: ignore[reportArgumentType]


def test_prefill_computes_no_logits(gpt):
    """The program that reads the prompts leaves out the head: it has no array of logits."""
    read = compiled(prefill, nn.with_cache(gpt.net, 6))
    tokens = np.zeros((2, 3), np.int32)
    text = read.lower(gpt.params, tokens, {"segment_ids": tokens + 1}, {}, {}).compile().as_text()
    assert f"[2,3,{V}]" not in text


def test_state_beside_the_caches_is_kept():
    """Running statistics, with which the likeliest tokens are others than with fresh ones."""
    net = nn.Sequential(
        nn.Embedding(V, 8),
        nn.BatchNorm(),
        nn.Residual(nn.MultiHeadAttention(2, causal=True)),
        nn.Dense(V),
    )
    tokens = np.array([[1, 2, 3]])
    params, fresh = host((net.init(KEY, tokens), net.init_state(tokens)))
    params = jax.tree.map(lambda p: p * 4, params)
    trained = jax.tree.map(lambda a: a + np.linspace(-1, 2, a.size, dtype=a.dtype), fresh)
    new = nn.generate(net, params, tokens, steps=1, temperature=0, state=trained)
    run = jax.jit(lambda state: net.apply(params, tokens, state=state)[0])
    expected, other = (int(np.argmax(run(state)[0, -1])) for state in (trained, fresh))
    assert new.tokens.tolist() == [[expected]] and expected != other
    with pytest.raises(
        ValueError,
        match=r"the state does not match the network: 1: declared .*, missing; write nn.gen",
    ):
        nn.generate(net, params, tokens, steps=1, temperature=0)
    with pytest.raises(
        ValueError, match=r"the state does not match the network:\s+1/mean: declared"
    ):
        nn.generate(net, params, tokens, steps=1, temperature=0, state={"1": {"var": 0.0}})


def test_prompts_of_any_length_for_a_network_with_convolutions():
    net = nn.Sequential(
        nn.Embedding(V, 8),
        nn.Conv(8, 3, padding="causal"),
        nn.Residual(nn.MultiHeadAttention(2, causal=True)),
        nn.Dense(V),
    )
    params = host(net.init(KEY, np.zeros((1, 3), int)))
    tried = Tried(net, jax.tree.map(lambda p: p * 4, params))
    new = tried.generate(PROMPTS, steps=6, temperature=0.0).tokens.tolist()
    assert new == [tried.recomputed(prompt, 6) for prompt in PROMPTS]
    alone = [tried.generate([p], steps=6, temperature=0.0).tokens[0].tolist() for p in PROMPTS]
    assert new == alone and len({tuple(row) for row in new}) > 1

"""Speculative decoding against greedy decoding, and a decoder with the memory of an encoder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.models import GPT

KEY, V = jax.random.key(0), 11
PROMPTS = [[1, 2, 3, 4], [7], [5, 6]]


GPT2 = GPT(layers=2, width=16, num_heads=4, length=15).network(V)
SMALL = nn.Sequential(
    nn.Embedding(V, 8),
    nn.LearnedPositions(15),
    nn.Residual(nn.MultiHeadAttention(2, causal=True)),
    nn.Dense(V),
)


def drawn(net, seed=0):
    """Parameters large enough for logits that differ."""
    params = jax.jit(net.init)(jax.random.key(seed), jnp.zeros((1, 3), int))
    return jax.tree.map(lambda p: 4 * p, params)


def counted(net, ran):
    """The network, which adds to `ran` the number of tokens of each call that runs."""

    class Counted(nn.Composite):
        net: nn.Layer

        def forward(self, tokens):
            jax.debug.callback(lambda _: ran.append(tokens.shape[1]), tokens[0, 0])
            return self.net(tokens)

    return Counted(net)


@pytest.mark.parametrize("net", [SMALL, pytest.param(GPT2, marks=pytest.mark.slow)])
def test_a_draft_changes_no_token(net):
    """The last new token is at the last learned position: guesses go past it."""
    params = drawn(net)
    options: dict[str, Any] = {"steps": 12, "temperature": 0}
    greedy = nn.generate(net, params, PROMPTS, **options).tokens.tolist()
    # Guesses that are often right: the network itself, with other parameters nearby.
    near = jax.tree.map(lambda p, n: p + 0.1 * n, params, drawn(net, 1))
    stop = [greedy[0][2], greedy[1][5]]
    found = nn.generate(net, params, PROMPTS, draft=(net, near), stop=stop, **options)
    wanted = [next((i + 1 for i, t in enumerate(row) if t in stop), 12) for row in greedy]
    assert found.lengths.tolist() == wanted != [12, 12, 12]
    for row, tokens, n in zip(greedy, found.tokens.tolist(), wanted, strict=True):
        assert tokens == row[:n] + [row[n - 1]] * (12 - n)


@pytest.mark.slow
def test_a_smaller_draft_of_another_kind_changes_no_token():
    params = drawn(GPT2)
    options: dict[str, Any] = {"steps": 12, "temperature": 0}
    greedy = nn.generate(GPT2, params, PROMPTS, **options)
    for n in (1, 2, 7, 20):
        small = SMALL, drawn(SMALL, n)
        found = nn.generate(GPT2, params, PROMPTS, draft=small, draft_tokens=n, **options)
        np.testing.assert_array_equal(found.tokens, greedy.tokens)
        assert found.lengths.tolist() == [12, 12, 12]


def test_right_guesses_are_checked_in_one_call_and_wrong_ones_cost_one_token_each():
    params, prompt = drawn(SMALL), jnp.array([1, 2])
    # Negative logits: the least probable token is guessed.
    other = (*params[:3], jax.tree.map(lambda p: -p, params[3]))
    ran = []

    def generate(draft):
        ran.clear()
        found = nn.generate(
            counted(SMALL, ran), {"net": params}, prompt, steps=10, temperature=0, draft=draft
        )
        jax.block_until_ready(found)
        jax.effects_barrier()
        return found.tokens.tolist(), [n for n in ran if n > 1]

    tokens, calls = generate((SMALL, params))
    assert calls == [5, 5]  # 10 tokens, 5 in each call
    assert generate((SMALL, other)) == (tokens, [5] * 10)


@pytest.mark.slow
def test_a_network_without_its_last_position_is_refused_with_a_draft():
    params = drawn(SMALL)
    text = "logits of row 0 are NaN at new token 2, which is token 16 of the sequence"
    with pytest.raises(ValueError, match=text):
        nn.generate(SMALL, params, [1] * 14, steps=4, temperature=0, draft=(SMALL, params))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 1.0}, "temperature with a draft must be 0, got 1.0; write nn.generate"),
        ({"draft_tokens": 0}, "draft_tokens must be an int >= 1, got 0; write nn.generate"),
        ({"draft": GPT2}, "draft must be None, or a pair of a network and its parameters"),
        ({"draft": (GPT2, {})}, "the parameters are not those of this network"),
        (
            {"draft": (GPT(layers=1, width=8, num_heads=2).network(12), {})},
            "the vocabulary of the draft must be the vocabulary of the network, 11 tokens, got 12",
        ),
    ],
)
def test_drafts_that_cannot_guess_are_refused(options, text):
    params = drawn(SMALL)
    given: dict[str, Any] = {"draft": (SMALL, params), "temperature": 0, "steps": 2} | options
    with pytest.raises((ValueError, TypeError), match=text):
        nn.generate(SMALL, params, PROMPTS, **given)


def test_caches_that_cannot_be_set_back_are_refused():
    lstm = nn.Sequential(nn.Embedding(V, 4), nn.Recurrent(nn.LSTMCell(4)), nn.Dense(V))
    text = "with a draft, the layer with a cache at .* must be nn.MultiHeadAttention without"
    with pytest.raises(ValueError, match=text):
        nn.generate(SMALL, {}, [[1]], steps=2, temperature=0, draft=(lstm, {}))
    short = nn.Sequential(
        nn.Embedding(V, 4), nn.MultiHeadAttention(2, causal=True, window=3), nn.Dense(V)
    )
    with pytest.raises(ValueError, match=text):
        nn.generate(short, {}, [[1]], steps=2, temperature=0, draft=(SMALL, {}))


class Decoder(nn.Composite):
    embedding: nn.Layer
    block: nn.Layer
    head: nn.Layer

    def forward(self, tokens, memory):
        return self.head(self.block(self.embedding(tokens), memory))


@pytest.fixture(scope="module")
def decoder():
    """A decoder, its parameters, and the named inputs of three rows."""
    heads = nn.MultiHeadAttention(2)
    block = nn.DecoderLayer(nn.MultiHeadAttention(2, causal=True), heads, nn.Dense(8))
    net = Decoder(nn.Embedding(V, 8), block, nn.Dense(V))
    memory = jax.random.normal(KEY, (3, 4, 5))
    marks = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    params = jax.jit(net.init)(KEY, jnp.zeros((3, 2), int), memory)
    params = jax.tree.map(lambda p: 4 * p, params)
    return net, params, {"memory": memory, "memory_segment_ids": marks}


GREEDY: dict[str, Any] = {"steps": 4, "temperature": 0}


def test_a_decoder_reads_the_memory_of_its_row_without_its_padding(decoder):
    net, params, named = decoder
    found = nn.generate(net, params, PROMPTS, **GREEDY, **named).tokens
    run = jax.jit(net.apply)
    for row, prompt in enumerate(PROMPTS):
        text = prompt + found[row].tolist()
        padded = jnp.array([text + [0] * (8 - len(text))])
        logits = run(params, padded, **{name: a[row : row + 1] for name, a in named.items()})
        likeliest = logits[0, len(prompt) - 1 : len(text) - 1].argmax(-1)
        np.testing.assert_array_equal(found[row], likeliest)
    assert len({tuple(row) for row in found.tolist()}) > 1


@pytest.mark.slow
def test_the_memory_of_one_prompt_of_a_draft_and_of_beams(decoder):
    net, params, named = decoder
    found = nn.generate(net, params, PROMPTS, **GREEDY, **named).tokens
    one = nn.generate(net, params, PROMPTS[2], memory=named["memory"][2, :3], **GREEDY)
    np.testing.assert_array_equal(one.tokens, found[2])
    guessed = nn.generate(net, params, PROMPTS, draft=(net, params), **GREEDY, **named)
    np.testing.assert_array_equal(guessed.tokens, found)
    beams = nn.beam_search(net, params, PROMPTS, steps=4, beams=1, **named)
    np.testing.assert_array_equal(beams.tokens[:, 0], found)

"""beam_search against transformers, against every sequence, and against greedy decoding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import interop
from jaxnn.models import GPT
from tests.fixtures import beam_search as published
from tests.fixtures import models

KEY, V = jax.random.key(0), 11
LLAMA = GPT(
    layers=2, width=16, num_heads=4, num_kv_heads=2, hidden=12, positions="rotary", norm="rms",
    feed_forward="swiglu", bias=False, tied=False,
).network(V)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    with np.load(models.FILE) as file:
        names = [name for name in file if name.startswith("llama/") and "grad" not in name]
        weights = {name.removeprefix("llama/"): file[name] for name in names}
    given = {name: a for name, a in weights.items() if name not in ("x", "y", "dy")}
    tokens = jnp.zeros((1, 2), int)
    return interop.from_torch(LLAMA, given, tokens, names=interop.LLAMA).params


def check(params, case):
    prompts, options = published.CASES[case]
    found = nn.beam_search(LLAMA, params, prompts, steps=published.STEPS, **options)
    with np.load(published.FILE) as file:
        tokens, lengths, scores = (file[f"{case}/{name}"] for name in found._fields)
    np.testing.assert_array_equal(found.lengths, lengths)
    written = np.arange(published.STEPS) < lengths[..., None]
    np.testing.assert_array_equal(np.where(written, found.tokens, -1), tokens)
    last = np.take_along_axis(tokens, lengths[..., None] - 1, -1)
    np.testing.assert_array_equal(found.tokens, np.where(written, tokens, last))
    # Sums of up to 8 logarithms in float32, in another order; 8**2.5 times their mean.
    np.testing.assert_allclose(found.scores, scores, rtol=2e-5)


FAST = ("ragged, two stops", "many beams")


@pytest.mark.parametrize("case", FAST)
def test_it_finds_what_transformers_finds(params, case):
    check(params, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in published.CASES if case not in FAST])
def test_it_finds_what_transformers_finds_in_other_cases(params, case):
    check(params, case)


def test_one_beam_is_greedy_and_the_length_penalty_does_not_recompile(params, monkeypatch):
    prompts = [[1, 2], [3]]
    greedy = nn.generate(LLAMA, params, prompts, steps=4, temperature=0, stop=[6])
    traced = []
    apply = nn.Layer.apply

    def counted(self, *inputs, **more):
        traced.append(self)
        return apply(self, *inputs, **more)

    one = nn.beam_search(LLAMA, params, prompts, steps=4, beams=1, stop=[6])
    monkeypatch.setattr(nn.Layer, "apply", counted)
    other = nn.beam_search(LLAMA, params, prompts, steps=4, beams=1, stop=[3], length_penalty=0)
    assert traced == [] and other.scores[0, 0] != one.scores[0, 0]
    np.testing.assert_array_equal(one.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(one.lengths[:, 0], greedy.lengths)


def test_beams_that_hold_every_sequence_find_the_most_probable_ones():
    """State with an axis of rows is reordered, and statistics of features are not: both have the
    size 6, which is rows times beams."""
    net = nn.Sequential(
        nn.Embedding(3, 6), nn.BatchNorm(), nn.Recurrent(nn.LSTMCell(6)), nn.Dense(3)
    )
    tokens = jnp.array([[2, 0, 1], [0, 0, 2]])
    params = jax.tree.map(lambda a: 3 * a, jax.jit(net.init)(KEY, tokens))
    state = jax.tree.map(lambda a: a + jnp.linspace(0, 2, a.size), net.init_state(tokens))
    found = nn.beam_search(
        net, params, tokens, steps=2, beams=3, results=3, length_penalty=0, state=state
    )
    every = np.array(list(itertools.product(range(3), range(3))))
    whole = np.concatenate([np.repeat(tokens, 9, 0), np.tile(every, (2, 1))], 1)
    logits = np.asarray(jax.jit(net.apply)(params, whole, state=state)[0], np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sums = np.take_along_axis(logs[:, 2:4], whole[:, 3:, None], -1).sum((1, 2)).reshape(2, 9)
    best = np.argsort(-sums)[:, :3]
    np.testing.assert_array_equal(found.tokens, every[best])
    np.testing.assert_allclose(found.scores, np.take_along_axis(sums, best, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"beams": 0}, r"beams must be an int >= 1, got 0; write nn.beam_search\(net.*, beams=4"),
        ({"results": 5}, r"results must be an int from 1 to 4, got 5; the number of sequences"),
        ({"length_penalty": "long"}, "length_penalty must be a number, got 'long'"),
        ({"steps": 0}, r"steps must be an int >= 1, got 0; write nn.beam_search"),
        ({"memory": jnp.zeros((3, 2))}, r"memory must be an array \(2, ...\), with one .*\[3,2\]"),
        (
            {"segment_ids": [1]},
            "segment_ids must be left out, because they follow from the prompts",
        ),
        ({"memory": jnp.zeros((2, 2))}, "no layer of the network takes an input 'memory'"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, text):
    net = nn.Sequential(nn.Embedding(V, 4), nn.Recurrent(nn.LSTMCell(4)), nn.Dense(V))
    with pytest.raises((ValueError, TypeError), match=text):
        nn.beam_search(net, {}, [[1], [2]], **{"steps": 2, **options})

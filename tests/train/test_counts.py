"""The programs of small networks are at most as large as recorded; larger ones are slower.

Counts are exact on a busy machine, where times are not. They belong to one version of JAX.
"""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

import jaxnn as nn
from benchmarks.facts import facts, kernels
from jaxnn import train
from jaxnn.models import BERT, GPT, CharLSTM, ConvNeXt, ResNet

pytestmark = pytest.mark.skipif(
    jax.__version__ != "0.10.2", reason="another JAX builds and compiles other programs"
)
WORDS = 20
TOKENS = np.arange(32, dtype=np.int32).reshape(2, 16) % WORDS
IMAGES = np.linspace(0, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)


def gpt() -> nn.Layer:
    return GPT(layers=2, width=16, num_heads=2, length=32).network(WORDS)


def row() -> nn.Layer:
    net = gpt()
    spec = jax.eval_shape(lambda: net.init(jax.random.key(0), TOKENS))
    return nn.unstack_layers(net, jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), spec))[0]


def mamba() -> nn.Layer:
    block = nn.Residual(nn.Sequential(nn.RMSNorm(), nn.Mamba2(2, 16, 8, chunk_size=8)))
    return nn.Sequential(nn.Embedding(WORDS, 16), block, nn.Dense(WORDS, bias=False))


def step_of(net: nn.Layer, task: train.Task, batch: Any) -> Any:
    """The step of the network, and the shapes of its arguments."""
    program = train.Supervised(net, task, optax.adam(1e-3))
    return program.step, (jax.eval_shape(lambda: program.init(jax.random.key(0), batch)), batch)


def equations(jaxpr: Any) -> int:
    below = (equations(inner) for e in jaxpr.eqns for inner in jaxprs_in_params(e.params))
    return len(jaxpr.eqns) + sum(below)


NEXT = train.NextToken(WORDS)
KINDS = train.Classification(4)
# The models of `benchmarks facts`. Equations of inference, and those of a step, with its kernels,
# copies, and kB that are read and written.
RECORDED = {
    "gpt": (gpt, NEXT, TOKENS, (144, 878, 238, 25, 1200)),
    "gpt in a row": (row, NEXT, TOKENS, (256, 1276, 314, 27, 1450)),
    "bert": (
        lambda: BERT(
            WORDS, layers=1, width=16, num_heads=2, length=16, pooling="pooler", dropout=0.0
        ).network(4),
        KINDS, TOKENS, (136, 933, 221, 24, 1012),
    ),
    "resnet": (
        lambda: ResNet(stages=(1, 1), width=8, stem="cifar").network(4),
        KINDS, IMAGES, (94, 954, 197, 20, 766),
    ),
    "convnext": (
        lambda: ConvNeXt(stages=(1, 1), widths=(8, 16)).network(4),
        KINDS, IMAGES, (155, 985, 303, 39, 522),
    ),
    "mamba": (mamba, NEXT, TOKENS, (195, 760, 150, 17, 954)),
    "lstm": (
        lambda: CharLSTM(width=16, layers=1).network(WORDS), NEXT, TOKENS, (55, 390, 122, 33, 427)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_programs_are_not_larger_than_recorded(name):
    make, task, x, most = RECORDED[name]
    y = x if task is NEXT else np.zeros(len(x), np.int32)
    net = make()
    step, arguments = step_of(net, task, (x, y))
    held = arguments[0]

    def forward(params: Any, state: Any, x: Any) -> Any:
        return net.apply(params, x, state=state)

    inferred = jax.make_jaxpr(forward)(held.params, held.state, x)
    traced = jax.jit(step, donate_argnums=0).trace(*arguments)
    _, megabytes, _, _, run, copies, _ = facts(traced.lower())
    each = equations(inferred.jaxpr), equations(traced.jaxpr.jaxpr)
    found = *each, run, copies, round(1000 * megabytes)
    assert all(np.less_equal(found, most)), found


def test_a_norm_at_inference_does_not_write_differences_to_memory():
    net, x = nn.Sequential(nn.LayerNorm(), nn.Dense(128)), np.zeros((64, 128), np.float32)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x))
    megabytes = facts(jax.jit(net.apply).lower(params, x))[1]
    # Each kernel reads or writes x: to sum, to sum squares, for the result, and the product, which
    # reads the weights, too. The differences would be written once and read twice.
    assert megabytes < 0.34


def test_a_token_copies_no_cache_and_converts_no_weights():
    """Both took most of the time of a token."""
    net = nn.with_cache(row(), 64)
    token = TOKENS[:1, :1]
    params, state = jax.eval_shape(
        lambda: (net.init(jax.random.key(0), token), net.init_state(token))
    )

    def read(params: Any, state: Any, token: Any) -> Any:
        return net.apply(params, token, state=state)

    compiled = jax.jit(read, donate_argnums=1).lower(params, state, token).compile()
    text = str(compiled.as_text())
    shape = ",".join(map(str, state["blocks"]["0"]["attention"]["keys"].shape))
    assert f"f32[{shape}]" in text
    for line in text.splitlines():
        if " copy(" in line:
            size = np.prod([int(n) for n in line.split("[")[1].split("]")[0].split(",") if n])
            assert size < 64 * 8, line  # less than the keys of one head
    assert kernels(text)

"""Programs of jax.export: the same outputs for every batch, and no other file is taken for one."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import interop, train
from jaxnn.models import GPT
from tests.cases import KEY
from tests.layers.agreement import applied, normals
from tests.near import assert_near


def weights(net, *inputs):
    return train.Weights(net.init(KEY, *inputs), net.init_state(*inputs))


def stored(tmp_path, data):
    file = tmp_path / "net.stablehlo"
    file.write_bytes(data)
    return interop.load_program(file)


def assert_same(program, net, trained, *inputs, **named):
    expected, _ = applied(net, trained.params, *inputs, state=trained.state, **named)
    assert_near(program.call(*inputs, **named), expected)


def test_any_batch_of_images(tmp_path):
    net = nn.Sequential(
        nn.Conv(4, (3, 3), stride=2),
        nn.BatchNorm(),
        jax.nn.relu,
        nn.MaxPool(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Dense(3),
    )
    trained = weights(net, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    program = stored(tmp_path, interop.export(net, trained, normals(0, 2, 8, 8, 3)))
    for rows in (1, 5):
        assert_same(program, net, trained, normals(rows, rows, 8, 8, 3))


def test_any_batch_and_length_of_tokens(tmp_path):
    net = GPT(layers=2, width=8, num_heads=2, length=16).network(11)
    tokens = jnp.arange(6).reshape(2, 3)
    trained = weights(net, tokens)
    shape = jax.export.symbolic_shape("b, t", constraints=["t <= 16"])
    data = interop.export(net, trained, jax.ShapeDtypeStruct(shape, "int32"))
    program = stored(tmp_path, data)
    for size in ((1, 4), (3, 2)):
        assert_same(program, net, trained, jnp.ones(size, jnp.int32))


def test_recurrence_named_inputs_and_platforms(tmp_path):
    net = nn.Sequential(nn.Recurrent(nn.LSTMCell(3), output="last"), nn.Dense(2))
    x, segment_ids = normals(0, 2, 4, 3), jnp.ones((2, 4), jnp.int32).at[0, 3].set(0)
    trained = weights(net, x)
    data = interop.export(net, trained, x, segment_ids=segment_ids, platforms=("cpu", "cuda"))
    program = stored(tmp_path, data)
    assert program.platforms == ("cpu", "cuda")
    assert_same(program, net, trained, x[:1], segment_ids=segment_ids[:1])


def test_refused(tmp_path):
    net, x = nn.Dense(2), normals(0, 2, 3)
    trained = weights(net, x)
    with pytest.raises(TypeError, match=r"export.net must be a layer, got 3"):
        interop.export(cast(Any, 3), trained, x)
    with pytest.raises(TypeError, match="input of the program must be an array, got 'a'"):
        interop.export(net, trained, "a")
    data = interop.export(net, trained, x)
    for wrong in (b"", b"nothing", data[: len(data) // 2], np.random.default_rng(0).bytes(500)):
        with pytest.raises(ValueError, match=r"net.stablehlo \(.* bytes\) is not a program"):
            stored(tmp_path, wrong)
    with pytest.raises(FileNotFoundError):
        interop.load_program(tmp_path / "other")

    class Fixed(nn.Composite):
        def forward(self, x):
            return x.reshape(2, -1) if x.shape[0] == 2 else jnp.zeros(int(x.shape[0]))

    with pytest.raises(ValueError, match="needs the size of an axis that is free"):
        interop.export(Fixed(), train.Weights({}, {}), x)

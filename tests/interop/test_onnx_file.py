"""ONNX files, run by onnxruntime where that and jax2onnx are installed: the same outputs."""

import importlib.util
from typing import Any, cast

import jax
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import interop, train
from tests.cases import KEY
from tests.layers.agreement import normals
from tests.near import assert_near

THERE = importlib.util.find_spec("jax2onnx") is not None
X = normals(0, 2, 8, 8, 3)


@pytest.mark.skipif(not THERE, reason="jax2onnx has an environment of its own")
@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 5])
def test_a_network_in_onnxruntime(rows):
    import onnxruntime  # type: ignore[import-not-found]

    net = nn.Sequential(nn.Conv(4, (3, 3)), nn.BatchNorm(), jax.nn.relu, nn.Flatten(), nn.Dense(3))
    trained = train.Weights(net.init(KEY, X), net.init_state(X))
    shape = jax.export.symbolic_shape("batch, 8, 8, 3")
    data = interop.pack_onnx(net, trained, jax.ShapeDtypeStruct(shape, "float32"))
    session = onnxruntime.InferenceSession(data)
    x = normals(rows, rows, 8, 8, 3)
    (y,) = session.run(None, {session.get_inputs()[0].name: np.asarray(x)})
    assert_near(y, net.apply(trained.params, x, state=trained.state)[0])


def test_refused():
    net, x = nn.Dense(2), normals(0, 1, 3)
    trained = train.Weights(net.init(KEY, x), {})
    with pytest.raises(TypeError, match=r"pack_onnx.net must be a layer, got 3"):
        interop.pack_onnx(cast(Any, 3), trained, x)
    with pytest.raises(TypeError, match="input of the program must be an array, got 3"):
        interop.pack_onnx(net, trained, 3)
    if not THERE:
        with pytest.raises(ImportError, match="by jax2onnx, which is not installed: write "):
            interop.pack_onnx(net, trained, x)

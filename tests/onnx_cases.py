"""The onnx package's `pytorch-converted` cases as networks: torch.nn modules, written down as onnx
graphs with their weights, beside inputs and outputs.

`read` gives the nodes of a case, `network` the layers that they are, with the weights. Onnx has
channels first: where axes matter, the input's channels go last and the output's come back.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import numpy_helper

import jaxnn as nn
from jaxnn.functional import soft_min

FOLDER = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
NAMES = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())

OUT_OF_SCOPE = {
    "test_PoissonNLLLLoss_no_reduce": "a loss, that of train.PoissonRegression, not a layer",
}


class Node(NamedTuple):
    """One step of a graph: its attributes, and those of its inputs that are constant."""

    kind: str
    attributes: dict[str, Any]
    weights: list[np.ndarray]


class Sample(NamedTuple):
    """A case: its nodes, an input and the output that belongs to it."""

    nodes: list[Node]
    x: np.ndarray
    y: np.ndarray


class Network(NamedTuple):
    """A layer with its weights and state, and whether its channels are to be last."""

    layer: nn.Layer
    params: Any = None
    state: Any = None
    channels_last: bool = True

    def __call__(self, x: Any) -> np.ndarray:
        """The layer's output."""
        x = np.moveaxis(x, 1, -1) if self.channels_last else x
        y = _apply(self.layer, self.params or {}, self.state or {}, x)
        return np.moveaxis(np.asarray(y), -1, 1) if self.channels_last else np.asarray(y)


@jax.jit
def _apply(layer: nn.Layer, params: Any, state: Any, x: Any) -> Any:
    return layer.apply(params, x, state=state)[0]


def read(name: str) -> Sample:
    """The case of that name."""
    graph = onnx.load(FOLDER / name / "model.onnx").graph
    constants = {a.name: numpy_helper.to_array(a) for a in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
        else:
            weights = [constants[i] for i in node.input if i in constants]
            nodes.append(Node(node.op_type, attributes, weights))
    data = FOLDER / name / "test_data_set_0"
    x, y = (
        numpy_helper.to_array(onnx.load_tensor(data / f)) for f in ("input_0.pb", "output_0.pb")
    )
    return Sample(nodes, x, y)


def network(sample: Sample) -> Network:
    """The layers that the nodes of a case are; KeyError where there are none."""
    return READERS[" ".join(node.kind for node in sample.nodes)](sample.nodes, sample.x)


def _function(function: Callable[..., Any], **options: Any) -> Network:
    layer = nn.Sequential(functools.partial(function, **options) if options else function)
    return Network(layer, ({},), channels_last=False)


def _window(node: Node, axes: int | None = None) -> dict[str, Any]:
    """The fields of a layer that slides a window."""
    found = node.attributes
    kernel = tuple(found["kernel_shape"])[:axes]
    before, after = np.reshape(found["pads"], (2, -1)).tolist()
    return {
        "kernel_size": kernel,
        "stride": tuple(found["strides"])[:axes],
        "padding": tuple(zip(before, after, strict=True))[:axes],
    }


def _conv(nodes: list[Node], x: np.ndarray) -> Network:
    w, *b = nodes[0].weights
    found, fields = nodes[0].attributes, _window(nodes[0])
    fields |= {"dilation": tuple(found["dilations"]), "bias": bool(b)}
    params = {"w": np.moveaxis(w, (0, 1), (-1, -2)), **({"b": b[0]} if b else {})}
    if found["group"] == x.shape[1]:
        return Network(nn.DepthwiseConv(multiplier=len(w) // x.shape[1], **fields), params)
    return Network(nn.Conv(len(w), groups=found["group"], **fields), params)


def _conv_transpose(nodes: list[Node], x: np.ndarray) -> Network:
    w, *b = nodes[0].weights
    found = nodes[0].attributes
    layer = nn.ConvTranspose(
        w.shape[1],
        dilation=tuple(found["dilations"]),
        output_padding=tuple(found["output_padding"]),
        bias=bool(b),
        **_window(nodes[0]),
    )
    return Network(layer, {"w": np.moveaxis(w, (0, 1), (-2, -1)), **({"b": b[0]} if b else {})})


def _batch_norm(nodes: list[Node], x: np.ndarray) -> Network:
    scale, b, mean, var = nodes[0].weights
    found = nodes[0].attributes
    layer = nn.BatchNorm(found["momentum"], eps=found["epsilon"])
    return Network(layer, {"scale": scale, "b": b}, {"mean": mean, "var": var})


def _max_pool(nodes: list[Node], x: np.ndarray) -> Network:
    dilation = nodes[0].attributes.get("dilations", [1] * (x.ndim - 2))
    return Network(nn.MaxPool(dilation=tuple(dilation), **_window(nodes[0])))


def _average_pool(nodes: list[Node], x: np.ndarray) -> Network:
    # In one dimension the graph adds an axis of one element first, and takes it away.
    node = next(node for node in nodes if node.kind == "AveragePool")
    return Network(nn.AvgPool(count_include_pad=False, **_window(node, x.ndim - 2)))


def _prelu(nodes: list[Node], x: np.ndarray) -> Network:
    (alpha,) = nodes[0].weights
    one = alpha.size == 1
    return Network(nn.PReLU(axis=None if one else -1), {"alpha": alpha.reshape(() if one else -1)})


def _linear(nodes: list[Node], x: np.ndarray) -> Network:
    w, *b = [a for node in nodes for a in node.weights]
    layer, params = nn.Dense(len(w), bias=bool(b)), {"w": w.T, **({"b": b[0]} if b else {})}
    return Network(layer, params, channels_last=False)


def _embedding(nodes: list[Node], x: np.ndarray) -> Network:
    (w,) = nodes[0].weights
    return Network(nn.Embedding(*w.shape), {"w": w}, channels_last=False)


def _pad(nodes: list[Node], x: np.ndarray) -> Network:
    found = nodes[0].attributes
    before, after = np.reshape(found["pads"], (2, -1)).tolist()
    mode = found["mode"].decode()
    fill = {"constant_values": found["value"]} if mode == "constant" else {}
    pairs = tuple(zip(before, after, strict=True))
    return _function(jnp.pad, pad_width=pairs, mode=mode, **fill)


def _pixel_shuffle(nodes: list[Node], x: np.ndarray) -> Network:
    _, _, *factor, _, _ = nodes[0].weights[0].tolist()
    return Network(nn.PixelShuffle(tuple(factor)))


def _along(function: Callable[..., Any]) -> Callable[..., Network]:
    """A function along an axis, that of the last node that names one."""

    def reader(nodes: list[Node], x: np.ndarray) -> Network:
        (axis,) = [node.attributes["axis"] for node in nodes if "axis" in node.attributes]
        return _function(function, axis=axis)

    return reader


def _plain(function: Callable[..., Any], **options: str) -> Callable[..., Network]:
    """A function of each number, whose options have these names in onnx."""

    def reader(nodes: list[Node], x: np.ndarray) -> Network:
        found = nodes[0].attributes
        return _function(function, **{ours: found[theirs] for ours, theirs in options.items()})

    return reader


READERS: dict[str, Callable[[list[Node], np.ndarray], Network]] = {
    "Abs Add Div": _plain(jax.nn.soft_sign),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Elu": _plain(jax.nn.elu, alpha="alpha"),
    "Gather": _embedding,
    "Gemm": _linear,
    "LeakyRelu": _plain(jax.nn.leaky_relu, negative_slope="alpha"),
    "LogSoftmax": _along(jax.nn.log_softmax),
    "MaxPool": _max_pool,
    "Neg Softmax": _along(soft_min),
    "PRelu": _prelu,
    "Pad": _pad,
    "Relu": _plain(jax.nn.relu),
    "Reshape Transpose Reshape": _pixel_shuffle,
    "Selu": _plain(jax.nn.selu),
    "Sigmoid": _plain(jax.nn.sigmoid),
    "Softmax": _along(jax.nn.softmax),
    "Softplus": _plain(jax.nn.softplus),
    "Split Sigmoid Mul": _along(jax.nn.glu),
    "Tanh": _plain(jnp.tanh),
    "Transpose MatMul": _linear,
    "Unsqueeze AveragePool Squeeze": _average_pool,
}

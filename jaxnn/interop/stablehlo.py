"""A trained network as one file: StableHLO by `jax.export`, or ONNX by jax2onnx."""

import os
from collections.abc import Sequence
from typing import Any

import jax

from ..core.layer import Layer
from ..fields import is_array
from ..files.reading import MEGABYTE, FileError, open_regular
from ..installation import required
from ..train.program import Trained, trained_like
from ..tree import a_layer
from ..validation import Accepts

_array = Accepts("an array", is_array, TypeError, "bind other inputs in the network")


def export(
    net: Layer,
    trained: Trained,
    *inputs: Any,
    platforms: Sequence[str] | None = None,
    **named: Any,
) -> bytes:
    """Return the network and its weights as a StableHLO program, in the bytes of a file.

    The program computes `y = net.apply(params, *inputs, state=state, **named)` in inference and
    contains the weights. It runs without jaxnn and without the code of the layers. JAX guarantees
    that such files can be read for at least six months.

    Args:
        net: The network.
        trained: A `train.TrainState` or `train.Weights`.
        *inputs: Example inputs, arrays or `jax.ShapeDtypeStruct`. The program accepts any size of
            their first axis, the batch, which is the same in all inputs. If a shape has symbolic
            dimensions from `jax.export.symbolic_shape`, those dimensions are free instead.
        platforms: Platforms that the program can run on, such as ("cpu", "cuda", "tpu"). Default:
            None, the current platform.
        **named: Named inputs, as `*inputs`.

    Raises:
        TypeError: `net` is not a layer, `trained` is plain parameters, or an input is not an array.
        ValueError: The network cannot be traced with a batch axis of unknown size.
        ImportError: flatbuffers is not installed.

    Reference: jax.export; `jax.export.export(jax.jit(net.apply))(params, x)` keeps the parameters
    as an argument.

    >>> import jax.numpy as jnp, jaxnn as nn, tempfile
    >>> from pathlib import Path
    >>> from jaxnn import train
    >>> net, x = nn.Sequential(nn.Dense(3), jax.nn.relu), jnp.ones((1, 2))
    >>> weights = train.Weights(net.init(jax.random.key(0), x), net.init_state(x))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "net.stablehlo")
    ...     size = file.write_bytes(export(net, weights, x))
    ...     program = load_program(file)
    >>> program.call(jnp.ones((5, 2))).shape
    (5, 3)
    """
    export = _library()
    a_layer(net, "export.net", "write interop.export(net, trained, x)")
    trained_like(trained, "export.trained")
    params, state = trained.params, trained.state

    def run(*inputs: Any, **named: Any) -> Any:
        return net.apply(params, *inputs, state=state, **named)[0]

    shapes = jax.tree.map(_shape, (inputs, named))
    if not any(export.is_symbolic_dim(n) for a in jax.tree.leaves(shapes) for n in a.shape):
        (batch,) = export.symbolic_shape("batch")
        shapes = jax.tree.map(lambda a: _free(a, batch), shapes)
    inputs, named = shapes
    try:
        exported = export.export(jax.jit(run), platforms=platforms)(*inputs, **named)
    except Exception as error:
        if "symbolic" not in str(error).lower() and "dimension" not in str(error).lower():
            raise
        raise ValueError(
            "the network needs the size of an axis that is free in the program: "
            f"{error}\nWrite its inputs as jax.ShapeDtypeStruct(jax.export.symbolic_shape(...), "
            "dtype) with constraints, or with other axes free"
        ) from error
    return bytes(exported.serialize())


def load_program(file: str | os.PathLike[str]) -> Any:
    """Load a `jax.export.Exported` from a file with the bytes that `export` returned.

    `program.call(*inputs)` runs the program and can be used in `jax.jit`. `program.in_avals` and
    `program.out_avals` hold the shapes and types of inputs and outputs, and `program.mlir_module()`
    returns its StableHLO text.

    Args:
        file: The path of the file.

    Raises:
        ValueError: The file does not contain such bytes, or is damaged.
        FileNotFoundError: The file does not exist.
    """
    export = _library()
    with open_regular(file) as opened:
        status = os.fstat(opened.fileno())
        try:
            # A sparse file would be read into far more memory than it takes on the disk.
            sparse = status.st_size > MEGABYTE and status.st_size > 8 * _stored(status)
            return export.deserialize(bytearray(b"" if sparse else opened.read()))
        except Exception as error:  # whatever the parser raises on a damaged file
            raise FileError(
                f"{os.fspath(file)} ({status.st_size:,} bytes) is not a program of jax.export, or "
                f"is truncated: {error!r:.200}. Write Path(file).write_bytes("
                "interop.export(net, trained, x))"
            ) from None


def _stored(status: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk; its size if they are not known."""
    return 512 * status.st_blocks if hasattr(status, "st_blocks") else status.st_size


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    _array(x, "an input of the program")
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))


def _free(a: Any, batch: Any) -> jax.ShapeDtypeStruct:
    if not a.shape:
        return a
    return jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype)


def _library() -> Any:
    required("flatbuffers", "programs are serialized by", "flatbuffers", "interop")
    from jax import export

    return export


def pack_onnx(net: Layer, trained: Trained, *inputs: Any) -> bytes:
    """Return the network and its weights as an ONNX model for inference, in the bytes of a file.

    The model accepts exactly the shapes of `inputs`, except for symbolic dimensions from
    `jax.export.symbolic_shape`, which stay free. jax2onnx supports free dimensions for matrix
    products, convolutions, norms, and attention, but not for scans and max pooling.

    With jax2onnx 0.17, dense, convolutional, recurrent, and attention networks and `GPT` agreed
    with jaxnn within 1e-6 in onnxruntime. It requires orbax-checkpoint before 0.12, so install it
    in a separate environment, together with jaxnn.

    Args:
        net: The network.
        trained: A `train.TrainState` or `train.Weights`.
        *inputs: Example inputs, arrays or `jax.ShapeDtypeStruct`.

    Raises:
        TypeError: `net` is not a layer, `trained` is plain parameters, or an input is not an array.
        ImportError: jax2onnx is not installed.
    """
    a_layer(net, "pack_onnx.net", "write interop.pack_onnx(net, trained, x)")
    trained_like(trained, "pack_onnx.trained")
    shapes = [_shape(x) for x in inputs]
    jax2onnx = required("jax2onnx", "ONNX files are written by", "jax2onnx", "")

    def run(*inputs: Any) -> Any:
        return net.apply(trained.params, *inputs, state=trained.state)[0]

    return jax2onnx.to_onnx(run, shapes).SerializeToString()

"""pack_onnx: a trained network as an ONNX file, by jax2onnx."""

from typing import Any

import jax

from ..core.declarations import is_array
from ..core.layer import Layer
from ..installation import pip
from ..train.state import Trained


def pack_onnx(net: Layer, trained: Trained, *inputs: Any) -> bytes:
    """The contents of an ONNX file with the network and its weights, for inference.

    Inputs are arrays or `jax.ShapeDtypeStruct`, and the file takes these very shapes, but for
    symbolic dimensions of `jax.export.symbolic_shape`, which stay free: jax2onnx can do that for
    products, convolutions, norms and attention, not for a scan or a window's maximum.

    jax2onnx 0.17 was found to give dense, convolutional, recurrent and attentive networks and
    `GPT` within 1e-6 of jaxnn in onnxruntime. It wants an orbax-checkpoint before 0.12, so it is
    best installed in a separate environment, together with jaxnn.

    Raises TypeError for what is no layer or no array, ImportError where jax2onnx is not installed,
    and what jax2onnx raises where it does not know an operation.
    """
    if not isinstance(net, Layer):
        raise TypeError(
            f"pack_onnx wants a layer, got {net!r}; write interop.pack_onnx(net, ts, x)"
        )
    for x in inputs:
        if not is_array(x):
            raise TypeError(
                f"an ONNX file takes arrays, got {x!r}; bind other inputs in the network"
            )
    try:
        import jax2onnx  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written by jax2onnx, which is not installed: write {pip('jax2onnx')}"
        ) from error
    shapes = [jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)) for x in inputs]

    def run(*inputs: Any) -> Any:
        return net.apply(trained.params, *inputs, state=trained.state)[0]

    return jax2onnx.to_onnx(run, shapes).SerializeToString()

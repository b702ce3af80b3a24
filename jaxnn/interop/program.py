"""export and load_program: a trained network as one file of StableHLO, by `jax.export`."""

import os
from collections.abc import Sequence
from typing import Any

import jax

from ..core.declarations import is_array
from ..core.layer import Layer
from ..files.reading import MEGABYTE, FileError, open_regular
from ..installation import missing
from ..train.evaluation import Trained


def export(
    net: Layer,
    trained: Trained,
    *inputs: Any,
    platforms: Sequence[str] | None = None,
    **named: Any,
) -> bytes:
    """The contents of a file with the network and its weights, compiled as far as StableHLO.

    The program is `y = net.apply(params, *inputs, state=state, **named)` in inference, the weights
    in it; neither jaxnn nor the code of the layers is needed to run it. Inputs are arrays or
    `jax.ShapeDtypeStruct`: their first axis, the batch, stays free, the same in all of them. Where
    some shape has symbolic dimensions of `jax.export.symbolic_shape`, these are what is free.
    `platforms` are those it may run on, `("cpu", "cuda", "tpu")`; the present one by default. JAX
    keeps such files readable for six months at least.

    Raises TypeError for what is no layer, ValueError where the network cannot be traced with a free
    axis, and ImportError where flatbuffers is not installed.

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
    if not isinstance(net, Layer):
        raise TypeError(f"export wants a layer, got {net!r}; write export(net, ts, x)")
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
            "the network asks for the size of an axis that is free in the program: "
            f"{error}\nGive its inputs as jax.ShapeDtypeStruct(jax.export.symbolic_shape(...), "
            "dtype) with constraints, or with other axes free"
        ) from error
    return bytes(exported.serialize())


def load_program(file: str | os.PathLike[str]) -> Any:
    """The program in a file that `export` made: a `jax.export.Exported`.

    `program.call(*inputs)` runs it, under `jax.jit` too; `program.in_avals` and `out_avals` are its
    shapes, `program.mlir_module()` its text. Raises ValueError for a file of another kind, and
    FileNotFoundError where there is none.
    """
    export = _library()
    with open_regular(file) as opened:
        status = os.fstat(opened.fileno())
        try:
            # A file that is mostly holes would be read into far more memory than it takes.
            if status.st_size > MEGABYTE and status.st_size > 8 * _stored(status):
                raise ValueError("most of it was never written")
            return export.deserialize(bytearray(opened.read()))
        except Exception as error:  # whatever the parser raises on a damaged file
            raise FileError(
                f"{os.fspath(file)} ({status.st_size:,} bytes) is not a program of jax.export, or "
                f"is truncated: {error!r:.200}. Write Path(file).write_bytes("
                "interop.export(net, ts, x))"
            ) from None


def _stored(status: os.stat_result) -> int:
    """The bytes that a file takes on the disk; its size if the system does not report them."""
    return 512 * status.st_blocks if hasattr(status, "st_blocks") else status.st_size


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    if not is_array(x):
        raise TypeError(f"a program takes arrays, got {x!r}; bind other inputs in the network")
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))


def _free(a: Any, batch: Any) -> jax.ShapeDtypeStruct:
    if not a.shape:
        return a
    return jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype)


def _library() -> Any:
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise missing("programs are serialized by", "flatbuffers", "interop") from error
    from jax import export

    return export

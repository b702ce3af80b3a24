"""Write the link inventories of other documentations, so that the build needs no network.

    python docs/inventories/build.py

Each holds only the names that this documentation links to, with their pages.
"""

import zlib
from pathlib import Path

HERE = Path(__file__).parent
JAX = (
    "jit",
    "grad",
    "value_and_grad",
    "vmap",
    "eval_shape",
    "checkpoint",
    "ShapeDtypeStruct",
    "Array",
)
PYTHON = {
    "dataclasses.dataclass": "library/dataclasses.html#dataclasses.dataclass",
    "functools.partial": "library/functools.html#functools.partial",
    "concurrent.futures.Executor": "library/concurrent.futures.html#concurrent.futures.Executor",
}
OPTAX = {
    "optax.adam": "api/optimizers.html#optax.adam",
    "optax.adamw": "api/optimizers.html#optax.adamw",
    "optax.sgd": "api/optimizers.html#optax.sgd",
    "optax.chain": "api/combining_optimizers.html#optax.chain",
    "optax.GradientTransformation": "api/transformations.html#optax.GradientTransformation",
}


def write(project: str, pages: dict[str, str]) -> None:
    """Write one inventory in Sphinx's format, version 2."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = "".join(f"{name} py:function 1 {page} -\n" for name, page in sorted(pages.items()))
    (HERE / f"{project}.inv").write_bytes(head.encode() + zlib.compress(lines.encode(), 9))


if __name__ == "__main__":
    write("python", PYTHON)
    write("jax", {f"jax.{n}": f"_autosummary/jax.{n}.html#jax.{n}" for n in JAX})
    write("optax", OPTAX)

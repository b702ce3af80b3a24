"""The time to import a library beyond that to import jax, in new processes."""

import importlib.util

from benchmarks import fresh
from benchmarks.report import Bar, Result, Table

MODULES = (
    "jaxnn", "jaxnn.train", "optax", "equinox", "flax.linen", "flax.nnx", "haiku", "keras",
)  # fmt: skip
ROUNDS = 9
LIMIT = 0.10
SCRIPT = """
import json, time
import jax
start = time.perf_counter()
import {module}
print(json.dumps({{"import": time.perf_counter() - start}}))
"""


def run() -> Result:
    """Measure every import."""
    installed = [m for m in MODULES if importlib.util.find_spec(m.split(".")[0])]
    samples = fresh.interleaved(
        {module: ["-c", SCRIPT.format(module=module)] for module in installed}, rounds=ROUNDS
    )["import"]
    bar = Bar("seconds of `import jaxnn`", samples["jaxnn"].median, LIMIT)
    missing = [module for module in MODULES if module not in installed]
    return Result(
        "`import X` after `import jax`, each in a new process.",
        [Table("Import", "s", samples, "jaxnn", [bar], missing)],
    )

"""What is compiled in the tests is compiled quickly: half their time, the same mathematics.

XLA's optimizations cost more than these small programs take to run. Where XLA_FLAGS is set, even to
nothing, it is left alone: `XLA_FLAGS= pytest` compiles as users do, and `.ci/run` does so for what
is equal to the bit.

All processes of a run share a folder of compiled programs, so that a program that several tests or
processes build is compiled once: a quarter of all programs.

Tests of one case, and else of one file, run in one process, which compiles their programs once. The
longest files come first, so that no process is left with one of them at the end. A process keeps
what it traced and compiled, so that the collector of garbage, which as it comes looks through all
of that time and again, is called more rarely.
"""

import builtins
import gc
import itertools
import os
import tempfile
from pathlib import Path

import jax
import pytest
from jaxlib import version

QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version.__version_info__ < (0, 11):  # later ones have no other emitters
    QUICK.append("--xla_cpu_use_fusion_emitters=false")

os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))
gc.set_threshold(20_000, 50, 50)

# Processes that this one starts find the folder, which it removes, in the environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    for name, value in {
        "jax_compilation_cache_dir": COMPILED.name,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


# Files of at least 8 CPU seconds, the longest first.
LONGEST = (
    "parallel/test_fit.py",
    "sweep/test_cohort.py",
    "sweep/test_programs.py",
    "command/test_run.py",
    "sweep/test_driver.py",
    "train/test_blocks.py",
    "train/test_checkpoint.py",
    "train/test_measure.py",
    "command/test_sweep.py",
    "train/test_frozen.py",
    "train/test_labels.py",
    "train/test_run.py",
    "parallel/test_placement.py",
    "parallel/test_equalities.py",
    "parallel/test_processes.py",
    "sweep/test_ranking.py",
    "train/test_optax_contract.py",
    "train/test_program.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let processes take groups in the order of this file, not of their numbers of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and name the group of each test, for `--dist loadgroup`."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    for item in items:
        call = getattr(item, "callspec", None)
        case = None if call is None else call.params.get("case")
        item.add_marker(pytest.mark.xdist_group(str(item.path if case is None else case)))


def pytest_runtest_setup() -> None:
    """Take away the last value that a doctest showed, which tyro finds among the builtins."""
    builtins.__dict__.pop("_", None)


# Memory maps, of which compiled programs take many: Linux allows a process 65,530. Workers of this
# suite have crashed in XLA's compiler on JAX 0.12 after some 2,500 tests each, probably past them.
MAPPED = 30_000
_count = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Drop the compiled programs of this process before their memory maps are too many."""
    maps = Path("/proc/self/maps")
    if next(_count) % 50 or not maps.exists():
        return
    with maps.open("rb") as lines:
        if sum(1 for _ in lines) > MAPPED:
            jax.clear_caches()
            gc.collect()

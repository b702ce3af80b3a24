"""Settings that make the suite fast, and the order of its tests.

- XLA compiles with few optimizations, because they take longer than these small programs run. The
  mathematics is the same. If XLA_FLAGS is set, even to an empty string, it is kept:
  `XLA_FLAGS= pytest` compiles as users do, as `.ci/run` does for the tests of bitwise equality.
- All processes of a run share a folder of compiled programs, so that a program that several
  processes build is compiled once, unless writing and reading it takes longer than compiling it.
  A process of pytest also keeps the last ones in memory: tests of one file compile equal programs.
- Compiled programs do not contain the lines of code that made them, and are lowered in one MLIR
  context per thread, which takes 2 ms to make: a fifth of the time of a program of one operation.
- Parameters are drawn by a smaller program, because the usual one takes 2 ms with optimizations and
  12 ms without. The numbers are the same.
- The laws of one case of tests/cases.py, or otherwise the tests of one file, run in one process,
  which traces their programs once. The longest files run first, so that no process has one left at
  the end.
- A process keeps everything that it traces and compiles. The garbage collector therefore runs less
  often, and searches only what is new.
"""

import builtins
import functools
import gc
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir
from jaxlib import version
from jaxlib.mlir import ir
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from jaxnn import random
from jaxnn.html import charts

QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version.__version_info__ < (0, 11):  # later versions have only the fusion emitters
    QUICK.append("--xla_cpu_use_fusion_emitters=false")

os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))
gc.set_threshold(100_000, 20, 100)

# Child processes find the folder in the environment; this process removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    for name, value in {
        "jax_compilation_cache_dir": COMPILED.name,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_traceback_in_locations_limit": 0,
    }.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)

KEPT = 300  # programs in memory
WRITTEN = 0.5  # seconds that a program must have taken to be written to the folder
_kept: dict[str, Any] = {}


def keep_programs() -> None:
    """Keep the last compiled programs in memory, by their keys in JAX's cache of compiled programs.

    Programs with host callbacks are compiled each time, as JAX does.
    """
    read, write = compiler._cache_read, compiler._cache_write

    # JAX 0.10 passes host callbacks to `write`, and JAX 0.12 to `read`.
    def found(name: str, key: str, options: Any, backend: Any, devices: Any, *more: Any) -> Any:
        if key in _kept and not any(more):
            return _kept[key], 0
        return read(name, key, options, backend, devices, *more)

    def keep(key: str, seconds: float, name: str, backend: Any, program: Any, *more: Any) -> None:
        if not any(more):
            _kept[key] = program
            if len(_kept) > KEPT:
                _kept.pop(next(iter(_kept)), None)
        if seconds > WRITTEN:
            write(key, seconds, name, backend, program, *more)

    compiler._cache_read, compiler._cache_write = found, keep


keep_programs()


@pytest.fixture
def programs_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to JAX and jaxnn which programs live."""
    _kept.clear()
    monkeypatch.setitem(globals(), "KEPT", 0)


def one_context_per_thread() -> None:
    """Lower in one MLIR context per thread, except a program that is needed to lower another one.

    Its module would become a part of the other one's, which is open in the same context.
    """
    make = mlir.make_ir_context
    made = functools.cache(lambda thread: make())

    def context() -> ir.Context:
        try:
            is_lowering = ir.Context.current is not None
        except ValueError:
            is_lowering = False
        return make() if is_lowering else made(threading.get_ident())

    mlir.make_ir_context = context


if version.__version_info__ < (0, 12):  # later versions use a context several times, too
    one_context_per_thread()

USERS_ROWS = random.ROW, random.ROWS
random.ROW, random.ROWS = 1024, 8


@pytest.fixture
def rows_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw parameters in rows of the default length and number, as users do."""
    monkeypatch.setattr(random, "ROW", USERS_ROWS[0])
    monkeypatch.setattr(random, "ROWS", USERS_ROWS[1])


@pytest.fixture(scope="module")
def figures_not_drawn() -> Iterator[None]:
    """Leave out what takes most of a small run; tests of pictures and of reports draw figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "png", lambda figure: b"\x89PNG")
        patch.setattr(charts, "svg", lambda figure, key, label: "<svg></svg>")
        yield


# Files of at least 7 CPU seconds, the longest first.
LONGEST = (
    "gallery/test_gallery.py",
    "sweep/test_driver.py",
    "sweep/test_cohort.py",
    "train/test_checkpoint.py",
    "combine/test_recurrent.py",
    "parallel/test_fit.py",
    "generation/test_generate.py",
    "experiments/test_experiments.py",
    "train/test_blocks.py",
    "train/test_frozen.py",
    "train/test_run.py",
    "train/test_optax_contract.py",
    "parallel/test_placement.py",
    "sweep/test_programs.py",
    "command/test_run.py",
    "data/test_augment.py",
    "layers/test_recurrence.py",
    "core/test_drawing.py",
    "command/test_sweep.py",
    "parallel/test_equalities.py",
    "parallel/test_processes.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Assign files to processes in the order of LONGEST, not by the number of their tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


class Scheduling(LoadFileScheduling):
    """Files as units of work, except in tests/laws, whose units are cases.

    Not by marks `xdist_group`: xdist 3.8 has no effect on the names that pytest 9.2 gives to tests,
    which then run in any process.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        from tests.cases import CASES

        super().__init__(config, log)
        self.cases = {case.name for case in CASES}

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if not file.startswith("tests/laws/"):
            return file
        values = test.partition("[")[2].rstrip("]").split("-")
        return next((value for value in values if value in self.cases), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Return what distributes tests to processes, instead of `--dist`."""
    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Exclude modules and tests from what the garbage collector searches."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Remove the last value that a doctest printed, which tyro would find among the builtins."""
    builtins.__dict__.pop("_", None)


# Compiled programs use many memory maps, of which Linux allows 65,530 in a process. On JAX 0.12,
# workers crashed in XLA's compiler after about 2,500 tests each, probably above that number.
MAPPED = 30_000
_count = itertools.count(1)


def pytest_runtest_teardown() -> None:
    """Delete the compiled programs of this process before it has too many memory maps."""
    if next(_count) % 50:
        return
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPED:
        jax.clear_caches()
        _kept.clear()
        gc.unfreeze()
    gc.collect()
    gc.freeze()

"""What determines the numbers of a run, so that a resumed run is the same run or is rejected.

`identity` is kept in each checkpoint and compared when the run is resumed. It holds everything that
`train.run` is given, except what changes no number of the steps done: the length of the run, hooks
that only look at it, and where its arrays are placed.
`environment` is recorded too, but a difference there is reported by a warning. A run of weeks has
to survive a security update or a move to another machine. Usually only rounding differs then, and
the old versions may not be available any more, so that the run could never be resumed.
"""

import dataclasses
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import optax

from ..data.accept import as_source, fingerprint_of
from ..fingerprint import CODE, checksum, differences, fingerprint
from ..version import __version__

# Settings of JAX that change the numbers of a program.
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)


def identity(run: Any) -> dict[str, Any]:
    """What determines the numbers of a run of a program, as JSON.

    The length of the run and the hooks that only look at it change no number of the steps done.

    Args:
        run: the run.
    """
    program, data = run.program, run.data
    methods = [getattr(type(program), name) for name in ("init", "step", "evaluate")]
    fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
    return {
        "program": fingerprint((type(program).__qualname__, methods, fields)),
        **({} if data is None else {"data": fingerprint_of(as_source(data))}),
        **({} if run.given is None else {"state": fingerprint(run.given)}),
        **{name: value for hook in run.hooks for name, value in hook.identity().items()},
        "key": checksum(run.key),
        "batch_size": repr(run.batch_size),
        "every": repr(run.stated_every),
        "settings": {name: repr(getattr(jax.config, name)) for name in SETTINGS},
    }


def environment() -> dict[str, str]:
    """The versions that a run's numbers follow from up to rounding, and the device."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "numpy": np.__version__,
        "optax": optax.__version__,
        "jaxnn": __version__,
        "device": jax.devices()[0].device_kind,
    }


def changes(
    recorded: Mapping[str, Any], now: Mapping[str, Any], versions: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """What differs from the run that was recorded, a line each: its identity, its environment.

    Args:
        recorded, now: identities.
        versions: the environment that was recorded.
    """
    here = environment()
    lines = differences(recorded, now)
    if _minor(versions) != _minor(here):  # its bytecode is another, whatever the source
        lines = differences(_without_code(recorded), _without_code(now))
    return lines, differences(versions, here)


def _minor(versions: Mapping[str, str]) -> list[str]:
    return versions.get("python", "").split(".")[:2]


def _without_code(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    return {k: _without_code(v) for k, v in item.items() if not k.startswith(CODE)}

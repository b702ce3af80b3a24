"""JAX's persistent compilation cache, which the command lines use unless it is turned off."""

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

OFF = "--no-compilation-cache"
LARGEST = 2**30  # bytes on disk, of which the entries that were not read for longest are deleted


def use_compilation_cache(words: list[str]) -> list[str]:
    """Keep compiled programs in the user's cache folder, for the next start.

    If the user set `JAX_COMPILATION_CACHE_DIR` or `JAX_ENABLE_COMPILATION_CACHE`, the setting is
    not changed. Child processes use the same folder.

    Args:
        words: The command line. `--no-compilation-cache` turns the cache off.

    Returns:
        The command line without that option.
    """
    rest = [word for word in words if word != OFF]
    settings: Any = jax.config
    chosen = settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache
    if len(rest) == len(words) and not chosen:
        options = {
            "jax_compilation_cache_dir": str(cache_folder()),
            "jax_compilation_cache_max_size": LARGEST,
            "jax_persistent_cache_min_compile_time_secs": 0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in options.items():
            os.environ.setdefault(name.upper(), str(value))
            jax.config.update(name, value)
    return rest


def cache_folder() -> Path:
    """Return the folder of compiled programs in the user's cache folder.

    JAX does not distinguish processors, and a home folder may be shared by machines, so there is a
    folder for each kind of processor.
    """
    home = Path.home()
    default = {"darwin": home / "Library" / "Caches"}.get(sys.platform, home / ".cache")
    base = Path(os.environ.get("XDG_CACHE_HOME") or default)
    return base / "jaxnn" / "compiled" / hashlib.sha256(_processor().encode()).hexdigest()[:16]


def _processor() -> str:
    """Return a text that identifies the instruction set of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return next((one for one in lines if one.startswith(("flags", "Features"))), platform.machine())

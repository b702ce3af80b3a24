"""The result of a benchmark, and its section of RESULTS.md.

Each section has the machine, the versions, and the date of its measurement, so that one section can
be measured again without the others.
"""

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Sample

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = (
    "jax", "jaxlib", "optax", "flax", "equinox", "dm-haiku", "keras", "torch", "optuna", "numpy",
)  # fmt: skip
UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0, "kB": 1e-3, "MB": 1e-6, "thousandths": 1e3}
HEADER = """\
# Results

Written by `python -m benchmarks`; one section again with `python -m benchmarks NAME`.

The ratio is the claim: sides took turns, times are medians with the quartiles in brackets, and
compilation is not counted unless it is what is measured. Absolute times belong to the machine and
the day named under each section.
"""


@dataclass(frozen=True)
class Bar:
    """A claim to check: `value` is at most `limit`, or at least `limit` if `at_least`."""

    claim: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Return whether the measurement supports the claim."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        """One line of a report."""
        bound = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "NOT met"
        return f"{self.claim}: {self.value:.2f}, to be {bound} {self.limit:g}: **{verdict}**"


@dataclass(frozen=True)
class Table:
    """Samples by side, each with its ratio to the side `base`, and the claims to check.

    `missing` names the libraries that are not installed.
    """

    caption: str
    unit: str
    samples: Mapping[str, Sample]
    base: str
    bars: Sequence[Bar] = ()
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """One section: a sentence that describes the comparison, then its tables.

    `packages` names packages whose versions are listed besides those of `PACKAGES`.
    """

    compared: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    packages: Sequence[str] = ()


def section(name: str, result: Result) -> str:
    """The section as markdown."""
    parts = [f"## {name}", result.compared, *(_table(table) for table in result.tables)]
    if result.notes:
        parts.append("\n".join(f"- {note}" for note in result.notes))
    return "\n\n".join([*parts, f"*{environment(result.packages)}*"]) + "\n"


def update(name: str, text: str, order: Sequence[str], path: Path = RESULTS) -> None:
    """Write a section into the file without changing the other sections."""
    old = path.read_text() if path.exists() else ""
    sections = {
        part.split("\n", 1)[0].removeprefix("## ").strip(): part.rstrip() + "\n"
        for part in re.split(r"^(?=## )", old, flags=re.MULTILINE)[1:]
    }
    sections[name] = text
    path.write_text("\n".join([HEADER, *(sections[n] for n in order if n in sections)]))


def environment(packages: Sequence[str] = ()) -> str:
    """Date, machine, its load and versions, also of further packages, on one line."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    # The load of the last minutes shows whether the machine was shared.
    load = f"load {os.getloadavg()[1]:.1f}"
    machine = f"{os.cpu_count()} cores, {_processor()}, {memory:.0f} GiB, {load}"
    versions = ", ".join(f"{name} {_version(name)}" for name in (*PACKAGES, *packages))
    return f"{today}; {machine}; Python {platform.python_version()}, {versions}"


def _table(table: Table) -> str:
    scale = UNITS[table.unit.split(" ", 1)[0]]
    base = table.samples[table.base]
    lines = [
        f"**{table.caption}**",
        "",
        f"| | {table.unit} | quartiles | to {table.base} |",
        "|---|---:|---:|---:|",
    ]
    for side, found in table.samples.items():
        low, median, high = (_number(s * scale) for s in (found.low, found.median, found.high))
        lines.append(f"| {side} | {median} | {low} - {high} | {found.over(base):.2f} |")
    lines += [f"| {library} | not installed | | |" for library in table.missing]
    return "\n".join([*lines, "", *(f"- {bar}" for bar in table.bars)]).rstrip()


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*: (.+)$", information.read_text(), flags=re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()

"""fit: a run with the hooks that most runs have; and the history of records that it returns.

`History` shows the records as a table in notebooks, and plots them.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from ..explain import entry
from ..files.reading import printable
from ..html import LONGEST_NAME, charts, label, shown
from ..validation import Accepts, flag
from .evaluation import Evaluate
from .hooks import Hook, as_hooks, ordered
from .hooks.measurement import TIMINGS
from .hooks.reporting import Progress
from .hooks.stopping import Divergence
from .program import Program, check_program
from .record import Every
from .run import Run
from .step import SINGLE_DEVICE

Record = Mapping[str, Any]
Panels = list[tuple[str, dict[str, str]]]

LINES = ("-", "--", ":", "-.")
MOST_PATHS = 2 * len(LINES)  # curves by path of a panel
MOST_ROWS = 12  # of a table in a notebook
RATE = "learning_rate"


@entry
def fit(
    program: Program,
    data: Any = None,
    *,
    key: jax.Array,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    validation: Any = None,
    hooks: Sequence[Any] = (),
    every: Every | int | None = None,
    state: Any = None,
    placement: Any = SINGLE_DEVICE,
    progress: bool = True,
) -> tuple[Any, "History"]:
    """Train a program, and return its final state and its history.

    This function consumes `train.run` with the same arguments, and adds three hooks by default:
    `Evaluate` on the validation data, `Divergence()` if the program has a loss, and `Progress()`.

    Args:
        program: As for `train.run`.
        data: As for `train.run`.
        key: As for `train.run`.
        epochs: As for `train.run`.
        steps: As for `train.run`.
        batch_size: As for `train.run`.
        validation: Data that is evaluated at each record; its metrics are `validation_loss` and so
            on. For further data sets, add hooks `train.Evaluate(data, name="other")`. Default:
            None.
        hooks: Further `train.Hook` values and functions of an event. Default: ().
        every: As for `train.run`.
        state: As for `train.run`.
        placement: As for `train.run`.
        progress: Whether the records are displayed: on a terminal, in a notebook, or as lines.
            Default: True.

    Returns:
        The final state, and the history: a list with a dict for each record, and a method `plot`.

    Raises:
        TypeError, ValueError: As for `train.run`.
        Diverged: The loss is not finite at a record.
        Interrupted: A run with `train.Checkpoints` received a signal to stop.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> program = train.Supervised(nn.Dense(1), train.Regression(), optax.adam(0.1))
    >>> state, history = train.fit(program, (x, 3 * x[:, 0]), key=jax.random.key(0), epochs=50,
    ...                            batch_size=16, progress=False)
    >>> history[-1]["loss"] < 1e-3
    True
    """
    check_program(program, "fit")
    flag(progress, "progress")
    hooks = _with_defaults(as_hooks(hooks), validation, progress)
    length = batch_size, epochs, steps
    run = Run(program, data, key, *length, hooks, every, state, placement)
    for _ in run.events():
        pass
    return run.state, History(dict(record) for record in run.history)


def _with_defaults(hooks: list[Hook], validation: Any, progress: bool) -> list[Hook]:
    """Return the hooks of `fit`: its own, around those that are given."""

    def is_missing(kind: type[Hook]) -> bool:
        return not any(isinstance(hook, kind) for hook in hooks)

    first: list[Hook] = [] if validation is None else [Evaluate(validation)]
    if is_missing(Divergence):
        first.append(Divergence(metric=None))
    return ordered([*first, *hooks, *([Progress()] if progress and is_missing(Progress) else [])])


class History(list[dict[str, float]]):
    """The records of a run: a list with a dict per record, which `train.fit` returns.

    Notebooks show it as a table.

    Args:
        records: A dict for each record, with its step and metrics. Default: (), none.

    >>> history = History([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    >>> history[-1]["loss"], [record["loss"] for record in history]
    (0.25, [0.5, 0.25])
    >>> len(history.plot().axes)
    1
    """

    def __init__(self, records: Iterable[dict[str, float]] = ()) -> None:
        super().__init__(records)

    @charts.styled
    def plot(self, *names: str) -> Any:
        """Return a figure with the curves of all metrics, on training and validation data.

        Notebooks show it; `history.plot().savefig("curves.png")` writes a file.

        Args:
            *names: Metrics to draw, such as "loss". Default: (), all of them.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ValueError: The history is empty, or does not contain one of the metrics.
            ImportError: matplotlib is not installed.
        """
        panels = panels_of(self)
        known = [next(iter(curves.values())) for _, curves in panels]
        a_metric = Accepts(f"one of {', '.join(known)}", lambda name: name in known)
        for name in names:
            a_metric(name, "history.plot.names")
        Accepts("a history with a record", bool)(panels, "history.plot.self")
        chosen = [p for name, p in zip(known, panels, strict=True) if name in names or not names]
        columns, rows = min(charts.COLUMNS, len(chosen)), charts.rows_of(len(chosen))
        figure = charts.figure(4.2 * columns, 3.2 * rows)
        draw_panels(figure, self, chosen)
        return figure

    def _repr_html_(self) -> str:
        """Return the first and the last records as a table, for notebooks."""
        every = dict.fromkeys(name for record in self for name in record)
        names = [name for name in losses_first(every) if name not in TIMINGS]
        half = MOST_ROWS // 2
        rows = [[shown(record.get(name)) for name in names] for record in self]
        if len(rows) > MOST_ROWS:
            rows[half:-half] = [["⋮" for _ in names]]
        return table_html([label(name) for name in names], rows)


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of numbers as HTML that needs no style sheet."""

    def cells(tag: str, row: Sequence[str]) -> str:
        style = 'style="text-align:right;padding:2px 8px"'
        return "".join(f"<{tag} {style}>{html.escape(cell)}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', heads)}</tr></thead><tbody>{body}</tbody></table>"


def panels_of(records: Sequence[Record]) -> Panels:
    """Return titles and curves of the panels: metrics, learning rates and norms, norms by path."""
    every = dict.fromkeys(name for record in records for name in record)
    numbers = [name for name in losses_first(every) if name not in ("epoch", "step", *TIMINGS)]
    whole = [name for name in numbers if "/" not in name]
    alone = sorted((n for n in whole if n == RATE or "_norm" in n), key=lambda n: n != RATE)
    metrics = dict.fromkeys(n.removeprefix("validation_") for n in whole if n not in alone)
    panels: Panels = [(label(m), {"training": m, "validation": f"validation_{m}"}) for m in metrics]
    panels += [(label(name), {"": name}) for name in alone]
    for group in dict.fromkeys(name.partition("/")[0] for name in numbers if "/" in name):
        paths = [name for name in numbers if name.startswith(f"{group}/")]
        size = {path: median(finite_numbers(records, path) or [0.0]) for path in paths}
        largest = sorted(paths, key=lambda path: -size[path])[:MOST_PATHS]
        which = f", {MOST_PATHS} largest of {len(paths)}" if len(paths) > MOST_PATHS else ""
        curves = {printable(path.partition("/")[2], LONGEST_NAME): path for path in largest}
        panels.append((f"{label(group)}{which}", curves))
    return panels


def draw_panels(figure: Any, records: Sequence[Record], panels: Panels) -> None:
    """Draw the panels of `panels_of` into a figure.

    Args:
        figure: an empty figure of matplotlib.
        records: the records.
        panels: titles and curves.
    """
    colors = charts.CURVE, charts.BEST  # of training and validation, and in turn of further curves
    epochs = {record.get("epoch") for record in records} - {None}
    unit = "epoch" if len(epochs) == len(records) else "step"
    across = [charts.drawable(record[unit]) for record in records]
    columns = min(charts.COLUMNS, len(panels))
    found = charts.panels(figure, len(panels), columns)
    for panel, (title, curves) in zip(found, panels, strict=True):
        heights: list[float] = []
        for rank, (name, key) in enumerate(curves.items()):
            points = [
                (x, record[key]) for x, record in zip(across, records, strict=True) if key in record
            ]
            y = [charts.drawable(v) if _is_finite(v) else math.nan for _, v in points]
            finite = [v for v in y if not math.isnan(v)]
            heights += finite
            style = {"marker": "o", "markersize": 3} if len(finite) < 25 else {}
            if finite:
                panel.plot(
                    [x for x, _ in points], y, color=colors[rank % 2], linewidth=1.4,
                    linestyle=LINES[rank // 2],
                    # A legend leaves out names that begin with an underscore.
                    label=(f" {name}" if name.startswith("_") else name) or None, **style,
                )  # fmt: skip
        panel.set_title(title)
        panel.set_xlabel(unit)
        ticks = charts.linear_ticks(across[0], across[-1], whole=True)
        charts.set_ticks(panel.xaxis, ticks if across[0] < across[-1] else across[:1])
        if title != label(RATE) and heights and 0 < 10 * min(heights) < max(heights):
            panel.set_yscale("log")
            charts.set_ticks(panel.yaxis, charts.log_ticks(min(heights), max(heights)))
        if len(panel.get_legend_handles_labels()[0]) > 1:
            panel.legend()


def losses_first(names: Iterable[str]) -> list[str]:
    """Return epoch and step, the losses, and all other names in their order."""
    first = ("epoch", "step", "loss", "validation_loss")
    return sorted(names, key=lambda n: first.index(n) if n in first else len(first))


def finite_numbers(records: Sequence[Record], name: str) -> list[float]:
    """Return the finite numbers of a name in the records."""
    return [record[name] for record in records if _is_finite(record.get(name))]


def _is_finite(item: Any) -> bool:
    return isinstance(item, int | float) and abs(item) < math.inf  # also for a large int


def median(numbers: Sequence[float]) -> float:
    """Return the middle number, the larger one of two."""
    return sorted(numbers)[len(numbers) // 2]

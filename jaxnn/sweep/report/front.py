"""The Pareto front of several objectives: its trials as a table, and all trials as points."""

import math
from collections.abc import Sequence

from ...html import page
from ...html.page import count, escaped, format_number, label, shorts
from ..objectives import Objective
from ..snapshot import Sweep
from ..tables import Trial

SHOWN = 20  # trials of the front in the table
WIDTH, HEIGHT, MARGIN = 640, 360, 56


def front(sweep: Sweep) -> str:
    """Return the section of the front; "" for one objective without constraints."""
    if len(sweep.objectives) == 1 and not sweep.constraints:
        return ""
    by = " and ".join(
        f"{'larger' if one.maximize else 'smaller'} {escaped(label(one.metric))}"
        for one in sweep.objectives
    )
    bounds = ", ".join(escaped(str(bound)) for bound in sweep.constraints)
    found = sweep.front
    text = (
        f"Trials are compared by {by}{f', with {bounds}' if bounds else ''}. The "
        f"{count(len(found), 'trial')} of the front satisfy all constraints, and no other trial "
        "that does is as good in every objective and better in one. The first is nearest to the "
        "best of each objective, scaled to the front: the best trial of the sweep."
    )
    first, *others = sweep.objectives
    plots = [_plot(sweep, first, other) for other in others]
    return page.section("front", "Pareto front", page.note(text), *plots, _table(sweep, found))


def _table(sweep: Sweep, found: Sequence[Trial]) -> str:
    """Return the trials of the front as a table."""
    names = [one.metric for one in sweep.objectives]
    names += [one.metric for one in sweep.constraints if one.metric not in names]
    used = [name for name in sweep.dimensions if any(name in trial.values for trial in found)]
    rows = [
        [
            trial.number,
            *(_shown(sweep.measured(trial.number, name)) for name in names),
            *(format_number(trial.values[n], 3) if n in trial.values else page.NONE for n in used),
        ]
        for trial in found[:SHOWN]
    ]
    heads = ["trial", *map(label, names), *shorts(used).values()]
    return page.html_table(heads, rows, range(1 + len(names)), "best" if rows else "")


def _shown(value: float | None) -> str:
    return page.NONE if value is None else format_number(value)


def _plot(sweep: Sweep, first: Objective, other: Objective) -> str:
    """Return a picture of all trials by two objectives; those of the front are filled."""
    points = {
        trial.number: (sweep.measured(trial.number, other.metric), sweep.scores[trial.number].mean)
        for trial in sweep.ranking
        if trial.status == "done"
    }
    known = {n: (x, y) for n, (x, y) in points.items() if x is not None and math.isfinite(x)}
    if len(known) < 2:
        return ""
    across, up = (_Axis([point[i] for point in known.values()]) for i in (0, 1))
    members = {trial.number for trial in sweep.front}
    marks = []
    for number, (x, y) in sorted(known.items(), key=lambda item: item[0] in members):
        filled = number in members
        text = (
            f"trial {number}: {label(first.metric)} {_shown(y)}, {label(other.metric)} {_shown(x)}"
        )
        marks.append(
            f'<circle cx="{MARGIN + across.share(x) * (WIDTH - 2 * MARGIN):.1f}" '
            f'cy="{HEIGHT - MARGIN - up.share(y) * (HEIGHT - 2 * MARGIN):.1f}" '
            f'r="{5 if filled else 4}" fill="{"currentColor" if filled else "none"}" '
            f'stroke="currentColor" stroke-opacity="{1 if filled else 0.45}">'
            f"<title>{escaped(text)}</title></circle>"
        )
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    texts = [
        (MARGIN, bottom + 18, "start", _shown(across.low)),
        (right, bottom + 18, "end", _shown(across.high)),
        (WIDTH / 2, bottom + 38, "middle", label(other.metric) + " (log)" * across.log),
        (MARGIN - 6, bottom, "end", _shown(up.low)),
        (MARGIN - 6, MARGIN + 4, "end", _shown(up.high)),
        (MARGIN - 6, MARGIN - 22, "start", label(first.metric) + " (log)" * up.log),
    ]
    written = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="currentColor">'
        f"{escaped(text)}</text>"
        for x, y, anchor, text in texts
    )
    about = f"{label(first.metric)} by {label(other.metric)}; the front is filled"
    frame = f'<path d="M{MARGIN},{MARGIN}V{bottom}H{right}" fill="none" stroke="currentColor"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(about)}" '
        f'style="width:100%;max-width:{WIDTH}px;height:auto">{frame}{written}{"".join(marks)}</svg>'
    )


class _Axis:
    """The range of some numbers, logarithmic if they are positive and span a factor of ten."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.low, self.high = min(numbers), max(numbers)
        self.log = self.low > 0 and self.high > 10 * self.low

    def share(self, value: float) -> float:
        """Return the relative position of a number between the ends; 0.5 if they are equal."""
        f = math.log if self.log else float
        low, high = f(self.low), f(self.high)
        return (f(value) - low) / (high - low) if high > low else 0.5

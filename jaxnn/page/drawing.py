"""Figures for a page: matplotlib draws, and what comes out is small, and colored by the page.

Colors are names here (`INK`, `BEST`, a `LEVELS[i]`): the page's style says what each looks like in
light and in dark. In the drawing they are placeholders, replaced by CSS variables at the end.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..installation import missing
from .words import escaped

# Names of CSS variables; a color's place in this list is its placeholder.
COLORS = (
    "ink", "soft", "line", "paper", "best", "band", "curve", "bad",
    "level0", "level1", "level2", "level3", "level4", "level5", "level6",
)  # fmt: skip
INK, SOFT, LINE, PAPER, BEST, BAND, CURVE, BAD, *LEVELS = (
    f"#fe{index:02x}01" for index in range(len(COLORS))
)
FARTHEST = 1e100
WIDTH = 9.6  # inches across the page
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxnn",
    "path.simplify": False,
    "font.size": 8,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
}


def svg(key: str, label: str, draw: Callable[[Any], None], height: float) -> str:
    """The SVG of what `draw` draws into a figure, to stand in a page.

    Args:
        key: names the figure in the page; no two have the same.
        label: what the picture is, for those who do not see it.
        draw: draws into an empty figure.
        height: in inches; the width is the page's.
    """
    file = io.StringIO()
    matplotlib = library()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        figure = matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        # A browser shows the text in its own fonts.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return themed(file.getvalue(), key, label)


def without_library() -> ImportError:
    """The error if Matplotlib is not installed, with the command that installs it."""
    return missing("the report is drawn by", "matplotlib", "sweep")


def drawable(value: Any) -> float:
    """A number that a figure can hold: NaN if it is not finite, and at most `FARTHEST`.

    Beyond it, and within its inverse of 0, what matplotlib computes overflows.

    >>> drawable(0.5), drawable(1e308), drawable(5e-324), drawable(float("inf"))
    (0.5, 1e+100, 0.0, nan)
    """
    value = min(max(value, -FARTHEST), FARTHEST) if abs(value) < math.inf else math.nan
    return 0.0 if abs(value) < 1 / FARTHEST else float(value)


def library() -> Any:
    """Matplotlib; raises `without_library()` if it is not installed."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise without_library() from error
    return matplotlib


def themed(drawn: str, key: str, label: str) -> str:
    """Matplotlib's SVG made small, its colors those of the page and its names of its own.

    Coordinates keep a tenth of a point, which is less than a pixel of the page.
    """
    body = drawn[drawn.index("<svg") :]
    for useless in (r"<metadata>.*?</metadata>", r"<style .*?</style>", r"<!--.*?-->"):
        body = re.sub(useless, "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', body)
    opening = f'<svg role="img" aria-label="{escaped(label)}" {view.group() if view else ""}>'
    body = opening + body[body.index(">") + 1 :]
    body = re.sub(r">\s+<", "><", body)
    # Only tags are changed: a text may look like a color, a path, or an attribute.
    return re.sub(r"<[^>]*>", lambda tag: _tag(tag.group(), key), body)


def _tag(tag: str, key: str) -> str:
    if tag.startswith("<svg"):
        return tag
    tag = re.sub(r"\s*\n\s*", "\n", re.sub(r"-?\d+\.\d{2,}", _tenth, tag))
    tag = re.sub(r'M (\S+) (\S+)\s+L \1 \2(?=[\s"])', r"M\1 \2h0", tag)  # a dot
    tag = re.sub(r"\n(?=[MLQCz\"])", "", tag).replace("\n", " ")
    tag = re.sub(r' id="(?![mpC][0-9a-f]{6,})[^"]*"', "", tag)
    tag = re.sub(r'( id="|href="#|url\(#)([mpC][0-9a-f]{6,})', rf"\1{key}-\2", tag)
    tag = tag.replace("xlink:href", "href").replace("; stroke-linejoin: miter", "")
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    return re.sub(r"#fe([0-9a-f]{2})01", lambda m: f"var(--{COLORS[int(m[1], 16)]})", tag)


def dots(
    panel: Any, x: Iterable[float], y: Iterable[float], color: str, size: float = 3.0, **style: Any
) -> None:
    """A dot at each point, all as one path: a dozen bytes a dot."""
    x, y = np.asarray(list(x), float), np.asarray(list(y), float)
    if len(x):
        gap = np.full(len(x), np.nan)
        panel.plot(
            np.stack([x, x, gap], 1).ravel(),
            np.stack([y, y, gap], 1).ravel(),
            color=color,
            linewidth=size,
            solid_capstyle="round",
            **style,
        )


def ring(panel: Any, x: float, y: float) -> None:
    """The best trial's mark."""
    panel.plot(
        [x], [y], linestyle="none", marker="o", markersize=7,
        markerfacecolor="none", markeredgecolor=BEST, markeredgewidth=2, zorder=9,
    )  # fmt: skip


def crosses(panel: Any, x: Sequence[float], y: Sequence[float], **style: Any) -> None:
    """The mark of trials that diverged or failed: all as one path."""
    size = {"linestyle": "none", "marker": "x", "markersize": 3.2, "markeredgewidth": 0.9}
    if len(x):
        panel.plot(x, y, color=BAD, zorder=8, **size, **style)


def _tenth(number: re.Match[str]) -> str:
    return f"{float(number.group()):.1f}".removesuffix(".0").replace("-0.0", "0")

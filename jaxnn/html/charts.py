"""Charts for a page: small SVG files of matplotlib in the colors of the page.

Figures are drawn in the colors of light mode (`INK`, `BEST`, `LEVELS[i]`). In the page each becomes
a CSS variable, for which the style sheet has a color in dark mode too.
"""

import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from ..installation import check_installed
from . import COLORS, captioned, escaped, format_number

VARIABLES = {light: f"var(--{name})" for name, (light, _) in COLORS.items()}
INK, SOFT, LINE, PAPER, BEST, BAND, CURVE, BAD, *LEVELS = (
    COLORS[name][0]
    for name in ("ink", "soft", "line", "paper", "best", "band", "curve", "bad",
                 *(f"level{i}" for i in range(7)))
)  # fmt: skip
Draw = TypeVar("Draw", bound=Callable[..., Any])
FARTHEST = 1e100  # matplotlib overflows with larger numbers, and those closer to 0 than its inverse
WIDTH = 9.6  # inches across the page
COLUMNS = 3  # panels next to each other
SETTINGS: Any = {
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
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
    "legend.frameon": False,
    "legend.fontsize": 7.5,
}


def check_library() -> None:
    """Raise ImportError, with the command that installs it, if matplotlib is missing.

    It imports nothing, since the import takes seconds.
    """
    check_installed("matplotlib", "charts are drawn by", "matplotlib", "experiments")


def figure(width: float, height: float) -> Any:
    """Return an empty figure of matplotlib, in inches, without any global state of pyplot."""
    check_library()
    return _figure_class()(figsize=(width, height), layout="constrained")


@functools.cache
def _figure_class() -> Any:
    """Return the class of figures, which notebooks show as pictures."""
    from matplotlib.figure import Figure

    # Without pyplot, a notebook has no picture of a figure of matplotlib.
    return type("Figure", (Figure,), {"_repr_png_": png})


def styled(draw: Draw) -> Draw:
    """Return a function that draws, in the style of the page."""

    @functools.wraps(draw)
    def call(*args: Any, **kwargs: Any) -> Any:
        check_library()
        import matplotlib

        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return cast(Draw, call)


def chart(
    key: str,
    label: str,
    draw: Callable[[Any], None],
    height: float,
    caption: str = "",
    width: float = WIDTH,
) -> str:
    """Return a figure of a page with what `draw` draws, and a caption.

    Args:
        key: the name of the figure, unique in the page.
        label: a description for screen readers.
        draw: draws into an empty figure.
        height: in inches.
        caption: HTML. Default: "".
        width: in inches. Default: that of the page.
    """

    @styled
    def drawn() -> Any:
        empty = figure(width, height)
        draw(empty)
        return empty

    return captioned(svg(drawn(), key, label), caption)


@styled
def svg(figure: Any, key: str, label: str) -> str:
    """Return a figure as SVG for a page, in its colors.

    Args:
        figure: what a `styled` function drew.
        key: the name of the figure, unique in the page.
        label: a description for screen readers.
    """
    file = io.StringIO()
    with warnings.catch_warnings():
        # A browser shows the text in its own fonts.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _themed(file.getvalue(), key, label)


@styled
def png(figure: Any) -> bytes:
    """Return a figure as a PNG file with 150 dots per inch.

    >>> png(figure(2, 1))[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _themed(drawn: str, key: str, label: str) -> str:
    """Return the SVG of matplotlib, shortened, in the colors of the page, with unique names.

    Coordinates are rounded to a tenth of a point, which is less than a pixel of the page.
    """
    body = drawn[drawn.index("<svg") :]
    for useless in (r"<metadata>.*?</metadata>", r"<style .*?</style>", r"<!--.*?-->"):
        body = re.sub(useless, "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', body)
    # A point is about a pixel, so that text of 8 points is readable on a telephone, and not huge on
    # a large screen; what is wider than the screen scrolls.
    points = float(view.group().split()[2]) if view else 72 * WIDTH
    size = f"min-width:{0.95 * points:.0f}px;max-width:{1.5 * points:.0f}px"
    opening = (
        f'<svg role="img" aria-label="{escaped(label)}" style="{size}" '
        f"{view.group() if view else ''}>"
    )
    body = re.sub(r">\s+<", "><", opening + body[body.index(">") + 1 :])
    # Only tags are changed: a text may look like a color, a path, or an attribute.
    return re.sub(r"<[^>]*>", lambda tag: _tag(tag.group(), key), body)


def _tag(tag: str, key: str) -> str:
    if tag.startswith("<svg"):
        return tag
    tenth = lambda n: f"{float(n.group()):.1f}".removesuffix(".0").replace("-0.0", "0")  # noqa: E731
    tag = re.sub(r"\s*\n\s*", "\n", re.sub(r"-?\d+\.\d{2,}", tenth, tag))
    tag = re.sub(r'M (\S+) (\S+)\s+L \1 \2(?=[\s"])', r"M\1 \2h0", tag)  # a dot
    tag = re.sub(r"\n(?=[MLQCz\"])", "", tag).replace("\n", " ")
    tag = re.sub(r' id="(?![mpC][0-9a-f]{6,})[^"]*"', "", tag)
    tag = re.sub(r'( id="|href="#|url\(#)([mpC][0-9a-f]{6,})', rf"\1{key}-\2", tag)
    if tag.startswith("<image"):
        tag = re.sub(r' id="[^"]*"', "", tag).replace("xlink:href", "href")
        return tag.replace("<image", '<image class="pixels"')
    tag = tag.replace("xlink:href", "href").replace("; stroke-linejoin: miter", "")
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: VARIABLES.get(m.group(), m.group()), tag)


# Panels and their axes.


def panels(figure: Any, count: int, columns: int = COLUMNS, **options: Any) -> list[Any]:
    """Return `count` panels in rows of `columns`.

    Args:
        figure: an empty figure.
        count: the number of panels.
        columns: panels in a row. Default: `COLUMNS`.
        **options: of `Figure.subplots`.
    """
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, **options).ravel()
    for panel in grid[count:]:
        panel.set_visible(False)
    return list(grid[:count])


def rows_of(count: int) -> int:
    """Return the number of rows of `count` panels."""
    return -(-count // COLUMNS)


def drawable(value: Any) -> float:
    """Return a number that a figure can show: NaN if it is not finite, and at most `FARTHEST`.

    >>> drawable(0.5), drawable(1e308), drawable(5e-324), drawable(float("inf"))
    (0.5, 1e+100, 0.0, nan)
    """
    value = min(max(value, -FARTHEST), FARTHEST) if abs(value) < math.inf else math.nan
    return 0.0 if abs(value) < 1 / FARTHEST else float(value)


def set_ticks(axis: Any, at: Sequence[float]) -> None:
    """Give an axis ticks at these numbers only."""
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_ticks(at, [format_number(float(value), 6) for value in at])


def linear_ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Return about `most` round numbers from low to high.

    >>> linear_ticks(0.0, 0.5), linear_ticks(0, 4, whole=True)
    ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * (high - low)
    found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    size = max(abs(low), abs(high), high - low)
    digits = 12 - math.floor(math.log10(size)) if size else 12
    return [round(float(v), digits) for v in found if low - slack <= v <= high + slack]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return powers of ten from low to high, with their doubles and fives if these are few.

    >>> log_ticks(1e-4, 1e-1), log_ticks(8, 128)
    ([0.0001, 0.001, 0.01, 0.1], [10.0, 20.0, 50.0, 100.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = lambda v: low * (1 - 1e-9) <= v <= high * (1 + 1e-9)  # noqa: E731
    decades = [10.0**power for power in powers if inside(10.0**power)]
    if len(decades) >= 3:
        return decades[:: -(-len(decades) // most)]
    finer = [float(f"{m * 10.0**power:.12g}") for power in powers for m in (1, 2, 5)]
    finer = [v for v in finer if inside(v)]
    return finer if len(finer) >= 2 else linear_ticks(low, high, most)

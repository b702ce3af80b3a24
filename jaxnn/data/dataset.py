"""A data set as a value: three parts of examples and their description; and the split of rows.

The split depends on SHA-256, not on a random generator, so it is the same on every machine.
"""

import hashlib
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.data.check import check
from jaxnn.data.rows import leaves_by_path, row_count
from jaxnn.validation import fraction as a_fraction


class Examples(NamedTuple):
    """Inputs and targets, row by row: unpacks as `x, y`, and is a pytree.

    Args:
        x: Inputs, (rows, ...); or any pytree of such arrays.
        y: Targets, (rows, ...): integers for classes, floats for regression; or a pytree.

    >>> x, y = Examples(np.zeros((4, 2), np.float32), np.arange(4))
    >>> x.shape, y.shape
    ((4, 2), (4,))
    """

    x: Any
    y: Any


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set: training, validation, and test examples.

    Args:
        name: Name of the data set in errors and logs.
        train: Examples for fitting parameters and computing statistics.
        validation: Examples for comparing configurations.
        test: Examples for the final evaluation of the chosen configuration.
        class_names: Names by label 0, 1, ... Default: (), for regression.
        feature_names: Names by column of x. Default: ().
        target_name: Name of regression targets, for pictures. Default: "".
        image_shape: (height, width) if a row of x is an image, read row by row from the top left.
            Default: None.
        source: Who made the data. Default: "".
        licence: Terms of the package that contains it. Default: "".

    Raises:
        ValueError, TypeError: A part fails `check`.

    >>> part = Examples(np.ones((4, 2), np.float32), np.array([0, 1, 1, 0]))
    >>> Dataset("toy", part, part, part, class_names=("no", "yes"))
    Dataset('toy': train 4, validation 4, test 4; x (2,) float32, 2 classes)
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    target_name: str = ""
    image_shape: tuple[int, int] | None = None
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Raise if a part cannot be trained on."""
        write = "class_names of {} classes"
        for part, (x, y) in self._parts().items():
            classes, name = len(self.class_names) or None, f"{self.name}.{part}"
            check(x, y, classes=classes, ignore=-100, name=name, write=write)

    def __repr__(self) -> str:
        """Return sizes and shapes on one line, no numbers."""
        sizes = ", ".join(f"{part} {row_count(rows)}" for part, rows in self._parts().items())
        leaves = leaves_by_path(self.train.x, "x").items()
        inputs = ", ".join(f"{path} {leaf.shape[1:]} {leaf.dtype}" for path, leaf in leaves)
        kind = f"{len(self.class_names)} classes" if self.class_names else "regression"
        return f"Dataset({self.name!r}: {sizes}; {inputs}, {kind})"

    @property
    def train_and_validation(self) -> Examples:
        """The rows of `train` followed by those of `validation`, for a final fit.

        >>> part = Examples(np.ones((4, 2), np.float32), np.zeros(4, np.float32))
        >>> Dataset("toy", part, part, part).train_and_validation.x.shape
        (8, 2)
        """
        return jax.tree.map(lambda *parts: np.concatenate(parts), self.train, self.validation)

    def map(
        self,
        *,
        x: Callable[[Any], Any] | None = None,
        y: Callable[[Any], Any] | None = None,
    ) -> "Dataset":
        """Return the data set with a function applied to the inputs or targets of every part.

        Args:
            x: A function of a part's inputs, (rows, ...) to (rows, ...). Default: None, unchanged.
            y: A function of a part's targets, as `x`. Default: None, unchanged.

        Raises:
            ValueError: A function changes the number of rows.

        >>> part = Examples(np.ones((4, 6), np.float32), np.zeros(4, np.float32))
        >>> toy = Dataset("toy", part, part, part)
        >>> toy.map(x=lambda x: x.reshape(-1, 2, 3)).test.x.shape
        (4, 2, 3)
        """
        parts: dict[str, Any] = {
            name: Examples(x(part.x) if x else part.x, y(part.y) if y else part.y)
            for name, part in self._parts().items()
        }
        return replace(self, **parts)

    def _parts(self) -> dict[str, Examples]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split(
    examples: tuple[Any, Any], fraction: float, *, seed: int = 0
) -> tuple[Examples, Examples]:
    """Split rows in two: those kept, and a fraction held out.

    Rows are ordered by the SHA-256 of the text "seed/row", as in `printf 0/17 | sha256sum`. Of each
    class the first round(fraction * rows of that class) are held out (halves round to even); if
    targets are floats, all rows count as one class. Both results keep this order, so their first n
    rows are also a random sample.

    Args:
        examples: x and y, (rows, ...) each, or pytrees of such arrays. If y is one array of
            integers (rows,), they are classes.
        fraction: Fraction of the rows to hold out, between 0 and 1.
        seed: Seed of the order of the rows, an int. Default: 0.

    Returns:
        (kept, held), two `Examples`. Each row is in exactly one of them.

    Raises:
        ValueError: The fraction is out of range or leaves one side empty, or x, y fail `check`.
        TypeError: The seed is not an integer, or x, y fail `check`.

    >>> y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> kept, held = split((np.arange(8), y), 0.25)
    >>> sorted(held.y.tolist()), kept.x.shape
    ([0, 1], (6,))
    """
    part = Examples(*examples)
    check(part.x, part.y, name="split")
    rows = row_count(part)
    a_fraction(fraction, "split.fraction", "write split((x, y), 0.2) to hold out a fifth")
    seed = operator.index(seed)
    digests = [hashlib.sha256(f"{seed}/{row}".encode()).digest() for row in range(rows)]
    order = np.array(sorted(range(rows), key=digests.__getitem__))
    held = np.zeros(rows, bool)
    for members in _classes(part.y, order):
        held[members[: round(fraction * len(members))]] = True
    if held.all() or not held.any():
        raise ValueError(
            f"split: fraction {fraction} of {rows} rows, rounded in each class, holds out "
            f"{int(held.sum())}, expected at least one row on either side; write another fraction"
        )
    kept, held = (jax.tree.map(lambda a, at=order[at]: a[at], part) for at in (~held, held))
    return kept, held


def _classes(y: Any, order: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each class's rows, in order."""
    if not jax.tree_util.all_leaves([y]) or not np.issubdtype(y.dtype, np.integer):
        return [np.arange(len(order))]
    if y.ndim != 1:
        raise ValueError(
            f"split.y must hold one label for each row, ({len(y)},), got integers of shape "
            f"{y.shape}; write split((x, y.astype(np.float32)), fraction) to split regardless of y"
        )
    y = np.asarray(y)[order]
    return [np.flatnonzero(y == label) for label in np.unique(y)]

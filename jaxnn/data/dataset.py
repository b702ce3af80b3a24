"""A data set as a value: three parts of paired arrays, and what there is to know about them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.data.check import check
from jaxnn.data.rows import check_rows, leaves_by_path, row_count


class Examples(NamedTuple):
    """Inputs and targets, row by row: unpacks as `x, y`, and is a pytree.

    Args:
        x: inputs, (rows, ...); or any pytree of such arrays.
        y: targets, (rows, ...): integers for classes, floats for regression; or a pytree.

    >>> x, y = Examples(np.zeros((4, 2), np.float32), np.arange(4))
    >>> x.shape, y.shape
    ((4, 2), (4,))
    """

    x: Any
    y: Any


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Examples to train on, to choose by, and to report once.

    Args:
        name: what errors and logs call it.
        train: what parameters are fitted to, and statistics are taken from.
        validation: what configurations are compared on.
        test: what the chosen configuration is reported on.
        class_names: by label 0, 1, ...; empty for regression.
        feature_names: by column of x; empty for images.
        target_name: what regression targets are, for pictures; empty for labels.
        image_shape: (height, width) if a row of x is an image, read row by row from the top left.
        source: who made the data.
        licence: the terms of the package that carries it.

    Raises:
        ValueError, TypeError: a part fails `check`, or `check_rows` if x or y is not one array.

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
        """Refuse parts that cannot be trained on."""
        for part in ("train", "validation", "test"):
            x, y = getattr(self, part)
            classes, name = len(self.class_names) or None, f"{self.name}.{part}"
            if jax.tree_util.all_leaves([x, y]):
                write = "class_names of {} classes"
                check(x, y, classes=classes, ignore=-100, name=name, write=write)
            else:
                check_rows(Examples(x, y), name)

    def __repr__(self) -> str:
        """Sizes and shapes on one line, no numbers."""
        sizes = ", ".join(
            f"{part} {row_count(getattr(self, part))}" for part in ("train", "validation", "test")
        )
        leaves = leaves_by_path(self.train.x, "x").items()
        inputs = ", ".join(f"{path} {leaf.shape[1:]} {leaf.dtype}" for path, leaf in leaves)
        kind = f"{len(self.class_names)} classes" if self.class_names else "regression"
        return f"Dataset({self.name!r}: {sizes}; {inputs}, {kind})"

    @property
    def train_and_validation(self) -> Examples:
        """The rows of `train`, then those of `validation`: for the last fit, once all is chosen.

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
        """The data set with one function applied to the inputs, or the targets, of every part.

        Args:
            x, y: a function of a whole part's array, (rows, ...) to (rows, ...); None for as is.

        Raises:
            ValueError: a function changes the number of rows.

        >>> part = Examples(np.ones((4, 6), np.float32), np.zeros(4, np.float32))
        >>> toy = Dataset("toy", part, part, part)
        >>> toy.map(x=lambda x: x.reshape(-1, 2, 3)).test.x.shape
        (4, 2, 3)
        """

        def mapped(part: Examples) -> Examples:
            return Examples(x(part.x) if x else part.x, y(part.y) if y else part.y)

        return replace(
            self,
            train=mapped(self.train),
            validation=mapped(self.validation),
            test=mapped(self.test),
        )

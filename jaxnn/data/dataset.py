"""Data sets and texts: three parts of examples or tokens, and the split of rows.

The split depends on SHA-256, not on a random generator, so it is the same on every machine.
"""

import dataclasses
import hashlib
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..validation import check_shape, integer
from ..validation import fraction as a_fraction
from .check import check
from .rows import leaves_by_path, row_count


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
        train: Examples for fitting parameters and computing statistics. Each of the three parts may
            also be given as a pair (x, y), which is converted.
        validation: Examples for comparing configurations.
        test: Examples for the final evaluation of the chosen configuration.
        class_names: Names by label 0, 1, ... Default: (), for regression.
        feature_names: Names by column of x. Default: ().
        target_name: Name of regression targets, for plots. Default: "".
        image_shape: (height, width) if a row of x is an image, read row by row from the top left.
            Default: None.
        source: Who made the data. Default: "".
        license: Terms of the package that contains it. Default: "".

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
    license: str = ""

    def __post_init__(self) -> None:
        """Raise if a part cannot be trained on."""
        write = "class_names of {} classes"
        for part, (x, y) in self._parts().items():
            classes, name = len(self.class_names) or None, f"{self.name}.{part}"
            check(x, y, classes=classes, ignore=-100, name=name, write=write)
            object.__setattr__(self, part, Examples(x, y))

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

    Rows are ordered by the SHA-256 of the text "seed/row", as in `printf 0/17 | sha256sum`. The
    first round(fraction * rows of that class) rows of each class are held out (halves round to
    even); if targets are floats, all rows count as one class. Both results keep this order, so
    their first n rows are also a random sample.

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
    regardless = "write split((x, y.astype(np.float32)), fraction) to split regardless of y"
    check_shape(y, y.shape[:1], "split.y, one label for each row,", regardless)
    y = np.asarray(y)[order]
    return [np.flatnonzero(y == label) for label in np.unique(y)]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Text:
    """A text data set: training, validation, and test tokens for a language model.

    Args:
        name: Name of the data set in errors and logs.
        train: Training tokens, int32 (tokens,), with values in 0 .. len(vocabulary) - 1.
        validation: Tokens for comparing configurations, in the same format.
        test: Tokens for the final evaluation, in the same format.
        vocabulary: The symbol of each token, a single character.
        source: Who wrote the text. Default: "".
        license: Terms of the package that contains it. Default: "".

    >>> tokens = np.array([0, 1, 0, 1, 1], np.int32)
    >>> text = Text("toy", tokens, tokens, tokens, vocabulary=("a", "b"))
    >>> text, text.decode(text.train)
    (Text('toy': train 5, validation 5, test 5; 2 symbols), 'ababb')
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    source: str = ""
    license: str = ""

    def __repr__(self) -> str:
        """Return sizes on one line, no tokens."""
        sizes = ", ".join(
            f"{part} {len(getattr(self, part))}" for part in ("train", "validation", "test")
        )
        return f"Text({self.name!r}: {sizes}; {len(self.vocabulary)} symbols)"

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, as `encode` does.

        Args:
            text: Characters of the vocabulary.
        """
        return encode(text, self.vocabulary)

    def decode(self, tokens: Any) -> str:
        """Return the text of tokens, as `decode` does.

        Args:
            tokens: Integers, (n,).
        """
        return decode(tokens, self.vocabulary)

    def windows(self, length: int) -> Dataset:
        """Return consecutive pieces of `length` tokens, with the next token at each position.

        x is int32 (rows, length), and y is shifted by one token, so that y[i, t] follows x[i, t].
        Tokens at the end that do not fill a piece are left out. `class_names` is the vocabulary.

        Args:
            length: Number of tokens of a piece. ValueError if a part is shorter than one piece.

        >>> tokens = np.array([0, 1, 0, 1, 1], np.int32)
        >>> dataset = Text("toy", tokens, tokens, tokens, vocabulary=("a", "b")).windows(2)
        >>> dataset.train.x.tolist(), dataset.train.y.tolist()
        ([[0, 1], [0, 1]], [[1, 0], [1, 1]])
        """
        parts = (self.train, self.validation, self.test)
        shortest = min(map(len, parts))
        integer(1, shortest - 1)(
            length, f"the length of the windows of {self.name}", f"a part has {shortest} tokens"
        )

        def cut(tokens: np.ndarray) -> Examples:
            rows = (len(tokens) - 1) // length
            x, y = tokens[: rows * length], tokens[1 : rows * length + 1]
            return Examples(x.reshape(rows, length), y.reshape(rows, length))

        return Dataset(
            self.name,
            *map(cut, parts),
            class_names=self.vocabulary,
            source=self.source,
            license=self.license,
        )


def encode(text: str, vocabulary: tuple[str, ...]) -> np.ndarray:
    """Return the tokens of the characters of a text, int32 (characters,).

    Args:
        text: The text.
        vocabulary: The character of each token.

    Raises:
        ValueError: A character is not in the vocabulary.

    >>> encode("abba", ("a", "b")).tolist()
    [0, 1, 1, 0]
    """
    codes, known = _codes(text), _codes("".join(vocabulary))
    table = np.full(max(codes.max(initial=0), known.max(initial=0)) + 1, -1, np.int32)
    table[known] = np.arange(len(known))
    tokens = table[codes]
    if (tokens < 0).any():
        place = int(np.argmax(tokens < 0))
        raise ValueError(
            f"the text has the character {text[place]!r} at {place}, which is not one of the "
            f"{len(vocabulary)} of the vocabulary: {''.join(vocabulary)!r}"
        )
    return tokens


def read_text(path: str | os.PathLike[str]) -> Text:
    """Return the text of a file as tokens of characters.

    The symbols are the characters of the file in order of their Unicode code points. The first 70 %
    of the characters are for training, the next 10 % for validation, and the last 20 % for the
    test.

    Args:
        path: A text file in UTF-8, with at least 10 characters.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not UTF-8, or it is too short.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8 ({error}); convert it, for example with iconv -f LATIN1 "
            "-t UTF-8"
        ) from error
    integer(10)(len(text), f"the number of characters of {path}")
    return split_text(text, tuple(sorted(set(text))), name=path.stem)


def split_text(
    text: str, vocabulary: tuple[str, ...], *, name: str, source: str = "", license: str = ""
) -> Text:
    """Split a text into 70 % for training, 10 % for validation, and 20 % for the test, in order.

    Args:
        text: The whole text.
        vocabulary: The character of each token; ValueError if a character of the text is missing.
        name: Name of the data set in errors and logs.
        source: Who wrote the text. Default: "".
        license: Terms of the package that contains it. Default: "".

    >>> split_text("abbaabbaab", ("a", "b"), name="toy")
    Text('toy': train 7, validation 1, test 2; 2 symbols)
    """
    tokens = encode(text, vocabulary)
    tokens.setflags(write=False)  # jnp.asarray may share the memory
    cuts = [round(0.7 * len(tokens)), round(0.8 * len(tokens))]
    train, validation, test = np.split(tokens, cuts)
    return Text(name, train, validation, test, vocabulary, source, license)


def _codes(text: str) -> np.ndarray:
    """Return the number of each character in Unicode."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def decode(tokens: Any, vocabulary: tuple[str, ...]) -> str:
    """Return the text of tokens.

    Args:
        tokens: Integers in 0 .. len(vocabulary) - 1, (n,); ValueError for others.
        vocabulary: The character of each token.

    >>> decode(np.array([0, 1, 1, 0]), ("a", "b"))
    'abba'
    """
    tokens = np.asarray(tokens)
    known = np.issubdtype(tokens.dtype, np.integer) & (tokens >= 0) & (tokens < len(vocabulary))
    if tokens.ndim != 1 or not known.all():
        wrong = f"{tokens[~known][0]!r} among them" if tokens.ndim == 1 else f"{tokens.ndim} axes"
        raise ValueError(
            f"tokens must be integers (n,) in 0 .. {len(vocabulary) - 1}, got {wrong}; write "
            "decode(tokens[0]) for the first row"
        )
    return "".join(vocabulary[token] for token in tokens)

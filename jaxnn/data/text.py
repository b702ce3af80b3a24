"""A text as a value: three parts of tokens, and the symbol of each token."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.dataset import Dataset, Examples
from jaxnn.validation import integer


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
        licence: Terms of the package that contains it. Default: "".

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
    licence: str = ""

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
        """Return consecutive pieces of `length` tokens, with the next token of each token.

        x is int32 (rows, length), and y is shifted by one token, so that y[i, t] follows x[i, t].
        Tokens that do not fill a last piece are left out. `class_names` is the vocabulary.

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
            licence=self.licence,
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

    The symbols are the characters of the file in order of their Unicode numbers. The first 70 % of
    the characters are for training, the next 10 % for validation, and the last 20 % for the test.

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
    text: str, vocabulary: tuple[str, ...], *, name: str, source: str = "", licence: str = ""
) -> Text:
    """Split a text into 70 % for training, 10 % for validation, and 20 % for the test, in order.

    Args:
        text: The whole text.
        vocabulary: The character of each token; ValueError if one of the text is missing.
        name: Name of the data set in errors and logs.
        source: Who wrote the text. Default: "".
        licence: Terms of the package that contains it. Default: "".

    >>> split_text("abbaabbaab", ("a", "b"), name="toy")
    Text('toy': train 7, validation 1, test 2; 2 symbols)
    """
    tokens = encode(text, vocabulary)
    tokens.setflags(write=False)  # jnp.asarray may share the memory
    cuts = [round(0.7 * len(tokens)), round(0.8 * len(tokens))]
    train, validation, test = np.split(tokens, cuts)
    return Text(name, train, validation, test, vocabulary, source, licence)


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

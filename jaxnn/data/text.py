"""A text as a value: three parts of tokens, and the symbols that the tokens stand for."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.dataset import Dataset, Examples


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Text:
    """Tokens to learn a language from, to choose by, and to report once.

    Args:
        name: what errors and logs call it.
        train, validation, test: int32 (tokens,), each a number in 0 .. len(vocabulary) - 1.
        vocabulary: the symbol of each token; here single characters.
        source: who wrote the text.
        licence: the terms of the package that carries it.

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
        """Sizes on one line, no tokens."""
        sizes = ", ".join(
            f"{part} {len(getattr(self, part))}" for part in ("train", "validation", "test")
        )
        return f"Text({self.name!r}: {sizes}; {len(self.vocabulary)} symbols)"

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int32 (characters,).

        Raises ValueError for a character that is not in the vocabulary.
        """
        return encode(text, self.vocabulary)

    def decode(self, tokens: Any) -> str:
        """The text of tokens (n,); ValueError for a token that is none of the vocabulary."""
        return decode(tokens, self.vocabulary)

    def windows(self, length: int) -> Dataset:
        """Pieces of `length` tokens that follow each other, each with the token after each.

        x is int32 (rows, length), and y the same one token further on, so that y[i, t] follows
        x[i, : t + 1]. What does not fill a last piece is left out. `class_names` is the vocabulary.

        Raises ValueError for a length that leaves a part without any piece.

        >>> tokens = np.array([0, 1, 0, 1, 1], np.int32)
        >>> dataset = Text("toy", tokens, tokens, tokens, vocabulary=("a", "b")).windows(2)
        >>> dataset.train.x.tolist(), dataset.train.y.tolist()
        ([[0, 1], [0, 1]], [[1, 0], [1, 1]])
        """
        shortest = min(len(part) for part in (self.train, self.validation, self.test))
        if not 1 <= length < shortest:
            raise ValueError(
                f"{self.name}: windows of {length} tokens, wanted 1 .. {shortest - 1}, as the "
                f"shortest part has {shortest} tokens: write text.windows(128)"
            )

        def cut(tokens: np.ndarray) -> Examples:
            rows = (len(tokens) - 1) // length
            x, y = tokens[: rows * length], tokens[1 : rows * length + 1]
            return Examples(x.reshape(rows, length), y.reshape(rows, length))

        return Dataset(
            self.name,
            cut(self.train),
            cut(self.validation),
            cut(self.test),
            class_names=self.vocabulary,
            source=self.source,
            licence=self.licence,
        )


def encode(text: str, vocabulary: tuple[str, ...]) -> np.ndarray:
    """The tokens of the characters of a text, int32 (characters,), by a vocabulary of characters.

    Raises ValueError for a character that is not in the vocabulary, with its place.

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
            f"the character {text[place]!r} at {place} of the text is none of the "
            f"{len(vocabulary)} of the vocabulary: {''.join(vocabulary)!r}"
        )
    return tokens


def read_text(path: str | os.PathLike[str]) -> Text:
    """The text of a file, character by character, to learn a language from.

    The symbols are the characters of the file in order of their Unicode numbers. The first 70 % of
    the characters are for training, the next 10 % for validation, and the last 20 % for the test.

    Args:
        path: a text file in UTF-8, with at least 10 characters.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or it is too short.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error}): convert it, for example with iconv -f LATIN1 "
            "-t UTF-8"
        ) from error
    if len(text) < 10:
        raise ValueError(f"{path} has {len(text)} characters, expected at least 10")
    return split_text(text, tuple(sorted(set(text))), name=path.stem)


def split_text(
    text: str, vocabulary: tuple[str, ...], *, name: str, source: str = "", licence: str = ""
) -> Text:
    """A text cut into 70 % for training, 10 % for validation, and 20 % for the test, in order.

    Args:
        text: the whole text.
        vocabulary: the symbols; each character of the text is one of them.
        name, source, licence: as in `Text`.

    Raises ValueError for a character that is not in the vocabulary.

    >>> split_text("abbaabbaab", ("a", "b"), name="toy")
    Text('toy': train 7, validation 1, test 2; 2 symbols)
    """
    tokens = encode(text, vocabulary)
    tokens.setflags(write=False)  # jnp.asarray may share the memory
    cuts = [round(0.7 * len(tokens)), round(0.8 * len(tokens))]
    train, validation, test = np.split(tokens, cuts)
    return Text(name, train, validation, test, vocabulary, source, licence)


def _codes(text: str) -> np.ndarray:
    """The number of each character in Unicode."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def decode(tokens: Any, vocabulary: tuple[str, ...]) -> str:
    """The text of tokens (n,), by a vocabulary; ValueError for a token that is none of it.

    >>> decode(np.array([0, 1, 1, 0]), ("a", "b"))
    'abba'
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"decode wants integers (n,), got {tokens.dtype} {tokens.shape}: write "
            "decode(tokens[0]) for the first row"
        )
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < len(vocabulary):
        wrong = int(np.argmax((tokens < 0) | (tokens >= len(vocabulary))))
        raise ValueError(
            f"token {tokens[wrong]} at {wrong} is none of the {len(vocabulary)} of the vocabulary"
        )
    return "".join(vocabulary[token] for token in tokens)

"""Dimensions of a sweep on the command line, `--sweep NAME=VALUES`.

    --sweep model.width=32,64 --sweep optimizer.learning_rate=log:1e-4:1e-1

The text is parsed by the types of the field, and never evaluated.
"""

import functools
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..experiment.configuration import class_name, from_plain, is_class, members_of
from ..explain.text import check_known
from ..sweep import Choice, Grid, Int, LogNormal, LogUniform, Normal, Uniform, When
from ..sweep.swept import a_value, kinds_at, paths_of
from ..validation import Accepts, one_of

GRAMMAR = """\
    --sweep model.width=32,64,128                   one of these options
    --sweep model.activation=relu*3,tanh            relu three times as often
    --sweep "model.sizes=(64,),(64,32)"             tuples
    --sweep "name='a,b','*'"                        quoted text
    --sweep model.dropout=uniform:0:0.5             a number from 0 to 0.5
    --sweep model.width=uniform:32:256:32           with a step of 32
    --sweep optimizer.learning_rate=log:1e-4:1e-1   uniform in the logarithm
    --sweep optimizer.learning_rate=grid:0.1,1      ordered numbers
    --sweep temperature=normal:1:0.2                mean, standard deviation
    --sweep optimizer.learning_rate=lognormal:-7:1  those of the logarithm
    --sweep optimizer=SGD,AdamW                     classes, and a field of one:
    --sweep optimizer:adamw.weight_decay=log:1e-6:1e-2
    --sweep "model.dropout=uniform:0:0.5 if model.depth=2,3"   if it is so deep"""

PART = r"""(?:'[^']*'|"[^"]*"|\([^()]*(?:\([^()]*\)[^()]*)*\)|[^,'"()])+"""

an_assignment: Accepts = a_value.such(what="NAME=VALUES")
two: Accepts = Accepts("two numbers", lambda found: len(found) == 2)
two_or_three: Accepts = Accepts("two or three numbers", lambda found: len(found) in (2, 3))
some: Accepts = Accepts("numbers", bool)
parts_of: Accepts = Accepts(
    "options between commas, with balanced parentheses and quotes",
    lambda text: ",".join(re.findall(PART, text)) == text.rstrip(","),
)


def swept_paths(config: type, texts: Sequence[str]) -> dict[str, Any]:
    """Return the paths of a `Space` that the texts `NAME=VALUES` describe.

    Args:
        config: The class of the configuration.
        texts: The arguments of `--sweep`.

    Raises:
        ValueError: A text does not follow the grammar, or does not fit the field.

    >>> from jaxnn.experiment import SGD
    >>> swept_paths(SGD, ["learning_rate=log:1e-3:1", "momentum=0.5,0.9"])
    {'learning_rate': LogUniform(low=0.001, high=1.0), 'momentum': Choice(0.5, 0.9)}
    """
    named: dict[str, Any] = {}
    for text in texts:
        try:
            name, swept = _swept(config, text)
            if name in named:
                raise ValueError(f"{name} is swept twice")
            named[name] = swept
        except ValueError as error:
            raise ValueError(f"--sweep {text}: {error}\n\nThe forms are\n\n{GRAMMAR}") from None
    return paths_of(config, named)


def _swept(config: type, text: str) -> tuple[str, Any]:
    """Return the name and the dimension of `NAME=VALUES [if NAME=VALUES]`."""
    first, *conditions = re.split(r"\s+if\s+", text.strip())
    (name, swept), *others = (_one(config, part) for part in (first, *conditions))
    for other, among in reversed(others):
        swept = When(other, among, swept)
    return name, swept


def _one(config: type, text: str) -> tuple[str, Any]:
    """Return the name and the dimension of `NAME=VALUES`."""
    name, _, values = map(str.strip, an_assignment(text, "what to sweep").partition("="))
    kinds = members_of(_kinds(config, name, name))
    form, colon, numbers = values.partition(":")
    if colon and form in FORMS:
        separator, count, make = FORMS[form]
        found = [_number(one) for one in numbers.split(separator)]
        count(found, f"the arguments of {form}")
        whole = int in kinds and float not in kinds and all(isinstance(n, int) for n in found)
        return name, make(whole, *found)
    options, weights = [], []
    for part in _parts(values):
        option, star, weight = part.rpartition("*")
        weighted = star and re.fullmatch(r"[\d.]+(e[+-]?\d+)?", weight.strip())
        options.append(_option(kinds, option if weighted else part, name))
        weights.append(_number(weight) if weighted else 1)
    return name, Choice(*options, weights=weights if set(weights) != {1} else None)


def _range(whole: bool, low: Any, high: Any, step: Any = None, log: bool = False) -> Any:
    if whole:
        return Int(low, high, log, 1 if step is None else step)
    if not log:
        return Uniform(low, high, step)
    one_of(None)(step, "the step of log", "only whole numbers have one")
    return LogUniform(low, high)


# The separator of the arguments of each form, their number, and the dimension.
FORMS: dict[str, tuple[str, Accepts, Callable[..., Any]]] = {
    "uniform": (":", two_or_three, _range),
    "log": (":", two_or_three, functools.partial(_range, log=True)),
    "normal": (":", two, lambda _, mean, std: Normal(mean, std)),
    "lognormal": (":", two, lambda _, mean, std: LogNormal(mean, std)),
    "grid": (",", some, lambda _, *numbers: Grid(*numbers)),
}


def _kinds(owner: type, name: str, whole: str) -> list[Any]:
    """Return the types of the field that a name such as `optimizer:adamw.rate` refers to."""
    field, colon, rest = name.partition(":")
    kinds = kinds_at(owner, field, whole)
    if not colon:
        return kinds
    option, _, path = rest.partition(".")
    classes = {class_name(one).lower(): one for one in members_of(kinds) if is_class(one)}
    check_known(option, classes, f"{field} has no class {option!r} with something to sweep")
    return _kinds(classes[option], path, whole)


def _number(text: str) -> int | float:
    """Return a number, an int if it is written as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not a number")


def _parts(text: str) -> Iterator[str]:
    """Yield the parts between commas that are neither in parentheses nor in quotes."""
    parts_of(text, "the values")
    yield from map(str.strip, re.findall(PART, text))


def _option(kinds: Sequence[Any], text: str, name: str) -> Any:
    """Return the first value that one of some types accepts for a text."""
    classes = [class_name(kind) for kind in kinds if is_class(kind)]
    if text in classes and set(classes) != {"None"}:
        return text
    for kind in kinds:
        if typing.get_origin(kind) is tuple and text.startswith("(") and text.endswith(")"):
            parts, items = (
                [*_parts(text[1:-1])] if text[1:-1].strip() else [],
                typing.get_args(kind),
            )
            items = items[:1] * len(parts) if items[-1:] == (Ellipsis,) else items
            if len(items) == len(parts):
                pairs = zip(items, parts, strict=True)
                return tuple(_option(members_of([item]), part, name) for item, part in pairs)
        for plain in _readings(text):
            try:
                return from_plain(kind, plain)
            except ValueError:
                continue
    names = " or ".join([class_name(kind) for kind in kinds])
    raise ValueError(f"{text!r} is not a value of {name}, which is {names}")


def _readings(text: str) -> Iterator[Any]:
    """Yield what a word may mean, the most specific first."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        yield text[1:-1]
        return
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        yield words[text.lower()]
    for kind in (int, float):
        try:
            yield kind(text)
        except ValueError:
            continue
    yield text

"""Predicting from a run folder: its configuration builds the network, its file fills it."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import train
from ..explain.text import suggestion
from ..files.plain import quoted
from ..files.reading import FileError, check_regular, printable, read_bytes, read_json
from .configuration import from_plain
from .experiment import AnyRecipe
from .problem import Problem
from .program import Program, Recipe
from .run import SCHEMA, Watching, scores_of, scores_text
from .scores import language_scores

LARGEST = 2**30  # bytes of a file with inputs
FIELDS = {"schema", "experiment", "config", "watching", "sources", "forced"}
# How many of the test examples are printed one by one.
SHOWN = 10


def load_config(recipe: AnyRecipe, folder: Path) -> Any:
    """The configuration of a run, equal to the one it had.

    Raises ValueError for a folder of another experiment, and for fields that are unknown, missing
    or of another type; FileNotFoundError where there is no such run.
    """
    file = folder / "config.json"
    if not file.is_file():
        runs = [one.parent.name for one in folder.parent.glob("*/config.json") if one.is_file()]
        hint = suggestion(folder.name, runs) if runs else "train first, which makes one"
        raise FileNotFoundError(f"{folder} is not a run folder: it has no file config.json; {hint}")
    plain = read_json(file)
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise FileError(
            f"{file} is not a configuration of schema {SCHEMA}, which this version reads"
        )
    if unknown := plain.keys() - FIELDS:
        first = min(unknown)
        raise FileError(f"{file} has the unknown field {first!r:.80}; {suggestion(first, FIELDS)}")
    if plain.get("experiment") != recipe.name:
        other = plain.get("experiment")
        if not isinstance(other, str) or not re.fullmatch(r"\w{1,100}", other):
            raise FileError(f"{file} is of the experiment {other!r:.80}, not of {recipe.name}")
        raise FileError(
            f"{folder} is a run of {other}, not of {recipe.name}: write "
            f"python -m experiments.{other} predict {quoted(folder)}"
        )
    return _valued(recipe.config, plain.get("config"), f"{file}: config")


def _valued(kind: Any, plain: Any, where: str) -> Any:
    try:
        return from_plain(kind, plain, where)
    except ValueError as error:
        raise FileError(str(error)) from error


def load_watched(recipe: AnyRecipe, folder: Path) -> tuple[Any, Watching]:
    """The configuration of a run that stopped, and how it is watched.

    Raises FileExistsError for one that is finished, and what `load_config` raises.
    """
    config = load_config(recipe, folder)
    if (folder / "result.json").exists():
        raise FileExistsError(
            f"{folder} is finished: write predict {quoted(folder)}, or begin a run in "
            "another folder"
        )
    file = folder / "config.json"
    return config, _valued(Watching, read_json(file).get("watching"), f"{file}: watching")


def load_run(recipe: Recipe[Any], folder: Path) -> tuple[Problem, Program, train.Weights]:
    """What was learned, how, and the weights; raises as `load_config` and `load_weights` do."""
    config = load_config(recipe, folder)
    if not (folder / "weights.safetensors").exists() and (folder / "checkpoints").is_dir():
        raise ValueError(
            f"{folder} is a run that is not finished: write resume {quoted(folder)} first"
        )
    problem = recipe.problem()
    try:
        program = recipe.build(config, problem)
    except (ValueError, TypeError, MemoryError) as error:
        raise FileError(
            f"{folder / 'config.json'}: no network can be built from it: "
            f"{error or type(error).__name__}"
        ) from error
    x = problem.data.train.x
    example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    return (
        problem,
        program,
        train.load_weights(folder / "weights.safetensors", program.net, example),
    )


def predict(recipe: Recipe[Any], folder: Path, file: Path | None) -> None:
    """Print predictions of a saved run: of the test examples, or of the rows of a file.

    Raises ValueError or OSError for a folder or file that does not fit, with what would.
    """
    problem, program, weights = load_run(recipe, folder)
    if file is not None:
        x = read_inputs(file, problem)
        table(problem, problem.predict(program.net, weights, x), None)
        return
    x, y = problem.data.test
    predictions = problem.predict(program.net, weights, x)
    scores = scores_text(scores_of(problem, predictions, y))
    print(f"{folder} on {len(y):,} test examples: {scores}\n\nThe first of them:\n")
    table(problem, predictions[:SHOWN], y[:SHOWN])


def table(problem: Problem, predictions: np.ndarray, y: np.ndarray | None) -> None:
    """Print a row an example: its number, the truth where it is known, and the prediction."""
    names = problem.class_names
    numbers = [str(row) for row in range(len(predictions))]
    columns = {"row": numbers}
    if problem.task.classes is None:
        if y is not None:
            columns["true"] = [f"{number:.1f}" for number in y]
        columns["predicted"] = [f"{number:.1f}" for number in predictions]
    elif isinstance(problem.task, train.NextToken):
        if y is not None:
            scores = [language_scores(y[[row]], predictions[[row]]) for row in range(len(y))]
            columns["bits"] = [f"{one['bits']:.3f}" for one in scores]
            columns["accuracy"] = [f"{one['accuracy']:.3f}" for one in scores]
        last = predictions[:, -1]
        columns["next"] = [repr(names[token]) for token in last.argmax(1)]
        columns["probability"] = [f"{share:.3f}" for share in last.max(1)]
    else:
        if y is not None:
            columns["true"] = [names[label] for label in y]
        columns["predicted"] = [names[label] for label in predictions.argmax(1)]
        columns["probability"] = [f"{share:.3f}" for share in predictions.max(1)]
    columns = {title: [printable(cell, 60) for cell in cells] for title, cells in columns.items()}
    widths = {title: max(map(len, (title, *cells))) for title, cells in columns.items()}
    print("  ".join(title.rjust(widths[title]) for title in columns))
    for cells in zip(*columns.values(), strict=True):
        print("  ".join(c.rjust(w) for c, w in zip(cells, widths.values(), strict=True)))


def read_inputs(file: Path, problem: Problem) -> np.ndarray:
    """Inputs from a `.npy` or `.csv` file, in the data set's units: (rows, ...) float32.

    A csv file has a row an example and may have one line of titles; rows of images may have the
    shape of an image or be flat; one example alone may leave out the axis of rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, another shape, or numbers that the data set cannot hold.
    """
    x = read_table(file)
    row = problem.data.train.x.shape[1:]
    image = problem.data.image_shape
    if image is not None and x.shape[-len(image) :] == image:
        x = x.reshape(*x.shape[: -len(image)], *row)
    if x.shape == row:
        x = x[None]
    if x.shape[1:] != row or not len(x):
        wanted = f"(rows, {', '.join(map(str, row))})"
        if image is not None:
            wanted += f" or (rows, {', '.join(map(str, image))})"
        raise FileError(f"{file} holds numbers of shape {x.shape}, wanted {wanted}")
    if not np.isfinite(x).all():
        bad = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(1)))
        raise FileError(f"{file} holds NaN or infinity in row {bad}: leave it out, or fill it in")
    if np.issubdtype(problem.data.train.x.dtype, np.integer):
        return _tokens(file, x, problem)
    low, high = problem.data.train.x.min(), problem.data.train.x.max()
    if image is not None and (x.min() < low or x.max() > high):
        raise FileError(
            f"{file} holds numbers from {x.min():g} to {x.max():g}, wanted {low:g} to {high:g} as "
            f"in {problem.data.name}: divide gray levels of 0 to 255 by 255"
        )
    return x


def _tokens(file: Path, x: np.ndarray, problem: Problem) -> np.ndarray:
    most = len(problem.class_names) - 1
    if (x != np.round(x)).any() or x.min() < 0 or x.max() > most:
        raise FileError(
            f"{file} holds numbers that are no tokens, wanted whole numbers in 0 .. {most}"
        )
    return x.astype(problem.data.train.x.dtype)


def read_table(file: Path) -> np.ndarray:
    """The numbers in a `.npy` or `.csv` file."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.suffix not in (".npy", ".csv"):
        raise ValueError(f"{file} is neither .npy nor .csv: write np.save('inputs.npy', x)")
    if check_regular(file) > LARGEST:
        raise FileError(f"{file} has more than {LARGEST:,} bytes: predict from parts of it")
    try:
        if file.suffix == ".npy":
            # The shape is compared with the size of the file before anything is read.
            table = np.lib.format.open_memmap(file, mode="r")
            if table.dtype.kind not in "fiub":
                raise ValueError(f"its dtype is {table.dtype}")
            return np.array(table, np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is refused by its shape
            text = read_bytes(file, LARGEST).decode()
            first = text.split("\n", 1)[0]
            return np.loadtxt(
                io.StringIO(text),
                np.float32,
                delimiter=",",
                ndmin=2,
                skiprows=int(not _numbers(first)),
            )
    except Exception as error:  # numpy raises many kinds on a damaged file
        raise FileError(f"{file} holds no table of numbers: {error!s:.200}") from None


def _numbers(line: str) -> bool:
    try:
        [float(cell) for cell in line.split(",")]
    except ValueError:
        return False
    return True

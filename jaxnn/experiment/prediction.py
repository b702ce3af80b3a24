"""Predicting from a run folder: its configuration builds the program, its files hold the state."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import train
from ..data import Dataset
from ..files.plain import quoted
from ..files.reading import FileError, check_regular, printable, read_bytes
from ..train.weights import packed
from .config_file import CHECKPOINTS, RESULT, RunOptions, load_config
from .experiment import Configured, Experiment, TrainedRun, configured

LARGEST = 2**30  # bytes of a file with inputs
SHOWN = 10  # rows that are printed
WEIGHTS = "weights.safetensors"


def load_run(experiment: Experiment[Any], folder: str | Path) -> TrainedRun:
    """A finished run: its configuration, data, program, and final state.

    Of a `train.Minimize`, the state holds the parameters that it evaluates and predicts with, and
    no state of the optimizer.

    Args:
        experiment: the experiment.
        folder: the run folder.

    Raises:
        ValueError: a folder of another experiment or of a run that is not finished, or files that
            are damaged.
        FileNotFoundError: the run does not exist.
    """
    one, state = _restored(experiment, Path(folder))
    return TrainedRun(one.config, one.data.data, one.program, state)


def _restored(experiment: Experiment[Any], folder: Path) -> tuple[Configured, Any]:
    config = load_config(experiment, folder)
    if not (folder / RESULT).exists():
        raise ValueError(
            f"{folder} is a run that is not finished: write resume {quoted(folder)} first"
        )
    try:
        one = configured(experiment, config)
    except (ValueError, TypeError, MemoryError) as error:
        raise FileError(
            f"{folder}: no program can be built from its configuration: "
            f"{error or type(error).__name__}"
        ) from error
    if one.network is not None:
        net, inputs, named = one.network
        weights = train.load_weights(folder / WEIGHTS, net, *inputs, **named)
        zero = jnp.zeros((), jnp.int32)
        words = jax.random.key_data(jax.random.key(one.seed))
        return one, train.TrainState(weights.params, weights.state, (), zero, words)
    if not has_checkpoints(folder):
        raise FileError(f"{folder} has no checkpoint; restore {CHECKPOINTS} from a copy")
    # The run is over, so it only restores its state.
    hooks = [checkpoints(one, folder, RunOptions(), force=True)]
    return one, one.fit(hooks=hooks, progress=False)[0]


def pack(one: Configured, state: Any) -> bytes | None:
    """The contents of the weights file of a `train.Minimize`; None for another program."""
    if one.network is None:
        return None
    weights = train.Weights(train.evaluation_params(state), state.state)
    return packed(one.network[0], weights)


def checkpoints(
    one: Configured, folder: Path, options: RunOptions, force: bool
) -> train.Checkpoints:
    """The checkpoints of a run, which keep the final state if there is no weights file."""
    often = options.checkpoint
    return train.Checkpoints(
        str(folder / CHECKPOINTS),
        train.Every(steps=often.steps, epochs=often.epochs, minutes=often.minutes),
        keep=often.keep,
        at_end=one.network is None,
        force=force,
    )


def has_checkpoints(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return any(one.name.isdigit() for one in (folder / CHECKPOINTS).glob("*"))


def predicted(one: Configured, state: Any, inputs: Any) -> Any:
    """Predictions on the host; of a yes-or-no task, the probabilities of both (rows, 2)."""
    found = jax.tree.map(np.asarray, train.predict(one.program, state, inputs))
    if isinstance(one.task, train.BinaryClassification):
        return np.stack([1 - found, found], axis=-1)
    return found


def scores_of(one: Configured, state: Any, rows: Any) -> dict[str, float]:
    """The metrics of a state, the one that the experiment states first, and the loss last."""
    found = train.evaluate(one.program, state, rows)
    metric = one.experiment.ranked[0].removeprefix("validation_")
    return {name: found[name] for name in sorted(found, key=lambda n: (n == "loss", n != metric))}


def scores_text(scores: Mapping[str, float]) -> str:
    """Scores on one line.

    >>> scores_text({"accuracy": 0.931, "loss": 0.25})
    'accuracy 0.931, loss 0.25'
    """
    return ", ".join(f"{name} {number:.4g}" for name, number in scores.items())


def predict(experiment: Experiment[Any], folder: Path, file: Path | None) -> None:
    """Print the predictions of a finished run: of the test rows, or of the rows of a file.

    Raises ValueError or OSError for a folder or a file that does not fit.
    """
    one, state = _restored(experiment, folder)
    dataset = one.data.dataset
    if file is not None:
        inputs = read_inputs(file, dataset)
        try:
            predictions = predicted(one, state, inputs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from error
        table(one, predictions, None)
    elif dataset is None:
        raise ValueError(
            f"predictions need inputs; write predict {quoted(folder)} --input inputs.npy"
        )
    else:
        x, y = dataset.test
        scores = scores_text(scores_of(one, state, (x, y)))
        print(f"{folder} on {len(y):,} test rows: {scores}\n\nThe first of them:\n")
        few = jax.tree.map(lambda leaf: leaf[:SHOWN], (x, y))
        table(one, predicted(one, state, few[0]), few[1])


def table(one: Configured, predictions: Any, y: Any) -> None:
    """Print a line per row: its number, the target if it is known, and the prediction."""
    columns = {"row": [str(row) for row in range(len(jax.tree.leaves(predictions)[0]))]}
    columns |= _columns(one, predictions, y)
    columns = {title: [printable(cell, 60) for cell in cells] for title, cells in columns.items()}
    widths = {title: max(map(len, (title, *cells))) for title, cells in columns.items()}
    print("  ".join(title.rjust(widths[title]) for title in columns))
    for cells in zip(*columns.values(), strict=True):
        print("  ".join(c.rjust(w) for c, w in zip(cells, widths.values(), strict=True)))


def _columns(one: Configured, predictions: Any, y: Any) -> dict[str, list[str]]:
    """The columns that fit the task."""
    task, names = one.task, class_names(one)
    columns: dict[str, list[str]] = {}
    if isinstance(task, train.NextToken):
        if y is not None:
            columns["bits"] = [f"{row:.3f}" for row in np.nanmean(bits_of(predictions, y), -1)]
        last = predictions[:, -1]
        columns["next"] = [repr(names[token]) for token in last.argmax(1)]
        columns["probability"] = [f"{share:.3f}" for share in last.max(1)]
    elif is_of_classes(task, predictions):
        if y is not None and np.ndim(y) == 1:
            columns["true"] = [names[label] if label >= 0 else "" for label in y]
        columns["predicted"] = [names[label] for label in predictions.argmax(1)]
        columns["probability"] = [f"{share:.3f}" for share in predictions.max(1)]
    else:
        if y is not None:
            columns["true"] = _texts(y)
        columns["predicted"] = _texts(predictions)
    return columns


def _texts(tree: Any) -> list[str]:
    """Each row of a pytree as text."""

    def text(row: Any) -> str:
        return np.array2string(row, precision=4) if np.ndim(row) else f"{row:.4g}"

    rows = zip(*map(np.asarray, jax.tree.leaves(tree)), strict=True)
    return [", ".join(map(text, row)) for row in rows]


def is_of_classes(task: Any, predictions: Any) -> bool:
    """Whether predictions are a probability for each class, (rows, classes)."""
    return (
        isinstance(task, train.Classification | train.BinaryClassification)
        and predictions.ndim == 2
    )


def class_names(one: Configured) -> tuple[str, ...]:
    """The names of the classes by label; their numbers if the data set has no names."""
    found = one.data.dataset.class_names if one.data.dataset is not None else ()
    return found or tuple(map(str, range(getattr(one.task, "classes", None) or 0)))


def bits_of(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-log2 of the probability of each label y (...), NaN for labels that are ignored.

    Args:
        probabilities: (..., classes).
        y: integers (...).

    >>> bits_of(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, -100])).tolist()
    [2.0, nan]
    """
    found = np.take_along_axis(probabilities, np.maximum(y, 0)[..., None], -1)[..., 0]
    # Float32 rounds a probability below 1e-45 to 0, whose logarithm would hide all other rows.
    bits = -np.log2(np.maximum(found.astype(np.float64), np.finfo(np.float32).tiny))
    return np.where(y < 0, np.nan, bits)


def read_inputs(file: Path, dataset: Dataset | None) -> np.ndarray:
    """Inputs from a `.npy` or `.csv` file: float32, or integers if the data are.

    A csv file has a line per row, and may have a line of titles. Rows of images may be flat or have
    the shape of an image. The axis of rows may be left out for a single row.

    Args:
        file: the file.
        dataset: the data set, whose inputs are in the same units; None accepts any table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, another shape, or numbers that the data set cannot hold.
    """
    x = read_table(file)
    if dataset is None or not hasattr(dataset.train.x, "shape"):
        return x
    known = dataset.train.x
    row, image = known.shape[1:], dataset.image_shape
    if image is not None and x.shape[-len(image) :] == image:
        x = x.reshape(*x.shape[: -len(image)], *row)
    if x.shape == row:
        x = x[None]
    if x.shape[1:] != row or not len(x):
        wanted = f"(rows, {', '.join(map(str, row))})"
        if image is not None:
            wanted += f" or (rows, {', '.join(map(str, image))})"
        raise FileError(f"{file} holds numbers of shape {x.shape}, expected {wanted}")
    if not np.isfinite(x).all():
        bad = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(1)))
        raise FileError(f"{file} holds NaN or infinity in row {bad}; leave it out, or fill it in")
    if np.issubdtype(known.dtype, np.integer):
        most = int(known.max()) if not dataset.class_names else len(dataset.class_names) - 1
        if (x != np.round(x)).any() or x.min() < 0 or x.max() > most:
            raise FileError(
                f"{file} holds numbers that are not tokens, expected whole numbers in 0 .. {most}"
            )
        return x.astype(known.dtype)
    if image is not None and (x.min() < known.min() or x.max() > known.max()):
        raise FileError(
            f"{file} holds numbers from {x.min():g} to {x.max():g}, expected {known.min():g} to "
            f"{known.max():g} as in {dataset.name}; divide gray levels of 0 to 255 by 255"
        )
    return x


def read_table(file: Path) -> np.ndarray:
    """The numbers in a `.npy` or `.csv` file."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.suffix not in (".npy", ".csv"):
        raise ValueError(f"{file} is neither .npy nor .csv; write np.save('inputs.npy', x)")
    if check_regular(file) > LARGEST:
        raise FileError(f"{file} has more than {LARGEST:,} bytes; predict from parts of it")
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

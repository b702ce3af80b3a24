"""One run of an experiment: train, judge on the test examples, and write the run folder.

runs/mnist_mlp-20260131-142530/
    config.json             the resolved configuration, every default spelled out
    metrics.jsonl           a line an epoch
    result.json             scores on the test examples, seconds, versions, device
    weights.safetensors     parameters and state by path
    learning_curves.png     and the pictures that fit the task
"""

import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from .. import inspect, train
from ..train.loop import Record
from ..version import __version__
from . import configuration, pictures
from .folder import check_place, write_folder
from .problem import Problem
from .program import Program, Recipe
from .progress import shown
from .scores import classification_scores, language_scores, regression_scores

SCHEMA = 1
# Room for the pictures and texts of a run beside its weights.
ROOM = 2 * 2**20


def run(recipe: Recipe[Any], config: Any, folder: Path) -> dict[str, float]:
    """Train one configuration, print how it goes, and write `folder`; returns the test scores.

    Trains on the data set's training examples, reports on those for validation after each epoch,
    and looks at the test examples once, at the end.

    Raises:
        FileExistsError, OSError: the folder exists or cannot be written; told before the training
            where it can be known.
        ValueError: a configuration that cannot be trained, or a run that diverged.
    """
    problem = recipe.problem()
    program = recipe.build(config, problem)
    data = problem.scaled
    example = jax.ShapeDtypeStruct((1, *data.train.x.shape[1:]), data.train.x.dtype)
    check_place(folder, _weights_size(program, example) + ROOM)
    pictures.check_library()  # not after the training
    print(f"{recipe.name}: {data}\n\n{inspect.summary(program.net, example)}\n")
    began = time.perf_counter()
    with shown(program.epochs) as report:
        trained, history = program.fit(
            data.train,
            validation=data.validation,
            report=lambda record: report(problem.reported(record)),
        )
    seconds = time.perf_counter() - began
    predictions = problem.predict(program.net, trained, problem.data.test.x)
    scores = scores_of(problem, predictions, problem.data.test.y)
    print(f"\ntest: {scores_text(scores)} on {len(predictions):,} examples")
    more = {} if recipe.finish is None else recipe.finish(problem, program, trained)
    history = [problem.reported(record) for record in history]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    result = {
        "experiment": recipe.name,
        "test": scores,
        "test_examples": len(predictions),
        "parameters": parameters,
        "training_seconds": round(seconds, 2),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    files = {
        "config.json": _json(
            {
                "schema": SCHEMA,
                "experiment": recipe.name,
                "config": configuration.to_plain(config),
            }
        ),
        "metrics.jsonl": "".join(json.dumps(r, allow_nan=False) + "\n" for r in history).encode(),
        "result.json": _json(result),
        "weights.safetensors": train.pack_weights(program.net, trained),
        **drawn(problem, history, predictions),
        **more,
    }
    write_folder(folder, files)
    return scores


def versions() -> dict[str, str]:
    """The versions of all that a run's numbers follow from, by name."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxnn": __version__,
        "optax": optax.__version__,
    }


def scores_of(problem: Problem, predictions: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The scores that fit the task, in the data set's units."""
    if problem.task.classes is None:
        return regression_scores(y, predictions)
    if isinstance(problem.task, train.LanguageModel):
        return language_scores(y, predictions)
    return classification_scores(y, predictions)


def scores_text(scores: dict[str, float]) -> str:
    """Scores on one line.

    >>> scores_text({"accuracy": 0.931, "loss": 0.25})
    'accuracy 0.931, loss 0.25'
    """
    return ", ".join(f"{name} {number:.4g}" for name, number in scores.items())


def drawn(problem: Problem, history: list[Record], predictions: np.ndarray) -> dict[str, bytes]:
    """The pictures of a run, PNG files by name: which, depends on the task and the data."""
    data, y = problem.data, problem.data.test.y
    if problem.task.classes is None:
        units = {"loss": "mean squared error", "mae": "mean absolute error"}
        figures = {
            "learning_curves": pictures.learning_curves(history, units),
            "predicted_and_true": pictures.predicted_and_true(y, predictions, problem.quantity),
            "residuals": pictures.residuals(y, predictions, problem.quantity),
        }
    elif isinstance(problem.task, train.LanguageModel):
        units = {"loss": "cross entropy, nats a token", "bits": "cross entropy, bits a token"}
        figures = {
            "learning_curves": pictures.learning_curves(history, units),
            "bits_by_position": pictures.bits_by_position(y, predictions),
        }
    else:
        names, x = data.class_names, data.test.x
        units = {"loss": "cross entropy"}
        figures = {
            "learning_curves": pictures.learning_curves(history, units),
            "confusion_matrix": pictures.confusion_matrix(y, predictions.argmax(1), names),
            "worst_mistakes": pictures.worst_images(
                x.reshape(-1, *data.image_shape), y, predictions, names
            )
            if data.image_shape
            else (pictures.worst_series if x.ndim == 3 else pictures.worst_rows)(
                problem.scaled.test.x, y, predictions, names, data.feature_names
            ),
        }
    return {f"{name}.png": pictures.png(figure) for name, figure in figures.items()}


def _weights_size(program: Program, example: Any) -> int:
    net = program.net
    shapes = jax.eval_shape(lambda: (net.init(jax.random.key(0), example), net.init_state(example)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()

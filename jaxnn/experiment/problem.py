"""What is to be learned: a data set, a task, and the scales between them and the network."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import train
from ..core.layer import Layer
from ..data import Dataset, Standardizer
from ..train.evaluation import Trained
from ..train.loop import TIMINGS


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A data set and a task, with the scales the network works in.

    Args:
        data: the data set in its own units.
        task: its loss, metrics and predictions.
        inputs: what makes the network's inputs of the data set's; None where they are the same.
        targets: the scale of regression targets; None for labels, or where it is the same.
        quantity: what regression targets are and in which unit, for pictures and tables.

    >>> from jaxnn import data
    >>> diabetes = data.diabetes()
    >>> problem = Problem(diabetes, train.Regression(), targets=Standardizer.fit(diabetes.train.y))
    >>> problem.scaled.train.y.std().round(3).item()
    1.0
    """

    data: Dataset
    task: train.Task
    inputs: Standardizer | None = None
    targets: Standardizer | None = None
    quantity: str = "target"

    @functools.cached_property
    def scaled(self) -> Dataset:
        """The data set as the network sees it."""
        return self.data.map(x=self.inputs, y=self.targets)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes by label; their numbers if the data set has no names."""
        return self.data.class_names or tuple(map(str, range(self.task.classes or 0)))

    def predict(self, net: Layer, trained: Trained, x: np.ndarray) -> np.ndarray:
        """Predictions for inputs in the data set's units.

        Probabilities (rows, classes) for labels, also where the task has one sigmoid output, and
        (rows, T, vocabulary) of a language model; numbers (rows,) in the data set's units for
        regression.
        """
        x = x if self.inputs is None else self.inputs(x)
        predicted = np.asarray(train.predict(net, self.task, trained, x))
        if self.task.classes is None:
            return predicted if self.targets is None else self.targets.inverse(predicted)
        return np.stack([1 - predicted, predicted], axis=1) if predicted.ndim == 1 else predicted

    def reported(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A record of `train.fit` with losses first and errors in the data set's units.

        Its numbers may be arrays, of several epochs or runs.
        """
        std = 1.0 if self.targets is None else float(self.targets.std)
        power = {"loss": 2, "mae": 1}

        def place(name: str) -> tuple[bool, ...]:
            metric = name.removeprefix("validation_")
            return (
                name not in ("epoch", "step"),
                name in TIMINGS,
                name != metric,
                metric != "loss",
            )

        def scaled(name: str) -> Any:
            exponent = power.get(name.removeprefix("validation_"), 0)
            return record[name] * std**exponent if exponent else record[name]

        return {name: scaled(name) for name in sorted(record, key=place)}

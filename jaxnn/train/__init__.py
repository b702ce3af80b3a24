"""Training: a task, a state, a step, a loop over them; evaluation and prediction.

Everything is a pure function of values, so the loop can be written by hand from the same parts:

    ts = TrainState.create(net, optimizer, key, x)
    step = make_step(net, task, optimizer)
    for batch in batches:
        ts, metrics = step(ts, batch)
"""

from .evaluation import evaluate, predict
from .loop import fit
from .optimizer import Optimizer
from .state import TrainState
from .step import make_step
from .task import Binary, Classification, LanguageModel, Regression, Task
from .weights import Weights, load_weights, pack_weights

__all__ = [
    "Binary",
    "Classification",
    "LanguageModel",
    "Optimizer",
    "Regression",
    "Task",
    "TrainState",
    "Weights",
    "evaluate",
    "fit",
    "load_weights",
    "make_step",
    "pack_weights",
    "predict",
]

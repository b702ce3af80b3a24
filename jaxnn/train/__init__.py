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
from .task import Binary, Classification, Regression, Task

__all__ = [
    "Binary",
    "Classification",
    "Optimizer",
    "Regression",
    "Task",
    "TrainState",
    "evaluate",
    "fit",
    "make_step",
    "predict",
]

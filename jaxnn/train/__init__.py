"""Training: programs, tasks, metrics, optimizers, and runs with hooks.

Everything is a pure function of values, so a loop can be written by hand from the same parts:

    program = Supervised(net, task, optimizer)
    state, step = program.init(key, batch), make_step(program)
    for batch in batches:
        state, metrics = step(state, batch)
"""

from .average import average_of, averaged, evaluation_params
from .blocks import for_network
from .class_scores import accuracy, confusion_matrix, f1, iou, precision, recall
from .classification import Binary, Classification, LanguageModel, MultiLabelClassification
from .combining import combine
from .evaluation import evaluate, predict
from .every import Every
from .fit import fit
from .groups import by_path
from .hooks.checkpoints import Checkpoints
from .hooks.divergence import Diverged, Divergence
from .hooks.early_stopping import EarlyStopping
from .hooks.evaluate import Evaluate
from .hooks.hook import Hook, RollBack, Stop
from .hooks.learning_rate import LearningRate
from .hooks.log import Log
from .hooks.profile import Profile
from .hooks.progress import Progress
from .hooks.throughput import TIMINGS, Throughput
from .logging import JsonLines, Logger
from .loss_scale import loss_scaled
from .metrics import Collected, Derived, Mean, Metric, Ratio, Sum
from .minimize import Minimize, Supervised
from .multitask import MultiTask
from .optimizer import Optimizer
from .program import Program
from .ranking_scores import auc, bits, perplexity, top_k_accuracy
from .regression import Regression
from .regression_scores import mae, r2, rmse
from .run import Event, run
from .schedules import (
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    OneCycle,
    Piecewise,
    Schedule,
    Warmup,
)
from .signals import Interrupted
from .skipping import skip_nonfinite
from .state import TrainState
from .step import make_step
from .task import Task
from .tracking import MLflow, TensorBoard, WandB
from .weights import Weights, load_weights, pack_weights

__all__ = [
    "TIMINGS",
    "Binary",
    "Checkpoints",
    "Classification",
    "Collected",
    "Constant",
    "Cosine",
    "Derived",
    "Diverged",
    "Divergence",
    "EarlyStopping",
    "Evaluate",
    "Event",
    "Every",
    "Hook",
    "Interrupted",
    "InverseSquareRoot",
    "JsonLines",
    "LanguageModel",
    "LearningRate",
    "Linear",
    "Log",
    "Logger",
    "MLflow",
    "Mean",
    "Metric",
    "Minimize",
    "MultiLabelClassification",
    "MultiTask",
    "OneCycle",
    "Optimizer",
    "Piecewise",
    "Profile",
    "Program",
    "Progress",
    "Ratio",
    "Regression",
    "RollBack",
    "Schedule",
    "Stop",
    "Sum",
    "Supervised",
    "Task",
    "TensorBoard",
    "Throughput",
    "TrainState",
    "WandB",
    "Warmup",
    "Weights",
    "accuracy",
    "auc",
    "average_of",
    "averaged",
    "bits",
    "by_path",
    "combine",
    "confusion_matrix",
    "evaluate",
    "evaluation_params",
    "f1",
    "fit",
    "for_network",
    "iou",
    "load_weights",
    "loss_scaled",
    "mae",
    "make_step",
    "pack_weights",
    "perplexity",
    "precision",
    "predict",
    "r2",
    "recall",
    "rmse",
    "run",
    "skip_nonfinite",
    "top_k_accuracy",
]

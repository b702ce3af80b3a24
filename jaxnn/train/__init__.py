"""Training: a task, a state, a step, a loop over them; evaluation and prediction.

Everything is a pure function of values, so the loop can be written by hand from the same parts:

    ts = TrainState.create(net, optimizer, key, x)
    step = make_step(net, task, optimizer)
    for batch in batches:
        ts, metrics = step(ts, batch)
"""

from .average import average_of, averaged, evaluation_params
from .blocks import for_network
from .checkpoint import Checkpoints
from .class_scores import accuracy, confusion_matrix, f1, iou, precision, recall
from .classification import Binary, Classification, LanguageModel, MultiLabelClassification
from .divergence import Diverged
from .evaluation import evaluate, predict
from .every import Every
from .groups import by_path
from .logging import JsonLines, Logger
from .loop import fit
from .loss_scale import loss_scaled
from .metrics import Collected, Derived, Mean, Metric, Ratio, Sum, combine
from .minimize import Minimize, Supervised
from .multitask import MultiTask
from .optimizer import Optimizer
from .profile import Profile
from .program import Program
from .ranking_scores import auc, bits, perplexity, top_k_accuracy
from .regression import Regression
from .regression_scores import mae, r2, rmse
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
from .stopping import EarlyStopping
from .task import Task
from .tracking import MLflow, TensorBoard, WandB
from .weights import Weights, load_weights, pack_weights

__all__ = [
    "Binary",
    "Checkpoints",
    "Classification",
    "Collected",
    "Constant",
    "Cosine",
    "Derived",
    "Diverged",
    "EarlyStopping",
    "Every",
    "Interrupted",
    "InverseSquareRoot",
    "JsonLines",
    "LanguageModel",
    "Linear",
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
    "Ratio",
    "Regression",
    "Schedule",
    "Sum",
    "Supervised",
    "Task",
    "TensorBoard",
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
    "skip_nonfinite",
    "top_k_accuracy",
]

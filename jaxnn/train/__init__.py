"""Training: programs, tasks, metrics, optimizers, and runs with hooks.

Everything is a pure function of values, so a loop can be written by hand from the same parts:

    program = Supervised(net, task, optimizer)
    state, step = program.init(key, batch), make_step(program)
    for batch in batches:
        state, metrics = step(state, batch)
"""

from .class_scores import accuracy, confusion_matrix, f1, iou, precision, recall
from .classification import (
    BinaryClassification,
    Classification,
    MultiLabelClassification,
    NextToken,
)
from .evaluation import evaluate, predict
from .fit import fit
from .for_network import for_network
from .gradient_step import apply_if_finite, dynamic_loss_scale
from .history import History
from .hooks.checkpoints import Checkpoints
from .hooks.hook import Hook, RollBack, Stop
from .hooks.log import Log
from .hooks.measurement import Evaluate, LearningRate
from .hooks.profiling import TIMINGS, Profile, Throughput
from .hooks.progress import Progress
from .hooks.stopping import Diverged, Divergence, EarlyStopping
from .interruption import Interrupted
from .label_tasks import CTC, Dice, Hinge, OrdinalRegression
from .logging import JsonLines, Logger, MLflow, TensorBoard, WandB
from .metric_learning import InfoNCE, MarginRanking, Triplet
from .metrics import Collected, Derived, Mean, Metric, Ratio, Sum
from .minimize import Minimize, Supervised
from .multitask import MultiTask
from .optimizer import Optimizer
from .output_scores import auc, bits, mae, perplexity, r2, rmse, top_k_accuracy
from .program import Program, TrainState
from .record import Event, Every, combine
from .regression import GaussianRegression, PoissonRegression, QuantileRegression, Regression
from .run import run
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
from .step import make_step
from .task import Task
from .weights import Weights, load_weights, save_weights
from .wrapped_optimizers import ema_params, evaluation_params, partition, with_ema

__all__ = [
    "CTC",
    "TIMINGS",
    "BinaryClassification",
    "Checkpoints",
    "Classification",
    "Collected",
    "Constant",
    "Cosine",
    "Derived",
    "Dice",
    "Diverged",
    "Divergence",
    "EarlyStopping",
    "Evaluate",
    "Event",
    "Every",
    "GaussianRegression",
    "Hinge",
    "History",
    "Hook",
    "InfoNCE",
    "Interrupted",
    "InverseSquareRoot",
    "JsonLines",
    "LearningRate",
    "Linear",
    "Log",
    "Logger",
    "MLflow",
    "MarginRanking",
    "Mean",
    "Metric",
    "Minimize",
    "MultiLabelClassification",
    "MultiTask",
    "NextToken",
    "OneCycle",
    "Optimizer",
    "OrdinalRegression",
    "Piecewise",
    "PoissonRegression",
    "Profile",
    "Program",
    "Progress",
    "QuantileRegression",
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
    "Triplet",
    "WandB",
    "Warmup",
    "Weights",
    "accuracy",
    "apply_if_finite",
    "auc",
    "bits",
    "combine",
    "confusion_matrix",
    "dynamic_loss_scale",
    "ema_params",
    "evaluate",
    "evaluation_params",
    "f1",
    "fit",
    "for_network",
    "iou",
    "load_weights",
    "mae",
    "make_step",
    "partition",
    "perplexity",
    "precision",
    "predict",
    "r2",
    "recall",
    "rmse",
    "run",
    "save_weights",
    "top_k_accuracy",
    "with_ema",
]

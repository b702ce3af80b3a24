"""Training: programs, tasks, metrics, optimizers, and runs with hooks.

Everything is a pure function of values, so a loop can be written by hand from the same parts:

    program = Supervised(net, task, optimizer)
    state, step = program.init(key, batch), make_step(program)
    for batch in batches:
        state, metrics = step(state, batch)
"""

from .class_scores import accuracy as accuracy
from .class_scores import confusion_matrix as confusion_matrix
from .class_scores import f1 as f1
from .class_scores import iou as iou
from .class_scores import precision as precision
from .class_scores import recall as recall
from .classification import BinaryClassification as BinaryClassification
from .classification import Classification as Classification
from .classification import MultiLabelClassification as MultiLabelClassification
from .classification import NextToken as NextToken
from .evaluation import Evaluate as Evaluate
from .evaluation import evaluate as evaluate
from .evaluation import predict as predict
from .fit import History as History
from .fit import fit as fit
from .for_network import for_network as for_network
from .gradient_step import apply_if_finite as apply_if_finite
from .gradient_step import dynamic_loss_scale as dynamic_loss_scale
from .hooks import Hook as Hook
from .hooks import RollBack as RollBack
from .hooks import Stop as Stop
from .hooks.checkpoints import Checkpoints as Checkpoints
from .hooks.measurement import TIMINGS as TIMINGS
from .hooks.measurement import LearningRate as LearningRate
from .hooks.measurement import Profile as Profile
from .hooks.measurement import Throughput as Throughput
from .hooks.reporting import Log as Log
from .hooks.reporting import Progress as Progress
from .hooks.stopping import Diverged as Diverged
from .hooks.stopping import Divergence as Divergence
from .hooks.stopping import EarlyStopping as EarlyStopping
from .hooks.stopping import Interrupted as Interrupted
from .logging import JsonLines as JsonLines
from .logging import Logger as Logger
from .logging import MLflow as MLflow
from .logging import TensorBoard as TensorBoard
from .logging import WandB as WandB
from .losses import CTC as CTC
from .losses import Dice as Dice
from .losses import Hinge as Hinge
from .losses import InfoNCE as InfoNCE
from .losses import MarginRanking as MarginRanking
from .losses import Triplet as Triplet
from .metrics import Collected as Collected
from .metrics import Derived as Derived
from .metrics import Mean as Mean
from .metrics import Metric as Metric
from .metrics import Ratio as Ratio
from .metrics import Sum as Sum
from .minimize import Minimize as Minimize
from .minimize import Supervised as Supervised
from .optimizer import Optimizer as Optimizer
from .output_scores import auc as auc
from .output_scores import bits as bits
from .output_scores import mae as mae
from .output_scores import perplexity as perplexity
from .output_scores import r2 as r2
from .output_scores import rmse as rmse
from .output_scores import top_k_accuracy as top_k_accuracy
from .program import Program as Program
from .program import TrainState as TrainState
from .record import Event as Event
from .record import Every as Every
from .record import combine as combine
from .regression import GaussianRegression as GaussianRegression
from .regression import OrdinalRegression as OrdinalRegression
from .regression import PoissonRegression as PoissonRegression
from .regression import QuantileRegression as QuantileRegression
from .regression import Regression as Regression
from .run import run as run
from .schedules import Constant as Constant
from .schedules import Cosine as Cosine
from .schedules import InverseSquareRoot as InverseSquareRoot
from .schedules import Linear as Linear
from .schedules import OneCycle as OneCycle
from .schedules import Piecewise as Piecewise
from .schedules import Schedule as Schedule
from .schedules import Warmup as Warmup
from .step import make_step as make_step
from .task import MultiTask as MultiTask
from .task import Task as Task
from .weights import Weights as Weights
from .weights import load_weights as load_weights
from .weights import save_weights as save_weights
from .wrapped_optimizers import ema_params as ema_params
from .wrapped_optimizers import evaluation_params as evaluation_params
from .wrapped_optimizers import partition as partition
from .wrapped_optimizers import with_ema as with_ema

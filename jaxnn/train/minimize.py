"""Minimize: the program of one objective and one optimizer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..combine.precision import Precision
from ..core import paths
from ..core.composite import Composite, intercept
from ..core.layer import Layer
from ..explain.text import brief, suggestion
from ..keys import as_key, kept_words
from ..tree import map_children
from .ema import evaluation_params
from .evaluation import check_count
from .for_network import for_network
from .gradient_step import gradient_step
from .metrics import check_loss, check_metrics
from .optimizer import as_pytree
from .program import Program
from .state import TrainState, owned, state_key
from .supervised_loss import SupervisedLoss, check_parts
from .task import Loss, name_of
from .weights import Weights


class Minimize(Program):
    """The program that minimizes an objective: a layer that maps a batch to a loss.

    The forward of the objective returns the loss, or the loss and metrics by name. Networks are its
    children, so keys, state, paths, and precision work as in every layer. A loss is a scalar, a
    mean over the rows of the batch, or a `train.Ratio`, or a sum of them.

    Args:
        objective: the layer; its forward takes the batch as its one positional input.
        optimizer: an optax optimizer or a `train.Optimizer`. Stacked parameters are separate arrays
            to it, and it never receives parameters under `nn.Inference`, by `train.for_network`.
        accumulate: the number of micro-batches of a step, which go through one after the other in
            the memory of one. A `Ratio` divides by the count of the whole batch.
        inputs: hyperparameters that the forward takes by name, such as {"beta": 0.1}. A schedule
            is called with the step.
        precision: how the children of the objective compute, a `nn.Precision` without a layer. The
            objective's own forward keeps its types, so that targets, masks, and losses are not
            rounded.
        log_norms: a pattern of parameter paths such as "**/w"; the metrics then have
            `gradient_norm` and `update_norm`, of all parameters and of each one that fits.
        initial: parameters to start from, for some or all children by name, such as {"teacher":
            params}. The others are drawn. `train.Weights(params, state)` in the place of parameters
            is the state to start from, too, such as the running statistics of a trained teacher.

    The state is a `TrainState`. A subclass may override `loss` or `step`.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> class Autoencoder(nn.Composite):
    ...     encoder: nn.Layer
    ...     decoder: nn.Layer
    ...     def forward(self, batch, *, penalty=0.0):
    ...         code = self.encoder(batch)
    ...         error = jnp.mean((self.decoder(code) - batch) ** 2)
    ...         return error + penalty * jnp.mean(code**2), {"error": error}
    >>> x = jnp.ones((4, 3))
    >>> program = train.Minimize(Autoencoder(nn.Dense(2), nn.Dense(3)), optax.adam(1e-2),
    ...                          inputs={"penalty": 0.1})
    >>> state = program.init(jax.random.key(0), x)
    >>> state, metrics = program.step(state, x)
    >>> sorted(metrics), int(state.step)
    (['error', 'loss'], 1)
    """

    objective: Layer
    optimizer: Any
    accumulate: int = 1
    inputs: Mapping[str, Any] | None = None
    precision: Precision | None = None
    log_norms: str | None = None
    initial: Any = None

    def __post_init__(self) -> None:
        """Check that the parts are what their names say."""
        if not isinstance(self.objective, Layer):
            raise TypeError(
                f"the objective is a layer that maps a batch to a loss, got {self.objective!r}; "
                "write a nn.Composite whose forward returns the loss, or train.Supervised(net, "
                "task, optimizer)"
            )
        check_optimizer(self.optimizer)
        check_count(self.accumulate, "accumulate")
        policy = self.precision
        if policy is not None and not (isinstance(policy, Precision) and policy.inner is None):
            raise TypeError(
                f"precision is a policy without a network, got {policy!r}; write "
                "nn.Precision(compute='bfloat16')"
            )
        if self.log_norms is not None and not isinstance(self.log_norms, str):
            raise TypeError(
                f"log_norms is a path pattern such as '**/w', or None; got {self.log_norms!r}"
            )
        if self.inputs is not None and not isinstance(self.inputs, Mapping):
            raise TypeError(
                f"{type(self).__name__}.inputs is a dict of inputs by name, got "
                f"{brief(self.inputs)}; write inputs={{'beta': 0.1}}"
            )

    def init(self, key: jax.Array, batch: Any) -> TrainState:
        """Parameters by path keys or `initial`, and fresh state for everything else.

        Args:
            key: a JAX key.
            batch: a batch, or `jax.ShapeDtypeStruct` in its place.
        """
        objective, named = self.layer(), self.named_inputs(0)
        key = as_key(key)
        params = objective.init(key, batch, **named)
        state = objective.init_state(batch, key=state_key(key), **named)
        if self.initial is not None:
            params, state = _with_initial(params, state, self.initial)
        optimizer = for_network(as_pytree(self.optimizer), objective, batch, **named)
        zero = jnp.zeros((), jnp.int32)
        words = kept_words(key)
        return owned(TrainState(params, state, optimizer.init(params), zero, words))

    def named_inputs(self, step: Any) -> dict[str, Any]:
        """The inputs that forward takes by name, at a step."""
        return {
            name: jnp.asarray(one(step) if callable(one) else one)
            for name, one in (self.inputs or {}).items()
        }

    def loss(
        self, params: Any, state: Any, batch: Any, *, key: Any, step: Any, train: bool
    ) -> tuple[tuple[Any, dict[str, Any]], Any]:
        """((loss, metrics), state) of a batch: override it to change the loss alone.

        Args:
            params: the parameters of the objective.
            state: its state, `{}` if it keeps none.
            batch: a pytree of rows.
            key: a JAX key.
            step: the number of steps before this one.
            train: whether this is training, and not evaluation.
        """
        objective = self.layer()
        found, state = objective.apply(
            params, batch, state=state, key=key, train=train, **self.named_inputs(step)
        )
        owner = type(_plain(self.objective)).__name__
        pair = isinstance(found, tuple) and len(found) == 2
        loss, metrics = found if pair else (found, {})
        check_loss(loss, owner)
        check_metrics(metrics, owner)
        return (loss, {"loss": loss, **metrics}), state

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """The state after one step down the gradient, and the metrics of the batch.

        Args:
            state: as `init` or the step before returned it.
            batch: a pytree of rows; `accumulate` divides their number.
        """
        _check_state(state, type(self).__name__)
        named = self.named_inputs(state.step)

        def loss_of(params: Any, kept: Any, batch: Any, key: jax.Array) -> Any:
            return self.loss(params, kept, batch, key=key, step=state.step, train=True)

        return gradient_step(
            loss_of,
            for_network(as_pytree(self.optimizer), self.layer(), batch, **named),
            state,
            batch,
            accumulate=self.accumulate,
            log_norms=self.log_norms,
        )

    def evaluate(self, state: TrainState, batch: Any, *, key: jax.Array) -> dict[str, Any]:
        """The loss and the metrics in inference, with `train.evaluation_params`.

        Args:
            state: a state.
            batch: a pytree of rows.
            key: a JAX key, for objectives that draw.
        """
        _check_state(state, type(self).__name__)
        params = evaluation_params(state)
        (_, metrics), _ = self.loss(
            params, state.state, batch, key=key, step=state.step, train=False
        )
        return metrics

    def predict(self, state: TrainState, inputs: Any) -> Any:
        """What the objective's method `predict` returns, with `train.evaluation_params`.

        Args:
            state: a state.
            inputs: a pytree of rows.
        """
        _check_state(state, type(self).__name__)
        if not self.objective._has_method("predict"):
            if isinstance(self.objective, SupervisedLoss):
                raise TypeError(
                    "predict needs a train.Task, which maps outputs to predictions, got "
                    f"{name_of(self.objective.task)}; write net.apply(state.params, x) for the "
                    "outputs themselves"
                )
            raise TypeError(
                f"{type(_plain(self.objective)).__name__} has no predictions; write def "
                "predict(self, inputs) in it"
            )
        params = evaluation_params(state)
        return self.layer().apply(params, inputs, state=state.state, method="predict")[0]

    def check_data(self, data: Any, name: str) -> None:
        """Raise as the task does for inputs and targets of `Supervised`: see `train.fit`."""
        objective = _plain(self.objective)
        if isinstance(objective, SupervisedLoss):
            objective.check_data(data, name)

    def layer(self) -> Layer:
        """The objective, whose children compute as `precision` says."""
        policy = self.precision
        if policy is None:
            return self.objective

        def computing(objective: Any) -> Any:
            if isinstance(objective, intercept):
                return map_children(lambda _, inner: computing(inner), objective)
            if isinstance(objective, SupervisedLoss | Composite):
                return map_children(
                    lambda _, child: dataclasses.replace(policy, inner=child), objective
                )
            return dataclasses.replace(policy, inner=objective)

        return computing(self.objective)


def _plain(objective: Layer) -> Layer:
    """The objective inside `nn.intercept`."""
    return _plain(objective.wrapped) if isinstance(objective, intercept) else objective


def Supervised(net: Layer, task: Loss, optimizer: Any, **options: Any) -> Minimize:
    """The program of a network, a task, and an optimizer, on batches (inputs, targets[, weights]).

    Inputs are one array, a tuple (positional inputs of the network), or a dict (named inputs, such
    as `segment_ids`). Targets and outputs may be any pytree that the task takes. Loss and metrics
    are those of `task.measure`, which are means over the examples that count.

    Weights have a number per row or per position: their shape is a prefix of that of the targets. A
    loss function takes one per row. A row with the weight 0 has no effect on loss, metrics, and
    gradients, even if it holds NaN. `state.params` starts as `net.init(key, x)`, and
    `net.apply(state.params, x)` works.

    Args:
        net: the network.
        task: a `train.Task`, or a function loss(outputs, targets).
        optimizer: an optax optimizer or a `train.Optimizer`.
        **options: further fields of `Minimize`: accumulate, precision, log_norms, initial.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> x, y = jnp.ones((4, 3)), jnp.array([0, 1, 0, 1])
    >>> program = train.Supervised(nn.Dense(2), train.Classification(2), optax.adam(1e-2))
    >>> state = program.init(jax.random.key(0), (x, y))
    >>> state, metrics = program.step(state, (x, y))
    >>> sorted(metrics), program.predict(state, x).shape
    (['accuracy', 'loss'], (4, 2))
    """
    check_parts(net, task)
    return Minimize(SupervisedLoss(net, task), optimizer, **options)


def _check_state(state: Any, owner: str) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{owner} keeps a train.TrainState, got {brief(state)}; write state = "
            "program.init(key, batch), and initial=params to start from parameters"
        )


def _with_initial(params: Any, state: Any, initial: Any, path: paths.Path = ()) -> tuple[Any, Any]:
    """The parameters and the state, with those of `initial` if it has some."""
    if isinstance(initial, Weights):
        params, _ = _with_initial(params, {}, initial.params, path)
        return params, _like(state, initial.state, "state", path)
    if isinstance(params, dict) and isinstance(initial, Mapping):
        params, state = dict(params), dict(state)
        for name, given in initial.items():
            if name not in params:
                raise ValueError(
                    f"initial has {paths.text((*path, name))!r}, which the objective does not "
                    f"have; {suggestion(name, params)}"
                )
            params[name], below = _with_initial(
                params[name], state.get(name, {}), given, (*path, name)
            )
            if name in state:
                state[name] = below
        return params, state
    return _like(params, initial, "parameters", path), state


def _like(drawn: Any, given: Any, kind: str, path: paths.Path) -> Any:
    """Copies of the arrays that are given in the place of those drawn, since steps donate them."""
    where = repr(paths.text(path) or "the root")
    leaves, structure = jax.tree.flatten(drawn)
    if jax.tree.structure(given) != structure:
        raise ValueError(
            f"initial has other {kind} than the objective at {where}: expected {structure}, got "
            f"{jax.tree.structure(given)}"
        )
    for one, other in zip(leaves, jax.tree.leaves(given), strict=True):
        if jnp.shape(one) != jnp.shape(other):
            raise ValueError(
                f"initial has an array of shape {jnp.shape(other)} under {where}, expected "
                f"{jnp.shape(one)}"
            )
    return jax.tree.map(lambda a, b: jnp.array(b, a.dtype), drawn, given)


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError for anything but an optimizer."""
    if isinstance(optimizer, type) or not (
        hasattr(optimizer, "init") and hasattr(optimizer, "update")
    ):
        raise TypeError(
            f"the optimizer has init and update, as optax.adam(1e-3) has; got {optimizer!r}"
        )

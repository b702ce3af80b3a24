"""Minimize: the program of one objective and one optimizer; Supervised: of a network and a task.

`SupervisedLoss` is the objective of the latter.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays import visible
from ..combine.precision import Precision
from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import Composite, Wrapper
from ..core.layer import Layer, Signature
from ..data.rows import check_finite
from ..explain.layer_errors import check_named
from ..explain.text import suggestion
from ..keys import as_key, kept_words
from ..random import is_outside
from ..tree import intercept, map_children
from ..validation import Accepts, check_none, instance, positive
from .examples import check_labels, expand_like
from .for_network import for_network
from .gradient_step import gradient_step
from .metrics import check_loss, check_metric_names, check_metrics
from .optimizer import UNTRACEABLE, as_pytree, optimizer_like
from .program import Program, TrainState, code_of, owned, state_key, tree_differences
from .record import EVERY_STEP
from .step import remembered
from .task import Loss, Task, loss_function, measured, name_of
from .weights import Weights
from .wrapped_optimizers import evaluation_params

network: Accepts = instance(Layer, "a layer", "write nn.Sequential(...)")


class SupervisedLoss(Wrapper):
    """The objective of a network and a task: the loss of the task on (inputs, targets).

    It adds no level to paths. A batch is (inputs, targets) or (inputs, targets, weights), with a
    weight per row or per position. Inputs are one array, a tuple (positional inputs), or a dict
    (named inputs).

    Args:
        inner: Network.
        task: `train.Task`, or a function loss(outputs, targets).
    """

    inner: Layer
    task: Any

    def _signature(self, method: str) -> Signature:
        return Signature(("batch",), 1, False, frozenset({"batch"}), frozenset())

    def _takes(self, method: str) -> set[str]:
        return {"batch"}

    def _has_method(self, name: str) -> bool:
        return name == "forward" or name in self._methods()

    def _methods(self) -> list[str]:
        return ["predict"] if isinstance(self.task, Task) else []

    def _evaluate(self, call: Call) -> Outcome:
        (batch,) = call.inputs
        if call.method == "forward" and not call.abstract:
            batch = _without_hidden(batch)
        inputs, named = visible(self.wrapped, "forward", *self._given(call.method, batch))
        outcome = self._inside(call.replace(inputs=inputs, named=named, method="forward"))
        if call.abstract:
            return outcome._replace(output=None)
        if call.method == "predict":
            return outcome._replace(output=self.task.predict(outcome.output))
        metrics = measured(self.task, outcome.output, *batch[1:])
        return outcome._replace(output=(metrics.pop("loss"), metrics))

    def check_data(self, data: Any, name: str) -> None:
        """Raise ValueError or TypeError for rows that cannot be trained on.

        Args:
            data: Tuple (inputs, targets) or (inputs, targets, weights).
            name: Name of the data in errors.
        """
        inputs = _inputs_of(data)
        if len(data) == 2:  # a weight of zero hides what is not finite
            check_finite(inputs, f"{name}: inputs")
            check_finite(data[1], f"{name}: targets")
        check_labels(self.task, data[1], name)

    def _given(self, method: str, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the named inputs of the network."""
        given = batch if method == "predict" else _inputs_of(batch)
        if not isinstance(given, dict):
            return (given if isinstance(given, tuple) else (given,)), {}
        check_named(self.wrapped, "forward", given)
        return (), dict(given)


def _inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch; TypeError for a batch of another structure."""
    return _a_batch(batch, "a batch of train.Supervised")[0]


def _without_hidden(batch: Any) -> Any:
    """Return the batch, with zeros for NaN and infinity in inputs of rows whose weights are all 0.

    The gradient of a parameter sums the inputs times those of the outputs, and 0 times NaN is NaN.
    """
    if len(batch) == 2 or batch[2] is None:
        return batch
    weights = map(jnp.asarray, jax.tree.leaves(batch[2]))
    rows = [(w != 0).any(axis=tuple(range(1, w.ndim))) for w in weights]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim == 0:
        return batch  # the task reports them
    kept = functools.reduce(jnp.logical_or, rows)

    def cleaned(leaf: Any) -> Any:
        if jnp.shape(leaf)[:1] != kept.shape or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(expand_like(kept, leaf) | jnp.isfinite(leaf), leaf, 0)

    return (jax.tree.map(cleaned, batch[0]), *batch[1:])


_a_batch = Accepts(
    "(inputs, targets) or (inputs, targets, weights)",
    lambda batch: isinstance(batch, tuple | list) and len(batch) in (2, 3),
    TypeError,
    "write a train.Minimize objective for other batches",
    abstract=True,
)
_objective = instance(
    Layer,
    "a layer that maps a batch to a loss",
    "write a nn.Composite whose forward returns the loss, or train.Supervised(net, task, "
    "optimizer)",
)
_inputs = instance(Mapping, "a dict of inputs by name", "write inputs={{'beta': 0.1}}")
_policy = Accepts(
    "a policy without a network",
    lambda policy: isinstance(policy, Precision) and policy.inner is None,
    TypeError,
    "write nn.Precision(compute='bfloat16')",
)


class Minimize(Program):
    """The program that minimizes an objective: a layer that maps a batch to a loss.

    The `forward` of the objective returns the loss, or the loss and metrics by name. The networks
    are children of the objective, so keys, state, paths, and precision work as in every layer. The
    loss is a scalar that is a mean over the rows of the batch, a `train.Ratio`, or a sum of both.

    Args:
        objective: A layer whose `forward` has one positional input, the batch.
        optimizer: An optax optimizer or a `train.Optimizer`. It is wrapped by
            `train.for_network`, so it treats stacked parameters as separate arrays and never
            receives parameters under `nn.Inference`.
        accumulate: Number of micro-batches of a step, which are processed in sequence to save
            memory. A `Ratio` divides by the count of the whole batch. Default: 1.
        inputs: Hyperparameters that `forward` takes by name, such as {"beta": 0.1}. A schedule is
            called with the step. Default: None.
        precision: The compute type of the children of the objective, a `nn.Precision` without a
            layer. The objective's own `forward` keeps its types, so that targets, masks, and losses
            are not rounded. Default: None.
        log_norms: A pattern of parameter paths such as `**/w`. The metrics then include
            `gradient_norm` and `update_norm` of all parameters and of each matching parameter.
            Default: None.
        initial: Initial parameters of some or all children by name, such as {"teacher": params}.
            The other parameters are drawn from the key. To also set the initial state, such as the
            running statistics of a trained teacher, pass `train.Weights(params, state)`.
            Default: None.

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
    >>> state, metrics = jax.jit(program.step)(state, x)
    >>> sorted(metrics), int(state.step)
    (['error', 'loss'], 1)
    """

    objective: Annotated[Layer, _objective]
    optimizer: Annotated[Any, optimizer_like]
    accumulate: Annotated[int, positive] = 1
    inputs: Annotated[Mapping[str, Any] | None, None | _inputs] = None
    precision: Annotated[Precision | None, None | _policy] = None
    log_norms: Annotated[str | None, None | instance(str, "a path pattern such as '**/w'")] = None
    initial: Any = None

    def init(self, key: jax.Array, batch: Any) -> TrainState:
        """Return the first state, with parameters that are in `initial` or drawn from `key`.

        Args:
            key: A JAX key.
            batch: A batch, or `jax.ShapeDtypeStruct` in its place.
        """
        objective, named = self.layer(), self.named_inputs(0)
        key = as_key(key)
        params = objective.init(key, batch, **named)
        state = objective.init_state(batch, key=state_key(key), **named)
        if self.initial is not None:
            params, state = _with_initial(params, state, self.initial)
        optimizer = for_network(as_pytree(self.optimizer), objective, batch, **named)
        opt_state = _first_opt_state(optimizer, params, code_of(self))
        zero: Any = np.zeros((), np.int32)  # which `owned` puts on the device
        return owned(TrainState(params, state, opt_state, zero, kept_words(key)))

    def named_inputs(self, step: Any) -> dict[str, Any]:
        """Return the named inputs of `forward` at a step, with schedules evaluated."""
        return {
            name: jnp.asarray(one(step) if callable(one) else one)
            for name, one in (self.inputs or {}).items()
        }

    def loss(
        self, params: Any, state: Any, batch: Any, *, key: Any, step: Any, train: bool
    ) -> tuple[tuple[Any, dict[str, Any]], Any]:
        """Return ((loss, metrics), state) of a batch; override this method to change only the loss.

        Args:
            params: The parameters of the objective.
            state: The state of the objective, `{}` if it keeps none.
            batch: A pytree of rows.
            key: A JAX key.
            step: The number of steps before this one.
            train: True in training, False in evaluation.
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
        check_metric_names(metrics, ("loss", *EVERY_STEP), owner)
        return (loss, {"loss": loss, **metrics}), state

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """Return the state after one step down the gradient, and the metrics of the batch.

        Args:
            state: The state that `init` or the previous step returned.
            batch: A pytree of rows. Their number must be a multiple of `accumulate`.
        """
        A_STATE(state, f"{type(self).__name__}.state")
        named = self.named_inputs(state.step)

        def loss_of(params: Any, kept: Any, batch: Any, key: jax.Array) -> Any:
            return self.loss(params, kept, batch, key=key, step=state.step, train=True)

        optimizer = for_network(as_pytree(self.optimizer), self.layer(), batch, **named)
        more = {"accumulate": self.accumulate, "log_norms": self.log_norms}
        return gradient_step(loss_of, optimizer, state, batch, **more)

    def evaluate(self, state: TrainState, batch: Any, *, key: jax.Array) -> dict[str, Any]:
        """Return the loss and the metrics in inference, computed with `train.evaluation_params`.

        Args:
            state: A state.
            batch: A pytree of rows.
            key: A JAX key, for objectives that draw random numbers.
        """
        A_STATE(state, f"{type(self).__name__}.state")
        params = evaluation_params(state)
        (_, metrics), _ = self.loss(
            params, state.state, batch, key=key, step=state.step, train=False
        )
        return metrics

    def predict(self, state: TrainState, inputs: Any) -> Any:
        """Return the result of the objective's method `predict`, with `train.evaluation_params`.

        Args:
            state: A state.
            inputs: A pytree of rows.
        """
        A_STATE(state, f"{type(self).__name__}.state")
        if not self.objective._has_method("predict"):
            objective = _plain(self.objective)
            owner, hint = type(objective).__name__, "def predict(self, inputs) in it"
            if isinstance(objective, SupervisedLoss):
                owner = name_of(objective.task)
                hint = "a train.Task, or net.apply(state.params, x) for the outputs themselves"
            raise TypeError(f"{owner} has no predictions; write {hint}")
        params = evaluation_params(state)
        return self.layer().apply(params, inputs, state=state.state, method="predict")[0]

    def check_data(self, data: Any, name: str) -> None:
        """Raise the errors of the task for inputs and targets that it does not accept."""
        objective = _plain(self.objective)
        if isinstance(objective, SupervisedLoss):
            objective.check_data(data, name)

    def layer(self) -> Layer:
        """Return the objective, whose children compute as `precision` defines."""
        if self.precision is None:
            return self.objective
        policy = functools.partial(dataclasses.replace, self.precision)

        def computing(objective: Any) -> Any:
            if isinstance(objective, intercept):
                return map_children(lambda _, inner: computing(inner), objective)
            if isinstance(objective, SupervisedLoss | Composite):
                return map_children(lambda _, child: policy(inner=child), objective)
            return policy(inner=objective)

        return computing(self.objective)


def _plain(objective: Layer) -> Layer:
    """Return the objective inside `nn.intercept`."""
    return _plain(objective.wrapped) if isinstance(objective, intercept) else objective


def Supervised(
    net: Layer,
    task: Loss,
    optimizer: Any,
    *,
    accumulate: int = 1,
    precision: Precision | None = None,
    log_norms: str | None = None,
    initial: Any = None,
) -> Minimize:
    """Return the program of a network, a task, and an optimizer.

    Batches are (inputs, targets) or (inputs, targets, weights).

    Inputs are one array, a tuple (positional inputs of the network), or a dict (named inputs, such
    as `segment_ids`). Targets and outputs may be any pytree that the task accepts. Loss and metrics
    are those of `task.measure`, which are means over the examples with nonzero weight.

    Weights have one number per row or per position: their shape is a prefix of the shape of the
    targets. With a loss function, weights have one number per row. A row with the weight 0 has no
    effect on loss, metrics, and gradients, even if it contains NaN. Initially `state.params` equals
    `net.init(key, x)`. At any time, `net.apply(state.params, x)` applies the network.

    Args:
        net: The network.
        task: A `train.Task`, or a function loss(outputs, targets).
        optimizer: An optax optimizer or a `train.Optimizer`.
        accumulate: Number of micro-batches of a step, as for `Minimize`. Default: 1.
        precision: The compute type of the network, as for `Minimize`. Default: None.
        log_norms: A pattern of parameter paths, as for `Minimize`. Default: None.
        initial: Initial parameters of the network, `net.init(key, x)`, or `train.Weights`; the
            rest as for `Minimize`. Default: None.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> x, y = jnp.ones((4, 3)), jnp.array([0, 1, 0, 1])
    >>> program = train.Supervised(nn.Dense(2), train.Classification(2), optax.adam(1e-2))
    >>> state = program.init(jax.random.key(0), (x, y))
    >>> state, metrics = jax.jit(program.step)(state, (x, y))
    >>> sorted(metrics), program.predict(state, x).shape
    (['accuracy', 'loss'], (4, 2))
    """
    network(net, "Supervised.net")
    loss_function(task, "Supervised.task")
    return Minimize(
        SupervisedLoss(net, task),
        optimizer,
        accumulate=accumulate,
        precision=precision,
        log_norms=log_norms,
        initial=initial,
    )


A_STATE = instance(
    TrainState,
    "a train.TrainState",
    "write state = program.init(key, batch), and for parameters initial=train.Weights(params, "
    "net.init_state(x)) in the program",
)


def _first_opt_state(optimizer: Any, params: Any, code: Any) -> Any:
    """Return `optimizer.init(params)`, as one compiled program instead of one for each shape.

    A state on several devices follows from its parameters, array by array.
    """
    leaves = jax.tree.leaves(params)
    if not is_outside() or any(len(getattr(a, "devices", set)()) > 1 for a in leaves):
        return optimizer.init(params)
    numbers, structure = jax.tree.flatten(optimizer)
    try:
        return _compiled_init(structure, code)(params, numbers)
    except UNTRACEABLE:  # it needs the values of its numbers, or of arrays
        return optimizer.init(params)


@remembered
def _compiled_init(structure: Any, code: Any) -> Any:
    return jax.jit(lambda params, numbers: structure.unflatten(numbers).init(params))


def _with_initial(params: Any, state: Any, initial: Any, path: paths.Path = ()) -> tuple[Any, Any]:
    """Return the parameters and the state, with those of `initial` if it has some."""
    if isinstance(initial, Weights):
        params, _ = _with_initial(params, {}, initial.params, path)
        return params, _like(state, initial.state, "state", path)
    if isinstance(params, dict) and isinstance(initial, Mapping):
        params, state = dict(params), dict(state)
        unknown = [name for name in initial if name not in params]
        lines = [f"{paths.text((*path, name))!r}; {suggestion(name, params)}" for name in unknown]
        check_none(lines, "initial has parameters that the objective does not have")
        for name, given in initial.items():
            params[name], below = _with_initial(
                params[name], state.get(name, {}), given, (*path, name)
            )
            if name in state:
                state[name] = below
        return params, state
    return _like(params, initial, "parameters", path), state


def _like(drawn: Any, given: Any, kind: str, path: paths.Path) -> Any:
    """Return copies of the given arrays in place of those drawn, since steps donate them."""
    where = repr(paths.text(path) or "the root")

    def shapes(tree: Any) -> Any:  # without types, which are converted
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.float32), tree)

    lines = tree_differences(shapes(drawn), shapes(given), where)
    check_none(lines[:5], f"initial has other {kind} than the objective at {where}")
    return jax.tree.map(lambda a, b: jnp.array(b, a.dtype), drawn, given)

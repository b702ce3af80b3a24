"""The training step: forward, loss, backward, update."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import jax
import jax.numpy as jnp
import optax

from ..combine.precision import Precision
from ..core.layer import Layer
from ..data.check import saturated
from ..explain.text import brief
from ..keys import kept_key
from ..random import is_outside
from .accumulation import accumulated, check_accumulate, total_counts
from .apply_if_finite import chosen, was_made
from .blocks import for_network
from .frozen import parts_of
from .loss_scale import scale_of, unscaled
from .metrics import terms_of, value_of, without_collected
from .norms import check_norms, norms_by_path
from .optimizer import as_pytree, first_updated
from .partition import without_gradient
from .placed_step import placed_step
from .program import Program, code_of
from .state import TrainState, separate
from .task import Loss, Metrics, losses_and_metrics, name_of

Step: TypeAlias = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def step_key(ts: TrainState) -> jax.Array:
    """The random key of the step that comes next."""
    return jax.random.fold_in(kept_key(ts.key), ts.step)


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, remembering what it made for equal arguments, so that they share one program.

    Inside a transform everything is made anew: what is made there may hold traced numbers, which
    must not outlive it.
    """
    cached = functools.lru_cache(maxsize=128)(make)

    @functools.wraps(make)
    def made(*arguments: Any) -> Any:
        return (cached if is_outside() else make)(*arguments)

    return made


@overload
def make_step(
    net: Program, *, placement: Any = None
) -> Callable[[Any, Any], tuple[Any, dict[str, Any]]]: ...
@overload
def make_step(
    net: Layer,
    task: Loss,
    optimizer: Any,
    *,
    accumulate: int = 1,
    norms: str | None = None,
    precision: Precision | None = None,
) -> Step: ...
def make_step(
    net: Layer | Program,
    task: Loss | None = None,
    optimizer: Any = None,
    *,
    accumulate: int = 1,
    norms: str | None = None,
    precision: Precision | None = None,
    placement: Any = None,
) -> Any:
    """A jitted training step: `ts, metrics = step(ts, (x, y))`, or that of a `train.Program`.

    `make_step(program)` compiles `program.step`: `state, metrics = step(state, batch)`. Programs
    with equal structure share compiled code, whatever their numbers, and a changed method or
    helper function of yours takes effect when `make_step` is called again.

    It computes the loss and its gradient by `jax.value_and_grad`, and updates the parameters by the
    optimizer. `metrics` holds scalars by name: `loss`, and those of the task. The memory of `ts` is
    donated: use the one returned. Equal networks, tasks and optimizers share one compiled program.

    Args:
        net: the network, whose forward takes x as its one input; or a program, alone.
        task: a `Task`, or any function loss(outputs, targets) that gives a scalar.
        optimizer: an optax optimizer, or `train.Optimizer`, whose numbers change without
            recompiling. It sees the blocks of stacked parameters as separate arrays, by
            `train.for_network`. If its update takes them, it receives the loss as `value`, the
            gradients as `grad`, the loss of the batch as a function of the parameters as
            `value_fn` and `obj_fn`, and its gradient as `grad_fn`, a function of
            (params, number).
        accumulate: into how many micro-batches a batch is cut, which go through one after the
            other in the memory of one; gradients and metrics are their means, so where the loss is
            a mean over the rows, the step is that of the whole batch. Micro-batch i has the step's
            key folded by i; the network's state goes from each to the next.
        norms: a pattern of parameter paths, such as `"**/w"`: the metrics then have `gradient_norm`
            and `update_norm`, of all parameters together and as `gradient_norm/PATH` of each one
            that fits.
        precision: how the network computes, `nn.Precision(compute="bfloat16")` without a network.
        placement: for a program, where its arrays lie: one device by default. On a mesh, the state
            comes from `parallel.Placement.init`, and the new state lies as the first one did.

    Raises:
        TypeError, ValueError: parts that do not fit together; while tracing, a batch that
            `accumulate` does not divide, a pattern that fits nothing, and an optimizer that needs
            what a step does not have, such as gradients per example (`optax.contrib.dpsgd`).

    >>> import jax, jax.numpy as jnp, optax
    >>> from jaxnn import Dense
    >>> net, optimizer = Dense(1), optax.sgd(0.1)
    >>> x, y = jnp.ones((4, 2)), jnp.ones(4)
    >>> ts = TrainState.create(net, optimizer, jax.random.key(0), x)
    >>> step = make_step(net, lambda outputs, targets: jnp.mean(outputs), optimizer)
    >>> ts, metrics = step(ts, (x, y))
    >>> int(ts.step), list(metrics)
    (1, ['loss'])
    """
    if isinstance(net, Program):
        if task is not None or optimizer is not None or (accumulate, norms, precision) != _NONE:
            raise TypeError(
                "a program holds all that a step needs: write train.make_step(program), and "
                "options such as accumulate= in train.Minimize or train.Supervised"
            )
        if placement is not None:
            return PlacedStep(net, placement)
        numbers, structure = jax.tree.flatten(net)
        return Donating(_compiled_program_step(structure, code_of(net)), numbers)
    if placement is not None:
        raise TypeError(
            "placement is that of a program; write train.make_step(train.Supervised(net, task, "
            "optimizer), placement=placement)"
        )
    check_parts(net, task, optimizer)
    check_options(accumulate, norms, precision)
    assert task is not None
    numbers, structure = jax.tree.flatten(as_pytree(optimizer))
    compiled = _compiled_step(net, task, structure, accumulate, norms, precision)
    return Donating(compiled, numbers)


class Donating:
    """The step of a jitted function `(ts, batch, *numbers)` that takes the memory of `ts`.

    XLA refuses to take the same memory twice, for example of a teacher that starts as the student's
    own arrays. It does so before it takes any, so the step is taken again with copies.
    """

    def __init__(self, compiled: Any, numbers: Sequence[Any]) -> None:
        self._compiled, self._numbers = compiled, numbers

    def __call__(self, ts: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        """The next state, and the metrics."""
        batch = jax.tree.map(saturated, batch)
        try:
            return self._compiled(ts, batch, *self._numbers)
        except jax.errors.JaxRuntimeError as error:
            if "donate the same buffer twice" not in str(error):
                raise
            return self._compiled(separate(ts), batch, *self._numbers)

    def lower(self, ts: TrainState, batch: Any) -> Any:
        """The step lowered for arguments of these shapes, as by `jax.jit(step).lower`."""
        return self._compiled.lower(ts, batch, *self._numbers)


class PlacedStep:
    """The step of a program whose arrays lie by a placement; it takes the memory of the state."""

    def __init__(self, program: Program, placement: Any) -> None:
        structure = jax.tree.structure(program)
        self._numbers = placement.put_numbers(program)
        self._static, self._placement = (structure, code_of(program), placement), placement
        self._compiled: Any = None

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        """The next state, and the metrics."""
        return self._step_for(state)(state, batch, *self._numbers)

    def lower(self, state: Any, batch: Any) -> Any:
        """The step lowered for arguments of these shapes, as by `jax.jit(step).lower`."""
        return self._step_for(state).lower(state, batch, *self._numbers)

    def _step_for(self, state: Any) -> Any:
        """The compiled step, which keeps states where the first one lies."""
        if self._compiled is None:
            self._compiled = _compiled_placed_step(*self._static, self._placement.layout(state))
        return self._compiled


def pure_step(
    net: Layer,
    task: Loss,
    optimizer: Any,
    ts: TrainState,
    batch: Any,
    *,
    accumulate: int = 1,
    norms: str | None = None,
    precision: Precision | None = None,
) -> tuple[TrainState, Metrics]:
    """The step as a plain pure function, to jit, scan or vmap; the options are `make_step`'s."""
    check_options(accumulate, norms, precision)
    pair(batch)
    net = net if precision is None else dataclasses.replace(precision, inner=net)
    with explained(batch[0]):
        optimizer = for_network(as_pytree(optimizer), net, batch[0])

    def loss_of(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        x, targets = pair(batch)
        outputs, state = applied(net, params, x, state=state, key=key, train=True)
        return losses_and_metrics(task, outputs, targets), state

    return gradient_step(loss_of, optimizer, ts, batch, accumulate=accumulate, log_norms=norms)


def gradient_step(
    loss_of: Callable[..., Any],
    optimizer: Any,
    ts: TrainState,
    batch: Any,
    *,
    accumulate: int = 1,
    log_norms: str | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """A step of an optimizer down the gradient of a loss, as a pure function.

    Args:
        loss_of: maps (params, state, batch, key) to ((loss, metrics), state). The loss is a scalar,
            a mean over the rows, or a `Ratio` or a sum of them; the metrics have the loss, too.
        optimizer: as `for_network` returns it; parameters under `nn.Inference` are not changed.
        ts: the state before the step.
        batch: a pytree of rows.
        accumulate: the number of micro-batches, which go through one after the other.
        log_norms: a pattern of parameter paths whose norms become metrics.

    Returns:
        The state after the step, and the metrics of the whole batch. `Collected` metrics are
        dropped.
    """
    scale = scale_of(ts.opt_state)
    optimizer, partition = parts_of(optimizer)
    trained, still = (ts.params, None) if partition is None else partition.split(ts.params)
    arguments = trained, ts.state, batch, step_key(ts)

    def whole(trained: Any) -> Any:
        return trained if partition is None else partition.join(trained, still)

    counts = None
    if accumulate > 1:
        counts = total_counts(loss_of, accumulate, ts.params, *arguments[1:])

    def objective(trained: Any, *rest: Any) -> tuple[jax.Array, Any]:
        params = whole(without_gradient(optimizer, trained))
        (loss, metrics), state = loss_of(params, *rest)
        if counts is not None:  # of the whole batch, since the means of micro-batches are taken
            pairs = zip(terms_of(loss, 1), counts, strict=True)
            loss = sum(accumulate * term.sum / jnp.where(n == 0, 1, n) for term, n in pairs)
        loss = value_of(loss)
        scaled = loss if scale is None else loss * scale.astype(loss.dtype)
        return scaled, (without_collected(metrics), state)

    def gradients(*arguments: Any) -> tuple[Any, Any, Any]:
        grads, (metrics, state) = jax.grad(objective, has_aux=True)(*arguments)
        return unscaled(grads, scale), metrics, state

    if accumulate == 1:
        grads, metrics, state = gradients(*arguments)
    else:
        grads, metrics, state = accumulated(gradients, accumulate, *arguments)

    def loss_at(trained: Any, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
        # optax's line searches refuse arguments that their function does not name.
        del obj_fn, grad_fn

        def loss_only(*arguments: Any) -> tuple[Any, Any, Any]:
            _, (metrics, state) = objective(*arguments)
            return {}, {"loss": metrics["loss"]}, state

        given = (trained, *arguments[1:])
        if accumulate == 1:
            return value_of(loss_only(*given)[1]["loss"])
        return value_of(accumulated(loss_only, accumulate, *given)[1]["loss"])

    updates, opt_state = first_updated(
        optimizer,
        grads,
        ts.opt_state,
        trained,
        value=value_of(metrics["loss"]),
        grad=grads,
        value_fn=loss_at,
        obj_fn=loss_at,
        grad_fn=lambda trained, _: jax.grad(loss_at)(trained),
    )
    params = whole(optax.apply_updates(trained, updates))
    metrics = dict(metrics)
    if log_norms is not None:
        metrics |= norms_by_path(log_norms, grads, updates)
    made = was_made(opt_state)
    if made is not None:
        state = chosen(made, state, ts.state)
        metrics["skipped"] = 1 - made.astype(jnp.float32)
    if scale is not None:
        metrics["loss_scale"] = scale
    return TrainState(params, state, opt_state, ts.step + 1, ts.key), metrics


def applied(net: Layer, params: Any, x: Any, **options: Any) -> Any:
    """`net.apply` on x, the one input in training; errors show how to pass several."""
    with explained(x):
        return net.apply(params, x, **options)


@contextlib.contextmanager
def explained(x: Any) -> Iterator[None]:
    """Errors of a network whose one input is x show how to pass several."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not isinstance(x, tuple | list | dict) or isinstance(error, jax.errors.JAXTypeError):
            raise
        call = "**x" if isinstance(x, dict) else "*x"
        raise type(error)(
            f"{error}. In training, the network's one input is x, here {brief(x)}; if the network "
            f"takes several inputs, wrap it in a Composite whose forward(self, x) returns "
            f"self.net({call})"
        ) from error


def pair(batch: Any) -> tuple[Any, Any]:
    """The inputs and targets of a batch; TypeError for anything else."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"a batch is a pair (x, y) of inputs and targets, got {brief(batch)}; a network gets x "
            "as its one input: give several arrays as one tuple or dict, which its forward takes "
            "apart"
        )
    return batch[0], batch[1]


_NONE = (1, None, None)  # the defaults of the options of `make_step`


@remembered
def _compiled_program_step(structure: Any, code: Any) -> Callable[..., Any]:
    def step(state: Any, batch: Any, *numbers: Any) -> tuple[Any, Any]:
        after, metrics = jax.tree.unflatten(structure, numbers).step(state, batch)
        return after, without_collected(metrics)

    return jax.jit(step, donate_argnums=0)


@remembered
def _compiled_placed_step(
    structure: Any, code: Any, placement: Any, layout: Any
) -> Callable[..., Any]:
    def step(state: Any, batch: Any, *numbers: Any) -> tuple[Any, Any]:
        program = jax.tree.unflatten(structure, numbers)
        return placed_step(program, state, batch, placement, layout)

    return jax.jit(step, donate_argnums=0)


@remembered
def _compiled_step(
    net: Layer, task: Loss, optimizer: Any, accumulate: int, norms: str | None, precision: Any
) -> Callable[..., Any]:
    def step(ts: TrainState, batch: Any, *numbers: Any) -> tuple[TrainState, Metrics]:
        return pure_step(
            net,
            task,
            jax.tree.unflatten(optimizer, numbers),
            ts,
            batch,
            accumulate=accumulate,
            norms=norms,
            precision=precision,
        )

    return jax.jit(step, donate_argnums=0)


def check_options(accumulate: Any, norms: Any, precision: Any) -> None:
    """Raise TypeError or ValueError for options of a step that are something else."""
    check_accumulate(accumulate)
    check_norms(norms)
    if precision is not None and not (isinstance(precision, Precision) and precision.inner is None):
        raise TypeError(
            "precision is a policy without a network, such as nn.Precision(compute='bfloat16'); "
            f"got {precision!r}"
        )


def check_parts(net: Any, task: Any, optimizer: Any) -> None:
    """Raise TypeError where one of them is something else, or stands in another's place."""
    if not isinstance(net, Layer):
        raise TypeError(f"the network is a layer, got {net!r}; write nn.Sequential(...), say")
    if isinstance(task, type) or not callable(task):
        raise TypeError(
            f"the task is a train.Task or a function loss(outputs, targets), got {task!r}; write "
            "train.Classification(10), say"
        )
    _check_loss(task)
    if isinstance(task, Layer):
        raise TypeError(f"the task is no layer, got {task!r}; write train.Classification(10), say")
    check_optimizer(optimizer)


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError for anything but an optimizer."""
    if isinstance(optimizer, type) or not (
        hasattr(optimizer, "init") and hasattr(optimizer, "update")
    ):
        raise TypeError(
            f"the optimizer has init and update, as optax.adam(1e-3) has; got {optimizer!r}"
        )


def _check_loss(task: Any) -> None:
    """Raise TypeError for a function that cannot be called with outputs and targets."""
    try:
        signature = inspect.signature(task)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(
            f"a loss is called as loss(outputs, targets), but {name_of(task)} takes {signature}; "
            "put what else it needs into the outputs of the network, such as a penalty on its "
            "parameters, or bind constants by functools.partial"
        ) from None

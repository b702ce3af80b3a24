"""fit: a run with the hooks that most runs have."""

from collections.abc import Sequence
from typing import Any

import jax

from .every import Every
from .hooks.divergence import Divergence
from .hooks.evaluate import Evaluate
from .hooks.hook import checked_hooks
from .hooks.progress import Progress
from .placement import SINGLE_DEVICE
from .program import Program, check_program
from .run import Run


def fit(
    program: Program,
    data: Any = None,
    *,
    key: jax.Array,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    validation: Any = None,
    hooks: Sequence[Any] = (),
    every: Every | int | None = None,
    state: Any = None,
    placement: Any = SINGLE_DEVICE,
    progress: bool = True,
) -> tuple[Any, list[dict[str, float]]]:
    """Train a program, and return its state and its history.

    It drains `train.run`, whose arguments these are, with three hooks by default: `Evaluate` of the
    validation data, `Divergence()` if the program has a loss, and a progress display.

    Args:
        program, data, key, epochs, steps, batch_size, every, state, placement: as for `train.run`.
        validation: data to evaluate at each record, as `validation_loss` and so on; None by
            default. Further sets are hooks: `train.Evaluate(data, name="other")`.
        hooks: further `train.Hook` values and functions of an event.
        progress: whether the records are displayed: on a terminal, in a notebook, or as lines.

    Returns:
        The final state, and a dict for each record.

    Raises:
        TypeError, ValueError: as `train.run`.
        Diverged: the loss is not finite at a record.
        Interrupted: a signal asked a run with `train.Checkpoints` to stop.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> program = train.Supervised(nn.Dense(1), train.Regression(), optax.adam(0.1))
    >>> state, history = train.fit(program, (x, 3 * x[:, 0]), key=jax.random.key(0), epochs=50,
    ...                            batch_size=16, progress=False)
    >>> history[-1]["loss"] < 1e-3
    True
    """
    check_program(program, "fit")
    hooks = _default_hooks(validation, hooks, progress)
    more = {"hooks": hooks, "every": every, "state": state, "placement": placement}
    length = {"batch_size": batch_size, "epochs": epochs, "steps": steps}
    run = Run(program, data, key, **length, **more)
    for _ in run.events():
        pass
    return run.state, [dict(record) for record in run.history]


def _default_hooks(validation: Any, hooks: Any, progress: bool) -> list[Any]:
    """The hooks of `fit`: its own, before those that are given."""
    given = checked_hooks(hooks)
    first: list[Any] = [hook for hook in given if hook.leads]
    if validation is not None:
        first.append(Evaluate(validation))
    if not any(isinstance(hook, Divergence) for hook in given):
        first.append(Divergence(metric=None))
    then = [hook for hook in given if not hook.leads and not hook.last]
    if progress and not any(isinstance(hook, Progress) for hook in given):
        then.append(Progress())
    return [*first, *then, *(hook for hook in given if hook.last)]

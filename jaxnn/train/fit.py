"""fit: a run with the hooks that most runs have."""

from collections.abc import Sequence
from typing import Any

import jax

from ..explain import entry
from ..validation import flag
from .history import History
from .hooks.hook import Hook, as_hooks, ordered
from .hooks.measurement import Evaluate
from .hooks.progress import Progress
from .hooks.stopping import Divergence
from .program import Program, check_program
from .record import Every
from .run import Run
from .step import SINGLE_DEVICE


@entry
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
) -> tuple[Any, History]:
    """Train a program, and return its final state and its history.

    This function consumes `train.run` with the same arguments, and adds three hooks by default:
    `Evaluate` on the validation data, `Divergence()` if the program has a loss, and `Progress()`.

    Args:
        program: As for `train.run`.
        data: As for `train.run`.
        key: As for `train.run`.
        epochs: As for `train.run`.
        steps: As for `train.run`.
        batch_size: As for `train.run`.
        validation: Data that is evaluated at each record; its metrics are `validation_loss` and so
            on. For further data sets, add hooks `train.Evaluate(data, name="other")`. Default:
            None.
        hooks: Further `train.Hook` values and functions of an event. Default: ().
        every: As for `train.run`.
        state: As for `train.run`.
        placement: As for `train.run`.
        progress: Whether the records are displayed: on a terminal, in a notebook, or as lines.
            Default: True.

    Returns:
        The final state, and the history: a list with a dict for each record, and a method `plot`.

    Raises:
        TypeError, ValueError: As for `train.run`.
        Diverged: The loss is not finite at a record.
        Interrupted: A run with `train.Checkpoints` received a signal to stop.

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
    flag(progress, "progress")
    hooks = _with_defaults(as_hooks(hooks), validation, progress)
    length = batch_size, epochs, steps
    run = Run(program, data, key, *length, hooks, every, state, placement)
    for _ in run.events():
        pass
    return run.state, History(dict(record) for record in run.history)


def _with_defaults(hooks: list[Hook], validation: Any, progress: bool) -> list[Hook]:
    """Return the hooks of `fit`: its own, around those that are given."""

    def is_missing(kind: type[Hook]) -> bool:
        return not any(isinstance(hook, kind) for hook in hooks)

    first: list[Hook] = [] if validation is None else [Evaluate(validation)]
    if is_missing(Divergence):
        first.append(Divergence(metric=None))
    return ordered([*first, *hooks, *([Progress()] if progress and is_missing(Progress) else [])])

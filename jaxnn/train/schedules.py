"""Schedules: a number that changes from step to step, such as a learning rate.

A schedule is a value and a pytree of its numbers: it prints and compares as the code that builds
it, its numbers may be traced, and changing them does not recompile. Called with a step, which
counts from 0, it returns the number. optax takes it as a schedule:

    Optimizer(optax.adamw, learning_rate=Warmup(500, Cosine(1e-3, steps=9500)))

If optax has the schedule, the numbers are the same. optax's own schedules work as well, but many
reject traced numbers. To lower a rate when the loss no longer falls, chain
`optax.contrib.reduce_on_plateau` behind the optimizer: a training step passes it the loss.
"""

import dataclasses
import itertools
import math
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp

from ..fields import is_traced

Number = Any
"""A number, traced or not."""


@dataclass_transform(frozen_default=True)
class Schedule:
    """Base of the schedules. A subclass declares its numbers as fields, and `__call__`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True)(cls)
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

        def unflatten(_: Any, items: Any) -> Any:  # nothing is checked again
            self = object.__new__(cls)
            self.__dict__.update(zip(names, items, strict=True))
            return self

        jax.tree_util.register_pytree_with_keys(
            cls,
            lambda s: ([(jax.tree_util.GetAttrKey(n), getattr(s, n)) for n in names], None),
            unflatten,
            lambda s: ([getattr(s, n) for n in names], None),
        )

    def __post_init__(self) -> None:
        """Check the number of steps, if there is one."""
        number = getattr(self, "steps", 1)
        known = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_traced(number) and not (known and number > 0) and not _is_array(number):
            raise ValueError(
                f"{type(self).__name__}.steps is a number of steps > 0, got {number!r}"
            )

    def __call__(self, step: Any) -> Any:
        """The number at a step, 0 for the first one."""
        raise NotImplementedError


class Constant(Schedule):
    """The same number at every step.

    >>> Constant(1e-3)(7)
    0.001
    """

    value: Number

    def __call__(self, step: Any) -> Any:
        """The number."""
        return self.value


class Linear(Schedule):
    """start + (end - start) * min(step / steps, 1), as `optax.linear_schedule`.

    >>> schedule = Linear(1.0, 0.0, steps=4)
    >>> [float(schedule(step)) for step in (0, 1, 4, 5)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: Number
    end: Number
    steps: Number

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        return self.start + (self.end - self.start) * _share(step, self.steps)


class Cosine(Schedule):
    """end + (peak - end) * (1 + cos(pi * min(step / steps, 1))) / 2: half a cosine downwards.

    It is `optax.cosine_decay_schedule` with alpha = end / peak, and stays at `end` after `steps`.

    Reference: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.

    >>> schedule = Cosine(2.0, steps=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 11)]
    [2.0, 1.0, 0.0, 0.0]
    """

    peak: Number
    steps: Number
    end: Number = 0.0

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        return self.end + (self.peak - self.end) * _half_cosine(_share(step, self.steps))


class InverseSquareRoot(Schedule):
    """peak / sqrt(1 + step / steps): it falls without an end, to half after 3 * steps.

    The schedule of the first transformer, features**-0.5 * min(n**-0.5, n * warmup**-1.5) at
    step n, is `Warmup(warmup, InverseSquareRoot((features * warmup) ** -0.5, warmup))`.

    Reference: Vaswani et al., Attention is all you need, 2017.

    >>> schedule = InverseSquareRoot(1.0, steps=100)
    >>> [float(schedule(step)) for step in (0, 300)]
    [1.0, 0.5]
    """

    peak: Number
    steps: Number

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        return self.peak / jnp.sqrt(1 + step / self.steps)


class Piecewise(Schedule):
    """values[i] after i of the boundaries: constant in pieces.

    As `optax.piecewise_constant_schedule`, whose scales are quotients of these values. Raises
    ValueError unless there is one value more than boundaries, and for boundaries out of order.

    >>> schedule = Piecewise((1.0, 0.1, 0.01), boundaries=(30, 60))
    >>> [round(float(schedule(step)), 6) for step in (29, 30, 60)]
    [1.0, 0.1, 0.01]
    """

    values: tuple[Number, ...]
    boundaries: tuple[Number, ...]

    def __post_init__(self) -> None:
        """Check the number of pieces and the order."""
        for name in ("values", "boundaries"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(
                    f"Piecewise.{name} is a tuple of numbers, got {getattr(self, name)!r}; write "
                    "Piecewise((1e-3, 1e-4), boundaries=(1000,))"
                )
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"Piecewise has one value more than boundaries, got {len(self.values)} values and "
                f"{len(self.boundaries)} boundaries; write Piecewise((1e-3, 1e-4), "
                "boundaries=(1000,))"
            )
        known = [number for number in self.boundaries if not is_traced(number)]
        if any(later <= earlier for earlier, later in itertools.pairwise(known)):
            raise ValueError(f"Piecewise.boundaries are steps that rise, got {self.boundaries!r}")

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        number = self.values[0]
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            number = jnp.where(step >= boundary, value, number)
        return number


class OneCycle(Schedule):
    """Half a cosine up to the peak, and another far down: `optax.cosine_onecycle_schedule`.

    The number rises from peak / div_factor at step 0 to peak at step floor(warmup * steps), and
    falls to peak / (div_factor * final_div_factor) at step `steps`, after which it stays. torch's
    OneCycleLR has the same ends, but reaches the peak at warmup * steps - 1 and the end at
    steps - 1.

    Args:
        peak: the largest number.
        steps: the length in steps, rounded down.
        warmup: the fraction of the steps before the peak, in (0, 1).
        div_factor: the peak divided by the first number.
        final_div_factor: the first number divided by the last.

    Raises:
        ValueError: a number of steps or a fraction out of range.

    Reference: Smith and Topin, Super-convergence: very fast training of neural networks using
    large learning rates, 2018.

    >>> schedule = OneCycle(1.0, steps=10)
    >>> [round(float(schedule(step)), 4) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """

    peak: Number
    steps: Number
    warmup: Number = 0.3
    div_factor: Number = 25.0
    final_div_factor: Number = 1e4

    def __post_init__(self) -> None:
        """Check the number of steps and the fraction."""
        super().__post_init__()
        share = self.warmup
        if not is_traced(share) and not _is_array(share) and not 0 < share < 1:
            raise ValueError(f"OneCycle.warmup is a share of the steps in (0, 1), got {share!r}")

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        first = self.peak / self.div_factor
        last = first / self.final_div_factor
        turn, end = _whole(self.warmup * self.steps), _whole(self.steps)
        rising = self.peak + (first - self.peak) * _half_cosine(_fraction(step, turn))
        falling = last + (self.peak - last) * _half_cosine(_fraction(step - turn, end - turn))
        return jnp.where(step < turn, rising, falling)


class Warmup(Schedule):
    """From 0 straight up to the beginning of another schedule, which then runs from its step 0.

    then(0) * step / steps before `steps`, then(step - steps) from there on. It is
    `optax.warmup_cosine_decay_schedule(0, peak, w, n)` as `Warmup(w, Cosine(peak, n - w))`.

    Reference: Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017.

    >>> schedule = Warmup(4, Constant(1.0))
    >>> [float(schedule(step)) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    steps: Number
    then: Schedule

    def __post_init__(self) -> None:
        """Check the number of steps and the schedule."""
        super().__post_init__()
        if not callable(self.then):
            raise TypeError(
                f"Warmup.then is a schedule, got {self.then!r}; write "
                "Warmup(500, train.Constant(1e-3))"
            )

    def __call__(self, step: Any) -> Any:
        """The number at a step."""
        after = self.then(jnp.maximum(step - self.steps, 0))  # its beginning, while it warms up
        return after * _share(step, self.steps)


def _share(step: Any, steps: Any) -> Any:
    """The share of the steps that is over, in [0, 1]."""
    return jnp.clip(step / steps, 0, 1)


def _fraction(step: Any, steps: Any) -> Any:
    """As `_share`, of a number of steps that may be 0."""
    return jnp.clip(step / jnp.maximum(steps, 1), 0, 1)


def _whole(steps: Any) -> Any:
    """A number of steps, rounded down: in Python's double precision if it is concrete."""
    return math.floor(steps) if isinstance(steps, int | float) else jnp.floor(steps)


def _half_cosine(share: Any) -> Any:
    """From 1 at a share of 0 down to 0 at 1."""
    return (1 + jnp.cos(jnp.pi * share)) / 2


def _is_array(number: Any) -> bool:
    return hasattr(number, "dtype")

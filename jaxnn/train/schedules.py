"""Schedules: numbers that change from step to step, such as a learning rate.

A schedule is a value and a pytree of its numbers: it prints as the code that builds it and
compares by value, its numbers may be traced, and changing them does not recompile. Called with a
step, which counts from 0, it returns the number. optax accepts it as a schedule:

    Optimizer(optax.adamw, learning_rate=Warmup(500, Cosine(1e-3, steps=9500)))

The numbers equal those of the corresponding schedule of optax, if there is one. optax's schedules
work as well, but many reject traced numbers. To lower a rate when the loss no longer falls, chain
`optax.contrib.reduce_on_plateau` after the optimizer: a training step passes the loss to it.
"""

import dataclasses
import itertools
import math
from typing import Annotated, Any, dataclass_transform

import jax
import jax.numpy as jnp

from ..fields import is_traced
from ..validation import (
    Accepts,
    above,
    check_fields,
    function,
    instance,
    is_number,
    number,
    unwritten,
)

Number = Annotated[Any, number()]
"""A number, traced or not."""
Steps = Annotated[Number, above(0)]

_share = Accepts(
    "a number > 0 and < 1", lambda value: is_number(value) and 0 < value < 1, traced=True
)
_numbers = instance(
    tuple, "a tuple of numbers", "write Piecewise((1e-3, 1e-4), boundaries=(1000,))"
)


@dataclass_transform(frozen_default=True)
class Schedule:
    """Base of the schedules. A subclass declares its numbers as fields and defines `__call__`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True)(cls)
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

        def unflatten(_: Any, items: Any) -> Any:  # without checks
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
        """Check the fields."""
        check_fields(self)

    @unwritten("no number; write def __call__(self, step): ... return number")
    def __call__(self, step: Any) -> Any:
        """Return the number at a step.

        Args:
            step: The number of steps before this one, 0 for the first.
        """
        ...


class Constant(Schedule):
    """The same number at every step.

    Args:
        value: The number.

    >>> Constant(1e-3)(7)
    0.001
    """

    value: Number

    def __call__(self, step: Any) -> Any:
        """Return the number."""
        return self.value


class Linear(Schedule):
    """start + (end - start) * min(step / steps, 1), as `optax.linear_schedule`.

    Args:
        start: The first number.
        end: The number after `steps`.
        steps: The length in steps.

    >>> schedule = Linear(1.0, 0.0, steps=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 11)]
    [1.0, 0.5, 0.0, 0.0]
    """

    start: Number
    end: Number
    steps: Steps

    def __call__(self, step: Any) -> Any:
        """Return the number at a step."""
        return self.start + (self.end - self.start) * _progress(step, self.steps)


class Cosine(Schedule):
    """end + (peak - end) * (1 + cos(pi * min(step / steps, 1))) / 2: decay along half a cosine.

    It is `optax.cosine_decay_schedule` with alpha = end / peak, and stays at `end` after `steps`.

    Args:
        peak: The first number.
        steps: The length in steps.
        end: The number after `steps`. Default: 0.

    Reference: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.

    >>> schedule = Cosine(2.0, steps=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 11)]
    [2.0, 1.0, 0.0, 0.0]
    """

    peak: Number
    steps: Steps
    end: Number = 0.0

    def __call__(self, step: Any) -> Any:
        """Return the number at a step."""
        return self.end + (self.peak - self.end) * _half_cosine(_progress(step, self.steps))


class InverseSquareRoot(Schedule):
    """Inverse square root decay, peak / sqrt(1 + step / steps): half the peak after 3 * steps.

    The schedule of the first transformer, `features**-0.5 * min(n**-0.5, n * warmup**-1.5)` at
    step n, is `Warmup(warmup, InverseSquareRoot((features * warmup) ** -0.5, warmup))`.

    Args:
        peak: The first number.
        steps: The time scale; the number is half the peak after 3 * `steps` steps.

    Reference: Vaswani et al., Attention is all you need, 2017.

    >>> schedule = InverseSquareRoot(1.0, steps=100)
    >>> [float(schedule(step)) for step in (0, 300)]
    [1.0, 0.5]
    """

    peak: Number
    steps: Steps

    def __call__(self, step: Any) -> Any:
        """Return the number at a step."""
        return self.peak / jnp.sqrt(1 + step / self.steps)


class Piecewise(Schedule):
    """Piecewise constant: values[i] after the first i boundaries.

    This is `optax.piecewise_constant_schedule`, whose scales are the quotients of successive
    values.

    Args:
        values: The numbers, one more than boundaries.
        boundaries: The steps at which the next number begins, in increasing order.

    Raises:
        ValueError: The number of values is not one more than that of boundaries, or the boundaries
            are not increasing.

    >>> schedule = Piecewise((1.0, 0.1, 0.01), boundaries=(30, 60))
    >>> [round(float(schedule(step)), 6) for step in (29, 30, 60)]
    [1.0, 0.1, 0.01]
    """

    values: Annotated[tuple[Number, ...], _numbers]
    boundaries: Annotated[tuple[Number, ...], _numbers]

    def __post_init__(self) -> None:
        """Check the number of values and the order of the boundaries."""
        super().__post_init__()
        known = [number for number in self.boundaries if not is_traced(number)]
        falls = any(later <= earlier for earlier, later in itertools.pairwise(known))
        if falls or len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "Piecewise.boundaries must be increasing steps, one fewer than values, got "
                f"{self.boundaries!r} for {len(self.values)} values; {_numbers.hint}"
            )

    def __call__(self, step: Any) -> Any:
        """Return the number at a step."""
        number = self.values[0]
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            number = jnp.where(step >= boundary, value, number)
        return number


class OneCycle(Schedule):
    """Half a cosine up to the peak, and another half down: `optax.cosine_onecycle_schedule`.

    The number rises from peak / div_factor at step 0 to peak at step floor(warmup * steps), falls
    to peak / (div_factor * final_div_factor) at step `steps`, and stays there. torch's OneCycleLR
    has the same ends, but reaches the peak at warmup * steps - 1 and the end at steps - 1.

    Args:
        peak: The largest number.
        steps: The length in steps, rounded down.
        warmup: The fraction of the steps before the peak, in (0, 1). Default: 0.3.
        div_factor: The peak divided by the first number. Default: 25.
        final_div_factor: The first number divided by the last. Default: 10,000.

    Reference: Smith and Topin, Super-convergence: very fast training of neural networks using
    large learning rates, 2018.

    >>> schedule = OneCycle(1.0, steps=10)
    >>> [round(float(schedule(step)), 4) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """

    peak: Number
    steps: Steps
    warmup: Annotated[Number, _share] = 0.3
    div_factor: Number = 25.0
    final_div_factor: Number = 1e4

    def __call__(self, step: Any) -> Any:
        """Return the number at a step."""
        first = self.peak / self.div_factor
        last = first / self.final_div_factor
        turn, end = _whole(self.warmup * self.steps), _whole(self.steps)
        up, down = jnp.maximum(turn, 1), jnp.maximum(end - turn, 1)
        rising = self.peak + (first - self.peak) * _half_cosine(_progress(step, up))
        falling = last + (self.peak - last) * _half_cosine(_progress(step - turn, down))
        return jnp.where(step < turn, rising, falling)


class Warmup(Schedule):
    """Linear warmup from 0 to the first value of another schedule, which then runs from its step 0.

    The number is then(0) * step / steps before `steps`, and then(step - steps) afterwards.
    `Warmup(w, Cosine(peak, n - w))` is `optax.warmup_cosine_decay_schedule(0, peak, w, n)`.

    Args:
        steps: The length of the warmup in steps.
        then: The other schedule.

    Reference: Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017.

    >>> schedule = Warmup(4, Constant(1.0))
    >>> [float(schedule(step)) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    steps: Steps
    then: Annotated[
        Schedule, function.such(what="a schedule", hint="write Warmup(500, train.Constant(1e-3))")
    ]

    def __call__(self, step: Any) -> Any:
        """Return the number at a step."""
        after = self.then(jnp.maximum(step - self.steps, 0))
        return after * _progress(step, self.steps)


def _progress(step: Any, steps: Any) -> Any:
    """Return the fraction of the steps that are done, in [0, 1]."""
    return jnp.clip(step / steps, 0, 1)


def _whole(steps: Any) -> Any:
    """Return a number of steps, rounded down: in double precision if it is concrete."""
    return math.floor(steps) if isinstance(steps, int | float) else jnp.floor(steps)


def _half_cosine(fraction: Any) -> Any:
    """Return half a cosine: 1 at 0, and 0 at 1."""
    return (1 + jnp.cos(jnp.pi * fraction)) / 2

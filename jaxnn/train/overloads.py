"""`fit`, `evaluate`, and `predict` of a program, or of a network, a task, and an optimizer."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from . import assessment, evaluation, loop
from .program import Program
from .run import fit as fit_program


def _either(of_program: Callable[..., Any], of_network: Callable[..., Any]) -> Any:
    """`of_program` if the first argument is a program, else `of_network`, whose text it shows."""

    @functools.wraps(of_network)
    def function(*args: Any, **named: Any) -> Any:
        first = args[0] if args else named.get("program")
        if isinstance(first, Program) or "program" in named:
            return of_program(*args, **named)
        try:
            inspect.signature(of_network).bind(*args, **named)
        except TypeError as error:
            name = of_network.__name__
            raise TypeError(
                f"{name}: {error}; write train.{name}(program, ...) with program = "
                "train.Supervised(net, task, optimizer), or pass the network, the task, and what "
                "follows"
            ) from None
        return of_network(*args, **named)

    return function


def _evaluate(program: Program, state: Any, data: Any = None, **options: Any) -> dict[str, float]:
    return assessment.evaluated(program, state, data, **options)[0]


fit: Callable[..., Any] = _either(fit_program, loop.fit)
evaluate: Callable[..., Any] = _either(_evaluate, evaluation.evaluate)
predict: Callable[..., Any] = _either(assessment.predicted, evaluation.predict)

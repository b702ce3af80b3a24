"""Derivatives of a function compared with differences, in few compiled programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.test_util import check_jvp, check_vjp


def check_derivatives(function: Callable[..., Any], *args: Any, order: int = 1) -> None:
    """Make the comparisons of `jax.test_util.check_grads`, forward and backward, up to an order.

    Every function is one program, and what is between programs is computed by NumPy.
    """

    def compiled(call: Callable[..., Any]) -> Callable[..., Any]:
        run = jax.jit(call)
        return lambda *args: jax.tree.map(np.asarray, run(*args))

    args = jax.tree.map(np.asarray, args)
    run, push = compiled(function), compiled(functools.partial(jax.jvp, function))
    pull = compiled(lambda args, dy: jax.vjp(function, *args)[1](dy))
    check_jvp(run, push, args)
    check_vjp(run, lambda *args: (run(*args), functools.partial(pull, args)), args)
    if order == 1:
        return

    def pushed(*both: Any) -> Any:
        return jax.jvp(function, both[: len(args)], both[len(args) :])

    def pulled(*args: Any) -> Any:
        y, pull = jax.vjp(function, *args)
        return pull(y)

    check_derivatives(pushed, *args, *args, order=order - 1)
    check_derivatives(pulled, *args, order=order - 1)

"""Optimizers are those of optax. `Optimizer` holds the hyperparameters of one as data.

An optimizer is a value with `init(params)` and `update(gradients, opt_state, params, **extra)`, and
may wrap other ones. Everything else that training keeps (moments, averages, a loss scale) is in its
`opt_state`.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..core.values import equality_key
from ..fields import is_traced
from ..validation import Accepts, function


class _Number:
    """Marks the place of a number among the static arguments of an optimizer."""

    def __repr__(self) -> str:
        return "<number>"

    def __reduce__(self) -> str:
        return "NUMBER"  # unpickled, it is the same object


NUMBER = _Number()
# Errors of JAX for code that needs the values of traced numbers or arrays. The other JAXTypeErrors
# are faults of this code: a leaked tracer, or a key that is used twice.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)

optimizer_like: Accepts = Accepts(
    "an optimizer, which has init and update",
    lambda item: hasattr(item, "init") and hasattr(item, "update") and not isinstance(item, type),
    TypeError,
    "write optax.adam(1e-3)",
)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class Optimizer:
    """An optax optimizer with hyperparameters as data: `Optimizer(optax.adam, learning_rate=1e-3)`.

    `optax.adam(1e-3)` keeps its hyperparameters in closures, so every learning rate requires
    another compiled program. In an `Optimizer` the hyperparameters are leaves of a pytree: they can
    be changed, swept, and differentiated without recompiling. They may also be inside arguments: in
    schedules, such as `train.Cosine(1e-3, steps=100)`, and in other optimizers. All other arguments
    (flags, strings, functions) are static. An `Optimizer` has the methods `init` and `update` of an
    optax optimizer and can be used in place of one. Two optimizers are equal if their functions and
    arguments are equal, so an unpickled optimizer equals the original.

    The function may combine optimizers. In `Optimizer(optax.chain, ...)`, the hyperparameters of
    parts that are an `Optimizer` remain data; those of a plain `optax.chain(...)` are constants in
    the compiled program.

    Args:
        factory: A function, such as `optax.adam`, that returns an optimizer.
        *parts: Positional arguments of `factory`.
        **arguments: Named arguments of `factory`.

    Raises:
        TypeError: `factory` is not a function, or does not take these arguments.

    >>> import jax, optax
    >>> slow = Optimizer(optax.sgd, learning_rate=0.1, nesterov=False)
    >>> slow
    Optimizer(optax.sgd, learning_rate=0.1, nesterov=False)
    >>> jax.tree.map(lambda number: 10 * number, slow)
    Optimizer(optax.sgd, learning_rate=1.0, nesterov=False)
    >>> clipped = Optimizer(optax.chain, Optimizer(optax.clip_by_global_norm, max_norm=1.0), slow)
    >>> jax.tree.leaves(clipped)
    [1.0, 0.1]
    """

    factory: Callable[..., Any]
    parts: tuple[Any, ...]
    arguments: dict[str, Any]

    def __init__(self, factory: Callable[..., Any], /, *parts: Any, **arguments: Any) -> None:
        hint = "write Optimizer(optax.adam, learning_rate=1e-3)"
        function(factory, "Optimizer.factory", hint)
        _check_call(factory, parts, arguments)
        vars(self).update(factory=factory, parts=parts, arguments=arguments)

    @property
    def numbers(self) -> dict[str, Any]:
        """The named arguments that contain hyperparameters."""
        named = self.arguments.items()
        return {name: a for name, a in named if any(map(_is_number, jax.tree.leaves(a)))}

    def init(self, params: Any) -> Any:
        """Return the optimizer's state for `params`."""
        return self._built().init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """Return updates and the new state, as in optax; unknown names in `extra` are ignored."""
        return updated(self._built(), updates, state, params, **extra)

    def _built(self) -> Any:
        parts, arguments = jax.tree.map(_as_optax, (self.parts, self.arguments), is_leaf=_is_one)
        return with_slow_params(self.factory(*parts, **arguments))

    def tree_flatten(self) -> tuple[Any, Any]:
        """Return the hyperparameters, and the static structure."""
        leaves, structure = jax.tree.flatten((self.parts, tuple(self.arguments.values())))
        numbers = [leaf for leaf in leaves if _is_number(leaf)]
        static = tuple(NUMBER if _is_number(leaf) else leaf for leaf in leaves)
        return numbers, (self.factory, tuple(self.arguments), structure, static)

    @classmethod
    def tree_unflatten(cls, aux: Any, numbers: Any) -> "Optimizer":
        """Return an optimizer with other hyperparameters."""
        factory, names, structure, static = aux
        left = iter(numbers)
        leaves = [next(left) if leaf is NUMBER else leaf for leaf in static]
        parts, items = structure.unflatten(leaves)
        self = object.__new__(cls)
        arguments = dict(zip(names, items, strict=True))
        vars(self).update(factory=factory, parts=parts, arguments=arguments)
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Optimizer) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> Any:
        """Return a hashable that two optimizers share exactly if they are the same value."""
        items = self.parts, tuple(self.arguments.values())
        leaves, structure = jax.tree.flatten(items, is_leaf=_is_one)
        held = tuple(one._identity() if _is_one(one) else _identity(one) for one in leaves)
        return equality_key(self.factory), tuple(self.arguments), structure, held

    def __repr__(self) -> str:
        module = getattr(self.factory, "__module__", "").split(".")[0]
        name = getattr(self.factory, "__qualname__", repr(self.factory))
        items = [f"{name}={item!r}" for name, item in self.arguments.items()]
        whole = f"{module}.{name}" if module else name
        return f"Optimizer({', '.join([whole, *map(repr, self.parts), *items])})"


def _check_call(factory: Any, parts: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    """Raise TypeError for arguments that a factory does not take."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some builtins have none
        return
    try:
        signature.bind(*parts, **arguments)
    except TypeError as error:
        names = ", ".join(signature.parameters)
        name = getattr(factory, "__name__", repr(factory))
        raise TypeError(
            f"Optimizer({name}, ...): {error}; write Optimizer({name}, ...) with arguments of "
            f"{name}, which are {names}"
        ) from None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Fixed:
    """A plain optax optimizer as a pytree without leaves, equal only to itself."""

    optimizer: Any

    def init(self, params: Any) -> Any:
        """Return the optimizer's state for `params`."""
        return self.optimizer.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """Return updates and the new state, as in optax; unknown names in `extra` are ignored."""
        return updated(self.optimizer, updates, state, params, **extra)


def as_pytree(optimizer: Any) -> Any:
    """Return the optimizer as a pytree of numbers, so that jitted functions may take it."""
    leaves = jax.tree.leaves(optimizer)
    is_data = not jax.tree_util.all_leaves([optimizer]) and all(map(_is_number, leaves))
    if isinstance(optimizer, Optimizer | Fixed) or is_data:
        return optimizer
    return Fixed(with_slow_params(optimizer))


def updated(optimizer: Any, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    """Return the optimizer's updates and new state; arguments that it does not take are dropped."""
    parameters = inspect.signature(optimizer.update).parameters.values()
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        names = {one.name for one in parameters}
        extra = {name: item for name, item in extra.items() if name in names}
    return optimizer.update(updates, state, params, **extra)


def first_updated(optimizer: Any, updates: Any, state: Any, params: Any, **extra: Any) -> Any:
    """Return what `updated` does, for a training step: errors name the optimizer.

    A chain passes on every argument, also to members that do not take it: these are dropped. Raises
    TypeError for an optimizer that needs something that a training step does not have.
    """
    try:
        return updated(optimizer, updates, state, params, **extra)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and found and found[1] in extra:
            del extra[found[1]]
            return first_updated(optimizer, updates, state, params, **extra)
        raise _explained(error, extra) from error


def _explained(error: Exception, extra: Any) -> Exception:
    """Return an error that names the optimizer; errors of other code as they are."""
    name = _source(error)
    if name is None:
        return error
    untraceable = (
        f"the optimizer {name} needs Python numbers for some arguments, and train.Optimizer passes "
        f"traced ones; bind these, as in train.Optimizer(functools.partial(optax.{name}, "
        f"argument=3), ...): {error}"
    )
    if isinstance(error, UNTRACEABLE):
        error.args = (untraceable,)  # of its type, which sweeps recognize
        return error
    if "Tracer' object" in str(error):
        return TypeError(untraceable)
    return TypeError(
        f"the optimizer {name} cannot be used in a training step: {str(error).rstrip('.')}. A step "
        "calls optimizer.update(gradients, opt_state, params) with the mean gradients of the "
        f"batch, and with the keyword arguments {', '.join(extra)} if it takes them; write another "
        "optimizer, such as optax.adam(1e-3)"
    )


def _source(error: BaseException) -> str | None:
    """Return the optax optimizer that raised an error, such as `lookahead`; None for other code."""
    name, inside, trace = None, None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__", "")).split(".")[0] == "optax":
            inside, _, method = frame.f_code.co_qualname.partition(".")
            name = inside if method else name  # plain functions help optimizers
        trace = trace.tb_next
    return name or inside


class SlowState(NamedTuple):
    """The state of `optax.lookahead`, with the slow parameters that it synchronizes."""

    inner: Any
    slow: Any


def with_slow_params(optimizer: Any) -> Any:
    """Return `optax.lookahead` as an optimizer of the fast parameters; any other one as it is.

    optax's takes pairs of fast and slow parameters. Here the slow ones are in the state, and
    `train.evaluation_params` returns them.
    """
    update = getattr(optimizer, "update", None)
    if getattr(update, "__qualname__", "") != "lookahead.<locals>.update_fn":
        return optimizer

    def init(params: Any) -> SlowState:
        inner = optimizer.init(optax.LookaheadParams.init_synced(params))
        return SlowState(inner, jax.tree.map(jnp.copy, params))

    def update_fast(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        both = optax.LookaheadParams(params, state.slow)
        updates, inner = optimizer.update(updates, state.inner, both)
        return updates.fast, SlowState(inner, optax.apply_updates(state.slow, updates.slow))

    return optax.GradientTransformation(init, update_fast)


def states_of(opt_state: Any, kind: type | tuple[type, ...]) -> list[Any]:
    """Return the outermost states of some kinds anywhere in an optimizer's state."""
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in found if isinstance(node, kind)]


def _is_one(item: Any) -> bool:
    return isinstance(item, Optimizer)


def _as_optax(item: Any) -> Any:
    """Return an optimizer in optax's form, which optax unpacks and passes further arguments."""
    return optax.GradientTransformationExtraArgs(item.init, item.update) if _is_one(item) else item


def _identity(item: Any) -> Any:
    """Return `core.values.equality_key`, and for an array its type, shape, and contents."""
    if isinstance(item, np.ndarray | jax.Array) and not is_traced(item):
        array = np.asarray(item)
        return type(item), array.dtype.str, array.shape, array.tobytes()
    return equality_key(item)


def _is_number(item: Any) -> bool:
    """Return whether an item is a number or an array."""
    kinds = float | int | np.number | np.ndarray | jax.Array
    return isinstance(item, kinds) and not isinstance(item, bool)

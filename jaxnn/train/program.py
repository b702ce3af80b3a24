"""Programs: what is trained, as three pure functions in one value.

    state = program.init(key, batch)
    state, metrics = program.step(state, batch)
    metrics = program.evaluate(state, batch, key=key)

A training loop needs nothing else, so a GAN, a teacher and its student, or an agent with its
environment is trained like a classifier. `Minimize` is the program of one objective and one
optimizer, and `Supervised` the one of a network and a task.
"""

import dataclasses
from typing import Any, ClassVar, dataclass_transform

import jax
import numpy as np

from ..explain.text import brief
from ..fields import is_traced
from ..fingerprint import CODE, fingerprint
from .optimizer import NUMBER


class _Static:
    """A static part, compared by type and value: 1, True, and 1.0 are three programs."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self._hash: int | None = None
        try:
            self._hash = hash((type(value), value))
        except TypeError:
            if _holds_traced(value):
                return  # used inside the trace that made it, and never compared
            raise TypeError(
                f"{where} holds {value!r:.80}, a {type(value).__name__}, which is neither a number "
                "nor a value that can be hashed; write a tuple, a frozen dataclass, or an array"
            ) from None

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, _Static) or type(self.value) is not type(other.value):
            return False
        return bool(self.value == other.value)

    def __hash__(self) -> int:
        if self._hash is None:
            raise TypeError(
                f"{self.value!r:.80} holds a traced number, so a program that has it stays inside "
                "the trace that made it; build the program inside the transformed function"
            )
        return self._hash

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass_transform(frozen_default=True, eq_default=False)
class Program:
    """Base of all programs: a frozen dataclass and a pytree. A subclass writes `init` and `step`.

    Its leaves are the floats, arrays, and traced values anywhere in its fields, also in optimizers,
    schedules, dicts, and other programs; changing them recompiles nothing. Everything else (Python
    ints, bools, text, functions, layers) is static. What is a leaf is decided when the program is
    made, and kept by tree operations, so `jax.tree.map` makes trees of axes or shardings of it.
    `static = ("clip",)` in the class makes the numbers of a field static.

    >>> import jax, jax.numpy as jnp
    >>> class Descent(Program):
    ...     rate: float
    ...     steps: int = 1
    ...     def init(self, key, batch):
    ...         return jax.random.normal(key)
    ...     def step(self, state, batch):
    ...         for _ in range(self.steps):
    ...             state = state - self.rate * 2 * state
    ...         return state, {"loss": state**2}
    >>> jax.tree.leaves(Descent(0.1))
    [0.1]
    >>> state, metrics = Descent(0.5).step(jnp.float32(3), None)
    >>> float(metrics["loss"])
    0.0
    """

    static: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, eq=False)(cls)
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(cls.static) - names):
            raise TypeError(
                f"{cls.__name__}.static names {', '.join(unknown)}, which is not a field; the "
                f"fields are {', '.join(sorted(names)) or 'none'}"
            )
        jax.tree_util.register_pytree_with_keys(
            cls, cls._flatten_with_keys, cls._unflatten, cls._flatten
        )

    def init(self, key: jax.Array, batch: Any, /) -> Any:
        """The state before the first step, any pytree of arrays.

        Args:
            key: a JAX key.
            batch: the first batch, None without data. Programs that need only its shapes also
                accept `jax.ShapeDtypeStruct`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no init; write def init(self, key, batch): ... return state"
        )

    def step(self, state: Any, batch: Any, /) -> tuple[Any, dict[str, Any]]:
        """The state after a step, of the same structure, and metrics by name.

        Args:
            state: the state before the step.
            batch: a pytree of rows, None without data.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no step; write def step(self, state, batch): ... "
            "return state, metrics"
        )

    def evaluate(self, state: Any, batch: Any, /, *, key: jax.Array) -> dict[str, Any]:
        """Metrics of a state on a piece of data, by name; none unless a subclass computes some.

        Args:
            state: a state.
            batch: a pytree of rows, None without data.
            key: a JAX key: the same for a piece of the data at every evaluation.
        """
        return {}

    def predict(self, state: Any, inputs: Any, /) -> Any:
        """Predictions for a pytree of rows.

        Args:
            state: a state.
            inputs: a pytree of rows.
        """
        raise TypeError(
            f"{type(self).__name__} has no predictions; write def predict(self, state, inputs)"
        )

    def check_data(self, data: Any, name: str) -> None:
        """Raise ValueError or TypeError for data that the program cannot be trained on.

        A run calls it with arrays of rows before the first step, and with each batch of a source.

        Args:
            data: a pytree of arrays of rows, on the host or the device.
            name: what errors call the data.
        """

    # ---- the pytree ----

    def _parts(self) -> tuple[tuple[str, ...], Any, tuple[Any, ...], list[Any]]:
        """Names of the fields, the structure of their values, static leaves, and numbers."""
        kept = vars(self).get("_partition")
        if kept is not None:  # a tree operation made it: its leaves may be anything
            names, structure, static = kept
            leaves = structure.flatten_up_to([getattr(self, name) for name in names])
            numbers = [a for a, b in zip(leaves, static, strict=True) if b is NUMBER]
            return names, structure, static, numbers
        names = tuple(field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        values = [getattr(self, name) for name in names]
        leaves, structure = jax.tree.flatten(values)
        counts = [jax.tree.structure(value).num_leaves for value in values]
        owners = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        static, numbers = [], []
        for leaf, owner in zip(leaves, owners, strict=True):
            if owner not in self.static and _is_number(leaf):
                static.append(NUMBER)
                numbers.append(leaf)
            else:
                static.append(_Static(leaf, f"{type(self).__name__}.{owner}"))
        return names, structure, tuple(static), numbers

    def _flatten(self) -> tuple[list[Any], Any]:
        names, structure, static, numbers = self._parts()
        return numbers, (names, structure, static)

    def _flatten_with_keys(self) -> tuple[Any, Any]:
        numbers, aux = self._flatten()
        names, structure, static = aux
        places = jax.tree.unflatten(structure, list(range(len(static))))
        keyed, _ = jax.tree_util.tree_flatten_with_path(dict(zip(names, places, strict=True)))
        keys = {place: path for path, place in keyed}
        of_numbers = [keys[i] for i, one in enumerate(static) if one is NUMBER]
        return [(_Path(path), n) for path, n in zip(of_numbers, numbers, strict=True)], aux

    @classmethod
    def _unflatten(cls, aux: Any, numbers: Any) -> Any:
        names, structure, static = aux
        left = iter(numbers)
        leaves = [next(left) if one is NUMBER else one.value for one in static]
        self = object.__new__(cls)
        values = jax.tree.unflatten(structure, leaves)
        vars(self).update(zip(names, values, strict=True), _partition=aux)
        return self


def check_program(program: Any, function: str) -> None:
    """Raise TypeError for anything but a program, such as a network.

    Args:
        program: what was passed in its place.
        function: the function of `jaxnn.train` that takes it, for the error.
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"train.{function} takes a train.Program, got {brief(program)}; write "
            f"train.{function}(program, ...) with program = train.Supervised(net, task, optimizer) "
            "or train.Minimize(objective, optimizer)"
        )


def code_of(program: Program) -> tuple[tuple[str, str], ...]:
    """The user's code that a program runs, as hashable text: its methods and what they refer to."""
    methods = [getattr(type(program), name) for name in ("init", "step", "evaluate", "predict")]
    zeros: Any = jax.tree.map(lambda _: 0, program)
    fields = [getattr(zeros, field.name) for field in dataclasses.fields(zeros)]
    found = fingerprint((methods, fields))
    return tuple(sorted((name, text) for name, text in found.items() if name.startswith(CODE)))


@dataclasses.dataclass(frozen=True)
class _Path:
    """Several keys of a path as one, since a program's leaves lie deeper than its fields."""

    keys: tuple[Any, ...]

    def __str__(self) -> str:
        return jax.tree_util.keystr(self.keys)


def _holds_traced(value: Any) -> bool:
    """Whether a static part, such as a layer, has a traced number somewhere in its fields."""
    if dataclasses.is_dataclass(value):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return any(map(_holds_traced, inner))
    if isinstance(value, dict):
        return any(map(_holds_traced, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_holds_traced, value))
    return is_traced(value)


def _is_number(leaf: Any) -> bool:
    """Whether a leaf of a program's fields is data: a float, an array, or traced."""
    if isinstance(leaf, float | np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct):
        return not (isinstance(leaf, np.ndarray) and leaf.dtype.hasobject)
    return is_traced(leaf)

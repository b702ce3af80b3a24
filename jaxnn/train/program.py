"""Programs: what is trained, as three pure functions in one value.

    state = program.init(key, batch)
    state, metrics = program.step(state, batch)
    metrics = program.evaluate(state, batch, key=key)

A training loop needs nothing else, so a GAN, a teacher and its student, or an agent with its
environment is trained like a classifier. `Minimize` is the program of one objective and one
optimizer, and `Supervised` the one of a network and a task. `TrainState` is all that their steps
change, in one pytree.
"""

import dataclasses
import inspect
from typing import Any, ClassVar, NamedTuple, Protocol, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.calls import State
from ..data.rows import leaves_by_path
from ..explain import notebook
from ..explain.text import brief
from ..fields import is_traced
from ..fingerprint import CODE, fingerprint
from ..validation import Accepts, check_fields, instance, unwritten
from .optimizer import NUMBER


class Trained(Protocol):
    """A network's parameters and state: a `TrainState`, or what is read from a run folder."""

    @property
    def params(self) -> Any:
        """The parameters."""
        ...

    @property
    def state(self) -> Any:
        """The state, `{}` if the network keeps none."""
        ...


trained_like: Accepts = Accepts(
    "a train.TrainState or a train.Weights",
    lambda value: hasattr(value, "params") and hasattr(value, "state"),
    TypeError,
    hint="write train.Weights(params, net.init_state(x)) for plain parameters",
    abstract=True,
)


class TrainState(NamedTuple):
    """Parameters, the network's state, the optimizer's state, the step count and the root key.

    The random key of step i is `jax.random.fold_in(key, i)`, so an interrupted and resumed run
    draws the same random numbers as an uninterrupted run. `ts._replace(...)` returns a modified
    state.

    Args:
        params: The parameters.
        state: The network's state, `{}` if it keeps none.
        opt_state: The optimizer's state.
        step: The number of completed steps, int32.
        key: The words of the root key: uint32 (2,), (4,) for `rbg`, and (1, 4) for `unsafe_rbg`.
    """

    # A named tuple and raw words, since a jitted call takes them faster than a dataclass and a key.

    params: Any
    state: State
    opt_state: Any
    step: jax.Array
    key: jax.Array

    def _repr_html_(self) -> str:
        """Return a folded tree with shapes, for notebooks."""
        return notebook.page(notebook.of_tree(self))


def state_key(key: jax.Array) -> jax.Array:
    """Return the key from which random initial state is drawn, given the key of a run.

    No layer is called `variables`, so no parameter has the same key.
    """
    return paths.fold_in(key, "variables")


def owned(tree: Any) -> Any:
    """Return the tree with a copy of each array.

    A step donates the memory of its state. XLA refuses that if two leaves are one buffer, as in
    optimizers whose state begins with the parameters, and the caller would lose an array that the
    optimizer or an initializer also holds, such as the key of `optax.add_noise`.
    """
    leaves, structure = jax.tree.flatten(tree)
    del tree  # each array is freed once it is copied, unless the caller holds it
    for i, leaf in enumerate(leaves):
        if is_traced(leaf):
            continue
        if isinstance(leaf, jax.Array) and (is_key(leaf) or not leaf.is_fully_addressable):
            leaves[i] = jnp.copy(leaf)  # `device_put` moves keys, and rejects parts elsewhere
        else:  # `jnp.copy` would compile
            leaves[i] = jax.device_put(leaf, may_alias=False)
    return jax.tree.unflatten(structure, leaves)


def tree_differences(before: Any, after: Any, whole: str) -> list[str]:
    """Return where two trees differ in structure, shapes, or types, as lines.

    Args:
        before: A pytree of arrays and Python numbers.
        after: Another one.
        whole: What the root is called.
    """
    one, other = jax.tree.structure(before), jax.tree.structure(after)
    if one == other and all(map(_are_alike, jax.tree.leaves(before), jax.tree.leaves(after))):
        return []
    given, found = leaves_by_path(before), leaves_by_path(after)

    def text(leaves: dict[str, Any], path: str, absent: str) -> str:
        leaf = leaves.get(path, absent)
        if leaf is absent:
            return absent
        return "a number" if isinstance(leaf, bool | int | float) else brief(leaf)

    lines = [
        f"{path or whole} is {text(found, path, 'missing')} instead of "
        f"{text(given, path, 'nothing')}"
        for path in {**given, **found}
        if path not in given or path not in found or not _are_alike(given[path], found[path])
    ]
    return lines or [f"it is {other} instead of {one}"]


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether both are Python numbers, or arrays of the same shape and type."""

    def kind(leaf: Any) -> Any:
        is_number = isinstance(leaf, bool | int | float)
        return None if is_number else (getattr(leaf, "shape", None), getattr(leaf, "dtype", None))

    return kind(one) == kind(other)


def is_key(leaf: Any) -> bool:
    """Return whether an array holds keys, as the state of `optax.add_noise` does."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def strong(leaf: Any) -> Any:
    """Return the leaf as an array that is not weakly typed, as a step would return it."""
    if hasattr(leaf, "dtype") and is_key(leaf):
        return leaf
    _state_leaf(leaf, "a leaf of the state that init returns")
    return jnp.asarray(leaf, jnp.result_type(leaf))


_state_leaf = Accepts(
    "an array or a number",
    lambda leaf: isinstance(leaf, bool | int | float | complex) or hasattr(leaf, "dtype"),
    TypeError,
    "write it as a field of the program, and return a pytree of arrays",
    abstract=True,
)


def without_keys(tree: Any) -> Any:
    """Return the tree with the words of keys, uint32, in place of keys."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def with_keys(tree: Any, like: Any) -> Any:
    """Return the tree that `without_keys` was given, with the types of `like`."""

    def leaf(one: Any, like: Any) -> Any:
        if not is_key(like):
            return one
        return jax.random.wrap_key_data(one, impl=jax.random.key_impl(jnp.empty((), like.dtype)))

    return jax.tree.map(leaf, tree, like)


class _Static:
    """A static part, compared by type and value: 1, True, and 1.0 are three programs."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self._hash: int | None = None
        try:
            self._hash = hash((type(value), value))
        except TypeError:
            if _holds_traced(value):
                return  # used inside the trace that created it, and never compared
            raise TypeError(
                f"{where} must hold numbers and hashable values, got {value!r:.80}, a "
                f"{type(value).__name__}; write a tuple, a frozen dataclass, or an array"
            ) from None

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, _Static) or type(self.value) is not type(other.value):
            return False
        return bool(self.value == other.value)

    def __hash__(self) -> int:
        if self._hash is None:
            raise TypeError(
                f"{self.value!r:.80} holds a traced number, so a program that has it must stay in "
                "the trace that created it; build the program inside the transformed function"
            )
        return self._hash

    def __repr__(self) -> str:
        return repr(self.value)


_ARGUMENTS = {
    "init": "(self, key, batch)",
    "step": "(self, state, batch)",
    "evaluate": "(self, state, batch, *, key)",
    "predict": "(self, state, inputs)",
}


def _takes(method: Any, form: str) -> bool:
    """Return whether a method can be called with the arguments in `form`."""
    positional, _, named = form.partition("*")
    try:
        inspect.signature(method).bind(
            *positional.strip("(), ").split(","), **({"key": 0} if named else {})
        )
    except TypeError:
        return False
    return True


@dataclass_transform(frozen_default=True, eq_default=False)
class Program:
    """Base of all programs, a frozen dataclass and a pytree. A subclass defines `init` and `step`.

    The leaves are all floats, arrays, and traced values in the fields, including those inside
    optimizers, schedules, dicts, and other programs; changing them does not recompile. Everything
    else (Python ints, bools, strings, functions, layers) is static. The set of leaves is fixed when
    the program is created, so `jax.tree.map` can replace leaves by other values, such as axes or
    shardings. `static = ("clip",)` in the class makes the numbers of a field static.

    Fields are checked against their annotations (`jaxnn.validation`); traced numbers and arrays are
    not checked.

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
    """The fields whose numbers are static."""
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, eq=False)(cls)
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        what = f"a tuple of names of fields, which are {', '.join(sorted(names)) or 'none'}"
        Accepts(what, lambda v: set(v) <= names, TypeError)(cls.static, f"{cls.__name__}.static")
        for name, form in _ARGUMENTS.items():
            method = vars(cls).get(name)
            if inspect.isfunction(method) and not _takes(method, form):
                raise TypeError(
                    f"{cls.__name__}.{name} must take {form}, got {inspect.signature(method)}; "
                    f"write def {name}{form}: ..."
                )
        jax.tree_util.register_pytree_with_keys(
            cls, cls._flatten_with_keys, cls._unflatten, cls._flatten
        )

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self)

    @unwritten("no init; write def init(self, key, batch): ... return state")
    def init(self, key: jax.Array, batch: Any, /) -> Any:
        """Return the state before the first step, any pytree of arrays.

        Args:
            key: A JAX key.
            batch: The first batch, None without data. Programs that need only its shapes also
                accept `jax.ShapeDtypeStruct`.
        """
        ...

    @unwritten("no step; write def step(self, state, batch): ... return state, metrics")
    def step(self, state: Any, batch: Any, /) -> tuple[Any, dict[str, Any]]:
        """Return the state after a step, of the same structure, and metrics by name.

        Args:
            state: The state before the step.
            batch: A pytree of rows, None without data.
        """
        ...

    def evaluate(self, state: Any, batch: Any, /, *, key: jax.Array) -> dict[str, Any]:
        """Return metrics by name of a state on a piece of data; the default returns none.

        Args:
            state: A state.
            batch: A pytree of rows, None without data.
            key: A JAX key, which is the same at every evaluation of a piece.
        """
        return {}

    @unwritten("no predictions; write def predict(self, state, inputs)", TypeError)
    def predict(self, state: Any, inputs: Any, /) -> Any:
        """Return predictions for a pytree of rows.

        Args:
            state: A state.
            inputs: A pytree of rows.
        """
        ...

    def check_data(self, data: Any, name: str) -> None:
        """Raise ValueError or TypeError for data on which the program cannot be trained.

        A run calls this method with arrays of rows before the first step, or with each batch of a
        source.

        Args:
            data: A pytree of arrays of rows, on the host or the device.
            name: Name of the data in error messages.
        """

    def _parts(self) -> tuple[tuple[str, ...], Any, tuple[Any, ...], list[Any]]:
        """Return names of fields, the structure of their values, static leaves, and numbers."""
        kept = vars(self).get("_partition")
        if kept is not None:  # a tree operation made it: its leaves may be anything
            names, structure, static = kept
            leaves = structure.flatten_up_to([getattr(self, name) for name in names])
            numbers = [a for a, b in zip(leaves, static, strict=True) if b is NUMBER]
            return names, structure, static, numbers
        names = tuple(field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        values = [getattr(self, name) for name in names]
        structure, parts, numbers = jax.tree.structure(values), [], []
        for name, value in zip(names, values, strict=True):
            for leaf in jax.tree.leaves(value):
                if name not in self.static and _is_number(leaf):
                    parts.append(NUMBER)
                    numbers.append(leaf)
                else:
                    parts.append(_Static(leaf, f"{type(self).__name__}.{name}"))
        return names, structure, tuple(parts), numbers

    def _flatten(self) -> tuple[list[Any], Any]:
        names, structure, static, numbers = self._parts()
        return numbers, (names, structure, static)

    def _flatten_with_keys(self) -> tuple[Any, Any]:
        names, structure, static, numbers = self._parts()
        places = jax.tree.unflatten(structure, range(len(static)))
        keyed = jax.tree_util.tree_leaves_with_path(dict(zip(names, places, strict=True)))
        keys = {place: _Path(path) for path, place in keyed}
        of_numbers = [keys[i] for i, leaf in enumerate(static) if leaf is NUMBER]
        return list(zip(of_numbers, numbers, strict=True)), (names, structure, static)

    @classmethod
    def _unflatten(cls, aux: Any, numbers: Any) -> Any:
        names, structure, static = aux
        left = iter(numbers)
        leaves = [next(left) if leaf is NUMBER else leaf.value for leaf in static]
        self = object.__new__(cls)
        values = jax.tree.unflatten(structure, leaves)
        vars(self).update(zip(names, values, strict=True), _partition=aux)
        return self


def check_program(program: Any, function: str) -> None:
    """Raise TypeError for anything but a program, such as a network.

    Args:
        program: The value to check.
        function: The function of `jaxnn.train` that takes it, for the error.
    """
    instance(Program, "a train.Program")(
        program,
        f"train.{function}.program",
        f"write train.{function}(program, ...) with program = train.Supervised(net, task, "
        "optimizer) or train.Minimize(objective, optimizer)",
    )


def code_of(program: Program) -> tuple[tuple[str, str], ...]:
    """Return the user's code that a program runs, as hashable text: methods and what they use."""
    methods = [getattr(type(program), name) for name in ("init", "step", "evaluate", "predict")]
    zeros: Any = jax.tree.map(lambda _: 0, program)
    fields = [getattr(zeros, field.name) for field in dataclasses.fields(zeros)]
    found = fingerprint((methods, fields))
    return tuple(sorted((name, text) for name, text in found.items() if name.startswith(CODE)))


@dataclasses.dataclass(frozen=True)
class _Path:
    """Several keys of a path as one, since a program's leaves are inside its fields."""

    keys: tuple[Any, ...]

    def __str__(self) -> str:
        return jax.tree_util.keystr(self.keys)


def _holds_traced(value: Any) -> bool:
    """Return whether a static part, such as a layer, has a traced number in its fields."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    return any(map(_holds_traced, value)) if isinstance(value, tuple | list) else is_traced(value)


def _is_number(leaf: Any) -> bool:
    """Return whether a leaf of a program's fields is data: a float or an array, traced or not."""
    if isinstance(leaf, np.ndarray):
        return not leaf.dtype.hasobject
    return isinstance(leaf, float | np.generic | jax.Array | jax.ShapeDtypeStruct)

"""Placement: where the state of any program lies on a mesh, by rules on its paths.

    placement = parallel.Placement(parallel.mesh(data=8), parallel.FSDP)
    state, history = train.fit(program, data, key=key, epochs=10, placement=placement)

`train.run` and `train.fit` know a placement by its methods alone, which are those of
`train.placement.SingleDevice`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import with_sharding_constraint
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..core import paths
from ..explain.text import describe
from ..keys import as_key, kept_key, kept_words
from ..train import Minimize, TrainState
from ..train.state import is_key, strong
from ..watching import watching
from .gathering import gathering
from .mesh import batch_axes
from .rules import DATA_PARALLEL, Rules, check_rules, placed, unknown_axes
from .watches import Recording
from .whole_state import Drawn, by_path, shardings_of

NOT_TRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and rules: where the whole state of a program lies, and the rows of its batches.

    The first rule whose pattern matches the path of an array in the state decides: `**/g/**`
    matches `g/0/w` and `optimizers/g/0/mu/0/w`. In a `train.TrainState`, patterns also match the
    paths of the network: `head/w` matches `params/head/w`, and what the optimizer keeps for it, so
    all tables of `jaxnn.parallel` fit `train.Minimize` and `train.Supervised`. Arrays that no rule
    matches, scalars, random keys, and the `state` of a `TrainState` (running statistics) are
    replicated.

    Axes that `Repeat` or `Ensemble` stack are left out of a spec and never split. An array at the
    path of a parameter that has another shape, as Adafactor keeps them, is split if the spec fits
    it, and replicated if not.

    A state is drawn in its parts, and each step returns it as it lay. The numbers are those of one
    device, to the rounding of sums in another order. The networks of `train.Minimize` gather split
    weights layer by layer; in other programs XLA decides what is exchanged. Data that are arrays
    lie whole on every device, and the axes `replica` and `data` of the mesh split the rows of each
    batch, whose number they have to divide. A piece of an evaluation that they do not divide is
    computed by every device.

    Args:
        mesh: the mesh, from `parallel.mesh`.
        rules: pairs of a path pattern and a `PartitionSpec` or `parallel.Split`, as for
            `parallel.shardings`; `parallel.DATA_PARALLEL` by default, by which each device holds
            the whole state.

    Raises:
        TypeError: rules that are something else.
        ValueError: a mesh whose axes are not of `AxisType.Auto`, and a rule with an axis that the
            mesh does not have. When a run begins: a rule that matches nothing, and a spec that does
            not fit an array of the state, with its path.

    >>> import jax, jax.numpy as jnp, optax
    >>> from jaxnn import Dense, parallel, train
    >>> program = train.Supervised(Dense(1), train.Regression(), optax.adam(0.1))
    >>> placement = Placement(parallel.mesh(data=1), parallel.FSDP)
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> state, history = train.fit(program, (x, 3 * x[:, 0]), key=jax.random.key(0), epochs=2,
    ...                            batch_size=16, placement=placement, progress=False)
    >>> state.params["w"].sharding.mesh == placement.mesh
    True
    """

    mesh: Mesh
    rules: Rules = DATA_PARALLEL

    def __post_init__(self) -> None:
        """Check the mesh and the rules."""
        if not isinstance(self.mesh, Mesh):
            raise TypeError(
                f"a placement has a mesh of devices, got {self.mesh!r:.80}; write "
                "parallel.Placement(parallel.mesh(data=-1), parallel.FSDP)"
            )
        wrong = [
            f"{name!r} is {kind.name}"
            for name, kind in zip(self.mesh.axis_names, self.mesh.axis_types, strict=True)
            if kind != AxisType.Auto
        ]
        if wrong:
            sizes = ", ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())
            raise ValueError(
                f"a placement needs a mesh whose axes are AxisType.Auto, but {', '.join(wrong)}; "
                f"write parallel.mesh({sizes}), or jax.make_mesh(..., axis_types="
                f"(jax.sharding.AxisType.Auto,) * {len(self.mesh.axis_names)})"
            )
        check_rules(self.rules)
        if lines := list(unknown_axes(self.rules, self.mesh)):
            raise ValueError("the rules do not fit the mesh:\n  " + "\n  ".join(lines))

    @property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds."""
        return NamedSharding(self.mesh, P())

    def shardings(self, program: Any, key: jax.Array, batch: Any) -> Any:
        """A sharding for each array of `program.init(key, batch)`; nothing is computed.

        Args:
            program: the program.
            key: a JAX key.
            batch: a batch of the program, or `jax.ShapeDtypeStruct` in its place; None without
                data.

        Raises:
            TypeError: an `init` that reads values of the batch.
            ValueError: rules that do not fit the state.

        >>> import jax, optax
        >>> from jaxnn import Dense, parallel, train
        >>> program = train.Supervised(Dense(8), train.Classification(8), optax.adam(0.1))
        >>> batch = jax.ShapeDtypeStruct((4, 2), "float32"), jax.ShapeDtypeStruct((4,), "int32")
        >>> placement = parallel.Placement(parallel.abstract_mesh(data=4), parallel.FSDP)
        >>> found = placement.shardings(program, jax.random.key(0), batch)
        >>> [tuple(one.spec) for one in (found.params["w"], found.opt_state[0].mu["w"], found.step)]
        [(None, 'data'), (None, 'data'), ()]
        """
        state, recording = self._traced(program, as_key(key), batch)
        return self._places(state, self._declared(program, batch, recording))

    # ---- what a run calls outside of compiled code ----

    def init(self, program: Any, key: jax.Array, batch: Any, given: Any = None) -> Any:
        """The state before the first step, of which each device draws its own parts.

        No device holds a whole array that is split. Parameters of one kind are drawn together, and
        meanwhile a device holds about twice its parts of them besides the state.

        Args:
            program: the program.
            key: a typed key.
            batch: the first batch.
            given: a state to begin with instead of `program.init(key, batch)`, which is copied.
        """
        if given is not None:
            _, recording = self._traced(program, key, batch)
            places = self._places(given, self._declared(program, batch, recording))
            put = jax.tree.map(self._put, given, places)
            # Copies: on the device that had an array, `device_put` keeps its memory.
            return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)(put)
        # On the host, the key's words are the same to all processes.
        words = np.asarray(kept_words(key))
        make, places = self._drawing(program, key, batch)
        return make(words, batch, self._initial(program, places))

    def _drawing(self, program: Any, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        """The jitted function (words of the key, batch, initial) that makes a state in its parts.

        And where the parts lie. Parameters to start from are an argument, so that they are not part
        of the compiled code.
        """
        state, recording = self._traced(program, key, batch)
        places = self._places(state, self._declared(program, batch, recording))

        def make(words: jax.Array, batch: Any, initial: Any) -> Any:
            one = program if initial is None else dataclasses.replace(program, initial=initial)
            with watching(recording.placed(jax.tree.leaves(places))):
                state = one.init(kept_key(words), batch)
            # Copies, since an output that is an input would be the same memory.
            return jax.tree.map(lambda leaf: jnp.copy(strong(leaf)), state)

        return jax.jit(make, out_shardings=places), places

    def _initial(self, program: Any, places: Any) -> Any:
        """The parameters that a program starts from, each where it will lie."""
        if not isinstance(program, Minimize) or program.initial is None:
            return None
        found = dict(by_path(places.params))
        leaves = [self._put(leaf, found[path]) for path, leaf in by_path(program.initial)]
        return jax.tree.unflatten(jax.tree.structure(program.initial), leaves)

    def like(self, program: Any, key: jax.Array, batch: Any, tree: Any) -> Any:
        """Shapes and types with the sharding that the arrays are to have.

        Args:
            program, key, batch: as for `init`.
            tree: `{"state": ..., "memories": ...}`: shapes and types of a state, and of what hooks
                keep of it, which lies as the state does.
        """
        _, recording = self._traced(program, key, batch)
        places = self._places(tree["state"], self._declared(program, batch, recording))
        shapes = dict(by_path(tree["state"]))
        found = {path: (shapes[path].shape, place) for path, place in by_path(places)}

        def of_memory(path: paths.Path, leaf: Any) -> NamedSharding:
            for start in range(len(path)):
                shape, place = found.get(path[start:], (None, self.whole))
                if shape == leaf.shape:
                    return place
            return self.whole

        # The names of memories are whole paths.
        memories = {
            name: _like(leaf, of_memory(tuple(name.split("/")), leaf))
            for name, leaf in tree["memories"].items()
        }
        return {"state": jax.tree.map(_like, tree["state"], places), "memories": memories}

    def layout(self, state: Any) -> tuple[NamedSharding, ...]:
        """How a state lies, as a hashable value, for `pinned` and `gathering`."""

        def of(leaf: Any) -> NamedSharding:
            found = getattr(leaf, "sharding", None)
            if isinstance(found, NamedSharding) and found.mesh == self.mesh:
                return placed(self.mesh, found.spec)
            return self.whole

        return tuple(map(of, jax.tree.leaves(state)))

    def put(self, tree: Any) -> Any:
        """Arrays of rows, whole on every device."""

        def leaf(array: Any) -> Any:
            lies = isinstance(array, jax.Array) and array.sharding == self.whole
            return array if lies else jax.device_put(_on_host(array), self.whole)

        return jax.tree.map(leaf, tree)

    def put_batch(self, batch: Any) -> Any:
        """A batch that a source gave, of which each process gives its rows."""
        self._check_rows(batch, max(1, self._parts() // jax.process_count()))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(self._rows, np.asarray(leaf)), batch
        )

    def batch_like(self, batch: Any) -> Any:
        """The shapes of a batch, as `put_batch` returns it."""
        return jax.tree.map(lambda leaf: _like(leaf, self._rows), batch)

    @property
    def _rows(self) -> NamedSharding:
        return placed(self.mesh, P(batch_axes(self.mesh)))

    def put_numbers(self, program: Any) -> list[Any]:
        """The leaves of a program, as arguments of its compiled code: whole on every device.

        Python numbers stay as they are, and so do parameters to start from, which no step reads.
        """
        initial = jax.tree.leaves(program.initial) if isinstance(program, Minimize) else []
        unread = {id(leaf) for leaf in initial}

        def leaf(one: Any) -> Any:
            if not isinstance(one, jax.Array):
                return one
            if id(one) not in unread:
                return self._put(one, self.whole)
            return one if not one.is_fully_addressable else np.asarray(one)

        return [leaf(one) for one in jax.tree.leaves(program)]

    # ---- what compiled code calls ----

    def pinned(self, state: Any, layout: tuple[NamedSharding, ...]) -> Any:
        """The state that a step returns, where the one before it lay."""
        leaves, structure = jax.tree.flatten(state)
        return jax.tree.unflatten(structure, map(with_sharding_constraint, leaves, layout))

    def gathering(self, program: Any, state: Any, batch: Any, layout: Any) -> Any:
        """The program; that of `train.Minimize` with layers that gather their weights."""
        if not isinstance(program, Minimize) or not isinstance(state, TrainState):
            return program
        places = jax.tree.unflatten(jax.tree.structure(state), layout).params
        found = dict(paths.walk(places))
        own = {}
        for path, param in paths.walk(_spec(program, batch)):
            if path in found:
                entries = tuple(found[path].spec or ())
                entries += (None,) * (param.ndim - len(entries))
                own[path] = P(*entries[len(param.stack) :])
        return dataclasses.replace(program, objective=gathering(program.objective, self.mesh, own))

    def pinned_batch(self, batch: Any) -> Any:
        """A batch of a step, each device with its rows; ValueError if they do not divide it."""
        self._check_rows(batch, self._parts())
        return with_sharding_constraint(batch, self._rows)

    def pinned_piece(self, piece: Any) -> Any:
        """A piece of an evaluation, each device with its rows, or with all if they are uneven."""
        uneven = any(
            not leaf.ndim or leaf.shape[0] % self._parts() for leaf in jax.tree.leaves(piece)
        )
        return with_sharding_constraint(piece, self.whole if uneven else self._rows)

    def pinned_whole(self, tree: Any) -> Any:
        """Metrics and predictions, whole on every device."""
        return with_sharding_constraint(tree, self.whole)

    # ---- parts ----

    def _traced(self, program: Any, key: jax.Array, batch: Any) -> tuple[Any, Recording]:
        """The shapes of the state, and what the layers drew for it."""
        recording = Recording()

        def init(key: jax.Array, batch: Any) -> Any:
            with watching(recording):
                state = program.init(key, batch)
            recording.find(state)
            return jax.tree.map(strong, state)

        try:
            return jax.eval_shape(init, key, batch), recording
        except NOT_TRACEABLE as error:
            owner = type(program).__name__
            raise TypeError(
                f"{owner}.init reads values of its batch or key in Python, but on a mesh it is "
                "compiled, so that each device draws its own parts; write it with jax.numpy, or "
                f"compute these values before and pass them as a field of {owner}"
            ) from error

    def _declared(self, program: Any, batch: Any, recording: Recording) -> list[Drawn]:
        declared = recording.declared()
        if isinstance(program, Minimize):  # `initial` replaces what was drawn
            walked = paths.walk(_spec(program, batch))
            declared += [Drawn.of(path, param, ("params",)) for path, param in walked]
        return declared

    def _places(self, state: Any, declared: list[Drawn]) -> Any:
        return shardings_of(state, declared, self.mesh, self.rules)

    def _parts(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in batch_axes(self.mesh))

    def _check_rows(self, batch: Any, parts: int) -> None:
        for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
            shape = np.shape(leaf)
            if not shape or shape[0] % parts:
                where = jax.tree_util.keystr(path, simple=True, separator="/") or "the batch"
                one = jax.ShapeDtypeStruct(shape, leaf.dtype)
                sizes = " x ".join(f"{a}={self.mesh.shape[a]}" for a in batch_axes(self.mesh))
                raise ValueError(
                    f"{where} is {describe(one)}, whose rows do not fall into the {parts} parts "
                    f"into which {sizes} of the mesh splits a batch; write a batch_size that is a "
                    f"multiple of {self._parts()}"
                )

    def _put(self, leaf: Any, place: NamedSharding) -> Any:
        if hasattr(leaf, "dtype") and is_key(leaf):
            words = self._put(jax.random.key_data(leaf), self.whole)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return jax.device_put(_on_host(leaf), place)


def _on_host(array: Any) -> Any:
    """An array that `device_put` takes to all processes: those of one process as NumPy arrays."""
    is_global = isinstance(array, jax.Array) and not array.is_fully_addressable
    return array if is_global or jax.process_count() == 1 else np.asarray(array)


def _like(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _spec(program: Minimize, batch: Any) -> Any:
    return program.objective.spec(batch, **program.named_inputs(0))

"""Placement: the state of any program on a mesh, by rules on its paths.

    placement = parallel.Placement(parallel.mesh(data=8), parallel.FSDP)
    state, history = train.fit(program, data, key=key, epochs=10, placement=placement)

`train.run` and `train.fit` call only the methods that `train.step.SingleDevice` also has.

A mesh axis that splits a batch cannot split a weight in use: each device needs the whole weight for
its rows. By default, XLA may exchange activations instead, with several times the traffic.
Therefore each layer of a network gathers its weights along those axes: in a `Repeat` one copy at a
time, and under `Remat` again in the backward pass. The gradient is summed over the devices and
split like the weight.
"""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import with_sharding_constraint
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..combine import Residual
from ..combine.precision import Precision
from ..combine.transforms import Inference, Remat, Repeat, capture
from ..core import paths
from ..core.calls import (
    INTERCEPTOR,
    Call,
    Interceptor,
    Next,
    Outcome,
    evaluate_layer,
    intercepting,
)
from ..core.layer import Layer, Primitive
from ..keys import as_key, kept_key, kept_words
from ..random import watching
from ..train import Minimize
from ..train.minimize import SupervisedLoss
from ..train.optimizer import UNTRACEABLE
from ..train.program import is_key, strong
from ..tree import inside, intercept
from ..validation import Accepts, check_fields
from .mesh import batch_axes, check_rows_fit, row_parts, row_sharding, shard_batch
from .rules import (
    DATA_PARALLEL,
    RULES,
    Drawing,
    Recording,
    Rules,
    axes_of,
    check_rules,
    flatten_with_paths,
    placed,
    shardings_of,
)

MESH = Accepts(
    "a mesh whose axes are AxisType.Auto",
    lambda mesh: isinstance(mesh, Mesh) and {*mesh.axis_types} <= {AxisType.Auto},
    TypeError,
    "write parallel.Placement(parallel.mesh(data=-1), parallel.FSDP)",
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh, and rules that place the state of a program and the rows of its batches on it.

    The first rule whose pattern matches the path of an array in the state applies: `**/g/**`
    matches `g/0/w` and `optimizers/g/0/mu/0/w`. Patterns also match the path of a parameter in its
    network: `head/w` matches `params/head/w`, and what an optimizer keeps for it. Arrays that no
    rule matches, scalars, random keys, and the `state` of a `train.TrainState` (running statistics)
    are replicated.

    Specs do not include the axes that `Repeat` or `Ensemble` stack; these axes are never split.
    Some optimizers, such as Adafactor, keep arrays of another shape at the path of a parameter.
    Such an array is split if the spec fits its shape, and replicated otherwise.

    Each device draws its parts of the first state, and a step returns the state with the same
    shardings. Results equal those on one device, up to rounding of sums in another order.

    If parameters are split along the axes of the batch, every network in a step or an evaluation
    gathers them layer by layer, also inside of `jax.grad`, `jax.vmap`, and `lax.scan`. XLA chooses
    the communication in all other cases: parameters that a step creates or reshapes, equal networks
    with different specs, predictions, and functions inside of `jax.shard_map`. It may exchange
    activations instead of weights, which changes the traffic but not the results.

    Data in arrays are replicated. The axes `replica` and `data` of the mesh split the rows of each
    batch and must divide their number. In an evaluation, a piece whose rows they do not divide
    is computed on every device.

    Args:
        mesh: The mesh, from `parallel.mesh`.
        rules: Pairs of a path pattern and a `PartitionSpec` or `parallel.Split`, as for
            `parallel.shardings`. Default: `parallel.DATA_PARALLEL`, each device holds the whole
            state.

    Raises:
        TypeError: The axes of the mesh are not `AxisType.Auto`, or the rules are not such pairs.
        ValueError: The mesh does not have an axis of a rule. When a run begins: a rule matches
            nothing, or a spec does not fit an array of the state, whose path is listed.

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

    mesh: Annotated[Mesh, MESH]
    rules: Annotated[Rules, RULES] = DATA_PARALLEL

    def __post_init__(self) -> None:
        """Check the mesh and the rules."""
        check_fields(self)
        check_rules(self.rules, self.mesh)

    @property
    def whole(self) -> NamedSharding:
        """The sharding of arrays that every device holds completely."""
        return NamedSharding(self.mesh, P())

    def shardings(self, program: Any, key: jax.Array, batch: Any) -> Any:
        """Return a sharding for each array of `program.init(key, batch)`, without computing it.

        Args:
            program: The program.
            key: A JAX key.
            batch: A batch of the program, or `jax.ShapeDtypeStruct` in its place; None without
                data.

        Raises:
            TypeError: `program.init` reads values of the batch.
            ValueError: The rules do not fit the state.

        >>> import jax, optax
        >>> from jaxnn import Dense, parallel, train
        >>> program = train.Supervised(Dense(8), train.Classification(8), optax.adam(0.1))
        >>> batch = jax.ShapeDtypeStruct((4, 2), "float32"), jax.ShapeDtypeStruct((4,), "int32")
        >>> placement = parallel.Placement(parallel.abstract_mesh(data=4), parallel.FSDP)
        >>> found = placement.shardings(program, jax.random.key(0), batch)
        >>> [tuple(one.spec) for one in (found.params["w"], found.opt_state[0].mu["w"], found.step)]
        [(None, 'data'), (None, 'data'), ()]
        """
        return self._places(*self._traced(program, as_key(key), batch))

    # ---- what a run calls outside of compiled code ----

    def first_state(self, program: Any, key: jax.Array, batch: Any, given: Any = None) -> Any:
        """As `SingleDevice.first_state`; each device draws its own parts."""
        key = as_key(key)
        if given is not None:
            places = self._places(given, self._traced(program, key, batch)[1])
            put = jax.tree.map(self._put, given, places)
            # Copy, because `device_put` shares the memory of an array that is already on a device.
            return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)(put)
        # On the host, so that the key's words are the same in all processes.
        words = np.asarray(kept_words(key))
        make, places = self._drawing(program, key, batch)
        shapes = jax.ShapeDtypeStruct in map(type, jax.tree.leaves(batch))
        return make(words, None if shapes else batch, self._initial(program, places))

    def _drawing(self, program: Any, key: jax.Array, batch: Any) -> tuple[Any, Any]:
        """Return the jitted function (words of the key, batch, initial) that makes a state.

        The second result has the sharding of each array. Initial parameters are an argument,
        so that they are not part of the compiled code.
        """
        state, recording = self._traced(program, key, batch)
        places = self._places(state, recording)

        def make(words: jax.Array, given: Any, initial: Any) -> Any:
            one = program if initial is None else dataclasses.replace(program, initial=initial)
            with watching(Drawing(recording, jax.tree.leaves(places))):
                state = one.init(kept_key(words), batch if given is None else given)
            # Copy, because an output that is also an input would share its memory.
            return jax.tree.map(lambda leaf: jnp.copy(strong(leaf)), state)

        return jax.jit(make, out_shardings=places), places

    def _initial(self, program: Any, places: Any) -> Any:
        """Return the parameters that a program starts from, with their shardings in the state."""
        if not isinstance(program, Minimize) or program.initial is None:
            return None
        found = dict(flatten_with_paths(places.params))
        leaves = []
        for keys, leaf in flatten_with_paths(program.initial):
            path = tuple(key for key in keys if key != "params")  # of `train.Weights`
            leaves.append(self._put(leaf, found.get(path, self.whole)))
        return jax.tree.unflatten(jax.tree.structure(program.initial), leaves)

    def like(self, program: Any, key: jax.Array, batch: Any, tree: Any) -> Any:
        """As `SingleDevice.like`; copies of the state in a memory are split like the state."""
        state = tree["state"]
        places = self._places(state, self._traced(program, key, batch)[1])
        pairs = zip(flatten_with_paths(state), jax.tree.leaves(places), strict=True)
        found = {(path, leaf.shape): place for (path, leaf), place in pairs}

        def of_memory(name: str, leaf: Any) -> NamedSharding:
            path = tuple(name.split("/"))  # the names of memories are whole paths
            ends = ((path[start:], leaf.shape) for start in range(len(path)))
            return next((found[end] for end in ends if end in found), self.whole)

        memories = {
            name: sharded_struct(leaf, of_memory(name, leaf))
            for name, leaf in tree["memories"].items()
        }
        return {"state": jax.tree.map(sharded_struct, state, places), "memories": memories}

    def layout(self, state: Any) -> tuple[NamedSharding, ...]:
        """Return the sharding of each array of a state, for `pinned` and `gathering`."""

        def of(leaf: Any) -> NamedSharding:
            found = getattr(leaf, "sharding", None)
            if isinstance(found, NamedSharding) and found.mesh == self.mesh:
                return placed(self.mesh, found.spec)
            return self.whole

        return tuple(map(of, jax.tree.leaves(state)))

    def put(self, tree: Any) -> Any:
        """Copy arrays of rows to every device."""
        return jax.tree.map(lambda leaf: self._put(leaf, self.whole), tree)

    def put_batch(self, batch: Any) -> Any:
        """Place a batch on the mesh, of which each process has read its rows."""
        return shard_batch(batch, self.mesh)

    def batch_like(self, batch: Any) -> Any:
        """Return the shapes and shardings of the batch that `put_batch` returns."""
        return jax.tree.map(lambda leaf: sharded_struct(leaf, row_sharding(self.mesh)), batch)

    def put_numbers(self, program: Any) -> list[Any]:
        """Return the leaves of a program, as arguments of its compiled code: whole on every device.

        Python numbers stay as they are, and so do parameters to start from, which no step reads.
        """
        initial = program.initial if isinstance(program, Minimize) else None
        unread = {id(leaf) for leaf in jax.tree.leaves(initial)}

        def leaf(one: Any) -> Any:
            if not isinstance(one, jax.Array):
                return one
            if id(one) in unread:  # on the host, since it may be on another device
                return np.asarray(one) if one.is_fully_addressable else one
            return self._put(one, self.whole)

        return [leaf(one) for one in jax.tree.leaves(program)]

    # ---- what compiled code calls ----

    def pinned(self, state: Any, layout: tuple[NamedSharding, ...]) -> Any:
        """Constrain the state that a step returns to the shardings of the previous state."""
        leaves, structure = jax.tree.flatten(state)
        return jax.tree.unflatten(structure, map(with_sharding_constraint, leaves, layout))

    def gathering(self, program: Any, state: Any, batch: Any, layout: Any) -> Any:
        """Return the program with networks that gather their split weights layer by layer."""
        leaves = zip(flatten_with_paths(state), layout, strict=True)
        known = tuple((path, np.shape(leaf), at.spec) for (path, leaf), at in leaves)

        def within(function: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                with intercepting(Gathering(self.mesh, known, INTERCEPTOR.value)):
                    return function(*arguments, **named)

            return call

        return SimpleNamespace(step=within(program.step), evaluate=within(program.evaluate))

    def pinned_batch(self, batch: Any) -> Any:
        """Pin a batch of a step, each device with its rows; ValueError if they do not divide it."""
        check_rows_fit(batch, self.mesh, row_parts(self.mesh))
        return with_sharding_constraint(batch, row_sharding(self.mesh))

    def pinned_piece(self, piece: Any) -> Any:
        """Pin a piece of an evaluation, each device with its rows, or all if uneven."""
        parts = row_parts(self.mesh)
        uneven = any(not leaf.ndim or leaf.shape[0] % parts for leaf in jax.tree.leaves(piece))
        return with_sharding_constraint(piece, self.whole if uneven else row_sharding(self.mesh))

    def pinned_whole(self, tree: Any) -> Any:
        """Pin metrics and predictions, whole on every device."""
        return with_sharding_constraint(tree, self.whole)

    # ---- parts ----

    def _traced(self, program: Any, key: jax.Array, batch: Any) -> tuple[Any, Recording]:
        """Return the shapes of a program's first state, and what its layers draw for it."""
        recording = Recording()

        def init(key: jax.Array, batch: Any) -> Any:
            with watching(recording):
                state = program.init(key, batch)
            recording.find(state)
            return jax.tree.map(strong, state)

        try:
            return jax.eval_shape(init, key, batch), recording
        except UNTRACEABLE as error:
            owner = type(program).__name__
            raise TypeError(
                f"{owner}.init reads values of its batch or key in Python, but on a mesh it is "
                "compiled, so that each device draws its own parts; write it with jax.numpy, or "
                f"compute these values before and pass them as a field of {owner}"
            ) from error

    def _places(self, state: Any, recording: Recording) -> Any:
        """Return a sharding for each array of a state."""
        return shardings_of(state, recording.declared(), self.mesh, self.rules)

    def _put(self, leaf: Any, place: NamedSharding) -> Any:
        if hasattr(leaf, "dtype") and is_key(leaf):
            words = self._put(jax.random.key_data(leaf), self.whole)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return jax.device_put(_on_host(leaf), place)


def init(program: Any, key: jax.Array, batch: Any, placement: Placement) -> Any:
    """Return the first state of a program on a mesh; each device draws its own parts.

    No device holds a split array completely. Parameters with the same shape and initializer are
    drawn together, which temporarily needs about twice the memory of their parts in addition to the
    state.

    With JAX's default generator (`threefry2x32` with `jax_threefry_partitionable`), the state
    equals `program.init(key, batch)` up to rounding. Other generators draw other numbers.

    Args:
        program: The program.
        key: A JAX key.
        batch: The first batch, of all processes together. Programs that need only its shapes also
            accept `jax.ShapeDtypeStruct`.
        placement: The mesh and the rules.

    Raises:
        TypeError: `program.init` reads values of the batch.
        ValueError: The rules do not fit the state.

    >>> import jax, optax
    >>> from jaxnn import Dense, parallel, train
    >>> program = train.Supervised(Dense(8), train.Classification(8), optax.adam(0.1))
    >>> batch = jax.ShapeDtypeStruct((4, 2), "float32"), jax.ShapeDtypeStruct((4,), "int32")
    >>> placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
    >>> state = parallel.init(program, jax.random.key(0), batch, placement)
    >>> state.params["w"].shape, state.params["w"].sharding.mesh == placement.mesh
    ((2, 8), True)
    """
    return placement.first_state(program, key, batch)


def _on_host(array: Any) -> Any:
    """Return an array that `device_put` takes to all processes, such as a NumPy array."""
    is_global = isinstance(array, jax.Array) and not array.is_fully_addressable
    return array if is_global or jax.process_count() == 1 else np.asarray(array)


def sharded_struct(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    """Return the shape and type of an array, with a sharding."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


# ---- gathering ----

# Wrappers that pass the parameters of one copy on unchanged. Inside any other wrapper, a weight
# could be gathered in each iteration of a loop, or no longer be a parameter.
_OPEN = (Inference, Repeat, Remat, Precision, Residual, capture, intercept, SupervisedLoss)

# The mesh axes that split each axis of an array, with None for the axes that are not split.
Entries = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Gathering:
    """An interceptor that makes networks gather their parameters, if these are part of a state.

    The parameters of a network are found by their paths and shapes, since in a step they may be
    inside of transforms such as `jax.grad`. Inside of `jax.vmap` or `lax.scan` they have fewer axes
    than in the state. If several parts of the state fit, parts with equal shapes are preferred,
    then those with the shortest paths. A network whose parameters are found at two such places with
    different specs is evaluated without gathering.

    Args:
        mesh: The mesh.
        leaves: The path, shape, and spec of each array of the state.
        outer: The interceptor around the step, such as that of `nn.checkify`, which still sees
            every layer; None by default.
    """

    mesh: Mesh
    leaves: tuple[tuple[paths.Path, tuple[int, ...], P], ...]
    outer: Interceptor | None = None

    def __call__(self, path: paths.Path, layer: Layer, call: Call, next: Next) -> Outcome:
        """Return the outcome of the network that gathers."""
        manual = jax.sharding.get_abstract_mesh().manual_axes  # inside of jax.shard_map
        specs = {} if manual else self.specs(call.params)
        with intercepting(None):  # nested calls have gathered parameters
            net = gathered(layer, self.mesh, specs)
            return evaluate_layer(net, call.replace(interceptor=self.outer))

    def specs(self, params: Any) -> dict[paths.Path, Entries]:
        """Return how each parameter is split, by path; {} if they are not in the state."""
        own = {path: np.shape(leaf) for path, leaf in paths.walk(params)}
        known = {
            path: (shape, (*spec, *(None,) * (len(shape) - len(spec))))
            for path, shape, spec in self.leaves
        }
        first: paths.Path = next(iter(own), ())
        found: dict[tuple[bool, int], set[Any]] = {}
        for place in known if own else ():
            above = place[: len(place) - len(first)]
            if (*above, *first) == place:
                there = [known.get((*above, *path), ((), ())) for path in own]
                shapes = [shape for shape, _ in there]
                pairs = zip(shapes, own.values(), strict=True)
                if all(shape[len(shape) - len(one) :] == one for shape, one in pairs):
                    rank = shapes != list(own.values()), len(above)
                    found.setdefault(rank, set()).add(tuple(spec for _, spec in there))
        nearest = found[min(found)] if found else set()
        return dict(zip(own, nearest.pop(), strict=True)) if len(nearest) == 1 else {}


def gathered(net: Layer, mesh: Mesh, specs: Mapping[paths.Path, Entries]) -> Layer:
    """Return the network with layers that gather their parameters, for one trace.

    Args:
        net: The network.
        mesh: The mesh.
        specs: How each parameter is split, by path.
    """
    axes = batch_axes(mesh)
    split = {path: spec for path, spec in specs.items() if not set(axes).isdisjoint(axes_of(spec))}

    def gather(path: paths.Path, leaf: jax.Array) -> jax.Array:
        if path not in split:
            return leaf
        own = split[path][len(split[path]) - leaf.ndim :]  # of one copy of stacked parameters
        whole = [tuple(axis for axis in axes_of((entry,)) if axis not in axes) for entry in own]
        leaf = with_sharding_constraint(leaf, placed(mesh, P(*own)))
        return with_sharding_constraint(leaf, placed(mesh, P(*whole)))

    below = False  # whether all parameters have been gathered above

    def gathering(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        nonlocal below
        if below or isinstance(layer, _OPEN) or not (isinstance(layer, Primitive) or inside(layer)):
            return next(call)
        # Cast first, which halves the traffic of bfloat16.
        params = paths.map_with_path(gather, call.cast_params(), path)
        below = True
        try:
            return next(call.replace(params=params, casting=None))
        finally:
            below = False

    return intercept(net, gathering) if split else net

"""Optimizers on stacked parameters: each block of a stack is a separate array to the optimizer.

`Repeat`, `Ensemble`, and `MixtureOfExperts` keep the parameters of n equal layers as one array with
a leading axis of n. optax cannot know that, so a norm, a rank, or a factorization would be that of
the stack. `init` and `update` give an optimizer the blocks instead:

- If the optimizer on separate blocks can be written as one program for a stack (`lifting`), that
  program runs. It is compiled in the time of one block, and elementwise optimizers do what they do
  on stacks.
- Otherwise the optimizer gets separate arrays, and its updates and state are stacked again.

Between steps the state is the same in both cases: what belongs to a block is stacked as the
parameter is, at the same path.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.declarations import split_arrays
from ..core.layer import Layer
from .block_tree import Blocks, Form
from .frozen import OnTrained, Partition, on_trained
from .lifting import JOINED, Arrays, NotLifted, Symbols, Value, interpret
from .optimizer import Optimizer, as_pytree, updated

WRONG_STATE = (
    "the optimizer's state is not that of separate blocks; make it by "
    "train.TrainState.create(net, optimizer, key, x), or by the init of "
    "train.for_network(optimizer, net, x)"
)


@dataclasses.dataclass(frozen=True)
class Stacks:
    """How many leading axes of each parameter are stacked: a tree of ints, as a hashable value."""

    structure: Any
    depths: tuple[int, ...]

    @classmethod
    def of(cls, net: Layer, *inputs: Any, **named: Any) -> "Stacks":
        """The stacks of a network's parameters, from `net.spec(*inputs, **named)`."""
        spec = net.spec(*inputs, **named)
        return cls.from_tree(jax.tree.map(lambda param: len(param.stack), spec))

    @classmethod
    def from_tree(cls, tree: Any) -> "Stacks":
        """The stacks from a tree of ints with the structure of the parameters."""
        depths, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(depths))


class OnBlocks:
    """The optimizer that `for_network` makes: one that is given each block of a stack."""

    def __init__(self, optimizer: Any, stacks: Stacks) -> None:
        self.inner, self.stacks = as_pytree(optimizer), stacks

    def init(self, params: Any) -> Any:
        """The state of all blocks."""
        return _Split(self.inner, self.stacks, params).init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """The updates and state of all blocks."""
        given = updates if params is None else params
        return _Split(self.inner, self.stacks, given).update(updates, state, params, **extra)


def for_network(optimizer: Any, net: Layer, *inputs: Any, **named: Any) -> Any:
    """The optimizer, for which stacked blocks of the network's parameters are separate arrays.

    It never receives parameters under `nn.Inference`: its state has no leaf for them, and its
    updates leave them as they are.

    Updates of the parameters of `Repeat(block, n)` are then those of n blocks in a row, for every
    optimizer: a norm, a trust ratio, or a matrix factorization is that of each block, and so is the
    rank that a mask of weight decay looks at. The same holds for `Ensemble`, `MixtureOfExperts`,
    and nests of them. `TrainState.create`, `make_step`, `fit`, `jaxnn.parallel`, and sweeps apply
    this function to every optimizer; a training loop that calls `init` and `update` itself calls it
    first. What the state keeps for a block is stacked as the parameter is, at the same path.

    Masks and labels may depend on the shape, the rank, and the path of a parameter, and `update`
    passes further arguments on; functions among them are called with stacked parameters.

    Args:
        optimizer: an optax optimizer or a `train.Optimizer`.
        net: the network whose parameters are optimized.
        *inputs: arrays or `jax.ShapeDtypeStruct`, as for `net.init`.
        **named: named inputs, as for `net.init`.

    Returns:
        A `train.Optimizer`; `optimizer` itself if no parameter is stacked or under `nn.Inference`.

    Raises:
        ValueError: in `init` or `update`, for parameters or a state of another structure, and for
            an optimizer that depends on the number of keys in a path.

    >>> import optax, jaxnn as nn
    >>> net, x = nn.Repeat(nn.Dense(2, bias=False), 2), jnp.ones((1, 2))
    >>> optimizer = for_network(optax.clip_by_block_rms(2.0), net, x)
    >>> gradient = {"w": jnp.array([1.0, 4.0])[:, None, None] * jnp.ones((2, 2, 2))}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    >>> updates["w"][:, 0, 0].tolist()
    [1.0, 2.0]
    """
    partition = Partition.of(net, *inputs, **named)
    frozen = any(partition.frozen)
    stacks = Stacks.of(net, *inputs, **named)
    if frozen:
        depths = jax.tree.unflatten(partition.structure, stacks.depths)
        stacks = Stacks.from_tree(partition.split(depths)[0])
    if not frozen and not any(stacks.depths):
        return optimizer
    optimizer = _bare(optimizer)
    if any(stacks.depths):
        optimizer = Optimizer(OnBlocks, optimizer, stacks)
    return on_trained(optimizer, partition) if frozen else optimizer


def _bare(optimizer: Any) -> Any:
    """The optimizer without what `for_network` put into it before, which the new one replaces."""
    if not isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer.factory in (OnBlocks, OnTrained):
        return _bare(optimizer.parts[0])
    parts, arguments = jax.tree.map(
        _bare, (optimizer.parts, optimizer.arguments), is_leaf=lambda x: isinstance(x, Optimizer)
    )
    return Optimizer(optimizer.factory, *parts, **arguments)


class _Split:
    """An optimizer, the parameters' stacks, and the two ways to give it blocks."""

    def __init__(self, inner: Any, stacks: Stacks, params: Any) -> None:
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        if structure != stacks.structure:
            raise ValueError(
                f"the optimizer was made for parameters with the structure {stacks.structure}, got "
                f"{structure}; write train.for_network(optimizer, net, x)"
            )
        self.inner, self.structure = inner, structure
        self.keys = [path[-1] if path else jax.tree_util.SequenceKey(0) for path, _ in leaves]
        self.stacks = [
            tuple(jnp.shape(leaf)[:depth])
            for (_, leaf), depth in zip(leaves, stacks.depths, strict=True)
        ]
        self.two = [2 if stack else 1 for stack in self.stacks]
        self.all = [math.prod(stack) for stack in self.stacks]

    def init(self, params: Any) -> Any:
        """The state of all blocks."""

        def several(counts: Sequence[int] | None) -> Any:
            return (self._several(params, counts),)

        return self._evaluate(self.inner.init, several, (params,))

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """The updates and the state of all blocks."""
        functions = {name: item for name, item in extra.items() if callable(item)}
        rest = {name: item for name, item in extra.items() if name not in functions}
        trees = {name: item for name, item in rest.items() if self._is_like_params(item)}
        rest = {name: item for name, item in rest.items() if name not in trees}
        arrays, join = split_arrays(rest)

        def with_functions(functions: dict[str, Any]) -> Callable[..., Any]:
            def function(updates: Any, state: Any, params: Any, trees: Any, arrays: Any) -> Any:
                more = {**trees, **join(arrays), **functions}
                return updated(self.inner, updates, state, params, **more)

            return function

        def several(counts: Sequence[int] | None) -> Any:
            start = self._several(updates if params is None else params, counts)
            return (
                self._several(updates, counts),
                jax.eval_shape(self.inner.init, start),
                None if params is None else start,
                {name: self._several(item, counts) for name, item in trees.items()},
                arrays,
            )

        args = updates, state, params, trees, arrays
        try:
            refused = {name: _refused(item) for name, item in functions.items()}
            return self._evaluate(with_functions(refused), several, args)
        except _FunctionCalled:  # it takes all blocks
            given = {name: self._of_blocks(item) for name, item in functions.items()}
            return self._one_by_one(with_functions(given), Form(several(self.all)), args)

    def _is_like_params(self, tree: Any) -> bool:
        """Whether a tree has an array for each parameter, stacked as it is."""
        return jax.tree.structure(tree) == self.structure and all(
            jnp.shape(leaf)[: len(stack)] == stack
            for leaf, stack in zip(jax.tree.leaves(tree), self.stacks, strict=True)
        )

    def _of_blocks(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of parameters, such as a loss, as one of their blocks."""

        @functools.wraps(function)  # optax looks at the names of its parameters
        def of_blocks(*args: Any, **named: Any) -> Any:
            return self._split(function(*self._joined(args), **self._joined(named)))

        return of_blocks

    def _split(self, result: Any) -> Any:
        """What a function returned, with blocks in place of arrays stacked as the parameters."""
        if not self._is_like_params(result):
            return result
        leaves = zip(jax.tree.leaves(result), self.all, self.keys, strict=True)
        blocks = [
            Blocks(self._unstacked(leaf, array), leaf, key)
            for leaf, (array, _, key) in enumerate(leaves)
        ]
        return jax.tree.unflatten(self.structure, blocks)

    def _several(self, tree: Any, counts: Sequence[int] | None) -> Any:
        """The shapes of that many blocks of each parameter; of single arrays for None."""
        leaves = self.structure.flatten_up_to(tree)
        nodes: list[Any] = [
            _aval(leaf, len(stack)) for leaf, stack in zip(leaves, self.stacks, strict=True)
        ]
        if counts is not None:
            several = enumerate(zip(nodes, counts, self.keys, strict=True))
            nodes = [Blocks([aval] * count, leaf, key) for leaf, (aval, count, key) in several]
        return jax.tree.unflatten(self.structure, nodes)

    def _evaluate(
        self, function: Callable[..., Any], several: Callable[..., Any], args: Any
    ) -> Any:
        """`function` on blocks, by the program for stacks, or else block by block."""
        try:
            return self._lifted(function, Form(several(self.two)), args)
        except Exception as error:
            self._check_paths(function, several)
            if not isinstance(error, NotLifted | NotImplementedError):  # as by `jax.vmap`
                raise
        return self._one_by_one(function, Form(several(self.all)), args)

    def _check_paths(self, function: Callable[..., Any], several: Callable[..., Any]) -> None:
        """Raise ValueError if an optimizer does not do the same to `Blocks` as to their arrays."""
        one, result = _traced(function, several(None))  # raises the errors of the optimizer
        cause = None
        try:
            other, results = _traced(function, several([1] * len(self.stacks)))
            same = Form(results).plain == jax.tree.structure(result) and _equal(one, other)
        except Exception as error:  # of a user's mask or labels
            same, cause = False, error
        if not same:
            raise ValueError(
                "the optimizer depends on the whole path of a parameter, or on the structure of "
                "the parameters, in a way that separate blocks of a stack do not keep; choose "
                "parameters by the last key of a path or by train.partition({pattern: optimizer}), "
                "or train nn.unstack_layers(net, params)"
            ) from cause

    def _lifted(self, function: Callable[..., Any], form: Form, args: Any) -> Any:
        """`function` of single blocks, lifted to stacks; NotLifted unless that is the same."""
        given = self._leaves(form, args)
        pairs = zip(given, form.entries, strict=True)
        avals = [_aval(array, self._depth(leaf)) for array, (leaf, _) in pairs]
        if [aval.shape for aval in avals] != form.shapes():
            raise NotLifted("the state depends on the number of blocks")
        one, result = _traced(function, jax.tree.unflatten(form.plain, avals))
        places: list[Any] = [None] * len(form.leaves)
        for aval, (_, several) in zip(avals, form.entries, strict=True):
            for place in several:
                places[place] = aval
        two, results = _traced(function, jax.tree.unflatten(form.structure, places))
        made = Form(results)
        if made.plain != jax.tree.structure(result) or made.shapes() != [
            leaf.shape for leaf in jax.tree.leaves(result)
        ]:
            raise NotLifted("the result depends on the number of blocks")
        self._check_equal(one, form, two, made)
        values = [Value(leaf, a) for a, (leaf, _) in zip(given, form.entries, strict=True)]
        machine = Arrays(self.stacks)
        found = interpret(one.jaxpr, one.consts, values, machine)
        arrays = [
            jnp.asarray(value.data if leaf is None else machine.spread(value, leaf))
            for value, (leaf, _) in zip(found, made.entries, strict=True)
        ]
        return jax.tree.unflatten(made.plain, arrays)

    def _check_equal(self, one: Any, form: Form, two: Any, made: Form) -> None:
        """Raise NotLifted unless the lifted program is the optimizer's own one for two blocks."""
        symbols = Symbols(self.two)
        values = [symbols.argument(i, leaf) for i, (leaf, _) in enumerate(form.entries)]
        inputs: list[Any] = [None] * len(form.leaves)
        for value, (_, places) in zip(values, form.entries, strict=True):
            for place, number in zip(places, _each(value), strict=True):
                inputs[place] = Value(None, number)
        found = interpret(one.jaxpr, one.consts, values, symbols)
        wanted = interpret(two.jaxpr, two.consts, inputs, symbols)
        for value, (leaf, places) in zip(found, made.entries, strict=True):
            if (isinstance(value.kind, int) and value.kind != leaf) or value.kind == JOINED:
                raise NotLifted("a result mixes parameters")
            numbers = _each(value) if leaf is None else symbols.spread(value, leaf)
            if tuple(numbers) != tuple(wanted[place].data for place in places):
                raise NotLifted("the optimizer joins blocks in another way")

    def _one_by_one(self, function: Callable[..., Any], form: Form, args: Any) -> Any:
        """`function` of separate arrays, whose results are stacked again."""
        given = self._leaves(form, args)
        depths = [self._depth(leaf) for leaf, _ in form.entries]
        if form.shapes() != [jnp.shape(a)[n:] for a, n in zip(given, depths, strict=True)]:
            raise ValueError(WRONG_STATE)
        places: list[Any] = [None] * len(form.leaves)
        for (leaf, several), array in zip(form.entries, given, strict=True):
            for place, block in zip(several, self._unstacked(leaf, array), strict=True):
                places[place] = block
        results = function(*jax.tree.unflatten(form.structure, places))
        return self._joined(results)

    def _joined(self, tree: Any) -> Any:
        """The tree with stacked arrays in place of `Blocks`."""
        form = Form(tree)
        arrays = [
            self._stacked(leaf, [form.leaves[place] for place in places])
            for leaf, places in form.entries
        ]
        return jax.tree.unflatten(form.plain, arrays)

    def _leaves(self, form: Form, args: Any) -> list[Any]:
        leaves, structure = jax.tree.flatten(args)
        if structure != form.plain:
            raise ValueError(WRONG_STATE)
        return leaves

    def _depth(self, leaf: int | None) -> int:
        return 0 if leaf is None else len(self.stacks[leaf])

    def _unstacked(self, leaf: int | None, array: Any) -> list[Any]:
        depth = self._depth(leaf)
        if leaf is None or not depth:
            return [array]
        flat = jnp.reshape(array, (self.all[leaf], *jnp.shape(array)[depth:]))
        return [flat[i] for i in range(self.all[leaf])]

    def _stacked(self, leaf: int | None, blocks: list[Any]) -> Any:
        if not self._depth(leaf):
            return blocks[0]
        stack = self.stacks[leaf]  # type: ignore[index]
        return jnp.reshape(jnp.stack(blocks), (*stack, *jnp.shape(blocks[0])))


class _FunctionCalled(Exception):
    """An optimizer called a function argument, such as a loss, which takes whole parameters."""


def _refused(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refused(*args: Any, **named: Any) -> Any:
        raise _FunctionCalled

    return refused


def _equal(one: Any, other: Any) -> bool:
    """Whether two jaxprs compute the same."""
    symbols = Symbols(())
    inputs = [symbols.argument(i, None) for i in range(len(one.jaxpr.invars))]
    found = [interpret(each.jaxpr, each.consts, inputs, symbols) for each in (one, other)]
    return found[0] == found[1]


def _each(value: Value) -> Sequence[Any]:
    return value.data if isinstance(value.kind, int) else (value.data,)


def _aval(array: Any, depth: int) -> jax.ShapeDtypeStruct:
    """The shape and type of a block of an array with `depth` stacked axes."""
    aval: Any = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    if not isinstance(array, jax.ShapeDtypeStruct) and not aval.sharding.mesh.empty:
        # In `jax.shard_map`, and on a mesh with explicit axes, types have the mesh axes too.
        stack = tuple(range(depth))
        first = [slice(0, 1)] * depth + [slice(None)] * (aval.ndim - depth)
        return jax.eval_shape(lambda a: lax.squeeze(a[tuple(first)], stack), array)
    weak = bool(getattr(aval, "weak_type", False))
    return jax.ShapeDtypeStruct(aval.shape[depth:], aval.dtype, weak_type=weak)


def _traced(function: Callable[..., Any], args: Any) -> tuple[Any, Any]:
    """The jaxpr of a function, and the shapes of its result."""
    return jax.make_jaxpr(function, return_shape=True)(*args)

"""An optimizer of separate arrays as one of stacked parameters.

`Repeat`, `Ensemble`, and `MixtureOfExperts` keep the parameters of n equal layers as one array with
a leading axis of n. optax does not know this, so a norm, a rank, or a factorization would be that
of the stack. `Stacked` passes an optimizer a tree in which `Blocks` replace each stacked array, and
stacks the results:

- If the optimizer applies the same computation to each block (`lifting`), it is evaluated once for
  a whole stack, and compiles in the time of one block.
- Otherwise it receives separate arrays.

The state is the same in both cases: arrays that belong to a block are stacked like the parameter,
at the same path.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.declarations import split_arrays
from .lifting import Expressions
from .optimizer import updated

WRONG_STATE = (
    "the optimizer's state is not that of separate blocks; make it by "
    "program.init(key, batch), or by the init of train.for_network(optimizer, net, x)"
)


class _Key(jax.tree_util.DictKey):
    """The key of a block in a dict. It equals the parameter's, and `keystr` shows only that one."""

    def __str__(self) -> str:
        return ""


class _Index(jax.tree_util.SequenceKey):
    """The key of a block in a tuple. It equals the parameter's, and `keystr` shows only that."""

    def __str__(self) -> str:
        return ""


@jax.tree_util.register_pytree_with_keys_class
class Blocks:
    """The blocks of a parameter, in its place in a tree.

    Args:
        items: The blocks.
        leaf: The number of the parameter.
        key: The last key of its path, which its blocks have too, so that masks find them.
    """

    items: tuple[Any, ...]
    leaf: int
    key: Any

    def __init__(self, items: Sequence[Any], leaf: int, key: Any) -> None:
        self.items, self.leaf, self.key = tuple(items), leaf, key

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Return the blocks with the parameter's key, and which parameter they belong to."""
        is_name = isinstance(self.key, jax.tree_util.DictKey)
        key = _Key(self.key.key) if is_name else _Index(self.key.idx)
        return [(key, item) for item in self.items], (self.leaf, self.key)

    def tree_flatten(self) -> tuple[Any, Any]:
        """Return the blocks, and which parameter they belong to."""
        return self.items, (self.leaf, self.key)

    @classmethod
    def tree_unflatten(cls, aux: Any, items: Any) -> "Blocks":
        """Return other blocks of the same parameter."""
        return cls(items, *aux)


class Form:
    """How the leaves of a tree with `Blocks` correspond to those of a tree of stacked arrays.

    `plain` is the structure of the latter. `entries` has, for each leaf of it, the number of the
    parameter that it belongs to, or None, and the positions of its blocks among `leaves`.
    """

    leaves: list[Any]
    structure: Any
    plain: Any

    def __init__(self, tree: Any) -> None:
        self.leaves, self.structure = jax.tree.flatten(tree)
        positions = jax.tree.unflatten(self.structure, range(len(self.leaves)))
        nodes, outer = jax.tree.flatten(positions, is_leaf=lambda node: isinstance(node, Blocks))
        self.entries: list[tuple[int | None, tuple[int, ...]]] = []
        plain = []
        for node in nodes:
            items = node.items if isinstance(node, Blocks) else (node,)
            leaf = node.leaf if isinstance(node, Blocks) else None
            several, structures = zip(*map(jax.tree.flatten, items), strict=True)
            if len(set(structures)) > 1:
                raise ValueError(
                    "the optimizer's state has another structure for each block of a parameter; "
                    "train nn.unstack_layers(net, params)"
                )
            self.entries += [(leaf, blocks) for blocks in zip(*several, strict=True)]
            plain.append(jax.tree.unflatten(structures[0], [0] * structures[0].num_leaves))
        self.plain = jax.tree.structure(jax.tree.unflatten(outer, plain))

    def positions(self) -> list[tuple[int, ...]]:
        """Return the positions of the blocks of each entry."""
        return [positions for _, positions in self.entries]

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of a block of each entry."""
        return [self.leaves[positions[0]].shape for _, positions in self.entries]


class Stacked:
    """An optimizer of separate arrays as one of stacked arrays.

    Args:
        optimizer: The optimizer.
        params: The parameters, or a tree like them.
        depths: The number of stacked axes of each parameter.
    """

    def __init__(self, optimizer: Any, params: Any, depths: Sequence[int]) -> None:
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(params)
        self._inner = optimizer
        self._keys = [path[-1] if path else jax.tree_util.SequenceKey(0) for path, _ in leaves]
        shapes = [jnp.shape(leaf) for _, leaf in leaves]
        self._stacks = [shape[:depth] for shape, depth in zip(shapes, depths, strict=True)]
        self._counts = [math.prod(stack) for stack in self._stacks]

    def init(self, params: Any) -> Any:
        """Return the state of all blocks."""
        return self._evaluate(self._inner.init, lambda counts: (self._of(params, counts),), params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """Return the updates and the state of all blocks."""
        functions = {name: item for name, item in extra.items() if callable(item)}
        rest = {name: item for name, item in extra.items() if name not in functions}
        trees = {name: item for name, item in rest.items() if self._is_like_params(item)}
        arrays, join = split_arrays({name: rest[name] for name in rest if name not in trees})

        def arguments(counts: Sequence[int] | None) -> Any:
            like = self._of(updates if params is None else params, counts)
            return (
                self._of(updates, counts),
                jax.eval_shape(self._inner.init, like),
                None if params is None else like,
                {name: self._of(tree, counts) for name, tree in trees.items()},
                arrays,
            )

        def update_with(functions: dict[str, Any]) -> Callable[..., Any]:
            def update(updates: Any, state: Any, params: Any, trees: Any, arrays: Any) -> Any:
                more = {**trees, **join(arrays), **functions}
                return updated(self._inner, updates, state, params, **more)

            return update

        given = updates, state, params, trees, arrays
        try:
            refused = {name: around(item, _refuse, _refuse) for name, item in functions.items()}
            return self._evaluate(update_with(refused), arguments, *given)
        except _FunctionCalled:  # such as a loss, which takes whole parameters
            whole = {name: around(f, self._join, self._split) for name, f in functions.items()}
            return self._one_by_one(update_with(whole), arguments, *given)

    def _evaluate(self, function: Callable[..., Any], arguments: Any, *given: Any) -> Any:
        """Return what a function of blocks gives for stacks: lifted, or else block by block.

        Args:
            function: A function of trees with `Blocks`.
            arguments: Maps a number of blocks for each parameter to the shapes of the arguments;
                None to shapes without `Blocks`.
            *given: The arguments, stacked.
        """
        ones, twos = [1] * len(self._stacks), [2 if stack else 1 for stack in self._stacks]
        form = Form(arguments(twos))
        arrays = self._leaves(form, given)
        leaves = [leaf for leaf, _ in form.entries]
        avals = [_block(array, self._depth(n)) for array, n in zip(arrays, leaves, strict=True)]
        alike = [aval.shape for aval in avals] == form.shapes()
        expressions = Expressions()
        numbers = [expressions.argument(index, leaf) for index, leaf in enumerate(leaves)]

        def results_of(counts: Sequence[int] | None) -> tuple[Any, list[Any]]:
            """Return the shapes of the results, and their values."""
            tree = Form(arguments(counts))
            inputs: Any = tree.leaves
            values: list[Any] = [None] * len(inputs)
            several = [(i,) for i in range(len(leaves))] if counts is None else tree.positions()
            for number, leaf, aval, positions in zip(numbers, leaves, avals, several, strict=True):
                for block, position in enumerate(positions):
                    values[position] = number, None if leaf is None else block
                    if alike:  # of the types that are given
                        inputs[position] = aval
            filled = jax.tree.unflatten(tree.structure, inputs)
            closed, shapes = jax.make_jaxpr(function, return_shape=True)(*filled)
            return shapes, expressions.results(closed, values, counts or ones)

        shapes, values = results_of(None)  # raises the errors of the optimizer
        plain = jax.tree.structure(shapes)

        def same_results(counts: Sequence[int]) -> Form | None:
            """Return the form of the results if single blocks have the same ones."""
            shapes, found = results_of(counts)
            made = Form(shapes)
            if made.plain != plain:
                return None
            several = [
                expressions.stacked(leaf, [found[position] for position in positions])
                for leaf, positions in made.entries
            ]
            return made if several == stacked(made) else None

        def stacked(made: Form) -> list[int]:
            pairs = zip(made.entries, values, strict=True)
            return [expressions.stacked(leaf, [value]) for (leaf, _), value in pairs]

        made: Form | None = None
        cause: Exception | None = None
        for counts in (twos, ones) if alike else (ones,):
            try:
                made = same_results(counts)
            except Exception as error:  # of a user's mask, or of an optimizer of single blocks
                cause = error
            if made is not None and counts is twos:
                given_arrays = dict(zip(numbers, arrays, strict=True))
                results = expressions.evaluate(stacked(made), given_arrays, self._stacks)
                return jax.tree.unflatten(plain, list(map(jnp.asarray, results)))
        if made is None:
            raise ValueError(
                "the optimizer depends on the whole path of a parameter, or on the structure of "
                "the parameters, in a way that separate blocks of a stack do not keep; choose "
                "parameters by the last key of a path or by train.partition({pattern: optimizer}), "
                "or train nn.unstack_layers(net, params)"
            ) from cause
        return self._one_by_one(function, arguments, *given)

    def _one_by_one(self, function: Callable[..., Any], arguments: Any, *given: Any) -> Any:
        """Return what a function gives for separate arrays, stacked."""
        form = Form(arguments(self._counts))
        arrays = self._leaves(form, given)
        stacks = [() if leaf is None else self._stacks[leaf] for leaf, _ in form.entries]
        shapes = [(*stack, *shape) for stack, shape in zip(stacks, form.shapes(), strict=True)]
        if shapes != list(map(jnp.shape, arrays)):
            raise ValueError(WRONG_STATE)
        leaves = form.leaves
        for array, (leaf, positions) in zip(arrays, form.entries, strict=True):
            for position, block in zip(positions, self._unstack(leaf, array), strict=True):
                leaves[position] = block
        return self._join(function(*jax.tree.unflatten(form.structure, leaves)))

    def _of(self, tree: Any, counts: Sequence[int] | None) -> Any:
        """Return the shapes of the given numbers of blocks; of single arrays for None."""
        leaves = zip(self._structure.flatten_up_to(tree), self._stacks, strict=True)
        nodes: list[Any] = [_block(leaf, len(stack)) for leaf, stack in leaves]
        if counts is not None:
            several = enumerate(zip(nodes, counts, self._keys, strict=True))
            nodes = [Blocks([node] * count, leaf, key) for leaf, (node, count, key) in several]
        return jax.tree.unflatten(self._structure, nodes)

    def _is_like_params(self, tree: Any) -> bool:
        """Return whether a tree has an array for each parameter, stacked as it is."""
        return jax.tree.structure(tree) == self._structure and all(
            jnp.shape(leaf)[: len(stack)] == stack
            for leaf, stack in zip(jax.tree.leaves(tree), self._stacks, strict=True)
        )

    def _split(self, tree: Any) -> Any:
        """Return `Blocks` in place of the arrays of a tree like the parameters."""
        if not self._is_like_params(tree):
            return tree
        leaves = enumerate(zip(jax.tree.leaves(tree), self._keys, strict=True))
        blocks = [Blocks(self._unstack(leaf, array), leaf, key) for leaf, (array, key) in leaves]
        return jax.tree.unflatten(self._structure, blocks)

    def _join(self, tree: Any) -> Any:
        """Return stacked arrays in place of `Blocks`."""
        form = Form(tree)
        arrays = []
        for leaf, positions in form.entries:
            blocks = [form.leaves[position] for position in positions]
            arrays.append(blocks[0])
            if leaf is not None and self._stacks[leaf]:
                shape = *self._stacks[leaf], *jnp.shape(blocks[0])
                arrays[-1] = jnp.reshape(jnp.stack(blocks), shape)
        return jax.tree.unflatten(form.plain, arrays)

    def _unstack(self, leaf: int | None, array: Any) -> list[Any]:
        """Return the blocks of an array."""
        if not self._depth(leaf):
            return [array]
        flat = jnp.reshape(array, (-1, *jnp.shape(array)[self._depth(leaf) :]))
        return [flat[i] for i in range(len(flat))]

    def _leaves(self, form: Form, trees: Any) -> list[Any]:
        leaves, structure = jax.tree.flatten(trees)
        if structure != form.plain:
            raise ValueError(WRONG_STATE)
        return leaves

    def _depth(self, leaf: int | None) -> int:
        return 0 if leaf is None else len(self._stacks[leaf])


def around(
    function: Callable[..., Any], before: Callable[..., Any], after: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function with other arguments and results.

    Args:
        function: The function.
        before: Maps each of the arguments to one of `function`.
        after: Maps what `function` returns.
    """

    @functools.wraps(function)  # optax looks at the names of its parameters
    def changed(*args: Any, **named: Any) -> Any:
        named = {name: before(item) for name, item in named.items()}
        return after(function(*map(before, args), **named))

    return changed


class _FunctionCalled(Exception):
    """An optimizer called a function argument."""


def _refuse(argument: Any) -> Any:
    raise _FunctionCalled


def _block(array: Any, depth: int) -> jax.ShapeDtypeStruct:
    """Return the shape and type of a block of an array with `depth` stacked axes."""
    aval: Any = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    if not isinstance(array, jax.ShapeDtypeStruct) and not aval.sharding.mesh.empty:
        # In `jax.shard_map`, and on a mesh with explicit axes, types also contain the mesh axes.
        first = (slice(0, 1),) * depth
        return jax.eval_shape(lambda a: lax.squeeze(a[first], range(depth)), array)
    weak = bool(getattr(aval, "weak_type", False))
    return jax.ShapeDtypeStruct(aval.shape[depth:], aval.dtype, weak_type=weak)

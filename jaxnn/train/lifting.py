"""Lift an optimizer of single blocks to stacks of blocks.

`Blocks` stand for the blocks of a stacked array in a tree, and `Form` compares such a tree with one
of stacked arrays.

Most operations of an optimizer apply to one array at a time, and the others are totals over all
arrays, such as a global norm. `Expressions` evaluates a jaxpr symbolically: an equation about block
i of a parameter is block i of one expression, which is the same for each block, and a sum of an
expression over all blocks of a parameter is one reduction. Equal expressions are the same integer.

A jaxpr that has the same results for one block per parameter and for two is that of any number of
blocks. Its expressions are then evaluated for whole stacks, each one once.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Operations that combine scalars of several blocks, and the reduction of a stack for each.
TOTALS: dict[str, Any] = {
    "add": lambda stack: jnp.sum(stack, dtype=stack.dtype),
    "max": jnp.max,
    "min": jnp.min,
    "and": jnp.all,
    "or": jnp.any,
}
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
CUSTOM = ("custom_jvp_call", "custom_vjp_call")
EACH = "each"

Value = tuple[int, Any]
"""An expression, and which block of it: the number of a block, or None if all blocks share it.

As an operand, `EACH` stands for the block that the expression around it is about."""


class Node(NamedTuple):
    """An expression.

    Args:
        leaf: The parameter whose blocks have separate values; None if all share one.
        operation: The operation, a hashable value.
        operands: The values it is applied to.
    """

    leaf: int | None
    operation: Any
    operands: tuple[Value, ...]


class Expressions:
    """Expressions by number, which one or several jaxprs compute."""

    def __init__(self) -> None:
        self._numbers: dict[Node, int] = {}
        self._nodes: list[Node] = []
        self._functions: list[Callable[..., Any]] = []  # (stack, *operands) -> arrays
        self._alive: list[Any] = []  # objects that expressions know by their id

    def argument(self, index: int, leaf: int | None) -> int:
        """Return the expression of an argument.

        Args:
            index: The number of the argument.
            leaf: The parameter for whose blocks it has separate values, or None.
        """
        return self._number(Node(leaf, ("argument", index), ()), lambda stack: None)

    def results(self, closed: Any, arguments: Sequence[Value], counts: Sequence[int]) -> list[Any]:
        """Return the values that a jaxpr computes.

        Args:
            closed: A jaxpr with its constants.
            arguments: The values of its arguments.
            counts: The number of blocks of each parameter.
        """
        from jax.extend.core import Literal  # here: its import is slow

        constants = [self._constant(value) for value in closed.consts]
        found = dict(zip(closed.jaxpr.constvars, constants, strict=True))
        found.update(zip(closed.jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return self._constant(atom.val) if isinstance(atom, Literal) else found[atom]

        for eqn in closed.jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            if eqn.primitive.name in CALLS:
                inner = eqn.params[CALLS[eqn.primitive.name]]
                results = self.results(inner, operands, counts)
            else:
                results = self._equation(eqn, operands, counts)
            found.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in closed.jaxpr.outvars]

    def stacked(self, leaf: int | None, values: Sequence[Value]) -> int:
        """Return the expression of a result.

        Args:
            leaf: The parameter for whose blocks it has separate values, or None.
            values: The value of each block; a single one for None.
        """
        number = values[0][0]
        if leaf is None and values[0][1] is None:
            return number
        if leaf is not None and all(value == (number, None) for value in values):
            return self._number(
                Node(leaf, "spread", ((number, None),)),
                lambda stack, array: jnp.broadcast_to(array, (*stack, *jnp.shape(array))),
            )
        blocks = [(number, i) for i in range(len(values))]
        if self._nodes[number].leaf == leaf and blocks == list(values):
            return number
        return self._number(Node(None, "blocks", tuple(values)), lambda stack, *blocks: blocks)

    def evaluate(
        self, numbers: Sequence[int], given: Mapping[int, Any], stacks: Sequence[tuple[int, ...]]
    ) -> list[Any]:
        """Return the arrays of expressions, which have the axes of a stack in front.

        Args:
            numbers: The expressions.
            given: The arrays of the arguments among them.
            stacks: The sizes of the stacked axes of each parameter.
        """
        needed = set(numbers)
        for number in range(max(needed, default=-1), -1, -1):
            if number in needed:
                needed |= {operand for operand, _ in self._nodes[number].operands}
        data = dict(given)

        def stack(leaf: int | None) -> tuple[int, ...]:
            return () if leaf is None else stacks[leaf]

        def operand(number: int, block: Any) -> Any:
            if block is None or block == EACH:
                return data[number]
            return data[number][np.unravel_index(block, stack(self._nodes[number].leaf))]

        for number in sorted(needed - given.keys()):
            node = self._nodes[number]
            operands = [operand(*value) for value in node.operands]
            data[number] = self._functions[number](stack(node.leaf), *operands)
        return [data[number] for number in numbers]

    def _equation(self, eqn: Any, operands: list[Value], counts: Sequence[int]) -> list[Value]:
        """Return the values of an equation."""
        name = eqn.primitive.name
        if name in TOTALS and _is_scalar(eqn):
            terms = [term for value in operands for term in self._terms(name, value)]
            if len(self._blocks(terms)) > 1:
                return [(self._total(eqn, terms, counts), None)]
        blocks = self._blocks(operands)
        leaf, block = blocks.pop() if len(blocks) == 1 else (None, None)
        if leaf is not None:
            operands = [(n, None if each is None else EACH) for n, each in operands]
        node = Node(leaf, (name, self._params(eqn)), tuple(operands))
        number = self._number(node, functools.partial(_applied, eqn, [n[1] for n in operands]))
        if not eqn.primitive.multiple_results:
            return [(number, block)]
        several = []
        for i in range(len(eqn.outvars)):
            one = Node(leaf, ("result", i), ((number, None),))
            several.append((self._number(one, lambda stack, results, i=i: results[i]), block))
        return several

    def _blocks(self, values: Sequence[Value]) -> set[Any]:
        """Return which blocks the values belong to, as pairs of a parameter and a number."""
        return {(self._nodes[n].leaf, block) for n, block in values if block is not None}

    def _terms(self, name: str, value: Value) -> list[Value]:
        """Return the terms of a total, or of an operation on one block that may be a part of it."""
        number, block = value
        node = self._nodes[number]
        if node.operation == ("total", name):
            return list(node.operands)
        if block is None or node.operation[0] != name:
            return [value]
        inner = [(n, block if each == EACH else each) for n, each in node.operands]
        return [term for value in inner for term in self._terms(name, value)]

    def _total(self, eqn: Any, terms: list[Value], counts: Sequence[int]) -> int:
        """Return the total of scalars; those of all blocks of a parameter are one reduction."""
        name, present, kept = eqn.primitive.name, Counter(terms), []
        for number, block in terms:
            leaf = self._nodes[number].leaf
            if leaf is None or any(present[number, i] != 1 for i in range(counts[leaf])):
                kept.append((number, block))
            elif block == 0:
                node = Node(None, ("all", name), ((number, EACH),))
                reduction = TOTALS[name]
                kept.append((self._number(node, lambda _, array, r=reduction: r(array)), None))
        bound = _bound(eqn)
        return self._number(
            Node(None, ("total", name), tuple(kept)),
            lambda _, *arrays: functools.reduce(lambda a, b: bound(a, b)[0], arrays),
        )

    def _constant(self, value: Any) -> Value:
        """Return the value of a constant, known by its bytes if it has any."""
        try:
            array = np.asarray(value)
            key: Any = str(array.dtype), array.shape, array.tobytes()
        except Exception:  # a traced number, or a key
            self._alive.append(value)
            key = id(value)
        return self._number(Node(None, ("constant", key), ()), lambda _: value), None

    def _number(self, node: Node, function: Callable[..., Any]) -> int:
        """Return the number of an expression, and keep the function that computes it."""
        number = self._numbers.setdefault(node, len(self._nodes))
        if number == len(self._nodes):
            self._nodes.append(node)
            self._functions.append(function)
        return number

    def _params(self, eqn: Any) -> Any:
        """Return the parameters of an equation as a hashable value."""
        params = eqn.params
        if eqn.primitive.name in CUSTOM:  # the rest are the functions of its derivatives
            params = {"call_jaxpr": params["call_jaxpr"]}
        return tuple((name, self._hashable(params[name])) for name in sorted(params))

    def _hashable(self, item: Any) -> Any:
        if isinstance(item, tuple | list):
            return tuple(map(self._hashable, item))
        if hasattr(item, "jaxpr") and hasattr(item, "consts"):
            return str(item.jaxpr), tuple(map(self._constant, item.consts))
        try:
            hash(item)
        except TypeError:
            return repr(item)
        self._alive.append(item)
        return str(item) if hasattr(item, "eqns") else item


def _is_scalar(eqn: Any) -> bool:
    """Return whether the result is a scalar, and for logical operations a truth value."""
    aval = eqn.outvars[0].aval
    logical = eqn.primitive.name in ("and", "or")
    return aval.shape == () and (not logical or aval.dtype == bool)


def _applied(eqn: Any, blocks: Sequence[Any], stack: tuple[int, ...], *operands: Any) -> Any:
    """Return the results of an equation for each block of a stack."""
    function = _bound(eqn)
    axes = tuple(0 if block == EACH else None for block in blocks)
    for _ in stack:
        function = jax.vmap(function, in_axes=axes)
    results = function(*operands)
    return results if eqn.primitive.multiple_results else results[0]


def _bound(eqn: Any) -> Callable[..., list[Any]]:
    """Return an equation as a function of its operands, which returns a list."""

    def function(*operands: Any) -> list[Any]:
        params = eqn.primitive.get_bind_params(eqn.params)
        functions, params = params if isinstance(params, tuple) else ((), params)  # by JAX version
        with eqn.ctx.manager:
            results = eqn.primitive.bind(*functions, *operands, **params)
        return list(results) if eqn.primitive.multiple_results else [results]

    return function


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

"""Lifting: a function of single blocks, traced once, as a function of stacks of blocks.

An optimizer maps a tree of arrays to a tree of arrays. Most of what it does concerns one parameter
at a time, and the rest are totals over all parameters, such as a global norm. `interpret` evaluates
the jaxpr of an optimizer on one block per stack, and keeps for each value the parameter that it
belongs to. An equation about one parameter is mapped over the blocks of that parameter; a sum over
parameters becomes a sum over all their blocks. Anything else raises `NotLifted`.

The rules are guesses: the sum of a parameter's own norm and another's looks like a part of a total.
So `interpret` also evaluates with `Symbols` instead of arrays, where equal expressions are equal
integers, and the caller compares the result with that of the optimizer on separate arrays.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

# The operations that join scalars of several parameters, with the reduction over one stack.
TOTALS: dict[str, Any] = {
    "add": jnp.sum,
    "max": jnp.max,
    "min": jnp.min,
    "and": jnp.all,
    "or": jnp.any,
}
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or"})
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
CUSTOM = ("custom_jvp_call", "custom_vjp_call")
RANDOM = ("random_", "threefry", "rng_")
# These act on each element alone, so they are the same function on a stack as on a block.
ELEMENTWISE = frozenset(
    """abs add and ceil clamp convert_element_type copy cos div eq erf exp exp2 expm1 floor ge gt
    integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow real rem round
    rsqrt select_n sign sin sqrt square sub tanh xor""".split()  # noqa: SIM905
)


class NotLifted(Exception):
    """The function joins blocks in a way that none of the rules describes."""


class Total(NamedTuple):
    """The kind of a scalar that joins scalars of several parameters by one operation."""

    operation: str
    leaves: frozenset[int]


JOINED = "joined"
"""The kind of a vector that has elements from every block of several parameters."""


class Value(NamedTuple):
    """A value of one of four kinds, as a machine represents it.

    `kind` is the number of the parameter that it belongs to, with a separate value for each block;
    or None, `Total`, or `JOINED`, for one value that all blocks share.
    """

    kind: Any
    data: Any


class Machine(Protocol):
    """What `interpret` computes with: arrays, or symbols."""

    def constant(self, value: Any) -> Any:
        """A value that the jaxpr holds."""
        ...

    def shared(self, eqn: Any, operands: Sequence[Any]) -> list[Any]:
        """The results of an equation between values that all blocks share."""
        ...

    def mapped(self, eqn: Any, leaf: int, values: Sequence[Value]) -> list[Any]:
        """The results of an equation for each block of one parameter."""
        ...

    def reduced(self, operation: str, value: Value) -> Any:
        """A scalar of each block, joined over all blocks of the parameter."""
        ...

    def joined(self, eqn: Any, values: Sequence[Value]) -> Any:
        """Vectors of each block of several parameters, one after the other."""
        ...

    def spread(self, value: Value, leaf: int) -> Any:
        """A value as a separate one for each block of a parameter."""
        ...

    def switch(
        self, branches: Sequence[Any], values: Sequence[Value], kinds: Sequence[Any]
    ) -> list[Any]:
        """The results of one of several jaxprs; `values` starts with its number."""
        ...


def interpret(
    jaxpr: Any, consts: Sequence[Any], values: Sequence[Value], machine: Machine
) -> list[Value]:
    """The results of a jaxpr for single blocks, on values for all blocks; raises NotLifted."""
    from jax.extend.core import Literal  # here: its import is slow

    found: dict[Any, Value] = dict(zip(jaxpr.invars, values, strict=True))
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        found[var] = Value(None, machine.constant(const))

    def read(atom: Any) -> Value:
        if isinstance(atom, Literal):
            return Value(None, machine.constant(atom.val))
        return found[atom]

    for eqn in jaxpr.eqns:
        results = _equation(eqn, [read(atom) for atom in eqn.invars], machine)
        found.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, values: list[Value], machine: Machine) -> list[Value]:
    name = eqn.primitive.name
    kinds = [value.kind for value in values]
    leaves = {kind for kind in kinds if isinstance(kind, int)}
    if name in CALLS:
        inner = eqn.params[CALLS[name]]
        return interpret(inner.jaxpr, inner.consts, values, machine)
    if JOINED in kinds:
        return [_of_joined(eqn, values, leaves, machine)]
    if name == "cond" and kinds[0] not in leaves and (leaves or isinstance(machine, Symbols)):
        return _cond(eqn, values, machine)
    if name in TOTALS and _is_scalar(eqn):
        total = _total(eqn, values, machine)
        if total is not None:
            return [total]
    if not leaves:
        kept = kinds[0] if name in ("convert_element_type", "copy") else None
        return [Value(kept, data) for data in machine.shared(eqn, [v.data for v in values])]
    if len(leaves) == 1:
        leaf = leaves.pop()
        return [Value(leaf, data) for data in machine.mapped(eqn, leaf, values)]
    if name == "concatenate" and eqn.outvars[0].aval.ndim == 1:
        return [Value(JOINED, machine.joined(eqn, values))]
    raise NotLifted(f"{name} of {len(leaves)} parameters")


def _total(eqn: Any, values: list[Value], machine: Machine) -> Value | None:
    """The total that two scalars are parts of, or None."""
    operation = eqn.primitive.name
    parts = [_leaves(operation, value) for value in values]
    if operation == "add" and _is_zero(getattr(eqn.invars[0], "val", None)):
        parts[0] = frozenset()  # a sum in Python starts at zero; an epsilon of zero comes second
    if any(part is None for part in parts) or not any(parts) or parts[0] & parts[1]:  # type: ignore[operator]
        return None
    data = [machine.reduced(operation, v) if isinstance(v.kind, int) else v.data for v in values]
    (result,) = machine.shared(eqn, data)
    return Value(Total(operation, parts[0] | parts[1]), result)  # type: ignore[operator]


def _leaves(operation: str, value: Value) -> frozenset[int] | None:
    """The parameters whose scalars are in a part of a total; None for what is not such a part."""
    if isinstance(value.kind, int):
        return frozenset({value.kind})
    if isinstance(value.kind, Total) and value.kind.operation == operation:
        return value.kind.leaves
    return None


def _of_joined(eqn: Any, values: list[Value], leaves: set[int], machine: Machine) -> Value:
    name, data = eqn.primitive.name, [value.data for value in values]
    if not leaves and name in REDUCTIONS and tuple(eqn.params["axes"]) == (0,):
        return Value(None, machine.shared(eqn, data)[0])
    pairs = zip(values, eqn.invars, strict=True)
    scalars = all(value.kind == JOINED or not atom.aval.shape for value, atom in pairs)
    if not leaves and name in ELEMENTWISE and scalars:
        return Value(JOINED, machine.shared(eqn, data)[0])
    raise NotLifted(f"{name} of a vector with elements of several parameters")


def _cond(eqn: Any, values: list[Value], machine: Machine) -> list[Value]:
    """A choice that all blocks share, with several parameters in its branches."""
    branches, outputs = eqn.params["branches"], []
    for branch in branches:
        dummies = [Value(kind, None) for kind, _ in values[1:]]
        symbols = Symbols([1] * (1 + max((k for k, _ in values if isinstance(k, int)), default=0)))
        dummies = [symbols.argument(index, value.kind) for index, value in enumerate(dummies)]
        results = interpret(branch.jaxpr, branch.consts, dummies, symbols)
        outputs.append([None if isinstance(kind, Total) else kind for kind, _ in results])
    kinds = []
    for several in zip(*outputs, strict=True):
        different = {kind for kind in several if kind is not None}
        if len(different) > 1 or JOINED in different:
            raise NotLifted("the branches of a cond give different kinds of values")
        kinds.append(different.pop() if different else None)
    data = machine.switch(branches, values, kinds)
    return [Value(kind, one) for kind, one in zip(kinds, data, strict=True)]


def branch_results(
    branch: Any, values: Sequence[Value], kinds: Sequence[Any], machine: Machine
) -> list[Any]:
    """What one branch of a `cond` gives, each value of the kind that all branches have."""
    results = interpret(branch.jaxpr, branch.consts, values, machine)
    return [
        machine.spread(value, kind) if isinstance(kind, int) else value.data
        for value, kind in zip(results, kinds, strict=True)
    ]


class Symbols:
    """Computes with expressions, each an integer: equal integers are equal expressions.

    Sums of scalars are equal in any order, as are the other operations in `TOTALS`. A value for
    each block is a tuple of expressions. `random` says whether any random number was drawn.

    Args:
        counts: the number of blocks of each parameter.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts, self.random = counts, False
        self._numbers: dict[Any, int] = {}
        self._expressions: list[Any] = []
        self._alive: list[Any] = []  # so that no other object gets the same id

    def argument(self, index: int, kind: Any) -> Value:
        """The symbols of an argument of the function."""
        if isinstance(kind, int):
            count = self.counts[kind]
            return Value(kind, tuple(self._number(("argument", index, i)) for i in range(count)))
        return Value(kind, self._number(("argument", index)))

    def constant(self, value: Any) -> Any:
        """The symbol of a constant: of its bytes, if it has any."""
        try:
            array = np.asarray(value)
        except Exception:  # a traced number, or a key
            self._alive.append(value)
            return self._number(("constant", id(value)))
        return self._number(("constant", str(array.dtype), array.shape, array.tobytes()))

    def shared(self, eqn: Any, operands: Sequence[Any]) -> list[Any]:
        """The expressions that an equation gives."""
        name, outputs = eqn.primitive.name, eqn.outvars
        self.random = self.random or name.startswith(RANDOM)
        if name in TOTALS and _is_scalar(eqn):
            return [self._several(name, operands)]
        key: Any = (name, self._params(eqn), tuple(operands))
        if name == "convert_element_type" and _is_scalar(eqn):
            operation, *terms = self._expressions[operands[0]]
            if operation in TOTALS and all(isinstance(term, int) for term in terms):
                # The sum of the converted terms: the same, to rounding.
                each = [self._number((*key[:2], (term,))) for term in terms]
                return [self._several(operation, each)]
        if not eqn.primitive.multiple_results:
            return [self._number(key)]
        return [self._number((*key, index)) for index in range(len(outputs))]

    def mapped(self, eqn: Any, leaf: int, values: Sequence[Value]) -> list[Any]:
        """The expressions for each block."""
        several = [
            self.shared(eqn, [v.data[i] if v.kind == leaf else v.data for v in values])
            for i in range(self.counts[leaf])
        ]
        return list(zip(*several, strict=True))

    def reduced(self, operation: str, value: Value) -> Any:
        """The expression for all blocks together."""
        return self._several(operation, value.data)

    def joined(self, eqn: Any, values: Sequence[Value]) -> Any:
        """The expression of all parts."""
        parts: list[Any] = []
        for value in values:
            parts += value.data if isinstance(value.kind, int) else [value.data]
        return self.shared(eqn, parts)[0]

    def spread(self, value: Value, leaf: int) -> Any:
        """The same expression for each block."""
        return value.data if value.kind == leaf else (value.data,) * self.counts[leaf]

    def switch(
        self, branches: Sequence[Any], values: Sequence[Value], kinds: Sequence[Any]
    ) -> list[Any]:
        """The choice between the results of all branches."""
        number, *rest = values
        several = [branch_results(branch, rest, kinds, self) for branch in branches]
        outputs = []
        for kind, *results in zip(kinds, *several, strict=True):
            if isinstance(kind, int):
                choices = zip(*results, strict=True)
                outputs.append(tuple(self._number(("cond", number.data, *c)) for c in choices))
            else:
                outputs.append(self._number(("cond", number.data, *results)))
        return outputs

    def _number(self, expression: Any) -> int:
        number = self._numbers.setdefault(expression, len(self._expressions))
        if number == len(self._expressions):
            self._expressions.append(expression)
        return number

    def _several(self, operation: str, operands: Sequence[int]) -> int:
        terms: list[int] = []
        for operand in operands:
            expression = self._expressions[operand]
            if expression[0] == operation and all(isinstance(term, int) for term in expression[1:]):
                terms += expression[1:]
            elif not (operation == "add" and self._zero(expression)):
                terms.append(operand)
        if not terms:
            return operands[0]
        return terms[0] if len(terms) == 1 else self._number((operation, *sorted(terms)))

    def _zero(self, expression: Any) -> bool:
        return expression[0] == "constant" and len(expression) == 4 and not any(expression[3])

    def _params(self, eqn: Any) -> Any:
        params = eqn.params
        if eqn.primitive.name in CUSTOM:  # the rest are the functions of its derivatives
            params = {"call_jaxpr": params["call_jaxpr"]}
        return tuple((name, self._text(params[name])) for name in sorted(params))

    def _text(self, item: Any) -> Any:
        if isinstance(item, tuple | list):
            return tuple(map(self._text, item))
        if hasattr(item, "jaxpr") and hasattr(item, "consts"):
            return str(item.jaxpr), tuple(map(self.constant, item.consts))
        try:
            hash(item)
        except TypeError:
            return repr(item)
        self._alive.append(item)
        return item if not hasattr(item, "eqns") else str(item)


def _is_scalar(eqn: Any) -> bool:
    """Whether the result is a scalar, and for the logical operations a truth value."""
    aval = eqn.outvars[0].aval
    logical = eqn.primitive.name in ("and", "or")
    return aval.shape == () and (not logical or aval.dtype == bool)


def _is_zero(value: Any) -> bool:
    return value is not None and np.ndim(value) == 0 and not isinstance(value, bool) and value == 0

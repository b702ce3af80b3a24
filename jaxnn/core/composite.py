"""Composites have children and own no parameters."""

import re
import sys
from typing import Any

from . import paths
from .binding import Declaring, Evaluation, bind
from .calls import (
    UNREACHED,
    Call,
    Mismatch,
    Outcome,
    Unreached,
    drawing,
    output_shapes,
    placeholder_key,
)
from .declarations import Declaration, brief, split_arrays
from .layer import Layer, declared
from .primitive import Function
from .values import FrozenDict, copy_with, fields, is_traced


class Composite(Layer):
    """A layer made of layers.

    Fields annotated `Layer` are its children (or `LayerLike`, where a plain function may stand);
    they may be None, or in tuples and dicts. `forward` writes the mathematics, calling the children
    as functions; init, state, keys and paths follow from it.

    A named input reaches every child whose forward names it, also if this forward names it too. A
    value that forward passes to a child explicitly takes precedence. Inputs that forward requires
    by position, such as x, do not reach the children.

    >>> import jax
    >>> class Twice(Composite):
    ...     inner: Layer
    ...     def forward(self, x):
    ...         return self.inner(self.inner(x))
    >>> net = Twice(Function(jax.nn.relu))
    >>> net.apply(net.init(jax.random.key(0), jax.numpy.ones(2)), -jax.numpy.ones(2)).tolist()
    [0.0, 0.0]
    """

    _requests = frozenset({"key", "train"})

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        for field in fields(self):
            annotation = re.sub(r"Literal\[.*?\]", "", str(field.type))
            item = getattr(self, field.name)
            if re.search(r"\bLayer(Like)?\b", annotation) or holds_layer(item):
                where = f"{type(self).__name__}.{field.name}"
                object.__setattr__(self, field.name, as_layers(item, where))

    def _children(self) -> Any:
        items = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: item for name, item in items.items() if holds_layer(item)}

    def _with_children(self, children: Any) -> Any:
        return copy_with(self, **children)

    def _takes(self, method: str) -> set[str]:
        taken = super()._takes(method)
        for _, child in paths.walk(self._children()):
            if child is not None:
                taken |= child._takes("forward")
                if method != "forward" and child._has_method(method):
                    taken |= child._takes(method)
        return taken

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        children = self._children()
        _check_siblings(children, type(self).__name__)
        self._signature(method).check(method, inputs, named)
        own, passing = self._split(method, named)
        frame = Declaring(declared, passing)
        arrays, join = split_arrays((inputs, own))

        def run(arrays: Any) -> Any:
            inputs, named = join(arrays)
            named = named | self._answers(method, None)
            return getattr(self._with_children(bind(children, frame)), method)(*inputs, **named)

        # The trace runs where nothing is shared with a transform around it.
        output = output_shapes(run, arrays)
        frame.check_read()
        params = paths.map_with_path(
            lambda path, child: frame.found[path].params if path in frame.found else {}, children
        )
        state: dict[str, Any] = {}
        for path, declaration in frame.found.items():
            if declaration.state:
                state = _nested(state, path, declaration.state)
        return Declaration(params, state, output)

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        children = self._children()
        if children and isinstance(call.params, dict) and not call.params:
            raise Unreached(UNREACHED)
        _check_structure(children, call.params)  # first: net.apply(x) is then told of parameters
        self._signature(method).check(method, inputs, named)
        _check_state_names(children, call.state or {})
        own, passing = self._split(method, named)
        frame = Evaluation(call, passing)
        answers = self._answers(method, call)
        bound = self._with_children(bind(children, frame))
        with drawing(answers.get("key", ())):
            output = getattr(bound, method)(*inputs, **own, **answers)
        return Outcome(output, frame.state, frame.captured)

    def _answers(self, method: str, call: Call | None) -> dict[str, Any]:
        """What the method asks for by keyword; without a call, while declaring."""
        asked = self._signature(method).requests
        answers: dict[str, Any] = {}
        if "key" in asked:
            # Below a reserved name: a separate key, which no child has.
            answers["key"] = placeholder_key() if call is None else call.random_key("forward")
        if "train" in asked:
            answers["train"] = call is not None and call.train
        return answers

    def _split(self, method: str, named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Named inputs that forward takes itself, and those that its children may take."""
        takes = self._signature(method)
        # An input that must be given by position is the composite's own, also if it is named.
        kept = takes.required & set(takes.inputs[: takes.positional])
        return (
            {name: item for name, item in named.items() if name in takes.inputs},
            {name: item for name, item in named.items() if name not in kept},
        )


def as_layers(item: Any, where: str) -> Any:
    """`item` with plain functions as layers, in tuples and dicts too; TypeError for the rest."""
    if isinstance(item, Layer):
        _check_nesting(item, where)
    if item is None or isinstance(item, Layer) or is_traced(item):
        return item
    if isinstance(item, FrozenDict):
        return FrozenDict(
            {name: as_layers(one, f"{where}[{name!r}]") for name, one in item.items()}
        )
    if isinstance(item, tuple):
        return paths.like(item, [as_layers(one, f"{where}[{i}]") for i, one in enumerate(item)])
    if callable(item) and not isinstance(item, type):
        return Function(item)
    raise TypeError(f"{where} wants a layer or a function, got {item!r}")


# Calls of Python that a level of nesting may take, in tracing and in differentiating it.
FRAMES_PER_LEVEL = 24


def _check_nesting(layer: Layer, where: str) -> None:
    """Raise ValueError for layers nested deeper than Python can call them."""
    depth, limit = _nesting(layer) + 1, sys.getrecursionlimit()
    if depth > limit // FRAMES_PER_LEVEL:
        raise ValueError(
            f"{where} nests layers {depth} deep, and Python's recursion limit of {limit:,} is "
            f"enough for {limit // FRAMES_PER_LEVEL}: write nn.Sequential(a, b, c) or "
            f"nn.Repeat(layer, n); or call sys.setrecursionlimit({2 * FRAMES_PER_LEVEL * depth:,}) "
            "before"
        )


def _nesting(layer: Layer) -> int:
    """The number of levels of a layer: 1 without layers inside."""
    known = layer.__dict__.get("_nesting")
    if known is None:
        held = tuple(getattr(layer, field.name, None) for field in fields(layer))
        leaves = (leaf for _, leaf in paths.walk(held))
        known = 1 + max((_nesting(leaf) for leaf in leaves if isinstance(leaf, Layer)), default=0)
        object.__setattr__(layer, "_nesting", known)
    return known


def holds_layer(item: Any) -> bool:
    """Whether a field holds a layer, itself or in tuples and dicts."""
    return any(isinstance(leaf, Layer) for _, leaf in paths.walk(item))


def _check_siblings(children: Any, owner: str) -> None:
    if isinstance(children, dict):
        paths.check_segments(children, owner)
    if isinstance(children, (dict, tuple)):
        for child in children.values() if isinstance(children, dict) else children:
            _check_siblings(child, owner)


def _check_structure(children: Any, params: Any) -> None:
    """Raise Mismatch where the parameters do not have the children's names or number."""
    if isinstance(children, dict):
        if not isinstance(params, dict) or set(params) != set(children):
            got = sorted(params) if isinstance(params, dict) else brief(params)
            raise Mismatch(f"has the children {sorted(children)}, but the parameters are of {got}")
        for name, child in children.items():
            _check_structure(child, params[name])
    elif isinstance(children, tuple):
        if not isinstance(params, tuple) or len(params) != len(children):
            raise Mismatch(
                f"has {len(children)} children, but the parameters are {brief(params)}; "
                "positional children have a tuple of parameters"
            )
        for child, item in zip(children, params, strict=True):
            _check_structure(child, item)


def _check_state_names(children: Any, state: Any) -> None:
    """Raise ValueError where the state has an entry for a child that there is not."""
    if not isinstance(children, (dict, tuple)):
        return
    names = list(children) if isinstance(children, dict) else list(map(str, range(len(children))))
    if not isinstance(state, dict) or not set(state) <= set(names):
        got = sorted(set(state) - set(names)) if isinstance(state, dict) else brief(state)
        raise ValueError(
            f"got state for {got}, but its children are {names}: the state is that of another "
            "network; write state = net.init_state(x)"
        )
    for name, item in state.items():
        _check_state_names(children[name if isinstance(children, dict) else int(name)], item)


def _nested(tree: dict[str, Any], path: paths.Path, item: Any) -> dict[str, Any]:
    head, *rest = path
    return {**tree, head: _nested(tree.get(head, {}), tuple(rest), item) if rest else item}

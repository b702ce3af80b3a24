"""Composites have children and own no parameters."""

import re
from typing import Any

from . import paths
from .binding import Declaring, Frame, bind
from .calls import UNREACHED, Call, Mismatch, Outcome, Unreached, drawing
from .declarations import brief
from .layer import Layer
from .values import copy_with, fields
from .wrapper import Seen, as_layers, holds_layer


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

    def _declared(self, frame: Declaring) -> tuple[Any, Any]:
        found = frame.found
        params = paths.map_with_path(
            lambda path, _: found[path].params if path in found else {}, self._children()
        )
        state: dict[str, Any] = {}
        for path, declaration in found.items():
            if declaration.state:
                state = _nested(state, path, declaration.state)
        return params, state

    def _evaluate(self, call: Call) -> Outcome:
        children, params = self._children(), call.params
        if call.abstract:
            _check_siblings(children, type(self).__name__)
        elif children and isinstance(params, dict) and not params:
            raise Unreached(UNREACHED)
        else:
            _check_structure(children, params)  # first: net.apply(x) is then told of parameters
        self._signature(call.method).check(call.method, call.inputs, call.named)
        _check_state_names(children, call.state or {})
        own, passing = self._split(call.method, call.named)
        frame = Frame(call, passing, Seen)
        answers = self._answers(call)
        bound = self._with_children(bind(children, frame))
        with drawing(answers.get("key", ())):
            output = getattr(bound, call.method)(*call.inputs, **own, **answers)
        return Outcome(output, frame.state, frame.collected)

    def _answers(self, call: Call) -> dict[str, Any]:
        """What the method asks for by keyword."""
        asked = self._signature(call.method).requests
        answers: dict[str, Any] = {}
        if "key" in asked:
            # Below a reserved name: a separate key, which no child has.
            answers["key"] = call.random_key("forward")
        if "train" in asked:
            answers["train"] = call.train
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

"""Checks of layers: how they are written, and calls that do not match what they declare."""

import inspect
import sys
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..fields import is_array, is_layer
from ..validation import Accepts, check_none, flag, instance, integer
from .text import (
    UNREACHED,
    Mismatch,
    Unreached,
    brief,
    check_matches,
    describe,
    foreign,
    mismatches,
    place_of,
    suggestion,
)

REQUESTS = frozenset({"key", "train", "state"})
RESERVED_INPUTS = frozenset({"params", "state", "key", "train", "method"})
RESERVED_NAMES = frozenset(
    {"init", "apply", "spec", "init_state", "forward", "parameters", "variables"}
)
INIT = (
    "Write params = net.init(key, x) and net.apply(params, x) with the same network, and x of the "
    "same shape, except for batch axes."
)
INIT_STATE = "write state = net.init_state(x); y, state = net.apply(params, x, state=state)"


# ---- how a layer is written ----


def check_forward(cls: type, skip: int, requests: frozenset[str]) -> None:
    """Raise TypeError for a forward that could hide a mistake or has an input of a reserved name.

    Args:
        cls: A class of layers.
        skip: Number of parameters of forward that are not inputs.
        requests: Names that forward may request by keyword.
    """
    forward, wrong = cls.__dict__.get("forward"), []
    for p in [] if forward is None else [*inspect.signature(forward).parameters.values()][skip:]:
        if p.kind is inspect.Parameter.VAR_KEYWORD:
            wrong.append(f"it takes **{p.name}, which would hide misspelled inputs; name them")
        elif p.kind is inspect.Parameter.KEYWORD_ONLY and p.name in REQUESTS:
            if p.name not in requests:
                wrong.append(
                    f"it requests {p.name!r}, but a composite keeps no separate state: declare it "
                    "in `variables` of a Primitive"
                )
        elif p.name in RESERVED_INPUTS:
            wrong.append(
                f"it has an input called {p.name!r}, which is reserved; rename it, or request key, "
                "train, or state by keyword: def forward(self, x, *, key, train)"
            )
    check_none(wrong, f"{cls.__name__}.forward cannot be used", error=TypeError)


def check_reserved_names(names: Iterable[str], owner: str) -> None:
    """Raise TypeError if a field or a named child has the name of a layer's own method."""
    wrong = (repr(name) for name in names if name in RESERVED_NAMES)
    check_none(wrong, f"{owner} has a field or child of a reserved name", "rename it", TypeError)


# Python calls for each level of nesting, while it is traced and differentiated.
FRAMES_PER_LEVEL = 24


def check_nesting(layer: Any, where: str) -> None:
    """Raise ValueError for layers that are nested deeper than Python's recursion limit allows."""
    depth, limit = _nesting(layer) + 1, sys.getrecursionlimit()
    most = integer(1, limit // FRAMES_PER_LEVEL)
    most(
        depth,
        f"the depth of nested layers in {where}",
        f"Python's recursion limit is {limit:,}: write nn.Sequential(a, b, c) or "
        "nn.Repeat(layer, n), or call "
        f"sys.setrecursionlimit({2 * FRAMES_PER_LEVEL * depth:,}) first",
    )


def _nesting(layer: Any) -> int:
    """Return the number of levels of a layer: 1 without layers inside."""
    known = layer.__dict__.get("_nesting")
    if known is None:
        held = tuple(getattr(layer, name, None) for name in layer.__dataclass_fields__)
        leaves = (leaf for _, leaf in paths.walk(held))
        known = 1 + max((_nesting(leaf) for leaf in leaves if is_layer(leaf)), default=0)
        object.__setattr__(layer, "_nesting", known)
    return known


def check_siblings(children: Any, owner: str) -> None:
    """Raise ValueError if names of children, at any level, are empty or have equal hashes."""
    if isinstance(children, dict):
        check_child_names(children, owner)
    if isinstance(children, (dict, tuple)):
        for child in children.values() if isinstance(children, dict) else children:
            check_siblings(child, owner)


def check_child_names(names: Iterable[str], owner: str) -> None:
    """Raise ValueError if names of siblings are empty, contain a slash, or have equal hashes."""
    seen: dict[int, str] = {}
    wrong = []
    for name in names:
        other = seen.setdefault(paths.segment_hash(name), name)
        if other != name:
            wrong.append(
                f"{other!r} and {name!r} have the same CRC-32, so they would draw the same "
                "numbers; rename one of them"
            )
        elif not name or "/" in name:
            wrong.append(f"{name!r} must be text without a slash")
    check_none(wrong, f"names in {owner}")


layer_like: Accepts = Accepts(
    "a layer or a function", lambda v: callable(v) and not isinstance(v, type), TypeError
)
interceptor: Accepts = Accepts(
    "a function of (path, layer, call, next)",
    lambda v: callable(v) and not is_layer(v),
    TypeError,
    hint="write nn.intercept(net, function)",
)


# ---- inputs ----


def check_inputs(takes: Any, method: str, inputs: tuple[Any, ...], named: Collection[str]) -> None:
    """Raise TypeError for too many inputs, for one given twice, and for a missing one."""
    filled = takes.inputs[: min(len(inputs), takes.positional)]
    wrong = ""
    if len(inputs) > takes.positional and not takes.variadic:
        wrong = f"got {len(inputs)} inputs"
    elif twice := [name for name in filled if name in named]:
        wrong = f"got {twice[0]!r} by position and by name"
    elif missing := [n for n in takes.inputs if n in takes.required - {*filled, *named}]:
        wrong = f"got no {missing[0]!r}"
    if wrong:
        names = ", ".join(n if n in takes.required else f"{n}=..." for n in takes.inputs)
        raise TypeError(f"{wrong}; {method} takes {f'({names})' if names else 'no input'}")


def check_named(layer: Any, method: str, named: Any) -> None:
    """Raise TypeError for an input that no layer of the network takes by name."""
    _check_taken(
        layer._takes(method) if named else (),
        named,
        "is reserved, and is not an input: spec, init, and init_state take inputs only (init_state "
        "also takes key=), and apply takes it itself",
    )


def check_given(named: Any, taken: Collection[str]) -> None:
    """Raise TypeError for an input that a child does not take by name."""
    _check_taken(
        taken,
        named,
        "is passed to a child by the call of the network, not by forward; to call it in another "
        "way, write child.layer.apply(child.params, x), without state or key",
    )


def _check_taken(taken: Collection[str], named: Any, reserved: str) -> None:
    for name in named:
        if name in RESERVED_INPUTS or name not in taken:
            unknown = f"no layer of the network takes an input {name!r}; {suggestion(name, taken)}"
            raise TypeError(f"{name!r} {reserved}" if name in RESERVED_INPUTS else unknown)


def concrete_inputs(tree: Any) -> Any:
    """Return inputs with NumPy arrays converted to JAX arrays."""

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            raise TypeError(
                f"apply expects arrays, got only the shape {describe(x)}; for the shape of the "
                "output write jax.eval_shape(net.apply, params, x)"
            )
        return x if isinstance(x, jax.Array) or not is_array(x) else jnp.asarray(x)

    return jax.tree.map(leaf, tree)


def known_method(layer: Any, method: Any) -> str:
    """Return the name of a method of the layer; raise ValueError for anything else."""
    known = isinstance(method, str) and (method == "forward" or layer._has_method(method))
    if not known:
        hint = suggestion(str(method), layer._methods())
        raise ValueError(
            f"method must be the name of a method of {layer!r}, got {method!r}; {hint}"
        )
    return method


state_dict: Accepts = instance(
    (dict, type(None)), "the dict that net.init_state(x) returns", INIT_STATE
)


def check_options(state: Any, train: Any) -> None:
    """Raise TypeError unless `state` is None or a dict, and `train` is True or False."""
    flag(train, "train", "under jax.jit, make it static: jax.jit(f, static_argnames='train')")
    state_dict(state, "state")


# ---- parameters and state of a primitive ----


def unbound(layer: Any) -> str:
    """Return the error for a layer that is called outside a composite's forward."""
    return (
        f"{layer!r} contains no parameters, so it cannot be called: write "
        "params = net.init(key, x) and net.apply(params, x)"
    )


def check_no_children(layer: Any, names: Iterable[str]) -> None:
    """Raise TypeError if fields of a primitive contain layers."""
    what = f"{type(layer).__name__} is a Primitive, which has no children, but a field is a layer"
    check_none(names, what, "write a Composite", TypeError)


def no_method(layer: Any, method: str) -> str:
    """Return the error for a class without a method."""
    first = "self, params, x" if layer._skip == 2 else "self, x"
    return f"{type(layer).__name__} has no {method}; write def {method}({first})"


def key_for_state(key: Any, drawn: Iterable[paths.Path]) -> Any:
    """Return the key that draws state; raise ValueError if some is drawn without a key."""
    missing = map(paths.text, drawn if key is None else ())
    what = "some state starts random, but no key was given"
    check_none(missing, what, "write state = net.init_state(x, key=key)")
    return key


def check_declared(layer: Any, tree: Any, kind: type) -> None:
    """Raise TypeError unless a tree consists of `nn.Param`, or is a dict of `nn.Variable`."""
    name = kind.__name__
    wrong = [
        f"{paths.text(path) or 'the whole'!r} is {describe(leaf)}"
        for path, leaf in paths.walk(tree)
        if not isinstance(leaf, kind)
    ]
    if name == "Variable" and not isinstance(tree, dict):
        wrong = [f"got {tree!r}"]
    method = "variables" if name == "Variable" else "parameters"
    what = f"`{method}` must return a dict of nn.{name}(shape, init), {{}} for none"
    check_none(wrong, what, error=TypeError)
    if isinstance(tree, dict):
        check_child_names(tree, repr(layer))


def check_reached(declared: Any, params: Any) -> None:
    """Raise Unreached if there are no parameters for what is declared."""
    if declared and isinstance(params, dict) and not params:
        raise Unreached(UNREACHED)


def check_params(spec: Any, params: Any) -> None:
    """Raise Mismatch unless parameters match their declaration."""
    check_reached(spec, params)
    what = "the parameters are not those declared for these inputs"
    check_matches(spec, params, what, error=Mismatch)


def check_state(call: Any, slots: Any) -> None:
    """Raise ValueError unless the state matches its declaration, and no transform would lose it."""
    state, wrong = call.state, ""
    if state is not None and not isinstance(state, dict):
        wrong = f"its state must be a dict, got {brief(state)}; {INIT_STATE}"
    elif not slots and state:
        wrong = (
            f"keeps no state, but got state for {sorted(state)}, which is the state of another "
            "network; write state = net.init_state(x)"
        )
    elif slots and not state:
        wrong = f"keeps state ({', '.join(slots)}), but none was given: {INIT_STATE}"
    elif slots and call.foreign:
        wrong = foreign("keeps state")
    elif slots and (lines := mismatches(slots, state)):
        wrong = f"the state is not as declared for these inputs: {'; '.join(lines)}; {INIT_STATE}"
    if wrong:
        raise ValueError(wrong)


def check_kept(given: Any, kept: Any, rule: str, output: Any, types: bool = True) -> None:
    """Raise ValueError unless a layer keeps the shapes and types of what it was given.

    Args:
        given: Tree of arrays.
        kept: The part of the output that must be like them.
        rule: What the layer must do, for the error.
        output: The whole output; None if the inputs are wrong already.
        types: Whether the types must be equal too. Default: True.
    """

    def kind(array: Any) -> Any:
        return jnp.shape(array), types and jnp.result_type(array)

    if jax.tree.map(kind, given) != jax.tree.map(kind, kept):
        got = ", ".join(map(describe, given)) if isinstance(given, tuple) else describe(given)
        becomes = "" if output is None else f", which becomes {describe(output)}"
        raise ValueError(f"{rule}; got {got or 'none'}{becomes}")


def check_new_state(call: Any, result: Any) -> None:
    """Raise ValueError unless a method that requests state has returned (y, new_state)."""
    pair = isinstance(result, tuple) and len(result) == 2
    lines = mismatches(call.state or {}, result[1]) if pair else [f"got {describe(result)}"]
    check_none(
        lines,
        f"{call.method} requests state, so it must return (y, state), with names and shapes as "
        "declared by `variables`",
    )


# ---- parameters and state of a composite ----


def check_structure(children: Any, params: Any) -> None:
    """Raise Mismatch unless parameters have the names, or the number, of the children."""
    if not isinstance(children, dict | tuple):
        return
    by_name = isinstance(children, dict)
    if isinstance(children, dict):
        same = isinstance(params, dict) and params.keys() == children.keys()
    else:
        same = isinstance(params, tuple) and len(params) == len(children)
    if not same:
        has = f"{len(children)} children by position, with a tuple of parameters"
        has = f"the children {sorted(children)}" if by_name else has
        got = sorted(params) if by_name and isinstance(params, dict) else brief(params)
        raise Mismatch(f"has {has}, but the parameters are {got}")
    for name in children if isinstance(children, dict) else range(len(children)):
        check_structure(children[name], params[name])


def check_state_names(children: Any, state: Any) -> None:
    """Raise ValueError if the state has an entry for a child that does not exist."""
    if not isinstance(children, (dict, tuple)):
        return
    names = list(children) if isinstance(children, dict) else list(map(str, range(len(children))))
    if not isinstance(state, dict) or not set(state) <= set(names):
        got = sorted(set(state) - set(names)) if isinstance(state, dict) else brief(state)
        raise ValueError(
            f"got state for {got}, but its children are {names}, so it is the state of another "
            "network; write state = net.init_state(x)"
        )
    for name, item in state.items():
        check_state_names(children[name if isinstance(children, dict) else int(name)], item)


# ---- what was wrong with a whole call ----


def explanation(
    layer: Any, error: Mismatch, params: Any, method: str, inputs: Any, named: Any
) -> str:
    """Return a text with all differences between parameters and the network's declaration."""
    try:
        spec = layer._declaration(method, inputs, named).params
    except Exception as other:
        return f"{error}\nThe inputs do not match either: {other}\n{INIT}"
    lines = mismatches(spec, params)
    if not lines:
        return f"{error}\n{INIT}"
    given = ", ".join([*map(describe, inputs), *(f"{k}={describe(v)}" for k, v in named.items())])
    return (
        f"the parameters are not those of this network for the inputs {given}:\n  "
        + "\n  ".join(lines)
        + f"\n{error if isinstance(error, Unreached) and place_of(error) else INIT}"
    )

"""Checks of a call: inputs, parameters and state that do not fit what a layer takes."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.declarations import is_array
from .definitions import RESERVED_INPUTS, check_child_names
from .location import UNREACHED, Mismatch, Unreached, foreign, place_of
from .text import brief, describe, mismatches, suggestion

INIT = (
    "Write params = net.init(key, x) and net.apply(params, x) with the same network, and x of the "
    "same shape, batch axes aside."
)
INIT_STATE = "write state = net.init_state(x); y, state = net.apply(params, x, state=state)"


# ---- inputs ----


def check_inputs(takes: Any, method: str, inputs: tuple[Any, ...], named: Collection[str]) -> None:
    """Raise TypeError for too many inputs, for one given twice, and for one not given."""
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
    taken = layer._takes(method) if named else set()
    for name in named:
        if name in RESERVED_INPUTS:
            raise TypeError(
                f"{name!r} is reserved, and is not an input: spec, init, and init_state take "
                f"inputs only (init_state also takes key=), and apply takes {name}= itself"
            )
        if name not in taken:
            raise TypeError(
                f"no layer of the network takes an input {name!r}; {suggestion(name, taken)}"
            )


def check_given(named: Any, taken: Collection[str]) -> None:
    """Raise TypeError for an input that a child does not take by name."""
    for name in named:
        if name in RESERVED_INPUTS:
            raise TypeError(
                f"a child is given {name!r} by the call of the network, not by forward; to run it "
                "in another way, write child.layer.apply(child.params, x), without state or key"
            )
        if name not in taken:
            raise TypeError(
                f"the input {name!r} is taken by no layer here; {suggestion(name, taken)}"
            )


def concrete_inputs(tree: Any) -> Any:
    """Inputs with numpy arrays as JAX arrays; everything else as it is."""

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            raise TypeError(
                f"apply wants arrays, got only the shape {describe(x)}; for the shape of the "
                "output write jax.eval_shape(net.apply, params, x)"
            )
        return x if isinstance(x, jax.Array) or not is_array(x) else jnp.asarray(x)

    return jax.tree.map(leaf, tree)


def known_method(layer: Any, method: Any) -> str:
    """The name of a method of the layer; raise for anything else."""
    if not isinstance(method, str):
        raise TypeError(f"method is the name of a method, such as 'decode'; got {method!r}")
    if method != "forward" and not layer._has_method(method):
        known = layer._methods()
        raise ValueError(f"{layer!r} has no method {method!r}; {suggestion(method, known)}")
    return method


def check_options(state: Any, train: Any) -> None:
    """Raise TypeError for another state than a dict, and another `train` than True and False."""
    if not isinstance(train, bool):
        raise TypeError(
            f"train is True or False, known while tracing; got {train!r}: under jax.jit, make "
            "it static: jax.jit(f, static_argnames='train')"
        )
    if state is not None and not isinstance(state, dict):
        raise TypeError(
            f"state is the dict that net.init_state(x) gives, got {brief(state)}; {INIT_STATE}"
        )


# ---- parameters and state of a primitive ----


def unbound(layer: Any) -> str:
    """What to write instead of calling a layer outside a composite's forward."""
    return (
        f"{layer!r} holds no parameters, so it cannot be called: write "
        "params = net.init(key, x) and net.apply(params, x)"
    )


def holds_child(layer: Any, name: str) -> str:
    """What to write instead of a primitive with a layer in a field."""
    return (
        f"{type(layer).__name__}.{name} holds a layer; a Primitive has no children: write a "
        "Composite"
    )


def no_method(layer: Any, method: str) -> str:
    """What to write in a class without a method."""
    first = "self, params, x" if layer._skip == 2 else "self, x"
    return f"{type(layer).__name__} has no {method}; write def {method}({first})"


def no_state_key(drawn: list[paths.Path]) -> str:
    """What to write for state that is drawn."""
    return (
        f"the state {', '.join(map(paths.text, drawn))} starts random, but no key was "
        "given: write state = net.init_state(x, key=key)"
    )


def check_same(one: Any, other: Any) -> None:
    """Raise ValueError for two calls of a layer that declare different parameters."""
    lines = mismatches(one, other)
    if lines:
        raise ValueError(
            "called twice with inputs that need different parameters:\n  " + "\n  ".join(lines)
        )


def check_declared(layer: Any, tree: Any, kind: type) -> None:
    """Raise TypeError for a tree of something else than `nn.Param`, or `nn.Variable`."""
    if not isinstance(tree, dict) and kind.__name__ == "Variable":
        raise TypeError(f"`variables` returns a dict of nn.Variable, got {tree!r}")
    if tree is None:
        raise TypeError("`parameters` returned None; return a dict of nn.Param, {} where none")
    for path, leaf in paths.walk(tree):
        if not isinstance(leaf, kind):
            raise TypeError(
                f"{paths.text(path) or 'the whole'!r} is declared as {describe(leaf)}; write "
                f"nn.{kind.__name__}(shape, init)"
            )
    if isinstance(tree, dict):
        check_child_names(tree, repr(layer))


def check_params(spec: Any, params: Any) -> None:
    """Raise Mismatch for parameters that are not those declared."""
    if spec and isinstance(params, dict) and not params:
        raise Unreached(UNREACHED)
    lines = mismatches(spec, params)
    if lines:
        raise Mismatch(
            "the parameters are not those declared for these inputs: " + "; ".join(lines)
        )


def check_state(call: Any, slots: Any) -> None:
    """Raise ValueError for state that is not that declared, or that a transform would lose."""
    if call.state is not None and not isinstance(call.state, dict):
        raise ValueError(f"its state is a dict, got {brief(call.state)}; {INIT_STATE}")
    if not slots:
        if call.state:
            raise ValueError(
                f"keeps no state, but got state for {sorted(call.state)}: the state is that of "
                "another network; write state = net.init_state(x)"
            )
        return
    if not call.state:
        raise ValueError(f"keeps state ({', '.join(slots)}), but none was given: {INIT_STATE}")
    if call.foreign:
        raise ValueError(foreign("keeps state"))
    lines = mismatches(slots, call.state)
    if lines:
        raise ValueError(
            f"the state is not that declared for these inputs: {'; '.join(lines)}; {INIT_STATE}"
        )


def check_new_state(call: Any, result: Any) -> None:
    """Raise unless a method that asks for state has returned the pair (y, new_state)."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"a forward that asks for state returns (y, state), got {result!r}")
    lines = mismatches(call.state or {}, result[1])
    if lines:
        raise ValueError(
            f"{call.method} returned a state unlike the one it was given: {'; '.join(lines)}; "
            "return (y, state) with the names and shapes that `variables` declares"
        )


# ---- parameters and state of a composite ----


def check_structure(children: Any, params: Any) -> None:
    """Raise Mismatch where the parameters do not have the children's names or number."""
    if isinstance(children, dict):
        if not isinstance(params, dict) or set(params) != set(children):
            got = sorted(params) if isinstance(params, dict) else brief(params)
            raise Mismatch(f"has the children {sorted(children)}, but the parameters are of {got}")
        for name, child in children.items():
            check_structure(child, params[name])
    elif isinstance(children, tuple):
        if not isinstance(params, tuple) or len(params) != len(children):
            raise Mismatch(
                f"has {len(children)} children, but the parameters are {brief(params)}; "
                "positional children have a tuple of parameters"
            )
        for child, item in zip(children, params, strict=True):
            check_structure(child, item)


def check_state_names(children: Any, state: Any) -> None:
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
        check_state_names(children[name if isinstance(children, dict) else int(name)], item)


# ---- what was wrong with a whole call ----


def explanation(
    layer: Any, error: Mismatch, params: Any, method: str, inputs: Any, named: Any
) -> str:
    """All faults of the parameters that the network's declaration shows."""
    try:
        spec = layer._declaration(method, inputs, named).params
    except Exception as other:
        return f"{error}\nNor do the inputs fit: {other}\n{INIT}"
    lines = mismatches(spec, params)
    if not lines:
        return f"{error}\n{INIT}"
    given = ", ".join([*map(describe, inputs), *(f"{k}={describe(v)}" for k, v in named.items())])
    return (
        f"the parameters are not those of this network for the inputs {given}:\n  "
        + "\n  ".join(lines)
        + f"\n{error if isinstance(error, Unreached) and place_of(error) else INIT}"
    )

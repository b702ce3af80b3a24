"""Primitives own parameters and have no children."""

from collections.abc import Callable
from typing import Any

from . import paths
from .binding import Declaring, on_placeholders
from .calls import (
    UNREACHED,
    Call,
    Mismatch,
    Outcome,
    State,
    Unreached,
    drawing,
    foreign,
)
from .declarations import (
    Declaration,
    Param,
    Variable,
    abstract,
    brief,
    describe,
    mismatches,
)
from .layer import INIT_STATE, Layer
from .signatures import signature
from .values import code, fields


class Primitive(Layer):
    """A layer that owns parameters and has no children.

    Write `parameters(self, x)`, which returns a dict of `Param` by name, and
    `forward(self, params, x)`. A forward asks by keyword for what else it needs: `*, key, train`,
    or `*, state` and then returns `(y, new_state)`, its slots declared by `variables(self, x)`.

    >>> class Scale(Primitive):
    ...     def parameters(self, x):
    ...         return {"scale": Param((x.shape[-1],))}
    ...     def forward(self, params, x):
    ...         return x * params["scale"]
    >>> import jax
    >>> Scale().init(jax.random.key(0), jax.ShapeDtypeStruct((8, 3), "float32"))["scale"].shape
    (3,)
    """

    _skip = 2

    def parameters(self, *inputs: Any, **named: Any) -> Any:
        """The declared parameters, given inputs that have a shape and a type."""
        return {}

    def variables(self, *inputs: Any, **named: Any) -> Any:
        """The declared state, given inputs that have a shape and a type."""
        return {}

    def _draws(self) -> bool:
        """Whether training draws from the key that forward asks for: not so at a rate of 0."""
        return True

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        for field in fields(self):
            if isinstance(getattr(self, field.name), Layer):
                raise TypeError(
                    f"{type(self).__name__}.{field.name} holds a layer; a Primitive has no "
                    "children: write a Composite"
                )

    def _declared_by(self, method: Callable[..., Any], inputs: Any, named: Any) -> Any:
        """What `parameters` or `variables` returns for those of the inputs that it takes."""
        inputs, named = abstract((inputs, named))
        takes = signature(getattr(method, "__func__", method), 1)
        positional = inputs if takes.variadic else inputs[: takes.positional]
        return method(*positional, **{k: v for k, v in named.items() if k in takes.inputs})

    def _declared(self, frame: Declaring) -> tuple[Any, Any]:
        return frame.found[()][:2]

    def _declare(self, call: Call) -> Call:
        """The call on arrays like those that are declared for its inputs."""
        params = self._declared_by(self.parameters, call.inputs, call.named)
        state = self._declared_by(self.variables, call.inputs, call.named)
        _check_declared(self, params, Param)
        _check_declared(self, state, Variable)
        call.params.frame.found[()] = Declaration(params, state)
        return on_placeholders(call, params, state)

    def _evaluate(self, call: Call) -> Outcome:
        takes = self._signature(call.method)
        takes.check(call.method, call.inputs, call.named)
        asked = takes.requests
        if call.abstract:
            call = self._declare(call)
        elif call.method == "forward":
            self._check_params(call.params, call.inputs, call.named)
            self._check_state(call, self._declared_by(self.variables, call.inputs, call.named))
        elif "state" in asked:  # its inputs need not be those that `variables` takes
            self._check_state(call, call.state or {"state": None})
        key = call.random_key() if "key" in asked and self._draws() else None
        answers = {"key": key, "train": call.train, "state": call.state}
        named = call.named | {name: answers[name] for name in asked}
        with drawing(key if "key" in asked else ()):
            result = getattr(self, call.method)(call.cast_params(), *call.inputs, **named)
        return Outcome(*self._new_state(call, result)) if "state" in asked else Outcome(result)

    def _new_state(self, call: Call, result: Any) -> tuple[Any, State]:
        """The pair (y, new_state) that a method which asks for state has returned."""
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"a forward that asks for state returns (y, state), got {result!r}")
        lines = mismatches(call.state or {}, result[1])
        if lines:
            raise ValueError(
                f"{call.method} returned a state unlike the one it was given: {'; '.join(lines)}; "
                "return (y, state) with the names and shapes that `variables` declares"
            )
        return result

    def _check_params(self, params: Any, inputs: Any, named: Any) -> None:
        spec = self._declared_by(self.parameters, inputs, named)
        if spec and isinstance(params, dict) and not params:
            raise Unreached(UNREACHED)
        lines = mismatches(spec, params)
        if lines:
            raise Mismatch(
                "the parameters are not those declared for these inputs: " + "; ".join(lines)
            )

    def _check_state(self, call: Call, slots: Any) -> None:
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


def _check_declared(layer: Layer, tree: Any, kind: type) -> None:
    if not isinstance(tree, dict) and kind is Variable:
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
        paths.check_segments(tree, repr(layer))


class Function(Primitive):
    """A plain function that stands where a layer is expected; it prints as the function."""

    function: Callable[..., Any]

    def forward(self, params: Any, *inputs: Any) -> Any:
        """The function of the inputs."""
        return self.function(*inputs)

    def __repr__(self) -> str:
        return code(self.function)

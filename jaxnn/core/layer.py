"""A layer is a value: configuration only, with pure functions `init` and `apply`.

`Layer` is the interface for users. There are three kinds. A `Primitive` owns parameters and has no
children. A `Composite` has children and owns no parameters. A `Wrapper` turns a layer into a layer
and adds no level to paths. Each kind defines how it is evaluated, `_evaluate(call) -> outcome`; its
declaration follows from that.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import jax
from jax.dtypes import canonicalize_dtype

from ..arrays import visible
from ..explain import entry, notebook
from ..explain import layer_errors as explain
from ..explain.layer_errors import REQUESTS, RESERVED_NAMES
from ..explain.text import Mismatch, drawing, located
from ..fields import FrozenDict, code, is_traced
from ..initializers import constant
from ..keys import as_key
from ..random import draw
from ..validation import flag
from . import paths
from .calls import INTERCEPTOR, Call, Outcome, State, Unknown, evaluate_layer
from .declarations import (
    Declaration,
    Declaring,
    Param,
    Variable,
    abstract,
    declared,
    on_placeholders,
)
from .values import Value, fields


class Signature(NamedTuple):
    """The inputs of a method by name, how many may be positional, whether any number may, which are
    required, and its requests."""

    inputs: tuple[str, ...]
    positional: int
    variadic: bool
    required: frozenset[str]
    requests: frozenset[str]


@functools.lru_cache(maxsize=4096)
def signature(function: Callable[..., Any], skip: int) -> Signature:
    """Return the signature of a method without its first `skip` parameters, self and params."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    asked = [p.name for p in parameters if p.kind is keyword_only and p.name in REQUESTS]
    variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    inputs = [p for p in parameters if p.name not in asked and p.kind not in several]
    positional = sum(p.kind is not keyword_only for p in inputs)
    required = frozenset(p.name for p in inputs if p.default is inspect.Parameter.empty)
    names = tuple(p.name for p in inputs)
    return Signature(names, positional, variadic, required, frozenset(asked))


class Layer(Value):
    """Base of all layers.

    A layer is immutable, hashable and comparable, and a static pytree node without leaves: a jitted
    function takes it as an argument, and equal layers share one compiled program.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        jax.tree_util.register_static(cls)
        explain.check_reserved_names(cls.__dataclass_fields__, cls.__name__)  # type: ignore[attr-defined]
        explain.check_forward(cls, cls._skip, cls._requests)

    # What fields annotated bool accept: users of other libraries write Dense(784, 128).
    _flag = flag.such(hint="the number of input features is inferred from the input")

    # How many parameters of a method are not inputs, and what it may request.
    _skip = 1
    _requests = REQUESTS

    @entry
    def spec(self, *inputs: Any, **named: Any) -> Any:
        """Return the declared parameters: a tree of `Param`, with the structure of the parameters.

        Nothing is computed or allocated.

        Args:
            *inputs: Arrays or `jax.ShapeDtypeStruct`.
            **named: Named inputs.
        """
        return self._declaration("forward", inputs, named).params

    @entry
    def init(self, key: jax.Array, *inputs: Any, **named: Any) -> Any:
        """Return new parameters: a plain pytree of arrays, drawn from `key`.

        Only the shapes and types of the inputs are used; no forward is computed. This works under
        `jax.jit`, `jax.eval_shape`, and `jax.vmap` over keys.

        Args:
            key: PRNG key.
            *inputs: Arrays or `jax.ShapeDtypeStruct`.
            **named: Named inputs.

        Raises:
            ValueError: If the inputs do not match a layer; the error names its path.
        """
        key = as_key(key)  # first: net.init(x, key) then reports that x is not a key
        return draw(self.spec(*inputs, **named), key)

    def init_state(self, *inputs: Any, key: jax.Array | None = None, **named: Any) -> State:
        """Return the state before the first step: nested dicts of arrays, `{}` without any.

        State with constant initial values needs no key. State with random initial values, such as a
        codebook, is drawn by path, as parameters are: a child `name` has the state that
        `child.init_state(x, key=nn.fold_in(key, name))` returns.

        Args:
            *inputs: Arrays or `jax.ShapeDtypeStruct`, as for `init`.
            key: PRNG key; required if any state has random initial values. Default: None.
            **named: Named inputs, as for `init`.

        Raises:
            ValueError: If any state has random initial values, and no key is passed.
        """
        root = None if key is None else as_key(key)
        slots = self._declaration("forward", inputs, named).state
        drawn = [path for path, s in paths.walk(slots) if not isinstance(s.init, constant)]
        if not drawn:
            return paths.map_with_path(lambda _, s: s.init(None, s.shape, s.dtype), slots)
        return draw(slots, explain.key_for_state(root, drawn))

    @overload
    def apply(
        self,
        params: Any,
        *inputs: Any,
        state: None = None,
        key: jax.Array | None = None,
        train: bool = False,
        method: str | None = None,
        **named: Any,
    ) -> Any: ...

    @overload
    def apply(
        self,
        params: Any,
        *inputs: Any,
        state: State,
        key: jax.Array | None = None,
        train: bool = False,
        method: str | None = None,
        **named: Any,
    ) -> tuple[Any, State]: ...

    @entry
    def apply(
        self,
        params: Any,
        *inputs: Any,
        state: State | None = None,
        key: jax.Array | None = None,
        train: bool = False,
        method: str | None = None,
        **named: Any,
    ) -> Any:
        """Return the output of the layer, a pure function of all arguments.

        If `state` is passed, the result is `(y, new_state)`, otherwise `y`. If `segment_ids` are
        passed by name, positions of the first input with segment 0 are padding and are replaced by
        zeros; `memory_segment_ids` mark padding of the input `memory`.

        Args:
            params: Parameters, as returned by `init`.
            *inputs: Arrays; other inputs stay Python values.
            state: State, as returned by `init_state` or the previous call. Default: None.
            key: PRNG key, for layers that draw random numbers. Default: None.
            train: Whether this is training. Default: False.
            method: Name of a pure method to call instead of `forward`. Default: None.
            **named: Named inputs, which reach every layer that takes them.

        Raises:
            ValueError: If parameters, state, or inputs do not match; the error names the path of
                the layer.
            TypeError: If an input or an option has a wrong type.
        """
        method = explain.known_method(self, method or "forward")
        if isinstance(params, Unknown):
            explain.check_named(self, method, named)
            with located(params.path, self):
                output = evaluate_layer(self, Call(params, inputs, named, method=method)).output
            return output if state is None else (output, state)
        explain.check_options(state, train)
        explain.check_named(self, method, named)
        params, state, inputs, named = explain.concrete_inputs((params, state, inputs, named))
        inputs, named = visible(self, method, inputs, named)
        call = Call(
            params=params,
            inputs=inputs,
            named=named,
            state=state,
            key=None if key is None else paths.PathKey(as_key(key)),
            train=train,
            method=method,
            interceptor=INTERCEPTOR.value,
        )
        try:
            with located((), self):
                outcome = evaluate_layer(self, call)
        except Mismatch as error:
            text = explain.explanation(self, error, params, method, inputs, named)
            raise ValueError(text) from None
        return outcome.output if state is None else (outcome.output, outcome.state)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Raise TypeError: a layer outside a composite's forward has no parameters."""
        raise TypeError(explain.unbound(self))

    _repr_html_ = notebook.network_html  # what a notebook shows

    if TYPE_CHECKING:
        # Inside a composite's forward a child is bound, and has `params` and other methods.
        def __getattr__(self, name: str) -> Any: ...

        # Each kind of layer defines these: its evaluation, and its declaration after one.
        def _evaluate(self, call: Call) -> Outcome: ...

        def _declared(self, frame: Declaring) -> tuple[Any, Any]: ...

    # ---- what each kind of layer defines ----

    def _children(self) -> Any:
        """Return the children, in nested dicts and tuples; of a wrapper, the layer inside it."""
        return {}

    def _with_children(self, children: Any) -> Any:
        """Return a copy with other children, or with bound ones, without checks."""
        return self

    def _draws(self) -> bool:
        """Return whether training uses the key that forward requests; not at a rate of 0."""
        return True

    # ---- methods and named inputs ----

    def _has_method(self, name: str) -> bool:
        """Return whether `name` is a pure method besides the layer's own interface."""
        if name != "forward" and (hasattr(Layer, name) or name in RESERVED_NAMES):
            return False
        return inspect.isfunction(getattr(type(self), name, None))

    def _methods(self) -> list[str]:
        """Return the names of the pure methods besides the layer's own interface."""
        return [n for n in dir(type(self)) if not n.startswith("_") and self._has_method(n)]

    def _signature(self, method: str) -> Signature:
        function = getattr(type(self), method, None)
        if function is None:
            raise TypeError(explain.no_method(self, method))
        return signature(function, self._skip)

    def _answers(self, call: Call, *path: str) -> dict[str, Any]:
        """Return what the method of a call requests by keyword; its key is the one at `path`."""
        asked = self._signature(call.method).requests
        key = call.random_key(*path) if "key" in asked and self._draws() else None
        answers = {"key": key, "train": call.train, "state": call.state}
        return {name: answers[name] for name in asked}

    def _takes(self, method: str) -> set[str]:
        """Return the inputs that this layer or a layer below it takes by name."""
        return set(self._signature(method).inputs)

    def _declaration(self, method: str, inputs: Any, named: Any) -> Declaration:
        explain.check_named(self, method, named)
        with located((), self):
            return declared(self, method, abstract(inputs), abstract(named))


LayerLike: TypeAlias = Layer | Callable[..., Any]


# ---- layers that own parameters ----


class Primitive(Layer):
    """A layer that owns parameters and has no children.

    Define `parameters(self, x)`, which returns a dict of `Param` by name, and the method
    `forward(self, params, x)`. `forward` declares what else it needs as keyword-only arguments:
    `*, key, train`, or `*, state`. With `state`, it returns `(y, new_state)`, and
    `variables(self, x)` declares the state.

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
        """Return the declared parameters.

        Args:
            *inputs: Inputs with a shape and a type; those that this method does not accept are left
                out.
            **named: Named inputs.
        """
        return {}

    def variables(self, *inputs: Any, **named: Any) -> Any:
        """Return the declared state, a dict of `Variable`; see `parameters`.

        Args:
            *inputs: Inputs with a shape and a type.
            **named: Named inputs.
        """
        return {}

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        held = (f.name for f in fields(self) if isinstance(getattr(self, f.name), Layer))
        explain.check_no_children(self, held)

    def _declared_by(self, method: Callable[..., Any], inputs: Any, named: Any) -> Any:
        """Return what `parameters` or `variables` returns for the inputs that it takes.

        Outside of transforms, the layer keeps the last result of each for inputs of equal shapes.
        """
        leaves, tree = jax.tree.flatten((inputs, named))
        arrays = all(isinstance(x, jax.Array) and not is_traced(x) for x in leaves)
        memo = vars(self).setdefault("_declarations", {}) if arrays else {}
        place = tree, [(x.shape, x.dtype) for x in leaves if arrays], canonicalize_dtype(float)
        if (found := memo.get(method)) is None or found[0] != place:
            inputs, named = abstract((inputs, named))
            takes = signature(getattr(method, "__func__", method), 1)
            positional = inputs if takes.variadic else inputs[: takes.positional]
            named = {k: v for k, v in named.items() if k in takes.inputs}
            found = memo[method] = place, method(*positional, **named)
        return found[1]

    def _declared(self, frame: Declaring) -> tuple[Any, Any]:
        return frame.found[()][:2]

    def _declare(self, call: Call) -> Call:
        """Return the call on placeholders for what is declared for its inputs."""
        params = self._declared_by(self.parameters, call.inputs, call.named)
        state = self._declared_by(self.variables, call.inputs, call.named)
        explain.check_declared(self, params, Param)
        explain.check_declared(self, state, Variable)
        call.params.frame.found[()] = Declaration(params, state)
        return on_placeholders(call, params, state)

    def _evaluate(self, call: Call) -> Outcome:
        takes = self._signature(call.method)
        explain.check_inputs(takes, call.method, call.inputs, call.named)
        asked = takes.requests
        if call.abstract:
            call = self._declare(call)
        elif call.method == "forward":
            spec = self._declared_by(self.parameters, call.inputs, call.named)
            explain.check_params(spec, call.params)
            explain.check_state(call, self._declared_by(self.variables, call.inputs, call.named))
        elif "state" in asked:  # its inputs may differ from those of `variables`
            explain.check_state(call, call.state or {"state": None})
        answers, params = self._answers(call), call.cast_params()
        with drawing(answers.get("key", ())):
            result = getattr(self, call.method)(params, *call.inputs, **call.named | answers)
        if "state" not in asked:
            return Outcome(result)
        explain.check_new_state(call, result)
        return Outcome(*result)


class Function(Primitive):
    """A plain function used as a layer; it prints as the function."""

    function: Callable[..., Any]

    def forward(self, params: Any, *inputs: Any) -> Any:
        """Return the function of the inputs."""
        return self.function(*inputs)

    def __repr__(self) -> str:
        return code(self.function)


def as_layers(item: Any, where: str, several: bool = True) -> Any:
    """Convert plain functions, also in tuples and dicts, to layers; raise TypeError for others."""
    if isinstance(item, Layer):
        explain.check_nesting(item, where)
    if isinstance(item, Layer) or (several and (item is None or is_traced(item))):
        return item
    if several and isinstance(item, FrozenDict):
        return FrozenDict(
            {name: as_layers(one, f"{where}[{name!r}]") for name, one in item.items()}
        )
    if several and isinstance(item, tuple):
        layers = [as_layers(one, f"{where}[{i}]") for i, one in enumerate(item)]
        return paths.same_kind(item, layers)
    return Function(explain.layer_like(item, where))


def holds_layer(item: Any) -> bool:
    """Return whether a field contains a layer, itself or in tuples and dicts."""
    return any(isinstance(leaf, Layer) for _, leaf in paths.walk(item))

"""A layer is a value: configuration only, with pure functions `init` and `apply`.

`Layer` is what users call. It has three kinds. A `Primitive` owns parameters and has no children. A
`Composite` has children and owns no parameters. A `Wrapper` turns a layer into a layer and adds no
level to paths. Each kind says how it is evaluated, `_evaluate(call) -> outcome`. What it declares
follows: it is evaluated once with inputs that have a shape and a type only, and with parameters
that are `Unknown`; each call of a layer below, or of `parameters`, leaves what is declared there in
`Declaring`.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import jax

from ..explain import calls as explain
from ..explain.definitions import REQUESTS, RESERVED_NAMES, check_forward, check_names
from ..explain.location import Mismatch, drawing, located, read_early
from ..initializers import constant
from ..keys import as_key
from ..masking import visible
from ..printing import code
from ..random import draw
from ..shapes import output_shapes
from ..validation import flag
from . import paths
from .calls import INTERCEPTOR, Call, Outcome, State, Unknown, evaluate, placeholder_key
from .declarations import Declaration, Param, Variable, abstract, placeholder, split_arrays
from .values import Value, fields, is_lasting


class Signature(NamedTuple):
    """The inputs of a method by name: how many may come by position, whether any number may, which
    must come; and its requests."""

    inputs: tuple[str, ...]
    positional: int
    variadic: bool
    required: frozenset[str]
    requests: frozenset[str]


@functools.lru_cache(maxsize=4096)
def signature(function: Callable[..., Any], skip: int) -> Signature:
    """The signature of a method without its first `skip` parameters (self, or self and params)."""
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
        check_names(cls.__dataclass_fields__, cls.__name__)  # type: ignore[attr-defined]
        check_forward(cls, cls._skip, cls._requests)

    # What fields annotated bool accept: users of other libraries write Dense(784, 128).
    _flag = flag.such(hint="the number of input features is inferred from the input")

    # How many parameters of a method are not inputs, and what it may ask for.
    _skip = 1
    _requests = REQUESTS

    def spec(self, *inputs: Any, **named: Any) -> Any:
        """The declared parameters: a tree of `Param`, structured as the parameters will be.

        `inputs` are arrays or `jax.ShapeDtypeStruct`; nothing is computed or allocated.
        """
        return self._declaration("forward", inputs, named).params

    def init(self, key: jax.Array, *inputs: Any, **named: Any) -> Any:
        """Fresh parameters: a plain pytree of arrays, drawn from `key`.

        Only the shapes and types of `inputs` count; nothing is run forward. Works under `jax.jit`,
        `jax.eval_shape`, and `jax.vmap` over keys. Raises ValueError with the path of the layer
        that the inputs do not fit.
        """
        key = as_key(key)  # first: net.init(x, key) then reports that x is not a key
        return draw(self.spec(*inputs, **named), key)

    def init_state(self, *inputs: Any, key: jax.Array | None = None, **named: Any) -> State:
        """The state before the first step: nested dicts of arrays, `{}` if no layer keeps any.

        State that starts constant needs no key. State that starts random, such as a codebook, is
        drawn by path as parameters are: a child `name` has the state that
        `child.init_state(x, key=nn.fold_in(key, name))` returns.

        Args:
            *inputs: arrays or `jax.ShapeDtypeStruct`, as for `init`.
            key: a JAX key; required if some state starts random.
            **named: named inputs, as for `init`.

        Raises:
            ValueError: some state starts random, and no key was given.
        """
        root = None if key is None else as_key(key)
        slots = self._declaration("forward", inputs, named).state
        drawn = [path for path, s in paths.walk(slots) if not isinstance(s.init, constant)]
        if not drawn:
            return paths.map_with_path(lambda _, s: s.init(None, s.shape, s.dtype), slots)
        if root is None:
            raise ValueError(explain.no_state_key(drawn))
        return draw(slots, root)

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
        """The output of the layer: a pure function of everything it is given.

        State in, state out: with `state` the result is `(y, new_state)`, without it `y`. `key` is
        needed by layers that draw random numbers in training, `train` switches between training
        and inference, and `method` names another pure method of the layer than `forward`.
        If `segment_ids` are given by name, positions of the first input with segment 0 are padding
        and count as zeros; `memory_segment_ids` mark padding of the input `memory`.
        Raises ValueError or TypeError, with the path of the layer concerned, for parameters,
        state or inputs that do not fit.
        """
        method = explain.known_method(self, method or "forward")
        if isinstance(params, Unknown):
            explain.check_named(self, method, named)
            with located(params.path, self):
                output = evaluate(self, Call(params, inputs, named, method=method)).output
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
                outcome = evaluate(self, call)
        except Mismatch as error:
            text = explain.explanation(self, error, params, method, inputs, named)
            raise ValueError(text) from None
        return outcome.output if state is None else (outcome.output, outcome.state)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Refused: a layer outside a composite's forward has no parameters."""
        raise TypeError(explain.unbound(self))

    if TYPE_CHECKING:
        # Inside a composite's forward a child is bound, and has `params` and methods of its own.
        def __getattr__(self, name: str) -> Any: ...

    # ---- what each kind of layer answers ----

    def _evaluate(self, call: Call) -> Outcome:
        raise NotImplementedError

    def _declared(self, frame: "Declaring") -> tuple[Any, Any]:
        """Parameters and state, from what an evaluation has left."""
        raise NotImplementedError

    def _children(self) -> Any:
        """The children, in nested dicts and tuples; of a wrapper, the layer inside it."""
        return {}

    def _with_children(self, children: Any) -> Any:
        """A copy with other children, or with bound ones; nothing is checked."""
        return self

    # ---- methods and named inputs ----

    def _has_method(self, name: str) -> bool:
        """Whether `name` is a pure method besides the layer's own interface."""
        if name != "forward" and (hasattr(Layer, name) or name in RESERVED_NAMES):
            return False
        return inspect.isfunction(getattr(type(self), name, None))

    def _methods(self) -> list[str]:
        """The names of the pure methods besides the layer's own interface."""
        return [n for n in dir(type(self)) if not n.startswith("_") and self._has_method(n)]

    def _signature(self, method: str) -> Signature:
        function = getattr(type(self), method, None)
        if function is None:
            raise TypeError(explain.no_method(self, method))
        return signature(function, self._skip)

    def _takes(self, method: str) -> set[str]:
        """The inputs that this layer or a layer below it takes by name."""
        return set(self._signature(method).inputs)

    def _declaration(self, method: str, inputs: Any, named: Any) -> Declaration:
        explain.check_named(self, method, named)
        with located((), self):
            return declared(self, method, abstract(inputs), abstract(named))


LayerLike: TypeAlias = Layer | Callable[..., Any]


# ---- what layers declare ----


def declared(
    layer: Layer, method: str, inputs: Any, named: Any, casting: Any = None
) -> Declaration:
    """What `layer` declares for abstract inputs; remembered, for equal layers and inputs."""
    leaves, structure = jax.tree.flatten((inputs, named))
    typed = tuple((type(leaf), leaf) for leaf in leaves)
    try:
        lasting = is_lasting(layer)
        hash((layer, typed))
    except TypeError:  # a traced number in the layer, or an input that does not hash
        lasting = False
    if not lasting:
        return _traced(layer, Call({}, inputs, named, method=method, casting=casting))
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return _remembered(layer, method, structure, typed, wide, casting)


@functools.lru_cache(maxsize=2048)
def _remembered(
    layer: Layer, method: str, structure: Any, typed: Any, wide: bool, casting: Any
) -> Declaration:
    inputs, named = jax.tree.unflatten(structure, [leaf for _, leaf in typed])
    return _traced(layer, Call({}, inputs, named, method=method, casting=casting))


def _traced(layer: Layer, call: Call) -> Declaration:
    """What `layer` declares, by an evaluation that is traced where nothing is shared with a
    transform around it."""
    frame = Declaring()
    arrays, join = split_arrays((call.inputs, call.named))

    def run(arrays: Any) -> Any:
        inputs, named = join(arrays)
        outcome = layer._evaluate(
            call.replace(params=Unknown(frame, ()), inputs=inputs, named=named, foreign=False)
        )
        return outcome.output, outcome.collected

    output, collected = output_shapes(run, arrays)
    frame.check_read()
    return Declaration(*layer._declared(frame), output, collected)


class Declaring:
    """What the calls of one evaluation from shapes alone have declared, by path.

    Children leave their declarations at their paths. A primitive leaves its own at the path of the
    layer itself, `()`, and so does the layer inside a wrapper.
    """

    def __init__(self) -> None:
        self.found: dict[paths.Path, Declaration] = {}
        self.state: dict[str, Any] = {}  # that a wrapper itself keeps
        self.read: set[paths.Path] = set()

    def check_read(self) -> None:
        """Raise ValueError where a child's parameters were read, but it was never called."""
        for path in self.read - self.found.keys():
            raise ValueError(read_early(path))

    def run(self, layer: Any, call: Call) -> Outcome:
        """Keep what a layer declares, and return a placeholder for its outcome."""
        path = call.params.path
        before = self.found.get(path)
        if before is not None and call.method != "forward":
            # forward has declared what another method uses, whose inputs may be others.
            with contextlib.suppress(ValueError):  # it may reach what forward did not
                return layer._evaluate(on_placeholders(call, before.params, before.state))
        inputs, named = abstract((call.inputs, call.named))
        if call.interceptor is None:
            found = declared(layer, call.method, inputs, named, call.casting)
        else:
            found = _traced(layer, call.replace(inputs=inputs, named=named))
        self.found[path] = _joined(before, found) if before else found
        return Outcome(placeholder(found.output), {}, placeholder(found.collected))


def on_placeholders(call: Call, params: Any, state: Any) -> Call:
    """The call on arrays like those that are declared."""
    params, state = placeholder((params, state))
    key = paths.PathKey(placeholder_key())
    return call.replace(params=params, state=state, key=key, foreign=False)


def _joined(before: Declaration, after: Declaration) -> Declaration:
    """What two calls of one layer declare; either may reach children that the other does not."""
    params = _filled(before.params, after.params)
    explain.check_same(params, _filled(after.params, before.params))
    return after._replace(params=params, state=_union(before.state, after.state))


def _filled(one: Any, other: Any) -> Any:
    """The parameters `one`, with those of `other` where `one` has none."""
    if isinstance(one, dict) and not one:
        return other
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {name: _filled(item, other[name]) for name, item in one.items()}
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return paths.like(one, [_filled(a, b) for a, b in zip(one, other, strict=True)])
    return one


def _union(one: Any, other: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    both = {name: _union(item, other[name]) for name, item in one.items() if name in other}
    return one | other | both


# ---- layers that own parameters ----


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
                raise TypeError(explain.holds_child(self, field.name))

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
        elif "state" in asked:  # its inputs need not be those that `variables` takes
            explain.check_state(call, call.state or {"state": None})
        key = call.random_key() if "key" in asked and self._draws() else None
        answers = {"key": key, "train": call.train, "state": call.state}
        named = call.named | {name: answers[name] for name in asked}
        with drawing(key if "key" in asked else ()):
            result = getattr(self, call.method)(call.cast_params(), *call.inputs, **named)
        if "state" not in asked:
            return Outcome(result)
        explain.check_new_state(call, result)
        return Outcome(*result)


class Function(Primitive):
    """A plain function that stands where a layer is expected; it prints as the function."""

    function: Callable[..., Any]

    def forward(self, params: Any, *inputs: Any) -> Any:
        """The function of the inputs."""
        return self.function(*inputs)

    def __repr__(self) -> str:
        return code(self.function)

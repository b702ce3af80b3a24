"""A layer is a value: configuration only, with pure functions `init` and `apply`.

`Layer` is what users call. It has three kinds. A `Primitive` owns parameters and has no children. A
`Composite` has children and owns no parameters. A `Wrapper` turns a layer into a layer and adds no
level to paths. Each kind says how it is evaluated, `_evaluate(call) -> outcome`. What it declares
follows: it is evaluated once with inputs that have a shape and a type only, and with parameters
that are `Unknown`; each call of a layer below, or of `parameters`, leaves what is declared there.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import jax

from . import paths
from .binding import Declaring, concrete_inputs, visible
from .calls import (
    Call,
    Casting,
    Mismatch,
    Outcome,
    State,
    Unknown,
    Unreached,
    default_interceptor,
    evaluate,
    located,
    place_of,
)
from .declarations import (
    Declaration,
    abstract,
    brief,
    describe,
    mismatches,
    split_arrays,
)
from .drawing import draw
from .initializers import constant
from .signatures import (
    REQUESTS,
    RESERVED_INPUTS,
    RESERVED_NAMES,
    Signature,
    check_forward,
    check_names,
    signature,
    suggestion,
)
from .values import Value, is_lasting

INIT = (
    "Write params = net.init(key, x) and net.apply(params, x) with the same network, and x of the "
    "same shape, batch axes aside."
)
INIT_STATE = "write state = net.init_state(x); y, state = net.apply(params, x, state=state)"


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
        key = paths.as_key(key)  # first: net.init(x, key) is then told that x is no key
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
        root = None if key is None else paths.as_key(key)
        slots = self._declaration("forward", inputs, named).state
        drawn = [path for path, s in paths.walk(slots) if not isinstance(s.init, constant)]
        if not drawn:
            return paths.map_with_path(lambda _, s: s.init(None, s.shape, s.dtype), slots)
        if root is None:
            raise ValueError(
                f"the state {', '.join(map(paths.text, drawn))} starts random, but no key was "
                "given: write state = net.init_state(x, key=key)"
            )
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
        method = self._known_method(method)
        if isinstance(params, Unknown):
            self._check_named(method, named)
            with located(params.path, self):
                output = evaluate(self, Call(params, inputs, named, method=method)).output
            return output if state is None else (output, state)
        if not isinstance(train, bool):
            raise TypeError(
                f"train is True or False, known while tracing; got {train!r}: under jax.jit, make "
                "it static: jax.jit(f, static_argnames='train')"
            )
        if state is not None and not isinstance(state, dict):
            raise TypeError(
                f"state is the dict that net.init_state(x) gives, got {brief(state)}; {INIT_STATE}"
            )
        self._check_named(method, named)
        params, state, inputs, named = concrete_inputs((params, state, inputs, named))
        inputs, named = visible(self, method, inputs, named)
        call = Call(
            params=params,
            inputs=inputs,
            named=named,
            state=state,
            key=None if key is None else paths.PathKey(paths.as_key(key)),
            train=train,
            method=method,
            interceptor=default_interceptor(),
        )
        try:
            with located((), self):
                outcome = evaluate(self, call)
        except Mismatch as error:
            raise ValueError(self._explain(error, params, method, inputs, named)) from None
        return outcome.output if state is None else (outcome.output, outcome.state)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Refused: a layer outside a composite's forward has no parameters."""
        raise TypeError(
            f"{self!r} holds no parameters, so it cannot be called: write "
            "params = net.init(key, x) and net.apply(params, x)"
        )

    if TYPE_CHECKING:
        # Inside a composite's forward a child is bound, and has `params` and methods of its own.
        def __getattr__(self, name: str) -> Any: ...

    # ---- what each kind of layer answers ----

    def _evaluate(self, call: Call) -> Outcome:
        raise NotImplementedError

    def _declared(self, frame: Declaring) -> tuple[Any, Any]:
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

    def _known_method(self, method: str | None) -> str:
        if method is None or method == "forward":
            return "forward"
        if not isinstance(method, str):
            raise TypeError(f"method is the name of a method, such as 'decode'; got {method!r}")
        if not self._has_method(method):
            raise ValueError(
                f"{self!r} has no method {method!r}; {suggestion(method, self._methods())}"
            )
        return method

    def _signature(self, method: str) -> Signature:
        function = getattr(type(self), method, None)
        if function is None:
            first = "self, params, x" if self._skip == 2 else "self, x"
            raise TypeError(f"{type(self).__name__} has no {method}; write def {method}({first})")
        return signature(function, self._skip)

    def _takes(self, method: str) -> set[str]:
        """The inputs that this layer or a layer below it takes by name."""
        return set(self._signature(method).inputs)

    def _check_named(self, method: str, named: Any) -> None:
        taken = self._takes(method) if named else set()
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

    def _declaration(self, method: str, inputs: Any, named: Any) -> Declaration:
        self._check_named(method, named)
        with located((), self):
            return declared(self, method, abstract(inputs), abstract(named))

    def _explain(self, error: Mismatch, params: Any, method: str, inputs: Any, named: Any) -> str:
        """All that is wrong with the parameters, where the network's own declaration tells it."""
        try:
            spec = self._declaration(method, inputs, named).params
        except Exception as other:
            return f"{error}\nNor do the inputs fit: {other}\n{INIT}"
        lines = mismatches(spec, params)
        if not lines:
            return f"{error}\n{INIT}"
        given = ", ".join(
            [*map(describe, inputs), *(f"{k}={describe(v)}" for k, v in named.items())]
        )
        return (
            f"the parameters are not those of this network for the inputs {given}:\n  "
            + "\n  ".join(lines)
            + f"\n{error if isinstance(error, Unreached) and place_of(error) else INIT}"
        )


LayerLike: TypeAlias = Layer | Callable[..., Any]


def declared(
    layer: Layer, method: str, inputs: Any, named: Any, casting: Casting | None = None
) -> Declaration:
    """What `layer` declares for abstract inputs; remembered, for equal layers and inputs."""
    leaves, structure = jax.tree.flatten((inputs, named))
    typed = tuple((type(leaf), leaf) for leaf in leaves)
    wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    try:
        lasting = is_lasting(layer)
        hash((layer, typed))
    except TypeError:  # a traced number in the layer, or an input that does not hash
        lasting = False
    if not lasting:
        return _traced(layer, Call({}, inputs, named, method=method, casting=casting))
    return _remembered(layer, method, structure, typed, wide, casting)


@functools.lru_cache(maxsize=2048)
def _remembered(
    layer: Layer, method: str, structure: Any, typed: Any, wide: bool, casting: Casting | None
) -> Declaration:
    inputs, named = jax.tree.unflatten(structure, [leaf for _, leaf in typed])
    return _traced(layer, Call({}, inputs, named, method=method, casting=casting))


def _declare(layer: Layer, call: Call) -> Declaration:
    """What `layer` declares for a call whose inputs are traced."""
    inputs, named = abstract((call.inputs, call.named))
    if call.interceptor is None:
        return declared(layer, call.method, inputs, named, call.casting)
    return _traced(layer, call.replace(inputs=inputs, named=named))


def _traced(layer: Layer, call: Call) -> Declaration:
    """What `layer` declares, by an evaluation that is traced where nothing is shared with a
    transform around it."""
    frame = Declaring(_declare)
    arrays, join = split_arrays((call.inputs, call.named))

    def run(arrays: Any) -> Any:
        inputs, named = join(arrays)
        outcome = layer._evaluate(
            call.replace(params=Unknown(frame, ()), inputs=inputs, named=named, foreign=False)
        )
        return outcome.output, outcome.collected

    output, collected = jax.eval_shape(run, arrays)
    frame.check_read()
    return Declaration(*layer._declared(frame), output, collected)

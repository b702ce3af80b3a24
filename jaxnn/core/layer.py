"""A layer is a value: configuration only, with pure functions `init` and `apply`.

`Layer` is what users call. It has three kinds. A `Primitive` owns parameters and has no children. A
`Composite` has children and owns no parameters. A `Wrapper` turns a layer into a layer and adds no
level to paths. Each kind answers two questions, and everything else follows from the answers:

    _declare(method, inputs, named)          from shapes alone: parameters, state, output
    _evaluate(call, method, inputs, named)   with numbers: output, new state, captured values
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeAlias, overload

import jax

from . import paths
from .binding import Declaring, Evaluation, Unknown, bind, concrete_inputs
from .calls import Call, Mismatch, Outcome, State, Unreached, located, place_of
from .declarations import (
    Declaration,
    Param,
    Slot,
    abstract,
    describe,
    is_array,
    mismatches,
    split_arrays,
)
from .drawing import draw
from .signatures import (
    REQUESTS,
    RESERVED_NAMES,
    Signature,
    check_forward,
    check_names,
    signature,
    suggestion,
)
from .values import FrozenDict, Value, code, copy_with, fields, is_lasting, is_traced

INIT = (
    "Write params = net.init(key, x) and net.apply(params, x) with the same network, and x of the "
    "same shape, batch axes aside."
)
UNREACHED = (
    "was not reached by init, so it has no parameters: write params = net.init(key, x) with inputs "
    "for which forward calls it"
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

    def init_state(self, *inputs: Any, **named: Any) -> State:
        """The state before the first step: nested dicts of arrays, `{}` where none is kept."""
        slots = self._declaration("forward", inputs, named).state
        return paths.map_with_path(lambda _, s: s.init(None, s.shape, s.dtype), slots)

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
        Raises ValueError or TypeError, with the path of the layer concerned, for parameters,
        state or inputs that do not fit.
        """
        method = self._known_method(method)
        if isinstance(params, Unknown):
            output = params.frame.run(self, params.path, method, inputs, named)
            return output if state is None else (output, state)
        if not isinstance(train, bool):
            raise TypeError(
                f"train is True or False, known while tracing; got {train!r}: under jax.jit, make "
                "it static: jax.jit(f, static_argnames='train')"
            )
        if state is not None and not isinstance(state, dict):
            raise TypeError(
                f"state is the dict that net.init_state(x) gives, got {_brief(state)}; {INIT_STATE}"
            )
        self._check_named(method, named)
        params, state, inputs, named = concrete_inputs((params, state, inputs, named))
        root = None if key is None else paths.PathKey(paths.as_key(key))
        call = Call(params, state, root, train)
        try:
            with located((), self):
                outcome = self._evaluate(call, method, inputs, named)
        except Mismatch as error:
            raise ValueError(self._explain(error, params, method, inputs, named)) from None
        return outcome.output if state is None else (outcome.output, outcome.state)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Refused: a layer outside a composite's forward has no parameters."""
        raise TypeError(
            f"{self!r} holds no parameters, so it cannot be called: write "
            "params = net.init(key, x) and net.apply(params, x)"
        )

    # ---- what each kind of layer answers ----

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        raise NotImplementedError

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        raise NotImplementedError

    def _children(self) -> Any:
        """The children, in nested dicts and tuples; `{}` for a layer without any."""
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

    def _known_method(self, method: str | None) -> str:
        if method is None or method == "forward":
            return "forward"
        if not isinstance(method, str):
            raise TypeError(f"method is the name of a method, such as 'decode'; got {method!r}")
        if not self._has_method(method):
            known = [n for n in dir(type(self)) if not n.startswith("_") and self._has_method(n)]
            raise ValueError(f"{self!r} has no method {method!r}; {suggestion(method, known)}")
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


def declared(layer: Layer, method: str, inputs: Any, named: Any) -> Declaration:
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
        return layer._declare(method, inputs, named)
    return _remembered(layer, method, structure, typed, wide)


@functools.lru_cache(maxsize=2048)
def _remembered(layer: Layer, method: str, structure: Any, typed: Any, wide: bool) -> Declaration:
    inputs, named = jax.tree.unflatten(structure, [leaf for _, leaf in typed])
    return layer._declare(method, inputs, named)


# ---- primitives ----


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

    def _normalise_fields(self) -> None:
        super()._normalise_fields()
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

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        self._signature(method).check(method, inputs, named)
        params = self._declared_by(self.parameters, inputs, named)
        state = self._declared_by(self.variables, inputs, named)
        _check_declared(self, params, Param)
        _check_declared(self, state, Slot)
        arrays, join = split_arrays((inputs, named))

        def run(params: Any, state: Any, arrays: Any) -> Any:
            inputs, named = join(arrays)
            return self._forward(method, params, state, None, False, inputs, named)[0]

        shapes = jax.tree.map(lambda d: jax.ShapeDtypeStruct(d.shape, d.dtype), (params, state))
        return Declaration(params, state, jax.eval_shape(run, *shapes, arrays))

    def _forward(
        self, method: str, params: Any, state: Any, key: Any, train: bool, inputs: Any, named: Any
    ) -> tuple[Any, State]:
        answers = {"key": key, "train": train, "state": state}
        asked = self._signature(method).requests
        named = named | {name: answers[name] for name in asked}
        result = getattr(self, method)(params, *inputs, **named)
        if "state" not in asked:
            return result, {}
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"a forward that asks for state returns (y, state), got {result!r}")
        lines = mismatches(state or {}, result[1])
        if lines:
            raise ValueError(
                f"{method} returned a state unlike the one it was given: {'; '.join(lines)}; "
                "return (y, state) with the names and shapes that `variables` declares"
            )
        return result

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        takes = self._signature(method)
        takes.check(method, inputs, named)
        asked = takes.requests
        if method == "forward":
            self._check_params(call.params, inputs, named)
            self._check_state(call, self._declared_by(self.variables, inputs, named))
        elif "state" in asked:  # its inputs need not be those that `variables` takes
            self._check_state(call, call.state or {"state": None})
        if "key" in asked:
            self._check_key(call)
        key = call.key.value() if "key" in asked and call.key is not None else None
        output, state = self._forward(
            method, call.params, call.state, key, call.train, inputs, named
        )
        return Outcome(output, state, {})

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
            raise ValueError(f"its state is a dict, got {_brief(call.state)}; {INIT_STATE}")
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
            raise ValueError(_foreign("keeps state"))
        lines = mismatches(slots, call.state)
        if lines:
            raise ValueError(
                f"the state is not that declared for these inputs: {'; '.join(lines)}; {INIT_STATE}"
            )

    def _check_key(self, call: Call) -> None:
        if call.key is None and call.train:
            raise ValueError(
                "draws random numbers in training, but no key was given: "
                "write net.apply(params, x, key=key, train=True)"
            )
        if call.key is not None and call.foreign:
            raise ValueError(_foreign("draws random numbers"))


def _foreign(what: str) -> str:
    return (
        f"{what}, and is called inside a transform of your own, where masks would repeat and state "
        "would be lost: use the wrapper instead (nn.Repeat for lax.scan, nn.Ensemble for jax.vmap, "
        "nn.Remat for jax.checkpoint), or hand child.layer and child.params to the transform"
    )


def _check_declared(layer: Layer, tree: Any, kind: type) -> None:
    if not isinstance(tree, dict) and kind is Slot:
        raise TypeError(f"`variables` returns a dict of nn.Slot, got {tree!r}")
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


# ---- composites ----


class Composite(Layer):
    """A layer made of layers.

    Fields annotated `Layer` are its children (or `LayerLike`, where a plain function may stand);
    they may be None, or in tuples and dicts. `forward` writes the mathematics, calling the children
    as functions; init, state, keys and paths follow from it.

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

    def _normalise_fields(self) -> None:
        super()._normalise_fields()
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
            named = named | self._answers(method, None, False)
            return getattr(self._with_children(bind(children, frame)), method)(*inputs, **named)

        # The trace runs where nothing is shared with a transform around it.
        output = jax.eval_shape(run, arrays)
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
        # A key of its own, which no child's name can give.
        key = None if call.key is None else call.key.child(("forward",))
        if "key" in self._signature(method).requests:
            if call.key is None and call.train:
                raise ValueError(
                    "asks for a key in training, but none was given: write "
                    "net.apply(params, x, key=key, train=True)"
                )
            if call.key is not None and call.foreign:
                raise ValueError(_foreign("asks for a key"))
        answers = self._answers(method, key, call.train)
        bound = self._with_children(bind(children, frame))
        output = getattr(bound, method)(*inputs, **own, **answers)
        return Outcome(output, frame.state, frame.captured)

    def _answers(self, method: str, key: paths.PathKey | None, train: bool) -> dict[str, Any]:
        asked = self._signature(method).requests
        answers: dict[str, Any] = {}
        if "key" in asked:
            answers["key"] = None if key is None else key.value()
        if "train" in asked:
            answers["train"] = train
        return answers

    def _split(self, method: str, named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Named inputs that forward takes itself, and those that pass by to its children."""
        own = set(self._signature(method).inputs)
        return (
            {name: item for name, item in named.items() if name in own},
            {name: item for name, item in named.items() if name not in own},
        )


def as_layers(item: Any, where: str) -> Any:
    """`item` with plain functions as layers, in tuples and dicts too; TypeError for the rest."""
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
            got = sorted(params) if isinstance(params, dict) else _brief(params)
            raise Mismatch(f"has the children {sorted(children)}, but the parameters are of {got}")
        for name, child in children.items():
            _check_structure(child, params[name])
    elif isinstance(children, tuple):
        if not isinstance(params, tuple) or len(params) != len(children):
            raise Mismatch(
                f"has {len(children)} children, but the parameters are {_brief(params)}; "
                "positional children have a tuple of parameters"
            )
        for child, item in zip(children, params, strict=True):
            _check_structure(child, item)


def _brief(params: Any) -> str:
    if isinstance(params, (dict, tuple, list)):
        return f"a {type(params).__name__} of {len(params)}"
    return describe(params) if is_array(params) else f"{params!r:.80}"


def _check_state_names(children: Any, state: Any) -> None:
    """Raise ValueError where the state has an entry for a child that there is not."""
    if not isinstance(children, (dict, tuple)):
        return
    names = list(children) if isinstance(children, dict) else list(map(str, range(len(children))))
    if not isinstance(state, dict) or not set(state) <= set(names):
        got = sorted(set(state) - set(names)) if isinstance(state, dict) else _brief(state)
        raise ValueError(
            f"got state for {got}, but its children are {names}: the state is that of another "
            "network; write state = net.init_state(x)"
        )
    for name, item in state.items():
        _check_state_names(children[name if isinstance(children, dict) else int(name)], item)


def _nested(tree: dict[str, Any], path: paths.Path, item: Any) -> dict[str, Any]:
    head, *rest = path
    return {**tree, head: _nested(tree.get(head, {}), tuple(rest), item) if rest else item}


# ---- wrappers ----


class Wrapper(Layer):
    """A layer around another one, with its parameters, state, methods and paths.

    A subclass overrides `_declare` and `_evaluate`, or one of them, and hands the inner layer a
    call of its own.
    """

    inner: LayerLike

    def _normalise_fields(self) -> None:
        super()._normalise_fields()
        inner = as_layers(self.inner, f"{type(self).__name__}.inner")
        if not isinstance(inner, Layer):
            raise TypeError(f"{type(self).__name__} wraps a layer, got {inner!r}")
        object.__setattr__(self, "inner", inner)

    @property
    def wrapped(self) -> Layer:
        """The inner layer."""
        return self.inner  # type: ignore[return-value]

    def _children(self) -> Any:
        return self.wrapped._children()

    def _with_children(self, children: Any) -> Any:
        return copy_with(self, inner=self.wrapped._with_children(children))

    def _has_method(self, name: str) -> bool:
        return self.wrapped._has_method(name)

    def _signature(self, method: str) -> Signature:
        return self.wrapped._signature(method)

    def _takes(self, method: str) -> set[str]:
        return self.wrapped._takes(method)

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        return declared(self.wrapped, method, inputs, named)

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        return self.wrapped._evaluate(call, method, inputs, named)

"""Bad input: each mistake gives an error that says what came, what was wanted, where, and what to
write."""
# The mistakes are made on purpose:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = jnp.ones((2, 4))
NET = nn.Sequential(nn.Dense(3), jax.nn.relu, nn.Dense(2))
PARAMS = jax.tree.map(lambda a: jnp.zeros(a.shape), jax.eval_shape(NET.init, KEY, X))
AGAIN = (
    "Write params = net.init(key, x) and net.apply(params, x) with the same network, and x of the "
    "same shape, except for batch axes."
)
NEW_STATE = "write state = net.init_state(x); y, state = net.apply(params, x, state=state)"


def parameters_of(net, *inputs):
    return jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(net.init, KEY, *inputs)
    )


def raised(run):
    with pytest.raises((ValueError, TypeError, AttributeError, NameError)) as caught:
        run()
    notes = [n for n in getattr(caught.value, "__notes__", []) if n.startswith("raised")]
    text = "\n".join([str(caught.value), *notes])
    return type(caught.value), re.sub(r"\w+\.<locals>\.", "", text)


def check(run, kind, *texts):
    found, message = raised(run)
    assert found.__name__ in (kind.__name__, "Mismatch"), message
    for text in texts:
        assert text in message, message


class Block(nn.Composite):
    norm: nn.Layer
    mlp: nn.Layer

    def forward(self, x):
        return x + self.mlp(self.norm(x))


DEEP = nn.Sequential(
    stem=nn.Dense(4),
    blocks=nn.Sequential(*[Block(nn.LayerNorm(), nn.Sequential(nn.Dense(8), nn.Dense(4)))] * 2),
)


# ---- inputs ----


def test_another_width():
    check(
        lambda: NET.apply(PARAMS, jnp.ones((2, 5))),
        ValueError,
        "the parameters are not those of this network for the inputs float32[2,5]:\n"
        "  0/w: declared (5, 3), got (4, 3)\n" + AGAIN,
    )


def test_another_width_deep_in_a_network():
    wider = nn.Sequential(
        a=nn.Sequential(b=nn.Dense(3)), c=lambda x: jnp.concatenate([x, x], -1), d=NET
    )
    params = parameters_of(wider, X)
    params["d"] = PARAMS
    check(
        lambda: wider.apply(params, X),
        ValueError,
        "inputs float32[2,4]:\n  d/0/w: declared (6, 3), got (4, 3)\n",
    )


@pytest.mark.parametrize("call", [NET.init, lambda key, x: NET.apply(PARAMS, x)])
def test_another_rank(call):
    check(
        lambda: call(KEY, jnp.ones(())),
        ValueError,
        "at '0', Dense(3): expected an input of shape (..., inputs), got float32[]",
    )
    check(
        lambda: call(KEY, [1.0, 2.0]),
        TypeError,
        "at '0', Dense(3): expected an array of shape (..., inputs), got [1.0, 2.0]; "
        "use jnp.asarray(x)",
    )


def test_an_error_of_jax_in_a_users_forward():
    class Bad(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(x) @ jnp.ones((7, 2))

    net = nn.Sequential(a=nn.Dense(3), c=nn.Sequential(Bad(NET)))
    check(lambda: net.init(KEY, X), TypeError, "at 'c/0', Bad(", "dot_general requires contracting")
    params = {"a": PARAMS[0], "c": ({"inner": parameters_of(NET, jnp.ones((2, 3)))},)}
    check(lambda: net.apply(params, X), TypeError, "at 'c/0', Bad(", "dot_general requires")


def test_an_error_of_another_kind_is_kept_and_gets_the_path_as_a_note():
    def lookup(x):
        return x.nothing

    check(
        lambda: nn.Sequential(a=nn.Sequential(lookup)).init(KEY, X),
        AttributeError,
        "has no attribute",
        "raised at 'a/0', ",
    )


def test_how_many_inputs():
    check(
        lambda: NET.init(KEY),
        TypeError,
        "at the root, Sequential(",
        "got no 'x'; forward takes (x)",
    )
    check(lambda: NET.apply(PARAMS), TypeError, "got no 'x'; forward takes (x)")
    check(
        lambda: nn.Dense(3).init(KEY, X, X),
        TypeError,
        "at the root, Dense(3): got 2 inputs; forward takes (x)",
    )
    check(
        lambda: NET.apply(PARAMS, X, x=X),
        TypeError,
        "got 'x' by position and by name; forward takes (x)",
    )

    class Two(nn.Composite):
        inner: nn.Layer

        def forward(self, x, y=None):
            return self.inner(x, y)

    check(
        lambda: nn.Sequential(two=Two(nn.Dense(3))).init(KEY, X),
        TypeError,
        "at 'two/inner', Dense(3): got 2 inputs; forward takes (x)",
    )
    check(lambda: Two(nn.Dense(3)).init(KEY), TypeError, "got no 'x'; forward takes (x, y=...)")


def test_an_unknown_named_input():
    class Masked(nn.Primitive):
        def forward(self, params, x, mask=None):
            return x

    net = nn.Sequential(nn.Dense(3), Masked())
    text = "no layer of the network takes an input 'maskk'; did you mean 'mask'?"
    check(lambda: net.init(KEY, X, maskk=X), TypeError, text)
    check(lambda: net.apply((PARAMS[0], {}), X, maskk=X), TypeError, text)
    check(
        lambda: NET.apply(PARAMS, X, training=True),
        TypeError,
        "no layer of the network takes an input 'training'; known are 'x'",
    )

    class Asks(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(x, mask=x)

    check(
        lambda: nn.Sequential(asks=Asks(nn.Dense(3))).init(KEY, X),
        TypeError,
        "at 'asks/inner', Dense(3): no layer of the network takes an input 'mask'; known are 'x'",
    )


def test_a_shape_where_an_array_is_wanted():
    check(
        lambda: NET.apply(PARAMS, jax.ShapeDtypeStruct((2, 4), np.float32)),
        TypeError,
        "apply expects arrays, got only the shape float32[2,4]",
        "write jax.eval_shape(net.apply, params, x)",
    )


# ---- parameters ----


def test_parameters_of_another_network_all_listed():
    other = parameters_of(nn.Sequential(nn.Dense(7), jax.nn.relu, nn.Dense(5)), X)
    found, message = raised(lambda: NET.apply(other, X))
    assert found is ValueError
    first, *lines, last = message.split("\n")
    assert first == "the parameters are not those of this network for the inputs float32[2,4]:"
    assert sorted(lines) == [
        "  0/b: declared (3,), got (7,)",
        "  0/w: declared (4, 3), got (4, 7)",
        "  2/b: declared (2,), got (5,)",
        "  2/w: declared (3, 2), got (7, 5)",
    ]
    assert last == AGAIN
    params = parameters_of(DEEP, X)
    wrong = jax.tree.map(lambda a: a[None], params)
    _, message = raised(lambda: DEEP.apply(wrong, X))
    for path in ("stem/w", "blocks/0/norm/scale", "blocks/1/mlp/0/w", "blocks/1/mlp/1/b"):
        assert f"  {path}: declared " in message


FIRST = PARAMS[0]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (PARAMS[:2], "the whole: declared a tuple of 3, got a tuple of 2"),
        ((*PARAMS, {}), "the whole: declared a tuple of 3, got a tuple of 4"),
        (list(PARAMS), "the whole: declared a tuple of 3, got a list of 3; write a tuple"),
        (dict(enumerate(PARAMS)), "the whole: declared a tuple of 3, got a dict ['0', '1', '2']"),
        (None, "the whole: declared a tuple of 3, got None"),
        (KEY, "the whole: declared a tuple of 3, got key<fry>[]"),
        (({**FIRST, "more": X}, *PARAMS[1:]), "0/more: not declared, got float32[2,4]"),
        (({"w": FIRST["w"]}, *PARAMS[1:]), "0/b: declared (3,), missing"),
        (({**FIRST, "w": None}, *PARAMS[1:]), "0/w: declared (4, 3), got None"),
        (({**FIRST, "w": "text"}, *PARAMS[1:]), "0/w: declared (4, 3), got str 'text'"),
        ((FIRST, {"w": X}, PARAMS[2]), "1/w: not declared, got float32[2,4]"),
        ((FIRST, None, PARAMS[2]), "1: declared {}, got None"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_parameters_of_another_structure(params, text):
    check(lambda: NET.apply(params, X), ValueError, f"inputs float32[2,4]:\n  {text}\n{AGAIN}")


def test_names_extra_and_missing():
    params = parameters_of(DEEP, X)
    renamed = {"stam": params["stem"], "blocks": params["blocks"]}
    check(
        lambda: DEEP.apply(renamed, X),
        ValueError,
        "  stem: declared a dict ['b', 'w'], missing\n",
        "  stam: not declared, got a dict ['b', 'w']\n",
    )


def test_no_parameters_at_all():
    check(lambda: nn.Dense(3).apply({}, X), ValueError, "  w: declared (4, 3), missing\n", AGAIN)
    check(
        lambda: NET.apply(X),
        ValueError,
        "at the root, Sequential(Dense(3), jax.nn.relu, Dense(2)): has 3 children by position, "
        "with a tuple of parameters, but the parameters are float32[2,4]\n",
        "The inputs do not match either: at the root, Sequential(",
        "got no 'x'; forward takes (x)\n" + AGAIN,
    )


def test_a_child_that_init_never_reached():
    class Either(nn.Composite):
        one: nn.Layer
        other: nn.Layer

        def forward(self, x, big=None):
            return self.one(x) if big is None else self.other(x)

        def second(self, x):
            return self.other(x)

    text = (
        "was not reached by init, so it has no parameters: write params = net.init(key, x) with "
        "inputs for which forward calls it"
    )
    net = nn.Sequential(c=Either(nn.Dense(3), nn.Dense(3)))
    params = parameters_of(net, X)
    check(
        lambda: net.apply(params, X, big=X),
        ValueError,
        "  c/other/w: declared (4, 3), missing\n",
        f"at 'c/other', Dense(3): {text}",
    )
    one = Either(nn.Dense(3), nn.Sequential(q=nn.Dense(5)))
    check(
        lambda: one.apply(parameters_of(one, X), X, method="second"),
        ValueError,
        f"at 'other', Sequential(q=Dense(5)): {text}",
    )


@pytest.mark.parametrize(
    "read",
    [
        lambda params: params["w"],
        lambda params: params.items(),
        lambda params: jax.tree.map(jnp.sum, params),
        lambda params: params,
    ],
)
def test_parameters_read_before_the_child_is_called(read):
    class Early(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return read(self.inner.params)

    found, message = raised(lambda: nn.Sequential(a=Early(nn.Dense(3))).init(KEY, X))
    assert found in (ValueError, AttributeError)
    assert "at 'a', Early(Dense(3))" in message
    assert (
        "parameters are read before their layer is called, so init cannot know their shapes: "
        "'inner'; call the child first, or pass child.params to child.layer.apply" in message
    )


def test_one_child_called_with_two_shapes():
    class Twice(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(self.inner(x))

    check(
        lambda: nn.Sequential(twice=Twice(nn.Dense(3))).init(KEY, X),
        ValueError,
        "at 'twice/inner', Dense(3): called twice with inputs that need different parameters: "
        "w: declared (4, 3), got (3, 3)",
    )


# ---- state ----

NORM = nn.Sequential(nn.Dense(3), nn.BatchNorm())
NORM_PARAMS = parameters_of(NORM, X)
STATE = {"1": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}


@pytest.mark.parametrize("given", [{}, {"state": {}}, {"train": True}])
def test_missing_state(given):
    check(
        lambda: NORM.apply(NORM_PARAMS, X, **given),
        ValueError,
        f"at '1', BatchNorm(): keeps state (mean, var), but none was given: {NEW_STATE}",
    )


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({**STATE, "7": {}}, "at the root, Sequential(Dense(3), BatchNorm()): got state for ['7']"),
        (
            {**STATE, "0": {"mean": X}},
            "at '0', Dense(3): keeps no state, but got state for ['mean']",
        ),
        (
            {"1": {"mean": X, "var": X[0]}},
            "mean: declared (3,), got (2, 4); var: declared (3,), got",
        ),
        ({"1": {"mean": jnp.zeros(3)}}, "at '1', BatchNorm(): the state is not as declared for"),
        ({"1": {"mean": jnp.zeros(3)}}, "var: declared (3,), missing"),
        ({"1": jnp.zeros(3)}, "at '1', BatchNorm(): its state must be a dict, got float32[3]"),
    ],
)
def test_state_of_another_network(state, text):
    check(lambda: NORM.apply(NORM_PARAMS, X, state=state), ValueError, text, "net.init_state(x)")


def test_state_where_none_is_kept():
    check(
        lambda: NET.apply(PARAMS, X, state=STATE),
        ValueError,
        "at '1', jax.nn.relu: keeps no state, but got state for ['mean', 'var'], which is the "
        "state of another network; write state = net.init_state(x)",
    )


@pytest.mark.parametrize(
    ("state", "shown"), [((STATE,), "({1: {mean: float32[3], var: float32[3]}})"), (True, "True")]
)
def test_state_that_is_no_dict(state, shown):
    check(
        lambda: NORM.apply(NORM_PARAMS, X, state=state),
        TypeError,
        f"state must be the dict that net.init_state(x) returns, got {shown}; {NEW_STATE}",
    )


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (lambda state: {"m": state["m"][None]}, "m: declared (3,), got (1, 3)"),
        (lambda state: {}, "m: declared float32[3], missing"),
        (lambda state: None, "the whole: declared a dict ['m'], got None"),
    ],
)
def test_a_forward_that_returns_another_state(new, text):
    class Counts(nn.Primitive):
        def variables(self, x):
            return {"m": nn.Variable((3,))}

        def forward(self, params, x, *, state):
            return x, new(state)

    check(
        lambda: nn.Sequential(a=Counts()).apply({"a": {}}, X, state={"a": {"m": jnp.ones(3)}}),
        ValueError,
        "at 'a', Counts(): forward requests state, so it must return (y, state), with names and "
        f"shapes as declared by `variables`: {text}",
    )


# ---- keys, train, method ----


def test_a_missing_key():
    net = nn.Sequential(nn.Dense(3), nn.Sequential(drop=nn.Dropout(0.5)))
    check(
        lambda: net.apply(parameters_of(net, X), X, train=True),
        ValueError,
        "at '1/drop', Dropout(0.5): draws random numbers in training, but no key was given: "
        "write net.apply(params, x, key=key, train=True)",
    )


@pytest.mark.parametrize("key", [0, np.int32(3), 1.5, "a", None], ids=repr)
def test_what_is_no_key(key):
    text = f"key must be a single random key, got {type(key).__name__} {key!r}; write jax.random"
    check(lambda: NET.init(key, X), TypeError, text)
    if key is not None:
        check(lambda: NET.apply(PARAMS, X, key=key, train=True), TypeError, text)


def test_a_batch_of_keys():
    for keys, shown in [
        (jax.random.split(KEY, 3), "shape (3,) and type key<fry>"),
        (jnp.zeros((3, 2), jnp.uint32), "shape (3, 2) and type uint32"),
    ]:
        check(
            lambda keys=keys: NET.init(keys, X),
            TypeError,
            f"key must be a single random key, got an array of {shown}; write "
            "jax.random.key(seed), and jax.vmap for several keys",
        )


def test_key_and_input_swapped_or_forgotten():
    text = "key must be a single random key, got an array of shape (2, 4) and type float32"
    check(lambda: NET.init(X, KEY), TypeError, text)
    check(lambda: NET.init(X), TypeError, text)


def test_train_that_is_no_bool():
    run = jax.jit(lambda train: NET.apply(PARAMS, X, train=train))
    text = "train is the traced number JitTracer(bool[]), but must be True or False, known before"
    check(lambda: run(True), TypeError, text, "static_argnums of jax.jit")
    text = (
        "train must be True or False, got 1; under jax.jit, make it static: jax.jit(f, static_arg"
    )
    check(lambda: NET.apply(PARAMS, X, train=1), TypeError, text)


def test_an_unknown_method():
    table = {"w": jnp.ones((5, 4))}
    embed = nn.Embedding(5, 4)
    check(
        lambda: embed.apply(table, X, method="atend"),
        ValueError,
        "method must be the name of a method of Embedding(5, 4), got 'atend'; did you mean 'atte",
    )
    for name in ("decode", "init", "_declare"):
        check(
            lambda name=name: NET.apply(PARAMS, X, method=name),
            ValueError,
            f"got {name!r}; known are 'forward'",
        )
    check(
        lambda: NET.apply(PARAMS, X, method=embed.attend),
        ValueError,
        "method must be the name of a method of Sequential(Dense(3), jax.nn.relu, Dense(2)), got <",
    )


def test_calling_an_unbound_layer():
    text = (
        "Dense(3) contains no parameters, so it cannot be called: write params = net.init(key, x) "
        "and net.apply(params, x)"
    )
    check(lambda: nn.Dense(3)(X), TypeError, text)

    class Makes(nn.Composite):
        def forward(self, x):
            return nn.Dense(3)(x)

    check(lambda: nn.Sequential(a=Makes()).init(KEY, X), TypeError, f"at 'a', Makes(): {text}")


def test_a_transform_of_the_users_own():
    class Mapped(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return jax.vmap(self.inner)(x)

    net = nn.Sequential(m=Mapped(nn.Dropout(0.5)))
    check(
        lambda: net.apply({"m": {"inner": {}}}, X, key=KEY, train=True),
        ValueError,
        "at 'm/inner', Dropout(0.5): draws random numbers, but is called inside your own",
        "use the wrapper instead (nn.Repeat for lax.scan, nn.Ensemble for jax.vmap, nn.Remat for",
    )


# ---- how layers are made ----


class Holds(nn.Primitive):
    item: object

    def forward(self, params, x):
        return x


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (jnp.ones(3), "Holds.item got an array of shape (3,) and type float32; a value contains"),
        (np.ones(3), "declare learned arrays in `parameters`, pass constants as inputs"),
        ({"a": X}, "Holds.item got a dict with 'a': an array of shape (2, 4) and type float32"),
        ([1, 2], "Holds.item got a list, which can change; write a tuple: (1, 2)"),
        ((1, [2]), "Holds.item[1] got a list, which can change; write a tuple: (2,)"),
        ({1}, "Holds.item got a set, which can change; write a tuple: (1,)"),
        (
            {"a": 1},
            "Holds.item got a dict with 'a': 1; only a dict of layers by name may be a field",
        ),
        (bytearray(b"x"), "Holds.item got bytearray(b'x'), which has no hash"),
        (nn.Dense, "Holds.item got the class Dense; write an instance, Dense(...)"),
        (
            nn.Dense(3),
            "Holds is a Primitive, which has no children, but a field is a layer: item; write a "
            "Composite",
        ),
    ],
    ids=lambda item: "" if isinstance(item, str) else type(item).__name__,
)
def test_what_a_field_cannot_hold(item, text):
    check(lambda: Holds(item), TypeError, text)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.Sequential(nn.Dense(3), nn.LayerNorm),
            "Sequential[1] got the class LayerNorm; write an inst",
        ),
        (lambda: nn.Sequential(a=nn.LayerNorm), "Sequential['a'] got the class LayerNorm"),
        (lambda: nn.Remat(nn.Dense), "Remat.inner got the class Dense; write an instance"),
        (lambda: Block(nn.LayerNorm, NET), "Block.norm got the class LayerNorm"),
        (lambda: Block(3, NET), "Block.norm must be a layer or a function, got 3"),
        (lambda: nn.Sequential("relu"), "Sequential[0] must be a layer or a function, got 'relu'"),
        (
            lambda: nn.Sequential(None),
            "Sequential[0] must be a layer or a function, got None; leave it out",
        ),
        (
            lambda: nn.Sequential([NET]),
            "got [Sequential(Dense(3), jax.nn.relu, Dense(2))]; write Sequential(*lay",
        ),
        (lambda: nn.Sequential((NET, NET)), "write Sequential(*layers)"),
        (lambda: nn.Sequential({"a": NET}), "write Sequential(**layers)"),
        (lambda: nn.Remat(None), "Remat.inner must be a layer or a function, got None"),
        (
            lambda: nn.Sequential(nn.Dense(3), out=nn.Dense(2)),
            "Sequential takes children by position or by name, not both; got 1 by position and "
            "['out']",
        ),
        (
            lambda: nn.Sequential(init=nn.Dense(3)),
            "Sequential has a field or child of a reserved name: 'init'; rename it",
        ),
    ],
)
def test_what_a_child_cannot_be(make, text):
    check(make, TypeError, text)


def test_names_of_children():
    check(
        lambda: nn.Sequential(**{"a/b": NET}),
        ValueError,
        "names in Sequential: 'a/b' must be text without a slash",
    )
    # Two words known to share a CRC-32.
    check(
        lambda: nn.Sequential(plumless=NET, buckeroo=NET),
        ValueError,
        "names in Sequential: 'plumless' and 'buckeroo' have the same CRC-32, so they would draw",
        "rename one of them",
    )
    with pytest.raises(SyntaxError, match="keyword argument repeated: a"):
        compile("nn.Sequential(a=NET, a=NET)", "a reused name", "eval")


def declared_class(base, **members):
    return lambda: type(base)("Mine", (base,), members)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            declared_class(nn.Primitive, __annotations__={"init": int}, init=3),
            "Mine has a field or child of a reserved name: 'init'; rename it",
        ),
        (
            declared_class(nn.Primitive, forward=lambda self, params, x, key: x),
            "Mine.forward cannot be used: it has an input called 'key', which is reserved; rename "
            "it, or request key, train, or state by keyword: def forward(self, x, *, key, train)",
        ),
        (
            declared_class(nn.Composite, forward=lambda self, x, method: x),
            "Mine.forward cannot be used: it has an input called 'method', which is reserved",
        ),
        (
            declared_class(nn.Composite, forward=lambda self, x, **others: x),
            "Mine.forward cannot be used: it takes **others, which would hide misspelled inputs; "
            "name them",
        ),
        (
            declared_class(nn.Composite, forward=lambda self, x, *, state: x),
            "Mine.forward cannot be used: it requests 'state', but a composite keeps no separate "
            "state: declare it in `variables` of a Primitive",
        ),
    ],
)
def test_how_a_class_cannot_be_written(make, text):
    check(make, TypeError, text)


def test_a_class_without_forward():
    class Empty(nn.Primitive):
        pass

    class Hollow(nn.Composite):
        pass

    text = "has no forward; write def forward"
    check(lambda: Empty().init(KEY, X), TypeError, f"Empty {text}(self, params, x)")
    check(
        lambda: nn.Sequential(a=Hollow()).init(KEY, X),
        TypeError,
        "at 'a', ",
        f"Hollow {text}(self, x)",
    )


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            lambda x: None,
            "`parameters` must return a dict of nn.Param(shape, init), {} for none: 'the whole' is "
            "None",
        ),
        (
            lambda x: {"w": jnp.ones(3)},
            "a dict of nn.Param(shape, init), {} for none: 'w' is float32[3]",
        ),
        (lambda x: {"w": (3, 4)}, "{} for none:\n  'w/0' is 3\n  'w/1' is 4"),
        (
            lambda x: {"w": nn.Param([3, 4])},
            "Param.shape got a list, which can change; write a tup",
        ),
        (lambda x: {"w": nn.Param((3.0,))}, "Param.shape must be a tuple of ints >= 0, got (3.0,)"),
        (
            lambda x: {"w": nn.Param((3,), "he")},
            "of (key, shape, dtype), got 'he'; write nn.normal",
        ),
    ],
)
def test_what_cannot_be_declared(parameters, text):
    class Mine(nn.Primitive):
        def parameters(self, x):
            return parameters(x)

        def forward(self, params, x):
            return x

    found, message = raised(lambda: nn.Sequential(z=Mine()).init(KEY, X))
    assert found in (ValueError, TypeError)
    assert message.startswith("at 'z', Mine(): ") and text in message


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (
            "he",
            "Dense.w_init must be a function of (key, shape, dtype), got 'he'; write nn.normal",
        ),
        (0.1, "got 0.1; write nn.normal(stddev)"),
        (
            nn.he_normal,
            "must be a function of (key, shape, dtype), got jaxnn.initializers.he_normal",
        ),
        (nn.he_normal, "call the function if it returns an initializer"),
        (nn.orthogonal, "Dense.w_init got the class orthogonal; write an instance"),
        (nn.delta_orthogonal(), "at 'a/w', delta_orthogonal(): "),
        (
            lambda key, shape, dtype: jnp.ones(2),
            "the array of an initializer must be of shape (4, 3), got float32[2]",
        ),
    ],
)
def test_what_is_no_initializer(init, text):
    _, message = raised(lambda: nn.Sequential(a=nn.Dense(3, w_init=init)).init(KEY, X))
    assert text in message


def test_an_initializer_that_needs_more_axes():
    for init, text in [
        (nn.he_normal(), "needs axes [-2, -1], but the array has shape (3,); write nn.normal(stdd"),
        (nn.orthogonal(), "requires at least a 2D shape"),
        (nn.identity(), "the shape of identity must be (n, m), got (3,)"),
    ]:
        net = nn.Sequential(a=nn.Dense(3, b_init=init))
        check(lambda net=net: net.init(KEY, X), ValueError, "at 'a/b', ", text)


# ---- fields of the layers ----


@pytest.mark.parametrize("features", [0, -3, 2.5, True, "3", None, np.int64(0), np.float32(4)])
def test_features(features):
    item = features.item() if isinstance(features, np.generic) else features
    check(
        lambda: nn.Dense(features),
        ValueError,
        f"Dense.features must be an int >= 1 or a tuple of them, got {item!r}; write for example "
        "Dense(features=128)",
    )
    check(lambda: nn.Embedding(3, features), ValueError, "Embedding.features must be an int >= 1")


def test_traced_features():
    check(
        lambda: jax.jit(lambda n: nn.Dense(n).init(KEY, X))(3),
        TypeError,
        "Dense.features is the traced number",
        "known before tracing: pass a Python number, for example by static_argnums of jax.jit",
    )


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1, 1.5, True, "0.5", None, float("nan")])
def test_a_rate_outside(rate):
    check(
        lambda: nn.Dropout(rate),
        ValueError,
        f"Dropout.rate must be a dropout rate in [0, 1), got {rate!r}; write for example "
        "Dropout(rate=0.1)",
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.LayerNorm(64),
            "LayerNorm.scale must be True or False, got 64; the number of input",
        ),
        (lambda: nn.RMSNorm(64), "RMSNorm.scale must be True or False, got 64"),
        (lambda: nn.PReLU(0.1), "PReLU.axis must be None or an axis or a tuple of axes, such as"),
        (lambda: nn.Dense(3, 5), "Dense.bias must be True or False, got 5"),
        (
            lambda: nn.BatchNorm(64),
            "BatchNorm.momentum must be None or the weight of the old statistics",
        ),
        (
            lambda: nn.BatchNorm(axis=(0, 1)),
            "BatchNorm.axis must be the axis of the features, an int, got (0, 1)",
        ),
        (lambda: nn.LayerNorm(eps=-1.0), "LayerNorm.eps must be a number >= 0, got -1.0"),
        (lambda: nn.LayerNorm(eps="a"), "LayerNorm.eps must be a number >= 0, got 'a'"),
        (lambda: nn.Flatten(-1), "Flatten.start must be an axis, an int >= 0, got -1"),
        (
            lambda: nn.Reshape((-1, -1)),
            "Reshape.shape must be a tuple of ints, at most one of them -1",
        ),
        (lambda: nn.Reshape(3), "Reshape.shape must be a tuple of ints"),
        (
            lambda: nn.Reshape([3]),
            "Reshape.shape got a list, which can change; write a tuple: (3,)",
        ),
        (
            lambda: nn.variance_scaling(-1.0, "fan_in", "normal"),
            "scale must be a number >= 0, got -1.0",
        ),
        (
            lambda: nn.variance_scaling(1.0, "fan", "normal"),
            "mode must be 'fan_in', 'fan_out', or 'fan_avg', got 'fan'",
        ),
        (
            lambda: nn.truncated_normal(1.0, 2.0, -2.0),
            "truncated_normal.lower must be below upper=-2.0, got 2.0",
        ),
    ],
)
def test_fields_of_the_layers(make, text):
    _, message = raised(make)
    assert text in message


@pytest.mark.parametrize(
    ("net", "inputs", "text"),
    [
        (nn.LayerNorm(), jnp.ones(()), "axis=-1 must name distinct axes that float32[] has"),
        (nn.BatchNorm(axis=5), X, "axis=5 must name distinct axes that float32[2,4] has"),
        (nn.LayerNorm(), 3.0, "expected an array of shape (...), got 3.0; use jnp.asarray(x)"),
        (
            nn.Embedding(5, 3),
            X,
            "the input must be an array of integer tokens, got float32[2,4]; use jnp.asar",
        ),
        (nn.Embedding(5, 3), X > 0, "the input must be an array of integer tokens, got bool[2,4]"),
        (nn.Embedding(5, 3), [1, 2], "the input must be an array of integer tokens, got [1, 2]"),
        (nn.Flatten(3), X, "expected an input of shape (*3 axes, ...), got float32[2,4]"),
        (
            nn.Reshape((3, 3)),
            X,
            "cannot reshape float32[2,4] to (3, 3) from axis 1 on: it has 4",
        ),
    ],
    ids=lambda item: str(item)[:30],
)
def test_inputs_of_the_layers(net, inputs, text):
    _, message = raised(lambda: nn.Sequential(deep=nn.Sequential(net)).init(KEY, inputs))
    assert re.match(r"at 'deep/0', \w+\(.*\): ", message) and text in message


def test_a_tied_head_of_another_width():
    class Tied(nn.Composite):
        embed: nn.Layer
        body: nn.Layer

        def forward(self, ids):
            return self.embed.attend(self.body(self.embed(ids)))

    check(
        lambda: nn.Sequential(t=Tied(nn.Embedding(5, 3), nn.Dense(4))).init(KEY, jnp.array([1])),
        ValueError,
        "at 't/embed', Embedding(5, 3): the input of attend must be "
        "of shape (1, 3), got float32[1,4]",
    )


# ---- wrappers ----


def test_wrappers():
    check(
        lambda: nn.Sequential(r=nn.Repeat(nn.Dense(3), 2)).init(KEY, X),
        ValueError,
        "at 'r', Repeat(Dense(3), 2): Repeat passes the output of each copy to the "
        "next, so the layer must have one input and keep its shape and type; got float32[2,4], "
        "which becomes float32[2,3]",
    )
    check(
        lambda: nn.Sequential(r=nn.Residual(nn.Dense(3))).init(KEY, X),
        ValueError,
        "at 'r', Residual(Dense(3)): Residual adds the output to its one input: make the "
        "shapes equal, or add them in the forward of a Composite; got float32[2,4], which becomes "
        "float32[2,3]",
    )
    for n in (0, 2.0, True):
        check(
            lambda n=n: nn.Repeat(nn.Dense(3), n),
            ValueError,
            f"Repeat.n must be a number of copies, an int >= 1, got {n!r}",
        )
    for wrapper in (nn.Repeat, nn.Ensemble):
        three = parameters_of(wrapper(nn.Dense(4), 3), X)
        check(
            lambda wrapper=wrapper, three=three: wrapper(nn.Dense(4), 2).apply(three, X),
            ValueError,
            "w: declared (2, 4, 4), got (3, 4, 4)",
            AGAIN,
        )


@pytest.mark.parametrize("compute", ["fp16", "int8", "", None, jnp.bfloat16], ids=str)
def test_an_unknown_type(compute):
    check(
        lambda: nn.Precision(NET, compute),
        ValueError,
        "Precision.compute must be the name of a floating type, such as 'bfloat16', 'float16', "
        f"or 'float32', got {compute!r}",
    )


class Noisy(nn.Composite):
    """Draws in training and inference, as the encoder of a variational autoencoder does."""

    inner: nn.Layer

    def forward(self, x, *, key):
        return self.inner(x) + jax.random.normal(key, x.shape)


class Noise(nn.Primitive):
    def forward(self, params, x, *, key):
        return x + jax.random.normal(key, x.shape)


@pytest.mark.parametrize("net", [Noisy(nn.Dense(3)), nn.Sequential(Noise()), nn.Repeat(Noise(), 2)])
def test_a_forward_that_always_draws(net):
    """Init needs no special case, since its key is a placeholder; apply without a key raises."""
    x, key = jnp.ones((2, 3)), jax.random.key(0)
    params = net.init(key, x)
    assert net.apply(params, x, key=key).shape == (2, 3)
    with pytest.raises(TypeError, match=r"no key was given, so its key is None: write net.apply"):
        net.apply(params, x)


def test_what_apply_takes_itself_is_no_input():
    with pytest.raises(TypeError, match=r"'train' is reserved, and is not an input: spec, init"):
        nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)), train=True)


class Teacher(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return self.inner(x, train=False)


def test_a_child_is_not_given_a_mode():
    text = r"at 'inner', Dense\(2\): 'train' is passed to a child by .*child.layer.apply\(child"
    with pytest.raises(TypeError, match=text):
        Teacher(nn.Dense(2)).init(jax.random.key(0), jnp.ones((1, 3)))

"""Types: the input's floating type is the output's, and parameters keep their own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp

import jaxnn as nn
from tests.cases import CASES, KEY, Case, distinct, every, host

NO_BATCH = (
    "RelativePositionBias",
    "Dense of a vector",
    "Dense on axes",
    "AvgPool",
    "EmbeddingBag, packed",
)


def floating(tree):
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]


@distinct(CASES)
def test_half_precision(case: Case):
    """Near the float32 result, in the half type, with float32 parameters and strict promotion."""
    params, inputs, train = case.init(), host(case.arrays()), case.modes[-1]
    if not floating(inputs):
        return
    halves = {
        dtype: jax.tree.map(lambda a, dtype=dtype: a.astype(dtype) if floating(a) else a, inputs)
        for dtype in ("bfloat16", "float16")
    }

    @jax.jit
    def both(params, state, halves):
        return {
            dtype: case.eager(params, state, KEY, half, train) for dtype, half in halves.items()
        }

    exact, _ = case.run(params, case.state, KEY, inputs, train=train)
    with jax.numpy_dtype_promotion("strict"):
        found = both(params, case.state, halves)
    for dtype, (y, state) in found.items():
        chex.assert_trees_all_equal_shapes_and_dtypes(state, case.state)
        assert {str(a.dtype) for a in floating(y)} == {dtype}
        # Each of ten roundings is half a unit; normalization may enlarge them tenfold.
        rounding = 50 * float(jnp.finfo(dtype).eps)
        wide = jax.tree.map(lambda a: a.astype(np.float32), host(y))
        chex.assert_trees_all_close(wide, exact, rtol=rounding, atol=rounding)


@every
def test_an_empty_batch_gives_an_empty_one(case: Case):
    """Abstractly. What takes a mean over the batch, or sends its tokens on, says that it is empty;
    the inputs of some cases begin with another axis."""
    if not case.inputs or case.name in NO_BATCH:
        return
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((0, *x.shape[1:]), x.dtype), case.inputs)

    def run(key):
        params, state = case.layer.init(key, *inputs), case.layer.init_state(*inputs, key=KEY)
        given = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs)
        return [case.eager(params, state, key, given, train)[0] for train in case.modes]

    whole = (
        ("BatchNorm", "Mixture", "track_running_stats")
        if not isinstance(case.layer, nn.Inference)
        else ()
    )
    if any(name in case.name or name in repr(case.layer) for name in whole):
        with pytest.raises(
            ValueError,
            match=r"at least one (element|step|token).*float32\[0,",
        ):
            jax.eval_shape(run, KEY)
        return
    for y in jax.tree.leaves(jax.eval_shape(run, KEY)):
        assert 0 in y.shape


@every
def test_float64(case: Case):
    """Parameters and output are float64; the state keeps the types it declares. Abstractly."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        inputs = case.arrays(np.float64)
        params = jax.eval_shape(case.layer.init, KEY, *inputs)
        state = case.layer.init_state(*inputs, key=KEY)
        y, new = jax.eval_shape(
            functools.partial(case.eager, train=case.modes[-1]), params, state, KEY, inputs
        )
        assert {str(a.dtype) for a in floating((params, y))} <= {"float64"}
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)


@distinct([case for case in CASES if case.derivative])
def test_gradients_are_finite_differences(case: Case):
    """In float64, with respect to trained parameters and floating inputs, in training."""
    float32 = host(case.init())
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        inputs = case.arrays(np.float64)
        params = jax.tree.map(
            lambda a: a.astype(np.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, float32
        )
        state = case.layer.init_state(*inputs, key=KEY)
        tokens = not floating(inputs)
        if "Precision" in repr(case.layer):
            return  # computes in float32, where such differences are rounding alone

        frozen = jax.tree.map(lambda param: param.frozen, case.layer.spec(*inputs))
        start = params

        def output(call, params, given):
            given = inputs if tokens else given
            params = jax.tree.map(lambda f, p, s: s if f else p, frozen, params, start)
            return call(params, state, KEY, given, train=case.modes[-1])[0]

        @jax.jit
        def pull(args, dy):
            return jax.vjp(functools.partial(output, case.eager), *args)[1](dy)

        def forward(*args):
            return host(output(case.run, *args))

        args = host((params, () if tokens else inputs))
        if jax.tree.leaves(args):
            # The default tolerance of float64; the step of 1e-6 is far from the kinks of a draw.
            check_vjp(
                forward,
                lambda *args: (forward(*args), lambda dy: host(pull(args, dy))),
                args,
                eps=1e-6,
            )

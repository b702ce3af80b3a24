"""The attention function: against float64 numpy, torch's grouped queries, and its own laws."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.functional.attention import attention, soft_cap
from jaxnn.functional.dropout import dropout
from jaxnn.functional.gradients import dear
from tests.fixtures.attention import FILE, GROUPED
from tests.layers.agreement import normals, outputs_and_gradients
from tests.near import assert_near

TORCH = dict(np.load(FILE))
LENGTH, HEADS, GROUPS, FEATURES = 5, 4, 2, 3


def heads(seed: int = 0, size: float = 1.0, dtype: Any = np.float32) -> tuple[Any, ...]:
    """q, k and v of two sequences."""
    shapes = [(2, LENGTH, n, FEATURES) for n in (HEADS, GROUPS, GROUPS)]
    return tuple((size * normals(seed + i, *shape)).astype(dtype) for i, shape in enumerate(shapes))


def reference(
    q: Any, k: Any, v: Any, mask: Any = True, bias: Any = 0.0, scale: Any = None, cap: Any = None
) -> Any:
    """The formula in float64 numpy, head by head, row by row; mask and bias are (B, H, T, S)."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    whole = (*q.shape[:1], q.shape[2], q.shape[1], k.shape[1])
    mask, bias = np.broadcast_to(mask, whole), np.broadcast_to(np.float64(bias), whole)
    y = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, t in np.ndindex(*whole[:3]):
        group = h // (q.shape[2] // k.shape[2])
        scores = k[b, :, group] @ q[b, t, h] * (q.shape[3] ** -0.5 if scale is None else scale)
        scores = scores if cap is None else cap * np.tanh(scores / cap)
        seen = mask[b, h, t] & (bias[b, h, t] > -np.inf)
        if seen.any():
            weights = np.exp((scores + bias[b, h, t])[seen] - (scores + bias[b, h, t])[seen].max())
            y[b, t, h] = weights / weights.sum() @ v[b, seen, group]
    return y


@functools.cache
def masks() -> dict[str, Any]:
    """Masks and biases of each kind that is taken, and what they mean; some rows see nothing."""
    t, s = np.arange(LENGTH)[:, None], np.arange(LENGTH)
    rng = np.random.default_rng(1)
    mask = rng.random((2, 1, LENGTH, LENGTH)) < 0.5
    mask[1, 0, 2] = False
    bias = rng.normal(size=(LENGTH, LENGTH)).astype(np.float32)
    bias[3] = bias[1, 2] = -np.inf
    segment_ids = np.array([[0, 1, 1, 2, 2], [3, 3, 3, 0, 0]])
    same = (segment_ids[:, None, :, None] == segment_ids[:, None, None]) & (segment_ids != 0)[
        :, None, None
    ]
    whole = rng.normal(size=(2, HEADS, LENGTH, LENGTH)).astype(np.float32)
    return {
        "nothing": ({}, {}),
        "causal": ({"causal": True}, {"mask": s <= t}),
        "window": ({"window": 2}, {"mask": abs(t - s) < 2}),
        "causal window": ({"causal": True, "window": 2}, {"mask": (s <= t) & (t - s < 2)}),
        "mask": ({"mask": mask, "causal": True}, {"mask": mask & (s <= t)}),
        "bias": ({"bias": bias, "scale": 0.3}, {"bias": bias, "scale": 0.3}),
        "bias of heads": ({"bias": whole, "mask": s != 1}, {"bias": whole, "mask": s != 1}),
        "segment_ids": ({"segment_ids": segment_ids, "causal": True}, {"mask": same & (s <= t)}),
        "function": (
            {"mask": lambda query, key: (query + key) % 3 > 0, "window": 3},
            {"mask": ((t + s) % 3 > 0) & (abs(t - s) < 3)},
        ),
        "score_mod": (
            {
                "score_mod": lambda scores, query, key: jnp.where(
                    key == 1, -jnp.inf, scores - 2 * key.astype(scores.dtype)
                )
            },
            {"mask": s != 1, "bias": -2.0 * s},
        ),
        "soft cap": ({"score_mod": soft_cap(0.7), "causal": True}, {"cap": 0.7, "mask": s <= t}),
    }


def as_given(options: dict[str, Any]) -> dict[str, Any]:
    """As arrays of the shapes that are taken."""
    given = {k: jnp.asarray(a) if isinstance(a, np.ndarray) else a for k, a in options.items()}
    if getattr(given.get("mask"), "ndim", 0) == 1:
        given["mask"] = jnp.broadcast_to(given["mask"], (LENGTH, LENGTH))
    return given


@pytest.mark.parametrize("implementation", [None, "xla"])
def test_as_the_formula(implementation: str | None):
    """With strict promotion, all kinds in one program."""
    kinds = {k: v for k, v in masks().items() if implementation is None or "score_mod" not in v[0]}

    @jax.jit
    def run(*heads: jax.Array) -> dict[str, jax.Array]:
        return {
            name: attention(*heads, implementation=implementation, **as_given(options))
            for name, (options, _) in kinds.items()
        }

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = run(*heads())
    for name, (_, meaning) in kinds.items():
        expected = reference(*heads(), **meaning).astype(np.float32)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_other_axes_in_front_and_other_features():
    q, k, v = heads()
    wide = normals(5, *v.shape[:-1], 7)

    @jax.jit
    def run(q, k, v, wide):
        one_more = (a.reshape(2, 1, *a.shape[1:]) for a in (q, k, v))
        return attention(q, k, wide), attention(*one_more)[:, 0], attention(q[0], k[0], v[0])

    expected = (reference(q, k, wide), reference(q, k, v), reference(q, k, v)[0])
    assert expected[0].shape == (2, LENGTH, HEADS, 7)
    assert_near(run(q, k, v, wide), jax.tree.map(np.float32, expected))


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("implementation", [None, "own"])
def test_grouped_queries_as_torch(name: str, implementation: str | None):
    found = {k.split(":")[1]: a for k, a in TORCH.items() if k.startswith(f"{name}:")}
    f = functools.partial(attention, causal=GROUPED[name][4], implementation=implementation)

    @jax.jit
    def run(q, k, v, dy):
        y, pull = jax.vjp(f, q, k, v)
        return y, *pull(dy)

    got = run(found["q"], found["k"], found["v"], found["dy"])
    assert_near(got, tuple(found[k] for k in ("y", "dq", "dk", "dv")))


def test_float64_is_float64_throughout():
    with jax.enable_x64(True):
        q, k, v = heads(dtype=np.float64)
        y = jax.jit(functools.partial(attention, causal=True))(q, k, v)
        mask = np.tri(LENGTH, dtype=bool)
        np.testing.assert_allclose(y, reference(q, k, v, mask), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("dtype", "implementation"), [("bfloat16", None), ("bfloat16", "xla"), ("float16", None)]
)
def test_half_precision_of_large_numbers(dtype: str, implementation: str | None):
    """Scores of 1e8 are beyond float16; the softmax is float32, so the result is one value or a
    rounded mean of some, and rows that see nothing give 0 and change nothing."""
    q, k, v = heads(size=1e4, dtype=dtype)
    mask = jnp.asarray(masks()["mask"][1]["mask"])
    run = functools.partial(attention, mask=mask, implementation=implementation)
    y, slopes = jax.jit(functools.partial(outputs_and_gradients, run))(q, k, v)
    assert y.dtype == dtype
    y, slopes = jax.tree.map(lambda a: np.asarray(a, np.float64), (y, slopes))
    assert all(np.isfinite(a).all() for a in (y, *slopes[1:]))  # dq is 1e8 itself
    assert not np.isnan(slopes[0]).any()
    expected = reference(q, k, v, np.asarray(mask))
    # Weights and result are rounded, half a unit each, next to values of at most 4e4.
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=4e4 * tolerance)


@pytest.mark.parametrize("implementation", [None, "xla"])
@pytest.mark.parametrize("kind", ["mask", "bias", "segment_ids"])
def test_rows_that_see_nothing_are_zero(kind: str, implementation: str | None):
    """Forward and backward; NaN would spread from one to all keys."""
    options = as_given(masks()[kind][0])
    run = functools.partial(attention, implementation=implementation, **options)
    found = jax.jit(functools.partial(outputs_and_gradients, run))(*heads())
    y, (dq, dk, dv) = jax.tree.map(np.asarray, found)
    row = {"mask": (1, 2), "bias": (0, 3), "segment_ids": (0, 0)}[kind]
    assert (y[row] == 0).all() and (dq[row] == 0).all()
    assert all(np.isfinite(a).all() for a in (y, dq, dk, dv))
    assert (y[0, 1] != 0).all() and (dq[0] != 0).any()
    if kind == "bias":
        slope = jax.jit(jax.grad(lambda bias: jnp.sum(attention(*heads(), bias=bias) ** 2)))
        assert np.isfinite(slope(options["bias"])).all()


def test_jax_nn_where_it_can(monkeypatch: pytest.MonkeyPatch):
    """Causal and windows as its own options, which its fused kernels skip work for."""
    calls = []
    true = jax.nn.dot_product_attention

    def spy(*args, implementation, **options):
        calls.append((implementation, {k: v for k, v in options.items() if v is not None}))
        return true(*args, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    q, k, v = (jnp.ones((*a.shape[:-1], 8), jnp.bfloat16) for a in heads())

    def trace(**options: Any) -> None:
        jax.eval_shape(functools.partial(attention, **options), q, k, v)

    trace(causal=True)  # on a CPU, its own products are fewer
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    trace(causal=True, window=3, scale=0.5)
    trace(causal=True, implementation="cudnn")
    trace(segment_ids=np.ones((2, LENGTH), np.int32), implementation="cudnn")
    assert calls[0] == (None, {"scale": 0.5, "is_causal": True, "local_window_size": (2, 0)})
    assert calls[1][0] == "cudnn" and calls[1][1]["is_causal"]
    assert calls[2][0] == "cudnn" and calls[2][1]["mask"].shape == (2, 1, LENGTH, LENGTH)
    trace(implementation="own")
    trace(score_mod=soft_cap(1.0))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("dtype", "features", "text"),
    [
        (
            "float32",
            8,
            r"bfloat16 or float16, .* got q float32\[2, 5, 4, 8\] .*: write nn.Precision\(net, ",
        ),
        ("float64", 8, "bfloat16 or float16, .* got q float64"),
        ("bfloat16", 12, r"a multiple of 8 of at most 256; got q .*, 12\] and v .*, 12\]: "),
        ("float16", 264, r"got q .*, 264\] .* for example head_dim=64. Leave implementation out"),
        ("bfloat16", 8, r"does not take q bfloat16\[2, 5, 4, 8\].* here: cuDNN .* Leave impl"),
    ],
)
def test_what_the_fused_kernel_does_not_take(dtype: str, features: int, text: str):
    """No other implementation computes in its place; the last one needs a GPU."""
    if dtype == "bfloat16" and features == 8 and jax.default_backend() == "gpu":
        pytest.skip("a GPU takes it")
    with jax.enable_x64(True), pytest.raises((TypeError, ValueError), match=text):
        arrays: Any = (np.ones((*a.shape[:-1], features), dtype) for a in heads())
        attention(*arrays, causal=True, implementation="cudnn")


def test_the_fused_kernel_is_not_computed_again(monkeypatch: pytest.MonkeyPatch):
    """Under the policy that keeps matrix products, since it has no scores to keep."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    q = jnp.ones((2, 8, 4, 8), jnp.bfloat16)

    def block(q: jax.Array) -> jax.Array:
        y = attention(2 * q, q, q, causal=True, implementation="cudnn")
        return jnp.sum(y.astype(jnp.float32))

    def calls(policy: Any) -> int:
        gradient = jax.grad(jax.checkpoint(block, policy=policy))
        return str(jax.make_jaxpr(gradient)(q)).count("dot_product_attention_fwd_wrapper[")

    assert calls(dear) == 1 and calls(None) == 2


@pytest.mark.parametrize("implementation", ["own", "xla"])
def test_no_batch_at_all(implementation: str):
    q = np.ones((0, 2, LENGTH, HEADS, FEATURES), np.float32)
    mask = np.ones((LENGTH, LENGTH), bool)
    run = jax.jit(functools.partial(attention, implementation=implementation))
    assert run(q, q, q, mask=mask).shape == q.shape


def test_dropout_of_the_weights():
    """Each weight is 0 or doubled, so the mean over many keys of the value 1 stays."""
    q, v = np.zeros((1, 1, 1), "f"), np.ones((2000, 1, 1), "f")
    drop = functools.partial(dropout, jax.random.key(0), rate=0.5)
    run = jax.jit(functools.partial(attention, dropout=drop))
    y = run(q, 0 * v, v).item()
    # Four standard deviations of a mean of 2000 numbers 0 or 2.
    assert y == pytest.approx(1.0, abs=4 / 2000**0.5) and y != 1.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"mask": np.ones((5, 5), np.float32)},
            r"mask must be .* booleans.*got float32\[5,5\]; .* bias=",
        ),
        ({"mask": np.ones((5, 4), bool)}, r"\(2, 4, 5, 5\) with its rank, got bool\[5,4\]"),
        (
            {"mask": [[True]]},
            r"mask must be None or an array of .*, got \[\[True\]\]; write mask=jnp.asarray",
        ),
        (
            {"bias": np.ones((5, 5), bool)},
            r"bias must be .* numbers .*, got bool\[5,5\]; .* mask=",
        ),
        (
            {"bias": np.ones((2, 5, 5), np.float32)},
            r"float32\[2,5,5\]; .*write bias\[\.\.\., None, :, :\]",
        ),
        ({"segment_ids": np.ones((2, 4), int)}, r"shape .*\(2, 5\), got int\d+\[2,4\]"),
        (
            {"segment_ids": np.ones((2, 5), np.float32)},
            "segment_ids must be integers: 0 for padding.*got float32",
        ),
        ({"implementation": "fast"}, "None, 'own', 'xla', or 'cudnn', got 'fast'"),
        (
            {"implementation": "cudnn", "score_mod": soft_cap(1.0)},
            "'cudnn' .* has no score_mod or soft cap: omit",
        ),
        ({"k": np.ones((2, 5, 2, 4), np.float32)}, r"kv_heads, d\), .* with equal leading axes"),
        (
            {"k": np.ones((2, 5, 3, 3), np.float32), "v": np.ones((2, 5, 3, 3), np.float32)},
            "kv_heads a divisor of heads; got",
        ),
        ({"q": np.ones((5, 4, 3), np.float32)}, r"q must be \(\.\.\., T, heads, d\)"),
        (
            {"q": np.ones((2, 4, 4, 3), np.float32), "segment_ids": np.ones((2, 5), int)},
            r"must be of the shape .*, \(2, 4\), got int\d+\[2,5\]",
        ),
    ],
)
def test_errors(options: dict[str, Any], text: str):
    q, k, v = heads()
    with pytest.raises((ValueError, TypeError), match=text):
        attention(**({"q": q, "k": k, "v": v} | options))


@pytest.mark.parametrize("implementation", [None, "xla"])
def test_packed_sequences_that_are_not_finite_stay_apart(implementation: str | None):
    """Each sequence has the outputs and gradients that it has alone; a NaN that may be looked at
    gives NaN."""
    q, k, v = (normals(seed, 1, 5, 2, 4) for seed in range(3))
    segment_ids = np.array([[1, 1, 2, 2, 2]])
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]

    def run(q: Any, k: Any, v: Any, options: Any) -> Any:
        y = attention(q, k, v, implementation=implementation, **options)
        return jnp.sum(jnp.sin(y[:, -3:])), (y[:, -3:], y)

    gradients = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))
    (loss, (y, _)), alone = gradients(*(a[:, 2:] for a in (q, k, v)), {})
    for options in (
        {"segment_ids": segment_ids},
        {"mask": same},
        {"bias": np.where(same, np.float32(0), -np.inf).astype(np.float32)},
    ):
        for bad in (np.nan, np.inf, -np.inf):
            for which in range(3):
                broken = [np.array(a) for a in (q, k, v)]
                broken[which][:, 0] = bad
                (total, (last, whole)), found = gradients(*broken, options)
                assert_near((total, last), (loss, y))
                assert_near([g[:, 2:] for g in found], list(alone))
                assert all((np.asarray(g)[:, :2] == 0).all() for g in found)
                assert np.isnan(whole[:, 0]).all()
                assert np.isnan(whole[:, 1]).all() == (which > 0)


@pytest.mark.parametrize("implementation", [None, "xla"])
def test_large_keys_and_values_behind_a_mask_have_no_effect(implementation: str | None):
    """dy @ v.T overflows there; 0 times inf is NaN."""
    q, k, v = (np.array(normals(seed, 1, 4, 2, 4)) for seed in range(3))
    mask: Any = np.array([True, True, True, False])[None, None, None]

    def run(q: Any, k: Any, v: Any) -> Any:
        y = attention(q, k, v, mask=mask[..., : k.shape[1]], implementation=implementation)
        return 4 * jnp.sum(y), y

    gradients = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))
    (_, expected), wanted = gradients(q, k[:, :3], v[:, :3])
    k[:, 3] = v[:, 3] = 2e38
    (_, y), found = gradients(q, k, v)
    assert_near(y, expected)
    assert_near(found[0], wanted[0])
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert_near(one[:, :3], other)
        assert not np.asarray(one)[:, 3].any()


def test_a_causal_mask_hides_later_positions():
    q, k, v = (np.array(normals(seed, 1, 4, 1, 2)) for seed in range(3))
    expected = jax.jit(functools.partial(attention, causal=True))(q, k, v)
    k[:, 2], v[:, 2] = np.nan, np.inf
    y = np.asarray(jax.jit(attention)(q, k, v, mask=np.tri(4, dtype=bool)))
    assert_near(y[:, :2], np.asarray(expected)[:, :2])
    assert np.isnan(y[:, 2:]).all()


@pytest.mark.parametrize("lengths", [(5, 5), (2, 5), (5, 2)])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 2), (False, 1), (False, 3)])
def test_keys_that_are_not_finite_reach_only_queries_that_look_at_them(lengths, causal, window):
    """Of as many queries as keys, and of more or fewer; by numpy, one NaN at a time."""
    t, s = (np.arange(length) for length in lengths)
    away = t[:, None] - s
    seen = (away >= 0 if causal else True) & (abs(away) < (window or 9))
    q, k, v = (normals(i, n, 1, 2) for i, n in enumerate((*lengths, lengths[1])))
    clean = jax.jit(attention)(q, k, v, mask=seen)
    run = jax.jit(functools.partial(attention, causal=causal, window=window))
    for place in s:
        broken = np.array(k)
        broken[place] = np.nan
        expected = np.where(seen[:, place, None, None], np.nan, clean)
        np.testing.assert_allclose(run(q, broken, v), expected, atol=1e-6)
        broken = np.array(v)
        broken[place] = np.inf
        np.testing.assert_allclose(run(q, k, broken), expected, atol=1e-6)
    for place in t:
        broken = np.array(q)
        broken[place] = np.nan
        looks = (t == place)[:, None] & seen.any(1, keepdims=True)
        expected = np.where(looks[..., None], np.nan, clean)
        np.testing.assert_allclose(run(broken, k, v), expected, atol=1e-6)


def test_a_power_of_two_scales_queries_to_the_same_bits():
    """XLA reads the factor of scores from an array of their shape, if no mask follows."""
    q, k, v = (normals(i, 2, 40, 1, 64) for i in range(3))

    def factors(scale: Any) -> list[int]:
        program = jax.make_jaxpr(lambda *a: attention(*a, scale=scale, implementation="own"))
        return [e.invars[0].aval.size for e in program(q, k, v).eqns if e.primitive.name == "mul"]

    # 1 / sqrt(64), another number, and an array, which is not known while tracing.
    array = np.float32(0.125)
    assert q.size in factors(None)
    assert all(q.size not in factors(scale) for scale in (0.3, array))
    # Small queries in float16, scaled, would have fewer digits.
    half = [a.astype(jnp.float16) for a in (1e-6 * q, 1e4 * k, v)]
    for inputs in ((q, k, v), half):
        one, other = (attention(*inputs, scale=scale) for scale in (None, array))
        assert (np.asarray(one) == np.asarray(other)).all()

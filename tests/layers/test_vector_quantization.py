"""VectorQuantizer: haiku's, output, loss, and straight-through gradients, and moving averages."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from tests.layers.agreement import normals
from tests.near import assert_near


def test_as_haiku():
    net, x, w = nn.VectorQuantizer(5, commitment=0.3), normals(0, 2, 4, 3), normals(1, 5, 3)
    peer = hk.without_apply_rng(
        hk.transform(lambda x: hk.nets.VectorQuantizer(3, 5, 0.3)(x, is_training=True))
    )

    def ours(w, x):
        y, loss = net.apply({"w": w}, x)
        return y, jnp.mean(loss)

    def theirs(w, x):
        found = peer.apply({"vector_quantizer": {"embeddings": w.T}}, x)
        return found["quantize"], found["loss"]

    @jax.jit
    def both(w, x, dy):
        found = []
        for f in (ours, theirs):
            y, pull = jax.vjp(f, w, x)
            found.append((y, pull((dy, jnp.float32(2.0)))))
        codes = net.apply({"w": w}, x, method="encode")
        return found, codes, net.apply({"w": w}, codes, method="decode")

    found, codes, decoded = both(w, x, normals(2, *x.shape))
    assert_near(*found)
    nearest = np.square(np.asarray(x)[..., None, :] - np.asarray(w)).sum(-1).argmin(-1)
    np.testing.assert_array_equal(codes, nearest)
    np.testing.assert_array_equal(decoded, np.asarray(w)[nearest])


def test_averages_as_haiku():
    """Three batches, in which every code is chosen; haiku's epsilon would also move others."""
    net, w = nn.VectorQuantizerEMA(4, 0.8, 0.3), normals(0, 4, 3)
    batches = jnp.repeat(w, 2, 0) + 0.2 * normals(1, 3, 8, 3)
    peer = hk.without_apply_rng(
        hk.transform_with_state(
            lambda x: hk.nets.VectorQuantizerEMA(3, 4, 0.3, 0.8, epsilon=0.0)(x, is_training=True)
        )
    )

    @jax.jit
    def both(w, batches):
        state = net.init_state(batches[0], key=jax.random.key(0)) | {"w": w}
        _, theirs = peer.init(jax.random.key(0), batches[0])
        theirs["vector_quantizer_ema"]["embeddings"] = w.T
        found = []
        for x in batches:
            (y, loss), state = net.apply({}, x, state=state, train=True)
            out, theirs = peer.apply({}, theirs, x)
            ours = y, jnp.mean(loss), state["w"].T
            found.append(
                (ours, (out["quantize"], out["loss"], theirs["vector_quantizer_ema"]["embeddings"]))
            )
        return found

    for ours, theirs in both(w, batches):
        assert_near(ours, theirs)


def test_averages_of_the_appendix_without_padding():
    """A.1 of the paper in NumPy: a code without vectors stays, and so does one of padding."""
    net, x = nn.VectorQuantizerEMA(3, 0.9), jnp.array([[1.0, 0.0], [1.2, 0.2], [5.0, 5.1]])
    state = {"w": jnp.array([[1.0, 0.1], [5.0, 5.0], [-9.0, 9.0]]), "count": jnp.array([2.0, 0, 0])}

    def run(x, **options):
        return net.apply({}, x, state=state, **options)[1]

    found = run(x, train=True)
    count = [0.9 * 2 + 0.1 * 2, 0.1, 0]
    first = (0.9 * 2 * np.array([1.0, 0.1]) + 0.1 * np.array([2.2, 0.2])) / count[0]
    np.testing.assert_allclose(found["count"], count, rtol=1e-6)
    np.testing.assert_allclose(found["w"], [first, [5.0, 5.1], [-9.0, 9.0]], rtol=1e-6)
    hidden = run(x.at[2].set(jnp.nan), train=True, segment_ids=jnp.array([1, 1, 0]))
    np.testing.assert_allclose(hidden["w"], [first, [5.0, 5.0], [-9.0, 9.0]], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, run(x), state)
    codes, _ = net.apply({}, x, state=state, method="encode")
    assert codes.tolist() == [0, 0, 1]
    decoded, _ = net.apply({}, codes, state=state, method="decode")
    np.testing.assert_array_equal(decoded, state["w"][codes])

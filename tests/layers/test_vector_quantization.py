"""VectorQuantizer: haiku's, output, loss, and straight-through gradients."""

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

"""Norms of padded and packed sequences: those of the real positions alone, and of a whole mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, normals
from tests.near import assert_near

SEGMENTS = jnp.array([[1, 1, 1, 2, 2], [0, 1, 1, 1, 0]])
X = normals(0, 2, 5, 4)
BROKEN = jnp.where((SEGMENTS != 0)[..., None], X, jnp.nan)


def test_batch_statistics_are_those_of_real_positions():
    net = nn.BatchNorm(momentum=0.3)
    params, state = net.init(KEY, X), net.init_state(X)

    @jax.jit
    def run(x, rows):
        packed = net.apply(params, x, segment_ids=SEGMENTS, state=state, train=True)
        return packed, net.apply(params, rows, state=state, train=True)

    real = np.asarray(SEGMENTS != 0)
    (y, after), (rows, alone) = run(BROKEN, X[real])
    assert_near((y[real], after), (rows, alone))


@pytest.mark.parametrize("net", [nn.GroupNorm(2), nn.InstanceNorm()], ids=str)
def test_each_packed_sequence_is_normalized_alone(net):
    params = net.init(KEY, X)

    @jax.jit
    def run(x):
        y = net.apply(params, x, segment_ids=SEGMENTS)
        alone = [net.apply(params, part[None])[0] for part in (x[0, :3], x[0, 3:], x[1, 1:4])]
        return [y[0, :3], y[0, 3:], y[1, 1:4]], alone

    assert_near(*run(BROKEN))


def test_marks_of_axes_that_are_no_window_or_not_there_change_nothing():
    images, ids = normals(1, 2, 5, 3, 4), SEGMENTS
    net = nn.InstanceNorm(spatial=1)  # the window is within a frame
    params = net.init(KEY, images)
    real, plain = np.asarray(ids) != 0, np.asarray(jax.jit(net.apply)(params, images))
    marked = np.asarray(jax.jit(net.apply)(params, images, segment_ids=ids))
    np.testing.assert_array_equal(marked[real], plain[real])
    pooled, norm = X[:, 0], nn.BatchNorm()
    state = norm.init_state(pooled)
    params = norm.init(KEY, pooled)
    run = jax.jit(functools.partial(norm.apply, train=True))
    y, _ = run(params, pooled, state=state)
    again, _ = run(params, pooled, segment_ids=ids, state=state)
    np.testing.assert_array_equal(again, y)


def test_wrong_marks_are_reported():
    with pytest.raises(ValueError, match=r"segment_ids must be of the shape .*\(2, 5\)"):
        nn.GroupNorm(2).init(KEY, X, segment_ids=SEGMENTS[:, :3])
    norm = nn.BatchNorm(axis=1)
    with pytest.raises(ValueError, match=r"must be an axis behind those of segment_ids \(2, 5"):
        norm.apply(norm.init(KEY, X), X, segment_ids=SEGMENTS, state=norm.init_state(X))

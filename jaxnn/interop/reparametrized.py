"""Weights computed from several arrays: weight normalization and spectral normalization.

A `Made` holds the arrays of such a weight. A layer without a wrapper takes the
weight itself; inside `WeightNorm` it takes the direction, inside `SpectralNorm` the weight before
the division and the state of the power iteration.
"""

from typing import Any, NamedTuple

import numpy as np


class Unfit(ValueError):
    """Arrays that a converter cannot take."""


class Made(NamedTuple):
    """A weight computed from the arrays `names`, in float64 and in the other library's layout."""

    names: tuple[str, ...]
    weight: Any
    """The factor that the layer multiplies by."""
    direction: Any = None
    """v of g * v / |v|, in weight normalization."""
    original: Any = None
    """The weight before it is divided by its singular value, in spectral normalization."""
    singular: Any = None
    """v of sigma = u^T W v, repeated along the axis of features."""
    state: Any = None
    """u before the next round of power iteration, if the library keeps that."""


def weight_normed(names: tuple[str, ...], g: Any, v: Any) -> Made:
    """Return g * v / |v|, with the length over the axes that g lacks, or along which it is 1."""
    g, v = (np.asarray(a, np.float64) for a in (g, v))
    g = g.reshape((1,) * (v.ndim - g.ndim) + g.shape)
    over = tuple(i for i in range(v.ndim) if g.shape[i] == 1)
    length = np.sqrt(np.square(v).sum(over, keepdims=True))
    return Made(names, g * v / length, direction=v)


def lengths(weight: Any, direction: Any) -> dict[str, Any]:
    """Return v and g, one for each feature of the last axis, so that g * v / |v| is `weight`.

    v is `direction`, or the weight itself if its lengths are over other axes than ours.
    """
    over = tuple(range(weight.ndim - 1))
    norm = np.sqrt(np.square(direction).sum(over))
    norm = np.where(norm == 0, 1, norm)
    g = (weight * direction).sum(over) / norm
    if np.allclose(g * direction / norm, weight, rtol=1e-6, atol=1e-9 * np.abs(weight).max()):
        return {"v": direction, "g": g}
    return {"v": weight, "g": np.sqrt(np.square(weight).sum(over))}


def spectral_normed(names: tuple[str, ...], w: Any, u: Any, v: Any, axis: int = 0) -> Made:
    """Return w / (u^T w v), with w as a matrix of `axis` by all others."""
    w, u, v = (np.asarray(a, np.float64) for a in (w, u, v))
    rows = np.moveaxis(w, axis, 0)
    if u.size != len(rows) or v.size * len(rows) != rows.size:
        raise Unfit(f"{names[0]} is {w.shape}, and its singular vectors have {u.size} and {v.size}")
    sigma = u @ rows.reshape(len(rows), -1) @ v
    singular = np.broadcast_to(v.reshape(1, *rows.shape[1:]), rows.shape)
    return Made(names, w / sigma, original=w, singular=np.moveaxis(singular, 0, axis))


def state_before(original: Any, singular: Any, weight: Any, steps: int) -> Any:
    """Return a state u from which `steps` rounds give the singular value of the source.

    The source divides by u^T w v of its last vectors, without another round. A round from our u
    gives |w v|, so v is chosen between the source's own and one of a smaller |w v|.

    Raises Unfit if there is none: then the vectors do not belong to the weight.
    """
    matrix = original.reshape(-1, original.shape[-1])  # v is in its rows, u in its columns
    sigma = np.sqrt(np.square(original).sum() / np.square(weight).sum())
    back = np.linalg.pinv(matrix, rcond=1e-6)
    vectors, _, _ = np.linalg.svd(matrix, full_matrices=False)
    v = _unit(matrix @ (back @ singular.reshape(-1, original.shape[-1])[:, 0]))

    def value(v: Any) -> Any:
        return np.sqrt(np.square(v @ matrix).sum())

    high = v if value(v) >= sigma else vectors[:, 0]
    low = vectors[:, np.linalg.matrix_rank(matrix) - 1]
    low = low if low @ high >= 0 else -low
    for _ in range(60):
        v = _unit(high + low)
        high, low = (v, low) if value(v) >= sigma else (high, v)
    v = high
    for _ in range(steps - 1):
        v = _unit(back.T @ (back @ v))
    u = _unit(back @ v).astype(np.float32)
    now = u.astype(np.float64)
    for _ in range(steps):
        v = _unit(matrix @ now)
        now = _unit(matrix.T @ v)
    if not np.isclose(value(v), sigma, rtol=1e-5):
        raise Unfit(
            "its singular vectors are not those of its weight, which was changed after they were "
            "computed: run the source once in training mode and save it again"
        )
    return u


def _unit(vector: Any) -> Any:
    return vector / np.sqrt(np.square(vector).sum())

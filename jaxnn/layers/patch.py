"""PatchEmbedding: an image as a sequence of vectors, one for each patch."""

import math
from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.linear import linear
from ..initializers import InitFn, lecun_normal, zeros
from .checks import check_flags, check_positive, check_rank


class PatchEmbedding(Primitive):
    """y = patches(x) @ w + b: a convolution whose stride is its window.

    x is (..., H, W, C) and y (..., N, features), with N = (H / patch) * (W / patch), row by row; w
    is (patch, patch, C, features), as a convolution's, and b (features,). `patch` may also be a
    tuple, one size for each axis of the window: (16, 8), or (2, 16, 16) for video. Raises
    ValueError where the patches do not divide the image.

    Reference: Dosovitskiy et al., An image is worth 16x16 words, 2021.

    >>> import jax, jax.numpy as jnp
    >>> net, x = PatchEmbedding(192, patch=16), jnp.zeros((2, 224, 224, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (192,), 'w': (16, 16, 3, 192)}
    >>> net.apply(params, x).shape
    (2, 196, 192)
    """

    features: int
    patch: int | tuple[int, ...]
    bias: bool = True
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_positive(self, "features")
        check_flags(self, "bias")
        sizes = self._window()
        if not sizes or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in sizes):
            raise ValueError(
                "PatchEmbedding.patch is an int >= 1, or a tuple of them for the axes of the "
                f"window; got {self.patch!r}"
            )

    def parameters(self, x: Any) -> dict[str, Param]:
        """The matrix, in a convolution's shape, and the bias where there is one."""
        window = self._window()
        check_rank(self, x, len(window) + 1, f"(..., {len(window)} axes of the window, channels)")
        sizes = x.shape[-len(window) - 1 : -1]
        if any(n % size for n, size in zip(sizes, window, strict=True)):
            raise ValueError(
                f"patches of {window} do not divide the window {tuple(sizes)} of {describe(x)}; "
                "pad or crop the image first, by jnp.pad"
            )
        shapes = {"w": Param((*window, x.shape[-1], self.features), self.w_init)}
        return shapes | {"b": Param((self.features,), self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """A vector for each patch."""
        window = self._window()
        k = len(window)
        batch, sizes, channels = x.shape[: -k - 1], x.shape[-k - 1 : -1], x.shape[-1]
        counts = [n // size for n, size in zip(sizes, window, strict=True)]
        split = [n for pair in zip(counts, window, strict=True) for n in pair]
        x = x.reshape(*batch, *split, channels)
        first = len(batch)
        order = [
            *range(first),
            *range(first, first + 2 * k, 2),
            *range(first + 1, first + 2 * k, 2),
        ]
        x = x.transpose(*order, first + 2 * k)
        x = x.reshape(*batch, math.prod(counts), math.prod(window) * channels)
        w = params["w"].reshape(x.shape[-1], self.features)
        return linear(x, w, params["b"] if self.bias else None)

    def _window(self) -> tuple[int, ...]:
        return self.patch if isinstance(self.patch, tuple) else (self.patch, self.patch)

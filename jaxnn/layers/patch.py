"""PatchEmbedding: embed an image as a sequence of vectors, one for each patch."""

import math
from typing import Annotated, Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.linear import linear
from ..initializers import InitFn, lecun_normal, zeros
from ..validation import each, positive
from .checks import check_rank, positive_size

_PATCH = each(positive, "an int >= 1, or a tuple of one for each axis")


class PatchEmbedding(Primitive):
    """Embed patches of an image: `y = patches(x) @ w + b`.

    This is a convolution whose stride equals its window. x has shape (..., H, W, C) and y
    (..., N, features) with N = (H / patch) * (W / patch), in row-major order. Parameters are w
    (patch, patch, C, features) and b (features,).

    Args:
        features: Number of features of each vector.
        patch: Size of a patch: an int for square patches, or a tuple with one size for each axis,
            such as (16, 8), or (2, 16, 16) for video.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Default: `lecun_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the size of the image is not a multiple of the patch size.

    Reference: Dosovitskiy et al., An image is worth 16x16 words, 2021.

    >>> import jax, jax.numpy as jnp
    >>> net, x = PatchEmbedding(192, patch=16), jnp.zeros((2, 224, 224, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (192,), 'w': (16, 16, 3, 192)}
    >>> net.apply(params, x).shape
    (2, 196, 192)
    """

    features: Annotated[int, positive_size]
    patch: Annotated[int | tuple[int, ...], _PATCH]
    bias: bool = True
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, in the shape of a convolution kernel, and b if there is a bias."""
        window = self._window()
        check_rank(x, len(window) + 1, f"(..., {len(window)} spatial axes, channels)")
        sizes = x.shape[-len(window) - 1 : -1]
        if any(n % size for n, size in zip(sizes, window, strict=True)):
            raise ValueError(
                f"patches of {window} do not divide the axes {tuple(sizes)} of {describe(x)}; pad "
                "or crop the image first, for example by jnp.pad"
            )
        shapes = {"w": Param((*window, x.shape[-1], self.features), self.w_init)}
        return shapes | {"b": Param((self.features,), self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return one vector for each patch."""
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

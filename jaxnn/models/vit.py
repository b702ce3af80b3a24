"""ViT: a vision transformer over the patches of an image."""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from ..combine.sequential import Sequential
from ..combine.transforms import Remat, Repeat
from ..core.composite import Composite
from ..core.layer import Layer
from ..explain.text import describe
from ..floating import widened
from ..initializers import glorot_uniform, zeros
from ..layers.attention import MultiHeadAttention
from ..layers.checks import check_divides, dropout_rate
from ..layers.dropout import Dropout
from ..layers.elementwise import LearnedArray
from ..layers.embedding import PatchEmbedding
from ..layers.linear import Dense
from ..layers.normalization import LayerNorm
from ..layers.positions import LearnedPositions
from ..layers.transformer import EncoderLayer
from .model import Model, size


class PatchTransformer(Composite):
    """Transformer over patches, from images (..., H, W, C) to logits (..., outputs).

    A learned class token precedes the patches; the head receives only its features.

    Args:
        patches: Embedding of patches.
        token: Learned array of the class token.
        positions: Layer that adds position encodings.
        dropout: Layer applied to the embeddings.
        blocks: Layer of all transformer blocks.
        norm: Final norm.
        head: Output layer.
        image: Height and width of the images, to which the positions belong.

    Raises:
        ValueError: If the images have another size.

    >>> net = ViT(image=8, patch=4, layers=2, width=16, num_heads=2).network(outputs=10)
    >>> type(net).__name__, net.patches
    ('PatchTransformer', PatchEmbedding(16, 4))
    """

    patches: Layer
    token: Layer
    positions: Layer
    dropout: Layer
    blocks: Layer
    norm: Layer
    head: Layer
    image: int

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the logits."""
        if x.shape[-3:-1] != (self.image, self.image):
            raise ValueError(
                f"expected images (..., {self.image}, {self.image}, C), the size of the position "
                f"encoding, got {describe(x)}; resize them, or write ViT(image=...)"
            )
        x = self.patches(x)
        # Concatenated in float32, because the token's gradient is a sum over all images.
        token = widened(self.token().astype(x.dtype))
        token = jnp.broadcast_to(token, (*x.shape[:-2], 1, x.shape[-1]))
        x = self.positions(jnp.concatenate([token, widened(x)], -2).astype(x.dtype))
        x = self.blocks(self.dropout(x))
        return self.head(self.norm(x[..., 0, :]))


@dataclasses.dataclass(frozen=True)
class ViT(Model):
    """Vision transformer with pre-normalization, for image classification.

    `tiny16()` to `huge14()` are the published sizes; the default is `base16()`. The weights of the
    head are initialized as 0.

    References: Dosovitskiy et al., An image is worth 16x16 words, 2021; Touvron et al., Training
    data-efficient image transformers, 2021 (tiny and small).
    """

    image: Annotated[int, size] = 224
    """Height and width of the images."""
    patch: Annotated[int, size] = 16
    """Height and width of a patch, a divisor of the image size."""
    layers: Annotated[int, size] = 12
    """Number of blocks of attention and feed-forward network."""
    width: Annotated[int, size] = 768
    """Features of each patch."""
    num_heads: Annotated[int, size] = 12
    """Number of attention heads, a divisor of the width."""
    hidden: Annotated[int | None, None | size] = None
    """Units of the feed-forward network; None for 4 * width."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate of embeddings and residual branches, in [0, 1)."""
    implementation: str | None = None
    """Implementation of `nn.MultiHeadAttention`; "cudnn" for NVIDIA GPUs in bfloat16."""

    def __post_init__(self) -> None:
        """Check the fields, and that patches and heads divide the sizes."""
        super().__post_init__()
        check_divides(self, "patch", "image")
        check_divides(self, "num_heads", "width")

    def network(self, outputs: int) -> Layer:
        """Build the network, from images (..., H, W, C) to logits (..., outputs).

        The blocks are a `Repeat`, traced once, and the backward pass recomputes cheap operations. A
        dropout rate of 0 keeps the dropout layers, so that parameters have the same paths at all
        rates, and the rate may be traced.

        Args:
            outputs: Number of classes.

        >>> import jax
        >>> net = ViT(image=8, patch=4, layers=2, width=16, num_heads=2).network(outputs=10)
        >>> params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((5, 8, 8, 3), "float32"))
        >>> params["positions"]["w"].shape, params["blocks"]["attention"]["query"]["w"].shape
        ((5, 16), (2, 16, 16))
        """
        norm, hidden = LayerNorm(eps=1e-6), self.hidden or 4 * self.width
        block = EncoderLayer(
            MultiHeadAttention(self.num_heads, implementation=self.implementation),
            Sequential(
                up=Dense(hidden, w_init=glorot_uniform()),
                activation=functools.partial(jax.nn.gelu, approximate=False),
                down=Dense(self.width, w_init=glorot_uniform()),
            ),
            dropout=Dropout(self.dropout),
            attention_norm=norm,
            feed_forward_norm=norm,
        )
        return PatchTransformer(
            patches=PatchEmbedding(self.width, self.patch),
            token=LearnedArray((self.width,)),
            positions=LearnedPositions((self.image // self.patch) ** 2 + 1),
            dropout=Dropout(self.dropout),
            blocks=Repeat(Remat(block, "products"), self.layers),
            norm=norm,
            head=Dense(outputs, w_init=zeros()),
            image=self.image,
        )

    @classmethod
    def tiny16(cls) -> "ViT":
        """ViT-Ti/16."""
        return cls(width=192, num_heads=3)

    @classmethod
    def small16(cls) -> "ViT":
        """ViT-S/16."""
        return cls(width=384, num_heads=6)

    @classmethod
    def base16(cls) -> "ViT":
        """ViT-B/16: 86,567,656 parameters with 1,000 outputs."""
        return cls()

    @classmethod
    def base32(cls) -> "ViT":
        """ViT-B/32."""
        return cls(patch=32)

    @classmethod
    def large16(cls) -> "ViT":
        """ViT-L/16."""
        return cls(layers=24, width=1024, num_heads=16)

    @classmethod
    def huge14(cls) -> "ViT":
        """ViT-H/14."""
        return cls(patch=14, layers=32, width=1280, num_heads=16)

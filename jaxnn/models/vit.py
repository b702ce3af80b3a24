"""ViT: a transformer over the patches of an image."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ..combine.remat import Remat
from ..combine.repeat import Repeat
from ..combine.sequential import Sequential
from ..core.composite import Composite
from ..core.layer import Layer
from ..explain.text import describe
from ..floating import widened
from ..initializers import glorot_uniform, zeros
from ..layers.attention import MultiHeadAttention
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.learned_array import LearnedArray
from ..layers.normalization import LayerNorm
from ..layers.patch import PatchEmbedding
from ..layers.positions import LearnedPositions
from ..layers.transformer import EncoderLayer
from .checks import check_heads, check_sizes


class PatchTransformer(Composite):
    """Scores (..., outputs) of images (..., H, W, C), from what a learned token gathers.

    The token stands before the patches, goes through the blocks with them, and is all that the head
    sees. Positions tell patches of images of height and width `image` apart: raises ValueError for
    images of another size.
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
        """The scores."""
        if x.shape[-3:-1] != (self.image, self.image):
            raise ValueError(
                f"wants images (..., {self.image}, {self.image}, C), which its positions are for, "
                f"got {describe(x)}; resize them, or write ViT(image=...)"
            )
        x = self.patches(x)
        # Joined in float32: the token's gradient is a sum over all images.
        token = widened(self.token().astype(x.dtype))
        token = jnp.broadcast_to(token, (*x.shape[:-2], 1, x.shape[-1]))
        x = self.positions(jnp.concatenate([token, widened(x)], -2).astype(x.dtype))
        x = self.blocks(self.dropout(x))
        return self.head(self.norm(x[..., 0, :]))


@dataclasses.dataclass(frozen=True)
class ViT:
    """A vision transformer with norms first, from images to scores.

    `tiny16()` to `huge14()` are the published sizes, and the default is that of `base16()`. The
    head starts at 0.

    References: Dosovitskiy et al., An image is worth 16x16 words, 2021; Touvron et al., Training
    data-efficient image transformers, 2021 (tiny and small).
    """

    image: int = 224
    """Height and width of the images."""
    patch: int = 16
    """Height and width of a patch, a divisor of the image's."""
    layers: int = 12
    """Blocks of attention and feed-forward network."""
    width: int = 768
    """Features of each patch."""
    num_heads: int = 12
    """Heads of attention, a divisor of the width."""
    hidden: int | None = None
    """Units of the feed-forward network; 4 * width where None."""
    dropout: float = 0.0
    """Share of embeddings and branches left out at each training step, in [0, 1)."""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network or a rate outside [0, 1)."""
        check_sizes(self, 1, "image", "patch", "layers", "width", "num_heads")
        if self.hidden is not None:
            check_sizes(self, 1, "hidden")
        if self.image % self.patch:
            raise ValueError(
                f"ViT.patch divides the image, got patches of {self.patch} for images of "
                f"{self.image}"
            )
        check_heads(self)
        Dropout(self.dropout)

    def network(self, outputs: int) -> Layer:
        """The network from images (..., H, W, C) to (..., outputs).

        The blocks are `Repeat`, traced once, and a backward pass computes what is cheap in them
        again. A rate of 0 keeps the dropout layers, so that the parameters have the same paths
        whatever the rate, which may be traced.

        >>> import jax
        >>> net = ViT(image=8, patch=4, layers=2, width=16, num_heads=2).network(outputs=10)
        >>> params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((5, 8, 8, 3), "float32"))
        >>> params["positions"]["w"].shape, params["blocks"]["attention"]["query"]["w"].shape
        ((5, 16), (2, 16, 16))
        """
        norm, hidden = LayerNorm(eps=1e-6), self.hidden or 4 * self.width
        block = EncoderLayer(
            MultiHeadAttention(self.num_heads),
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

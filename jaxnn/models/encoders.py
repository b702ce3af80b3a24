"""Transformer encoders: BERT, in the form of BERT or RoBERTa, for text, and ViT for images.

The ViT also has the form of DINOv2: factors of the residual branches, and registers.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays import check_range, widened
from ..core.composite import Composite
from ..core.layer import Layer
from ..functional.segments import check_segments
from ..initializers import constant, glorot_uniform, normal, zeros
from ..layers import check_divides, dropout_rate
from ..layers.attention import MultiHeadAttention
from ..layers.elementwise import Dropout, LayerScale, LearnedArray
from ..layers.embedding import Embedding, PatchEmbedding, is_known
from ..layers.linear import Dense
from ..layers.normalization import LayerNorm
from ..layers.positions import LearnedPositions
from ..validation import natural, require
from .families import BERT_FAMILIES, VIT_FAMILIES, Family
from .model import Model, exact_gelu, feed_forward, size, transformer_blocks
from .pretrained import ImageClassifier, Published

Pooling = Literal["token", "token_mean", "none"]


class TextEncoder(Composite):
    """Bidirectional transformer over tokens (..., T).

    The output contains the features of all tokens, (..., T, n). With `mean`, it is their mean,
    (..., n); with a `pooler`, it is tanh(pooler(x)) of the first token x, (..., n). If there is a
    `head`, it is applied last.

    Named inputs: `token_types` (..., T), integers, such as 0 and 1 for the two sentences of a pair
    (default: 0); `segment_ids` (..., T), 0 for padding, such as the attention mask of a tokenizer.
    Padding is excluded from attention and from the mean.

    Args:
        embedding: Embedding of tokens.
        types: Embedding of token types, added to it.
        positions: Layer that adds position encodings.
        norm: Norm of the sum.
        dropout: Layer applied after the norm.
        blocks: Layer that contains all transformer blocks.
        pooler: Layer for the first token. Default: None.
        mean: Whether to take the mean of all tokens. Default: False.
        head: Output layer. Default: None.

    >>> net = BERT(vocabulary=30, layers=1, width=8, num_heads=2, pooling="mean").network()
    >>> tokens, mask = jnp.ones((2, 5), int), jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    >>> params = net.init(jax.random.key(0), tokens)
    >>> net.apply(params, tokens, segment_ids=mask).shape
    (2, 8)
    """

    embedding: Layer
    types: Layer
    positions: Layer
    norm: Layer
    dropout: Layer
    blocks: Layer
    pooler: Layer | None = None
    mean: bool = False
    head: Layer | None = None

    def forward(
        self,
        tokens: jax.Array,
        *,
        token_types: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Return the features, pooled if the network pools them, or the outputs of the head."""
        types = jnp.zeros(jnp.shape(tokens), jnp.int32) if token_types is None else token_types
        x = self.embedding(tokens) + self.types(types)
        x = self.blocks(self.dropout(self.norm(self.positions(x))))
        if self.pooler is not None:
            x = jnp.tanh(self.pooler(x[..., 0, :]))
        elif self.mean:
            x = _mean(x, segment_ids)
        return x if self.head is None else self.head(x)


def _mean(x: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Return the mean of the features (..., T, n) of tokens that are not padding."""
    if segment_ids is None:
        return jnp.mean(widened(x), -2).astype(x.dtype)
    check_segments(segment_ids, x.shape[:-1])
    real = (segment_ids != 0)[..., None]
    count = jnp.maximum(jnp.sum(real, -2), 1)
    return (jnp.sum(widened(jnp.where(real, x, 0)), -2) / count).astype(x.dtype)


def at_end(x: jax.Array, tokens: jax.Array, end: int | None) -> jax.Array:
    """Return the features (..., n) of the first end token of each text.

    Args:
        x: Features (..., T, n).
        tokens: Their tokens (..., T).
        end: The end token. None for the largest token of each text.

    Raises:
        ValueError: If a text of concrete tokens does not have the end token. The features of a text
            of traced tokens without it are NaN.
    """
    ends = tokens == (jnp.max(tokens, -1, keepdims=True) if end is None else end)
    some = ends.any(-1)
    check_range((~some).astype(jnp.int32), 1, f"a text does not have the end token {end}")
    without = np.asarray(tokens)[~np.asarray(some)].tolist() if is_known(tokens) else []
    require(
        not without,
        "each text",
        f"tokens with the end token {end}",
        without[0] if without else None,
        "append it, as the tokenizer of the model does, or write CLIP(end=...) with the end token "
        "of the texts",
    )
    x = jnp.take_along_axis(x, jnp.argmax(ends, -1)[..., None, None], -2)[..., 0, :]
    return jnp.where(some[..., None], x, jnp.asarray(jnp.nan, x.dtype))


@dataclasses.dataclass(frozen=True)
class BERT(Published, Model):
    """Bidirectional transformer with normalization after each branch, for text.

    The default is BERT-base (uncased), and `from_pretrained` loads BERT, RoBERTa, and sentence
    encoders with these architectures. Weights are drawn from a normal distribution with a standard
    deviation of 0.02, and biases start at 0.

    References: Devlin et al., BERT: pre-training of deep bidirectional transformers for language
    understanding, 2019; Liu et al., RoBERTa: a robustly optimized BERT pretraining approach, 2019;
    Reimers and Gurevych, Sentence-BERT, 2019 (the mean of all tokens).
    """

    vocabulary: Annotated[int, size] = 30522
    """Number of tokens."""
    layers: Annotated[int, size] = 12
    """Number of blocks of attention and feed-forward network."""
    width: Annotated[int, size] = 768
    """Features of each position."""
    num_heads: Annotated[int, size] = 12
    """Number of attention heads, a divisor of the width."""
    hidden: Annotated[int | None, None | size] = None
    """Units of the feed-forward network; None for 4 * width."""
    length: Annotated[int, size] = 512
    """Largest number of tokens of a sequence."""
    token_types: Annotated[int, size] = 2
    """Number of token types: 2 for pairs of sentences."""
    padding: Annotated[int, natural] = 0
    """Token that fills short sequences: 0 in BERT, 1 in RoBERTa."""
    pooling: Literal["none", "mean", "pooler"] = "none"
    """Features: of all tokens; their mean; or tanh of a dense layer of the first token."""
    eps: float = 1e-12
    """Added to the variance in the norms."""
    dropout: Annotated[float, dropout_rate] = 0.1
    """Dropout rate of embeddings, attention weights, and residual branches, in [0, 1)."""
    implementation: str | None = None
    """Implementation of `nn.MultiHeadAttention`; "cudnn" for NVIDIA GPUs in bfloat16."""

    families: ClassVar[tuple[Family, ...]] = BERT_FAMILIES

    def __post_init__(self) -> None:
        """Check the fields, and that the heads divide the width."""
        super().__post_init__()
        check_divides(self, "num_heads", "width")

    def network(self, outputs: int | None = None) -> Layer:
        """Build the network, from tokens (..., T) to features, or to logits of `outputs` classes.

        With `pooling`, features are (..., width) and logits (..., outputs); otherwise there is one
        for each token, (..., T, width) or (..., T, outputs). A dropout rate of 0 keeps the dropout
        layers, so that parameters have the same paths at all rates, and the rate may be traced.

        Args:
            outputs: Number of classes. Default: None, for the features.

        >>> net = BERT(vocabulary=30, layers=2, width=16, num_heads=2).network()
        >>> tokens = jnp.zeros((1, 5), int)
        >>> net.apply(net.init(jax.random.key(0), tokens), tokens).shape
        (1, 5, 16)
        """
        w_init, norm = normal(0.02), LayerNorm(eps=self.eps)
        blocks = transformer_blocks(
            self.layers,
            MultiHeadAttention(
                self.num_heads,
                dropout=self.dropout,
                implementation=self.implementation,
                w_init=w_init,
            ),
            feed_forward(exact_gelu, self.hidden, self.width, w_init),
            norm,
            norm_first=False,
            dropout=Dropout(self.dropout),
        )
        return TextEncoder(
            embedding=Embedding(self.vocabulary, self.width, self.padding, w_init),
            types=Embedding(self.token_types, self.width, w_init=w_init),
            positions=LearnedPositions(self.length, w_init=w_init),
            norm=norm,
            dropout=Dropout(self.dropout),
            blocks=blocks,
            pooler=Dense(self.width, w_init=w_init) if self.pooling == "pooler" else None,
            mean=self.pooling == "mean",
            head=None if outputs is None else Dense(outputs, w_init=w_init),
        )


class PatchTransformer(Composite):
    """Transformer over patches, from images (..., H, W, C) to features or logits.

    A learned class token precedes the patches, and learned registers, if any, are between them. The
    head, if any, receives the pooled features.

    Args:
        patches: Embedding of patches.
        token: Learned array of the class token, (n,).
        positions: Layer that adds position encodings to the class token and the patches.
        dropout: Layer applied to the embeddings, or None.
        blocks: Layer that contains all transformer blocks.
        norm: Final norm.
        head: Output layer. None to return the features.
        image: Height and width of the images for which the positions are made.
        registers: Learned array of further tokens, (registers, n). Default: None.
        embedding_norm: Norm of the embeddings. Default: None.
        pooling: The features: "token" are those of the class token, (..., n); "token_mean" are
            these and the mean of all patches, (..., 2n); "none" are those of all tokens,
            (..., T, n). Default: "token".

    Raises:
        ValueError: If the images have a different size.

    >>> net = ViT(image=8, patch=4, layers=2, width=16, num_heads=2).network(outputs=10)
    >>> type(net).__name__, net.patches
    ('PatchTransformer', PatchEmbedding(16, 4))
    """

    patches: Layer
    token: Layer
    positions: Layer
    dropout: Layer | None
    blocks: Layer
    norm: Layer
    head: Layer | None
    image: int
    registers: Layer | None = None
    embedding_norm: Layer | None = None
    pooling: Pooling = "token"

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the features or logits."""
        require(
            x.shape[-3:-1] == (self.image, self.image),
            "images",
            f"(..., {self.image}, {self.image}, C), the size of the position encoding",
            x,
            "resize them, or write ViT(image=...)",
        )
        x = self.patches(x)
        x = self.positions(_joined(self.token()[None], x))
        added = 0
        if self.registers is not None:
            registers = self.registers()
            added = registers.shape[0]
            patches = _joined(registers, x[..., 1:, :])
            x = jnp.concatenate([x[..., :1, :], patches], -2)
        x = x if self.dropout is None else self.dropout(x)
        x = self.blocks(x if self.embedding_norm is None else self.embedding_norm(x))
        x = self.norm(x[..., 0, :] if self.pooling == "token" else x)
        if self.pooling == "token_mean":
            patches = jnp.mean(widened(x[..., 1 + added :, :]), -2).astype(x.dtype)
            x = jnp.concatenate([x[..., 0, :], patches], -1)
        return x if self.head is None else self.head(x)


def _joined(tokens: jax.Array, x: jax.Array) -> jax.Array:
    """Return learned tokens (k, n) in front of the features (..., T, n) of all images."""
    # Concatenated in float32, because the gradient of the tokens is a sum over all images.
    tokens = widened(tokens.astype(x.dtype))
    tokens = jnp.broadcast_to(tokens, (*x.shape[:-2], *tokens.shape))
    return jnp.concatenate([tokens, widened(x)], -2).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class ViT(ImageClassifier, Model):
    """Vision transformer with pre-normalization, for image classification and for features.

    `tiny16()` to `huge14()` are the published sizes; the default is `base16()`. `from_pretrained`
    loads checkpoints of ViT and DINOv2 in transformers, with or without their classifiers. For
    images of another size than those of a checkpoint, write `from_pretrained(..., image=224)`: the
    position encodings are interpolated. The weights of the head start as zeros.

    References: Dosovitskiy et al., An image is worth 16x16 words, 2021; Touvron et al., Training
    data-efficient image transformers, 2021 (tiny and small); Oquab et al., DINOv2: learning robust
    visual features without supervision, 2023; Darcet et al., Vision transformers need registers,
    2024.
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
    eps: float = 1e-6
    """Added to the variance in the norms."""
    layer_scale: float | None = None
    """Initial factor of each residual branch, as in DINOv2; None for no factors."""
    registers: Annotated[int, natural] = 0
    """Number of learned tokens besides the class token, as in DINOv2 with registers."""
    pooling: Pooling = "token"
    """Features: of the class token; of it and the mean of all patches; or of all tokens."""
    implementation: str | None = None
    """Implementation of `nn.MultiHeadAttention`; "cudnn" for NVIDIA GPUs in bfloat16."""

    families: ClassVar[tuple[Family, ...]] = VIT_FAMILIES
    patch_positions: ClassVar[tuple[str, ...]] = ("positions",)

    def __post_init__(self) -> None:
        """Check the fields, and that patches and heads divide the sizes."""
        super().__post_init__()
        check_divides(self, "patch", "image")
        check_divides(self, "num_heads", "width")

    def network(self, outputs: int | None = None) -> Layer:
        """Build the network, from images (..., H, W, C) to features, or to logits (..., outputs).

        The blocks are a `Repeat`, traced once, and the backward pass recomputes cheap operations. A
        dropout rate of 0 keeps the dropout layers, so that parameters have the same paths at all
        rates, and the rate may be traced.

        Args:
            outputs: Number of classes. Default: None, for the features.

        >>> import jax
        >>> net = ViT(image=8, patch=4, layers=2, width=16, num_heads=2).network(outputs=10)
        >>> params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((5, 8, 8, 3), "float32"))
        >>> params["positions"]["w"].shape, params["blocks"]["attention"]["query"]["w"].shape
        ((5, 16), (2, 16, 16))
        """
        norm = LayerNorm(eps=self.eps)
        scale = None if self.layer_scale is None else LayerScale(constant(self.layer_scale))
        blocks = transformer_blocks(
            self.layers,
            MultiHeadAttention(self.num_heads, implementation=self.implementation),
            feed_forward(exact_gelu, self.hidden, self.width, glorot_uniform()),
            norm,
            dropout=Dropout(self.dropout),
            attention_scale=scale,
            feed_forward_scale=scale,
        )
        registers = LearnedArray((self.registers, self.width), w_init=normal(0.02))
        return PatchTransformer(
            patches=PatchEmbedding(self.width, self.patch),
            token=LearnedArray((self.width,)),
            positions=LearnedPositions((self.image // self.patch) ** 2 + 1),
            dropout=Dropout(self.dropout),
            blocks=blocks,
            norm=norm,
            head=None if outputs is None else Dense(outputs, w_init=zeros()),
            image=self.image,
            registers=registers if self.registers else None,
            pooling=self.pooling,
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

"""T5: encoder-decoder transformer with relative position biases, in the form of v1.0 or v1.1."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ..core.composite import Composite
from ..core.layer import Layer
from ..initializers import normal
from ..interop.source_arrays import IfThere
from ..layers import dropout_rate
from ..layers.attention import MultiHeadAttention
from ..layers.attention_scores import RelativePositionBias
from ..layers.elementwise import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Dense
from ..layers.normalization import RMSNorm
from ..validation import above, flag
from .families import Family
from .model import EncoderDecoder, Model, feed_forward, size, transformer_blocks
from .pretrained import Published
from .transformers import Decoder


class RelativeEncoder(Composite):
    """Transformer encoder whose layers share a relative position bias.

    Inputs and outputs are features (..., T, n). The named input `segment_ids` (..., T) is 0 for
    padding.
    Args:
        bias: `nn.RelativePositionBias`.
        dropout: Layer applied to the input and to the output.
        blocks: Layer that contains all transformer blocks.
        norm: Final norm.

    >>> type(T5(layers=1, width=8, num_heads=2).network(11).encoder).__name__
    'RelativeEncoder'
    """

    bias: Layer
    dropout: Layer
    blocks: Layer
    norm: Layer

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the features."""
        x = self.blocks(self.dropout(x), bias=self.bias.by_position(x))
        return self.dropout(self.norm(x))


class RelativeDecoder(Decoder):
    """Transformer decoder whose layers share a relative position bias.

    Inputs are tokens (..., T) and a memory (..., S, n); outputs are logits (..., T, vocabulary).
    Named inputs: `segment_ids` (..., T) of the tokens, and `memory_segment_ids` (..., S), 0 for
    padding.

    Args:
        embedding: Embedding of tokens.
        positions: Layer that adds position encodings, or None.
        dropout: Layer applied to the embeddings and to the features.
        blocks: Layer that contains all transformer blocks.
        norm: Final norm.
        head: Output layer. None to use the embedding's table.
        embedding_scale: Number by which embeddings are multiplied. Default: None, for 1.
        bias: `nn.RelativePositionBias` with `causal=True`.
        scale: Factor of the features before the output layer. Default: None, 1.

    >>> type(T5(layers=1, width=8, num_heads=2).network(11).decoder).__name__
    'RelativeDecoder'
    """

    _: dataclasses.KW_ONLY
    bias: Layer
    scale: Annotated[float | None, None | above(0)] = None

    def forward(self, tokens: jax.Array, memory: jax.Array) -> jax.Array:  # type: ignore[override]
        """Return the logits."""
        x = self.embed(tokens)
        x = self.blocks(self.dropout(x), memory=memory, bias=self.bias.by_position(x))
        x = self.dropout(self.norm(x))
        return self.logits(x if self.scale is None else x * jnp.asarray(self.scale, x.dtype))


_T5_NAMES: dict[str, Any] = {
    "decoder/embedding": "shared",
    "decoder/head": IfThere("lm_head"),
    "*/bias": ".block.0.layer.0.SelfAttention.relative_attention_bias",
    "*/norm": ".final_layer_norm",
    "*/blocks": ".block.*",
    "**/attention": ".layer.0.SelfAttention",
    "**/attention_norm": ".layer.0.layer_norm",
    "**/cross_attention": ".layer.1.EncDecAttention",
    "**/cross_attention_norm": ".layer.1.layer_norm",
    "encoder/blocks/feed_forward": ".layer.1.DenseReluDense",
    "encoder/blocks/feed_forward_norm": ".layer.1.layer_norm",
    "decoder/blocks/feed_forward": ".layer.2.DenseReluDense",
    "decoder/blocks/feed_forward_norm": ".layer.2.layer_norm",
    "**/gate": IfThere(".wi_0"),
    "**/down": ".wo",
    **{f"**/{name}": f".{name[0]}" for name in ("query", "key", "value", "out")},
}
"""transformers' T5ForConditionalGeneration, for `T5`, but for the names of `up`."""


def _t5(published: str, feed_forward: str) -> Family:
    gated, _, activation = published.replace("gelu", "gelu_new").rpartition("-")
    return Family(
        "t5",
        "T5ForConditionalGeneration",
        "",
        _T5_NAMES | {"**/up": ".wi" if feed_forward == "relu" else ".wi_1"},
        {
            "vocab_size": ("outputs", 32128),
            "d_model": ("width", 512),
            "d_kv": ("head_dim", 64),
            "d_ff": ("hidden", 2048),
            "num_layers": ("layers", 6),
            "num_decoder_layers": ("decoder_layers", None),
            "num_heads": ("num_heads", 8),
            "relative_attention_num_buckets": ("num_buckets", 32),
            "relative_attention_max_distance": ("max_distance", 128),
            "dropout_rate": ("dropout", 0.1),
            "layer_norm_epsilon": ("eps", 1e-6),
            "tie_word_embeddings": ("tied", True),
            "scale_decoder_outputs": ("scaled_head", None),
        },
        {"feed_forward_proj": (published,), "is_encoder_decoder": (True,)}
        | {"is_gated_act": (gated != "",), "dense_act_fn": (activation,)},
        {"feed_forward": feed_forward},
        ("*.embed_tokens.weight", "decoder.block.*.layer.1.**.relative_attention_bias.weight"),
    )


T5_FAMILIES = (_t5("relu", "relu"), _t5("gated-gelu", "geglu"), _t5("gated-silu", "swiglu"))
"""The model types of `T5`, one per feed-forward network; the default of transformers is first."""


@dataclasses.dataclass(frozen=True)
class T5(Published, Model):
    """Encoder-decoder transformer with relative position biases and RMS norms, without biases.

    The default is T5-small, and `from_pretrained` loads T5, T5 v1.1, and Flan-T5. Initial weights
    have the distribution of the paper's code, with one exception: its factor `head_dim**-0.5` of
    the query weights is divided evenly between queries and keys, which leaves the scores the same.
    The value weights are smaller, and the output weights larger, by the factor of the keys.

    References: Raffel et al., Exploring the limits of transfer learning with a unified text-to-text
    transformer, 2020; Shazeer, GLU variants improve transformer, 2020 (v1.1).
    """

    layers: Annotated[int, size] = 6
    """Number of blocks of the encoder."""
    decoder_layers: Annotated[int | None, None | size] = None
    """Number of blocks of the decoder; None for `layers`."""
    width: Annotated[int, size] = 512
    """Features of each position."""
    num_heads: Annotated[int, size] = 8
    """Number of attention heads."""
    head_dim: Annotated[int, size] = 64
    """Features of each head."""
    hidden: Annotated[int, size] = 2048
    """Units of the feed-forward network."""
    num_buckets: Annotated[int, size] = 32
    """Number of rows of the relative position bias."""
    max_distance: Annotated[int, size] = 128
    """Distance at and beyond which all positions on a side share a row."""
    feed_forward: Literal["relu", "geglu", "swiglu"] = "relu"
    """Feed-forward network: two layers with ReLU (v1.0), or three with a gate (v1.1: "geglu")."""
    tied: bool = True
    """Whether the output layer shares the table of the embedding (v1.0)."""
    scaled_head: Annotated[bool | None, None | flag] = None
    """Whether features are divided by sqrt(width) before the output layer; None for `tied`."""
    eps: float = 1e-6
    """Added to the mean square in the norms."""
    dropout: Annotated[float, dropout_rate] = 0.1
    """Dropout rate of embeddings, attention weights, residual branches, and features, in [0, 1)."""

    families: ClassVar[tuple[Family, ...]] = T5_FAMILIES
    same: ClassVar[dict[str, str]] = {"decoder_layers": "layers", "scaled_head": "tied"}

    def network(self, outputs: int) -> Layer:
        """Build the network, from source tokens (..., S) and target tokens (..., T) to logits.

        The target starts with the padding token 0, and logits (..., T, outputs) are those of the
        next token.

        Args:
            outputs: Number of tokens of the vocabulary.

        >>> net = T5(layers=1, width=8, num_heads=2).network(outputs=11)
        >>> params = net.init(jax.random.key(0), jnp.ones((1, 4), int), jnp.zeros((1, 1), int))
        >>> params["decoder"]["embedding"]["w"].shape
        (11, 8)
        """
        heads, width, dropout = self.num_heads, self.width, Dropout(self.dropout)
        norm = RMSNorm(eps=self.eps)
        w_init, last_init = normal(width**-0.5), normal(self.hidden**-0.5)
        bias = RelativePositionBias(heads, self.num_buckets, self.max_distance, w_init=w_init)
        quarter = self.head_dim**-0.25
        attention = MultiHeadAttention(
            heads,
            self.head_dim,
            scale=1.0,
            dropout=self.dropout,
            bias=False,
            w_init=normal(width**-0.5 * quarter),
            out_init=normal((heads * self.head_dim) ** -0.5 / quarter),
        )
        network = feed_forward(self.feed_forward, self.hidden, width, w_init, last_init, bias=False)
        causal, full = dataclasses.replace(attention, causal=True), self.explicit()
        encoder = transformer_blocks(self.layers, attention, network, norm, dropout=dropout)
        decoder = transformer_blocks(
            full["decoder_layers"], causal, network, norm, attention, dropout=dropout
        )
        return EncoderDecoder(
            RelativeEncoder(bias, dropout, encoder, norm),
            RelativeDecoder(
                embedding=Embedding(outputs, width, w_init=normal(1.0)),
                positions=None,
                dropout=dropout,
                blocks=decoder,
                norm=norm,
                head=None if self.tied else Dense(outputs, bias=False, w_init=normal(1.0)),
                bias=dataclasses.replace(bias, causal=True),
                scale=width**-0.5 if full["scaled_head"] else None,
            ),
        )

    def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shapes and types of a source and a target."""
        return (jax.ShapeDtypeStruct((1, 1), "int32"),) * 2

    def outputs_of(self, params: Any) -> tuple[int, ...]:
        """Return the size of the vocabulary."""
        return (len(params["decoder"]["embedding"]["w"]),)

    @classmethod
    def small(cls) -> "T5":
        """T5-small: 60,506,624 parameters with its vocabulary of 32,128 tokens."""
        return cls()

    @classmethod
    def base(cls) -> "T5":
        """T5-base."""
        return cls(layers=12, width=768, num_heads=12, hidden=3072)

    @classmethod
    def large(cls) -> "T5":
        """T5-large."""
        return cls(layers=24, width=1024, num_heads=16, hidden=4096)

    @classmethod
    def base_v1_1(cls) -> "T5":
        """T5-base v1.1, the size of Flan-T5-base."""
        return dataclasses.replace(cls.base(), hidden=2048, feed_forward="geglu", tied=False)

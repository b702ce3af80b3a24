"""T5: encoder-decoder transformer with relative position biases, in the form of v1.0 or v1.1."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ..combine.sequential import Sequential
from ..combine.transforms import Remat, Repeat
from ..core.composite import Composite
from ..core.layer import Layer
from ..initializers import normal
from ..interop.source_arrays import IfThere, Names
from ..layers.attention import MultiHeadAttention
from ..layers.attention_scores import RelativePositionBias
from ..layers.blocks import DecoderLayer, EncoderLayer, GatedFeedForward
from ..layers.checks import dropout_rate
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Dense
from ..layers.normalization import RMSNorm
from ..validation import above, flag
from .families import Family
from .model import Model, size
from .pretrained import Published


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


class RelativeDecoder(Composite):
    """Transformer decoder whose layers share a relative position bias.

    Inputs are tokens (..., T) and a memory (..., S, n); outputs are logits (..., T, vocabulary).
    Named inputs: `segment_ids` (..., T) of the tokens, and `memory_segment_ids` (..., S), 0 for
    padding.

    Args:
        embedding: Embedding of tokens.
        bias: `nn.RelativePositionBias` with `causal=True`.
        dropout: Layer applied to the embeddings and to the features.
        blocks: Layer that contains all transformer blocks.
        norm: Final norm.
        head: Output layer. None to use the embedding's table.
        scale: Factor of the features before the output layer. Default: None, 1.

    >>> type(T5(layers=1, width=8, num_heads=2).network(11).decoder).__name__
    'RelativeDecoder'
    """

    embedding: Layer
    bias: Layer
    dropout: Layer
    blocks: Layer
    norm: Layer
    head: Layer | None
    scale: Annotated[float | None, None | above(0)] = None

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Return the embeddings of tokens, (..., T, n)."""
        return self.embedding(tokens)

    def forward(self, tokens: jax.Array, memory: jax.Array) -> jax.Array:
        """Return the logits."""
        x = self.embed(tokens)
        x = self.blocks(self.dropout(x), memory=memory, bias=self.bias.by_position(x))
        x = self.dropout(self.norm(x))
        if self.scale is not None:
            x = x * jnp.asarray(self.scale, x.dtype)
        return self.embedding.attend(x) if self.head is None else self.head(x)


class EncoderDecoder(Composite):
    """Encoder-decoder transformer, from the tokens of a source and a target to logits.

    Inputs are tokens (..., S) of the source and (..., T) of the target; outputs are logits
    (..., T, vocabulary) of the next tokens of the target. The method `encode` returns the memory
    of a source, (..., S, n), and the decoder can be used as a network:

        memory = net.apply(params, source, method="encode", segment_ids=mask)
        given = {"memory": memory, "memory_segment_ids": mask}
        out = nn.generate(net.decoder, params["decoder"], [[0]], steps=20, temperature=0, **given)

    Named inputs: `segment_ids` (..., S), such as the attention mask of a tokenizer, and
    `target_segment_ids` (..., T), both 0 for padding.

    Args:
        encoder: Encoder of embeddings.
        decoder: Decoder of tokens, which owns the embedding of both.

    >>> net = T5(layers=1, width=8, num_heads=2).network(11)
    >>> source, target = jnp.ones((2, 5), int), jnp.zeros((2, 3), int)
    >>> params = net.init(jax.random.key(0), source, target)
    >>> net.apply(params, source, target).shape
    (2, 3, 11)
    """

    encoder: Layer
    decoder: Layer

    def forward(
        self,
        source: jax.Array,
        target: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        target_segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Return the logits."""
        memory = self.encode(source, segment_ids=segment_ids)
        return self.decoder(
            target, memory, segment_ids=target_segment_ids, memory_segment_ids=segment_ids
        )

    def encode(self, source: jax.Array, *, segment_ids: jax.Array | None = None) -> jax.Array:
        """Return the memory.

        Args:
            source: Tokens (..., S).
            segment_ids: Integers (..., S), 0 for padding. Default: None, for no padding.
        """
        return self.encoder(self.decoder.embed(source), segment_ids=segment_ids)


_GATES = {"geglu": "gated-gelu", "swiglu": "gated-silu"}


def _t5_names(gated: bool) -> Names:
    """Return the names of transformers' T5ForConditionalGeneration, for `T5`."""
    up = {"gate": ".wi_0", "up": ".wi_1"} if gated else {"up": ".wi"}
    names: dict[str, Any] = {"decoder/embedding": "shared"}
    for side, parts in (("encoder", 2), ("decoder", 3)):
        blocks, last = f"{side}/blocks", f".layer.{parts - 1}"
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        names |= {
            f"{side}/bias": bias,
            f"{side}/norm": f"{side}.final_layer_norm",
            blocks: f"{side}.block.*",
            f"{blocks}/attention": ".layer.0.SelfAttention",
            f"{blocks}/attention_norm": ".layer.0.layer_norm",
            f"{blocks}/feed_forward": f"{last}.DenseReluDense",
            f"{blocks}/feed_forward_norm": f"{last}.layer_norm",
        }
        names |= {f"{blocks}/feed_forward/{ours}": name for ours, name in up.items()}
        names[f"{blocks}/feed_forward/down"] = ".wo"
    projections = {"query": ".q", "key": ".k", "value": ".v", "out": ".o"}
    return names | {
        "decoder/blocks/cross_attention": ".layer.1.EncDecAttention",
        "decoder/blocks/cross_attention_norm": ".layer.1.layer_norm",
        **{f"**/{ours}": name for ours, name in projections.items()},
        "decoder/head": IfThere("lm_head"),
    }


def _t5(feed_forward: str) -> Family:
    gated = feed_forward != "relu"
    return Family(
        "t5",
        "T5ForConditionalGeneration",
        "",
        _t5_names(gated),
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
        {
            "feed_forward_proj": (_GATES.get(feed_forward, feed_forward),),
            "is_encoder_decoder": (True,),
        },
        {"feed_forward": feed_forward},
        ("*.embed_tokens.weight", "decoder.block.*.layer.1.**.relative_attention_bias.weight"),
    )


T5_FAMILIES = (_t5("relu"), _t5("geglu"), _t5("swiglu"))
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
        norm, dropout = RMSNorm(eps=self.eps), Dropout(self.dropout)
        shared = {"dropout": dropout, "attention_norm": norm, "feed_forward_norm": norm}
        encoder = EncoderLayer(self._attention(False), self._feed_forward(), **shared)
        decoder = DecoderLayer(
            self._attention(True),
            self._attention(False),
            self._feed_forward(),
            cross_attention_norm=norm,
            **shared,
        )
        scaled = self.tied if self.scaled_head is None else self.scaled_head
        return EncoderDecoder(
            RelativeEncoder(self._bias(False), dropout, self._blocks(encoder, self.layers), norm),
            RelativeDecoder(
                embedding=Embedding(outputs, self.width, w_init=normal(1.0)),
                bias=self._bias(True),
                dropout=dropout,
                blocks=self._blocks(decoder, self.decoder_layers or self.layers),
                norm=norm,
                head=None if self.tied else Dense(outputs, bias=False, w_init=normal(1.0)),
                scale=self.width**-0.5 if scaled else None,
            ),
        )

    def _blocks(self, block: Layer, n: int) -> Layer:
        return Repeat(Remat(block, "products"), n)

    def _bias(self, causal: bool) -> Layer:
        return RelativePositionBias(
            self.num_heads,
            self.num_buckets,
            self.max_distance,
            causal,
            w_init=normal(self.width**-0.5),
        )

    def _attention(self, causal: bool) -> Layer:
        quarter, inner = self.head_dim**-0.25, self.num_heads * self.head_dim
        return MultiHeadAttention(
            self.num_heads,
            self.head_dim,
            causal=causal,
            scale=1.0,
            dropout=self.dropout,
            bias=False,
            w_init=normal(self.width**-0.5 * quarter),
            out_init=normal(inner**-0.5 / quarter),
        )

    def _feed_forward(self) -> Layer:
        w_init, last_init = normal(self.width**-0.5), normal(self.hidden**-0.5)
        if self.feed_forward != "relu":
            gate = jax.nn.silu if self.feed_forward == "swiglu" else jax.nn.gelu
            return GatedFeedForward(self.hidden, gate, w_init=w_init, down_init=last_init)
        return Sequential(
            up=Dense(self.hidden, bias=False, w_init=w_init),
            activation=jax.nn.relu,
            down=Dense(self.width, bias=False, w_init=last_init),
        )

    def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shapes and types of a source and a target."""
        return (jax.ShapeDtypeStruct((1, 1), "int32"),) * 2

    def outputs_of(self, params: Any) -> tuple[int, ...]:
        """Return the size of the vocabulary."""
        return (len(params["decoder"]["embedding"]["w"]),)

    def explicit(self) -> dict[str, Any]:
        """Return all fields, with values in place of None."""
        return super().explicit() | {
            "decoder_layers": self.decoder_layers or self.layers,
            "scaled_head": self.tied if self.scaled_head is None else self.scaled_head,
        }

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

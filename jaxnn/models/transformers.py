"""GPT: decoder-only transformer, in the form of GPT-2 or LLaMA."""

import dataclasses
import math
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ..core.composite import Composite
from ..core.layer import Layer
from ..initializers import normal
from ..interop.torch_names import GEMMA, GPT2, LLAMA
from ..layers import check_divides, dropout_rate
from ..layers.attention import MultiHeadAttention
from ..layers.elementwise import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Dense
from ..layers.normalization import LayerNorm, RMSNorm
from ..layers.positions import LearnedPositions
from ..layers.rotary import (
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RotaryEmbedding,
    YaRNScaling,
    scaling_rule,
)
from ..validation import above, flag
from .families import Family
from .model import Model, feed_forward, size, transformer_blocks
from .pretrained import Published

_LLAMA_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("outputs", 32000),
    "hidden_size": ("width", 4096),
    "intermediate_size": ("hidden", 11008),
    "num_hidden_layers": ("layers", 32),
    "num_attention_heads": ("num_heads", 32),
    "num_key_value_heads": ("num_kv_heads", None),
    "max_position_embeddings": ("length", 2048),
    "rms_norm_eps": ("eps", 1e-6),
    "tie_word_embeddings": ("tied", False),
}
_HEADS: dict[str, tuple[str, Any]] = {"head_dim": ("head_dim", None)}
_LLAMA_FIXED: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu",), "attention_dropout": (0.0,)}
_NO_BIAS: dict[str, tuple[Any, ...]] = {"attention_bias": (False,)}
_LLAMA_IMPLIED = {
    "positions": "rotary",
    "norm": "rms",
    "feed_forward": "swiglu",
    "bias": False,
}
_QWEN_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("outputs", 151936),
    "intermediate_size": ("hidden", 22016),
    "num_key_value_heads": ("num_kv_heads", 32),
    "max_position_embeddings": ("length", 32768),
}

GPT_FAMILIES = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        "transformer.",
        GPT2,
        {
            "vocab_size": ("outputs", 50257),
            "n_positions": ("length", 1024),
            "n_embd": ("width", 768),
            "n_layer": ("layers", 12),
            "n_head": ("num_heads", 12),
            "n_inner": ("hidden", None),
            "layer_norm_epsilon": ("eps", 1e-5),
            "tie_word_embeddings": ("tied", True),
            "resid_pdrop": ("dropout", 0.1),
            "embd_pdrop": ("dropout", 0.1),
            "attn_pdrop": ("dropout", 0.1),
        },
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        {"positions": "learned", "norm": "layer", "feed_forward": "gelu", "bias": True},
    ),
    Family(
        "llama",
        "LlamaForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS | _HEADS,
        _LLAMA_FIXED | _NO_BIAS | {"mlp_bias": (False,)},
        _LLAMA_IMPLIED,
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS
        | _HEADS
        | {
            "intermediate_size": ("hidden", 14336),
            "num_key_value_heads": ("num_kv_heads", 8),
            "max_position_embeddings": ("length", 131072),
            "sliding_window": ("window", 4096),
        },
        _LLAMA_FIXED,
        _LLAMA_IMPLIED,
    ),
    Family(
        "qwen2",
        "Qwen2ForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS | _QWEN_KEYS,
        _LLAMA_FIXED | {"use_sliding_window": (False,)},
        _LLAMA_IMPLIED | {"qkv_bias": True},
    ),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS | _QWEN_KEYS | {"head_dim": ("head_dim", 128)},
        _LLAMA_FIXED | _NO_BIAS | {"use_sliding_window": (False,)},
        _LLAMA_IMPLIED | {"query_key_norm": True},
    ),
    Family(
        "gemma",
        "GemmaForCausalLM",
        "model.",
        GEMMA,
        _LLAMA_KEYS
        | {
            "vocab_size": ("outputs", 256000),
            "hidden_size": ("width", 3072),
            "intermediate_size": ("hidden", 24576),
            "num_hidden_layers": ("layers", 28),
            "num_attention_heads": ("num_heads", 16),
            "num_key_value_heads": ("num_kv_heads", 16),
            "head_dim": ("head_dim", 256),
            "max_position_embeddings": ("length", 8192),
            "tie_word_embeddings": ("tied", True),
        },
        _NO_BIAS
        | {
            "hidden_act": ("gelu_pytorch_tanh", "gelu"),
            "hidden_activation": (None, "gelu_pytorch_tanh"),
            "attention_dropout": (0.0,),
            "use_bidirectional_attention": (None, False),
        },
        _LLAMA_IMPLIED | {"feed_forward": "geglu", "scaled_embedding": True},
    ),
)
"""The model types of `GPT`."""


class Decoder(Composite):
    """Decoder-only transformer that predicts the next token.

    The input is tokens (..., T), and the output is logits (..., T, vocabulary). The named input
    `segment_ids` (..., T) is passed to the layers that take it, and `nn.with_cache` lets the
    network receive a sequence in chunks.

    Args:
        embedding: Embedding of tokens.
        positions: Layer that adds position encodings. None if the blocks encode positions
            themselves.
        dropout: Layer applied to the embeddings.
        blocks: Layer that contains all transformer blocks.
        norm: Final norm.
        head: Output layer. None to use the embedding's table.
        embedding_scale: Number by which embeddings are multiplied. Default: None, for 1.

    >>> net = GPT(layers=2, width=16, num_heads=2).network(outputs=84)
    >>> type(net).__name__, net.embedding
    ('Decoder', Embedding(84, 16, w_init=normal(stddev=0.02)))
    """

    embedding: Layer
    positions: Layer | None
    dropout: Layer
    blocks: Layer
    norm: Layer
    head: Layer | None
    embedding_scale: Annotated[float | None, None | above(0)] = None

    def forward(self, tokens: jax.Array) -> jax.Array:
        """Return the logits."""
        return self.logits(self.norm(self.blocks(self.dropout(self.embed(tokens)))))

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Return the embeddings of tokens (..., T), with their positions, (..., T, n)."""
        x = self.embedding(tokens)
        if self.embedding_scale is not None:
            x = x * jnp.asarray(self.embedding_scale, x.dtype)
        return x if self.positions is None else self.positions(x)

    def logits(self, x: jax.Array) -> jax.Array:
        """Return the logits of features (..., T, n)."""
        return self.embedding.attend(x) if self.head is None else self.head(x)


@dataclasses.dataclass(frozen=True)
class GPT(Published, Model):
    """Causal transformer with pre-normalization, which predicts the next token.

    `gpt2()` to `gpt2_xl()` and `llama2_7b()` to `llama2_70b()` are published sizes, and
    `from_pretrained` loads weights of GPT-2, LLaMA, Mistral, Qwen 2 and 3, and Gemma. Weights are
    drawn from a normal distribution with a standard deviation of 0.02, and biases start at 0. The
    output weights of the n = 2 * layers residual branches have a standard deviation of 0.02 /
    sqrt(n), so that the scale of their sum does not depend on the depth.

    References: Radford et al., Language models are unsupervised multitask learners, 2019, section
    2.3; Touvron et al., Llama 2: open foundation and fine-tuned chat models, 2023.
    """

    layers: Annotated[int, size] = 6
    """Number of blocks of attention and feed-forward network."""
    width: Annotated[int, size] = 384
    """Features of each position."""
    num_heads: Annotated[int, size] = 6
    """Number of attention heads, a divisor of the width unless head_dim is given."""
    num_kv_heads: Annotated[int | None, None | size] = None
    """Number of heads of keys and values, a divisor of num_heads; None for num_heads."""
    head_dim: Annotated[int | None, None | size] = None
    """Features of each head; None for width / num_heads."""
    window: Annotated[int | None, None | size] = None
    """Attention window: positions this far back or farther are hidden; None for no limit."""
    query_key_norm: bool = False
    """Whether the queries and keys of each head are normalized by RMSNorm."""
    hidden: Annotated[int | None, None | size] = None
    """Units of the feed-forward network; None for 4 * width."""
    length: Annotated[int, size] = 256
    """Longest sequence, if positions are learned."""
    positions: Literal["learned", "rotary"] = "learned"
    """Position encoding: a learned vector for each position, or rotary embeddings."""
    rotary_base: float = 10000.0
    """Base of the frequencies of rotary embeddings."""
    rotary_scaling: Annotated[
        LinearScaling | NTKScaling | YaRNScaling | Llama3Scaling | None, None | scaling_rule
    ] = None
    """Scaling rule of rotary embeddings for longer sequences, such as `nn.Llama3Scaling()`."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalization: LayerNorm or RMSNorm."""
    eps: float = 1e-5
    """Added to the variance, or to the mean square, in the norms."""
    feed_forward: Literal["gelu", "swiglu", "geglu"] = "gelu"
    """Feed-forward network: two layers with GELU, or three with a gate of SiLU or GELU."""
    bias: bool = True
    """Whether the attention and the feed-forward network have biases."""
    qkv_bias: Annotated[bool | None, None | flag] = None
    """Whether queries, keys, and values have biases; None for the value of `bias`."""
    scaled_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the width."""
    tied: bool = True
    """Whether the output layer shares the table of the embedding."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate of embeddings, attention weights, and residual branches, in [0, 1)."""
    implementation: str | None = None
    """Implementation of `nn.MultiHeadAttention`; "cudnn" for NVIDIA GPUs in bfloat16."""

    families: ClassVar[tuple[Family, ...]] = GPT_FAMILIES
    same: ClassVar[dict[str, str]] = {"num_kv_heads": "num_heads", "qkv_bias": "bias"}

    def __post_init__(self) -> None:
        """Check the fields, and that the heads divide the width."""
        super().__post_init__()
        if self.head_dim is None:
            check_divides(self, "num_heads", "width")
        self.network(1)
        if self.positions == "rotary":
            features = self.head_dim or self.width // self.num_heads
            RotaryEmbedding(self.rotary_base).turned_features(features)

    def network(self, outputs: int) -> Layer:
        """Build the network, from tokens (..., T) to logits (..., T, outputs).

        The blocks are a `Repeat`, traced once, and the backward pass recomputes cheap operations. A
        dropout rate of 0 keeps the dropout layers, so that parameters have the same paths at all
        rates, and the rate may be traced.

        Args:
            outputs: Number of tokens of the vocabulary.

        >>> import jax, jax.numpy as jnp
        >>> net = GPT(layers=2, width=16, num_heads=2).network(outputs=84)
        >>> tokens = jnp.zeros((1, 5), int)
        >>> params = net.init(jax.random.key(0), tokens)
        >>> params["blocks"]["attention"]["query"]["w"].shape
        (2, 16, 16)
        >>> jax.jit(net.apply)(params, tokens).shape
        (1, 5, 84)
        """
        learned, w_init = self.positions == "learned", normal(0.02)
        last_init = normal(0.02 / math.sqrt(2 * self.layers))
        norm = LayerNorm(eps=self.eps) if self.norm == "layer" else RMSNorm(eps=self.eps)
        blocks = transformer_blocks(
            self.layers,
            MultiHeadAttention(
                self.num_heads,
                self.head_dim,
                num_kv_heads=self.num_kv_heads,
                causal=True,
                window=self.window,
                rotary=None
                if learned
                else RotaryEmbedding(self.rotary_base, scaling=self.rotary_scaling),
                query_key_norm=self.query_key_norm,
                norm_eps=self.eps,
                dropout=self.dropout,
                bias=self.bias if self.qkv_bias is None else self.qkv_bias,
                out_bias=self.bias,
                implementation=self.implementation,
                w_init=w_init,
                out_init=last_init,
            ),
            feed_forward(
                self.feed_forward,
                self.hidden,
                self.width,
                w_init,
                last_init,
                self.bias,
            ),
            norm,
            dropout=Dropout(self.dropout),
        )
        return Decoder(
            embedding=Embedding(outputs, self.width, w_init=w_init),
            positions=LearnedPositions(self.length, w_init=w_init) if learned else None,
            dropout=Dropout(self.dropout),
            blocks=blocks,
            norm=norm,
            head=None if self.tied else Dense(outputs, bias=False, w_init=w_init),
            embedding_scale=math.sqrt(self.width) if self.scaled_embedding else None,
        )

    def outputs_of(self, params: Any) -> tuple[int, ...]:
        """Return the size of the vocabulary."""
        return (len(params["embedding"]["w"]),)

    def explicit(self) -> dict[str, Any]:
        """Return all fields, with sizes in place of None."""
        return super().explicit() | {"head_dim": self.head_dim or self.width // self.num_heads}

    @classmethod
    def gpt2(cls) -> "GPT":
        """GPT-2: 124M parameters with its vocabulary of 50,257 tokens."""
        return cls(layers=12, width=768, num_heads=12, length=1024, dropout=0.1)

    @classmethod
    def gpt2_medium(cls) -> "GPT":
        """GPT-2 medium: 355M parameters."""
        return dataclasses.replace(cls.gpt2(), layers=24, width=1024, num_heads=16)

    @classmethod
    def gpt2_large(cls) -> "GPT":
        """GPT-2 large: 774M parameters."""
        return dataclasses.replace(cls.gpt2(), layers=36, width=1280, num_heads=20)

    @classmethod
    def gpt2_xl(cls) -> "GPT":
        """GPT-2 XL: 1558M parameters."""
        return dataclasses.replace(cls.gpt2(), layers=48, width=1600, num_heads=25)

    @classmethod
    def llama2_7b(cls) -> "GPT":
        """LLaMA-2 7B, which has a vocabulary of 32,000 tokens."""
        return cls(
            layers=32,
            width=4096,
            num_heads=32,
            hidden=11008,
            length=4096,
            positions="rotary",
            norm="rms",
            feed_forward="swiglu",
            bias=False,
            tied=False,
        )

    @classmethod
    def llama2_13b(cls) -> "GPT":
        """LLaMA-2 13B."""
        return dataclasses.replace(
            cls.llama2_7b(), layers=40, width=5120, num_heads=40, hidden=13824
        )

    @classmethod
    def llama2_70b(cls) -> "GPT":
        """LLaMA-2 70B, with grouped-query attention."""
        return dataclasses.replace(
            cls.llama2_7b(), layers=80, width=8192, num_heads=64, num_kv_heads=8, hidden=28672
        )

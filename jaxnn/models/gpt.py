"""GPT: a transformer that predicts the next token, in the form of GPT-2 or of LLaMA."""

import dataclasses
import math
from typing import Literal

import jax

from ..combine.remat import Remat
from ..combine.repeat import Repeat
from ..combine.sequential import Sequential
from ..core.composite import Composite
from ..core.layer import Layer
from ..initializers import InitFn, normal
from ..layers.attention import MultiHeadAttention
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.gated import GatedFeedForward
from ..layers.normalization import LayerNorm, RMSNorm
from ..layers.positions import LearnedPositions
from ..layers.rotary import RotaryEmbedding
from ..layers.transformer import EncoderLayer
from .checks import check_choice, check_heads, check_sizes


class Decoder(Composite):
    """Logits (..., T, vocabulary) of the token that follows each of tokens (..., T).

    Without a head, the table of the embedding serves again. `segment_ids` (..., T) go to the layers
    that take them, and `nn.with_cache` makes it take a sequence chunk by chunk.
    """

    embedding: Layer
    positions: Layer | None
    dropout: Layer
    blocks: Layer
    norm: Layer
    head: Layer | None

    def forward(self, tokens: jax.Array) -> jax.Array:
        """The logits."""
        x = self.embedding(tokens)
        if self.positions is not None:
            x = self.positions(x)
        x = self.norm(self.blocks(self.dropout(x)))
        return self.embedding.attend(x) if self.head is None else self.head(x)


@dataclasses.dataclass(frozen=True)
class GPT:
    """A causal transformer with norms first, from tokens to logits of the next one.

    `gpt2()` and its sisters, and `llama2_7b()` and its, are the published sizes. Weights start
    normal with a standard deviation of 0.02, biases at 0; the last weights of each residual branch,
    of which there are 2 * layers, with 0.02 / sqrt(2 * layers), so that depth leaves the size of
    their sum as it is.

    References: Radford et al., Language models are unsupervised multitask learners, 2019, section
    2.3; Touvron et al., Llama 2: open foundation and fine-tuned chat models, 2023.
    """

    layers: int = 6
    """Blocks of attention and feed-forward network."""
    width: int = 384
    """Features of each position."""
    num_heads: int = 6
    """Heads of attention, a divisor of the width."""
    num_kv_heads: int | None = None
    """Heads of keys and values, a divisor of the heads; as many as those where None."""
    hidden: int | None = None
    """Units of the feed-forward network; 4 * width where None."""
    length: int = 256
    """Longest sequence, as far as positions are learned."""
    positions: Literal["learned", "rotary"] = "learned"
    """A learned vector for each position, or turns of queries and keys."""
    rotary_base: float = 10000.0
    """Base of the frequencies of rotary positions."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalization: by mean and variance, or by the root mean square."""
    eps: float = 1e-5
    """Added to the variance, or to the mean square, in the norms."""
    feed_forward: Literal["gelu", "swiglu"] = "gelu"
    """Feed-forward network: two layers with GELU, or three with a SiLU gate."""
    bias: bool = True
    """Whether attention and feed-forward network have biases."""
    tied: bool = True
    """Whether the embedding's table is the output layer too."""
    dropout: float = 0.0
    """Share left out in training, of embeddings, attention weights and branches, in [0, 1)."""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network, or another word or rate."""
        check_sizes(self, 1, "layers", "width", "num_heads", "length")
        optional = ("num_kv_heads", "hidden")
        check_sizes(self, 1, *(name for name in optional if getattr(self, name) is not None))
        check_choice(self, "positions", ("learned", "rotary"))
        check_choice(self, "norm", ("layer", "rms"))
        check_choice(self, "feed_forward", ("gelu", "swiglu"))
        check_heads(self)
        self.network(1)
        if self.positions == "rotary":
            RotaryEmbedding(self.rotary_base).turned_features(self.width // self.num_heads)

    def network(self, outputs: int) -> Layer:
        """The network from tokens (..., T) to logits (..., T, outputs): a vocabulary of `outputs`.

        The blocks are `Repeat`, traced once, and a backward pass computes what is cheap in them
        again. A rate of 0 keeps the dropout layers, so that the parameters have the same paths
        whatever the rate, which may be traced.

        >>> import jax, jax.numpy as jnp
        >>> net = GPT(layers=2, width=16, num_heads=2).network(outputs=84)
        >>> tokens = jnp.zeros((1, 5), int)
        >>> params = net.init(jax.random.key(0), tokens)
        >>> params["blocks"]["attention"]["query"]["w"].shape
        (2, 16, 16)
        >>> net.apply(params, tokens).shape
        (1, 5, 84)
        """
        learned, w_init = self.positions == "learned", normal(0.02)
        last_init = normal(0.02 / math.sqrt(2 * self.layers))
        norm = LayerNorm(eps=self.eps) if self.norm == "layer" else RMSNorm(eps=self.eps)
        block = EncoderLayer(
            MultiHeadAttention(
                self.num_heads,
                num_kv_heads=self.num_kv_heads,
                causal=True,
                rotary=None if learned else RotaryEmbedding(self.rotary_base),
                dropout=self.dropout,
                bias=self.bias,
                w_init=w_init,
                out_init=last_init,
            ),
            self._feed_forward(w_init, last_init),
            dropout=Dropout(self.dropout),
            attention_norm=norm,
            feed_forward_norm=norm,
        )
        return Decoder(
            embedding=Embedding(outputs, self.width, w_init=w_init),
            positions=LearnedPositions(self.length, w_init=w_init) if learned else None,
            dropout=Dropout(self.dropout),
            blocks=Repeat(Remat(block, "products"), self.layers),
            norm=norm,
            head=None if self.tied else Dense(outputs, bias=False, w_init=w_init),
        )

    def _feed_forward(self, w_init: InitFn, last_init: InitFn) -> Layer:
        hidden = self.hidden or 4 * self.width
        if self.feed_forward == "swiglu":
            return GatedFeedForward(hidden, bias=self.bias, w_init=w_init, down_init=last_init)
        return Sequential(
            up=Dense(hidden, bias=self.bias, w_init=w_init),
            activation=jax.nn.gelu,
            down=Dense(self.width, bias=self.bias, w_init=last_init),
        )

    @classmethod
    def gpt2(cls) -> "GPT":
        """GPT-2, 124M with its vocabulary of 50,257."""
        return cls(layers=12, width=768, num_heads=12, length=1024, dropout=0.1)

    @classmethod
    def gpt2_medium(cls) -> "GPT":
        """GPT-2 medium, 355M."""
        return dataclasses.replace(cls.gpt2(), layers=24, width=1024, num_heads=16)

    @classmethod
    def gpt2_large(cls) -> "GPT":
        """GPT-2 large, 774M."""
        return dataclasses.replace(cls.gpt2(), layers=36, width=1280, num_heads=20)

    @classmethod
    def gpt2_xl(cls) -> "GPT":
        """GPT-2 XL, 1558M."""
        return dataclasses.replace(cls.gpt2(), layers=48, width=1600, num_heads=25)

    @classmethod
    def llama2_7b(cls) -> "GPT":
        """LLaMA-2 7B, with its vocabulary of 32,000."""
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
        """LLaMA-2 70B, with grouped queries."""
        return dataclasses.replace(
            cls.llama2_7b(), layers=80, width=8192, num_heads=64, num_kv_heads=8, hidden=28672
        )

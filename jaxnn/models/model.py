"""What models share, and the smallest ones: MLP and CharLSTM.

Shared are the base of the configurations, the blocks of transformers, and the composites of two
networks: EncoderDecoder and DualEncoder.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..arrays import widened
from ..combine import Sequential
from ..combine.recurrent import Recurrent
from ..combine.transforms import Remat, Repeat
from ..core.composite import Composite
from ..core.layer import Layer
from ..initializers import InitFn
from ..layers import dropout_rate
from ..layers.blocks import DecoderLayer, EncoderLayer, GatedFeedForward
from ..layers.elementwise import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Dense
from ..layers.lstm import LSTMCell
from ..validation import Accepts, check_fields, natural, positive, tuple_of

# Layers decide whether a traced number sets a shape.
size: Accepts = positive.such(traced=True)
depths: Accepts = natural.such(traced=True)
two_sizes: Accepts = tuple_of(size, "a tuple of 2 ints >= 1", (2,))
some_sizes: Accepts = tuple_of(size, "a tuple of ints >= 1")


class Model:
    """Base of the configurations, which are frozen dataclasses with a method `network`."""

    def __post_init__(self) -> None:
        """Raise unless every field holds what its annotation accepts."""
        check_fields(self)


GATES: dict[str, Callable[[jax.Array], jax.Array]] = {"swiglu": jax.nn.silu, "geglu": jax.nn.gelu}
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
}
exact_gelu: Callable[[jax.Array], jax.Array] = functools.partial(jax.nn.gelu, approximate=False)


def feed_forward(
    activation: str | Callable[[jax.Array], jax.Array],
    hidden: int | None,
    width: int,
    w_init: InitFn,
    last_init: InitFn | None = None,
    bias: bool = True,
) -> Layer:
    """Return the feed-forward network of a transformer block, from `width` to `width` features.

    Args:
        activation: Activation of the hidden units; or its name in `ACTIVATIONS`, or that of a gate
            in `GATES`.
        hidden: Number of hidden units. None for 4 * width.
        width: Number of features.
        w_init: Initializer of the weights.
        last_init: Initializer of the last weights. Default: `w_init`.
        bias: Whether to add biases. Default: True.
    """
    hidden = hidden or 4 * width
    if isinstance(activation, str) and activation in GATES:
        return GatedFeedForward(hidden, GATES[activation], bias, w_init, down_init=last_init)
    return Sequential(
        up=Dense(hidden, bias=bias, w_init=w_init),
        activation=ACTIVATIONS[activation] if isinstance(activation, str) else activation,
        down=Dense(width, bias=bias, w_init=last_init or w_init),
    )


def transformer_blocks(
    n: int,
    attention: Layer,
    feed_forward: Layer,
    norm: Layer,
    cross_attention: Layer | None = None,
    **options: Any,
) -> Layer:
    """Return n blocks as one layer, which is traced once.

    The backward pass computes cheap operations again.

    Args:
        n: Number of blocks.
        attention: Attention layer of each block.
        feed_forward: Its feed-forward network.
        norm: Norm of each branch.
        cross_attention: Attention layer to the memory of a decoder. Default: None, for an encoder.
        **options: Further arguments of `nn.EncoderLayer` or `nn.DecoderLayer`.
    """
    options |= {"attention_norm": norm, "feed_forward_norm": norm}
    if cross_attention is None:
        block = EncoderLayer(attention, feed_forward, **options)
    else:
        options["cross_attention_norm"] = norm
        block = DecoderLayer(attention, cross_attention, feed_forward, **options)
    return Repeat(Remat(block, "products"), n)


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

    >>> from jaxnn.models import T5
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


class DualEncoder(Composite):
    """Two networks that map images and texts to features in one space, and a learned scale.

    Inputs are images (..., H, W, C) and tokens (..., T). The output is a tuple of image features
    (..., n), text features (..., n), both of length 1, and the scale, a scalar. Logits are
    `scale * images @ texts.T`, and `train.InfoNCE()` is the contrastive loss of the tuple. The
    methods `encode_image` and `encode_text` return the features of one input.

    Args:
        image: Network of images.
        text: Network of tokens.
        log_scale: Learned array of the logarithm of the scale.

    >>> from jaxnn.models import CLIP
    >>> model = CLIP(8, image=4, patch=2, image_layers=1, image_width=8, image_heads=2,
    ...              vocabulary=11, text_layers=1, text_width=8, text_heads=2, end=10)
    >>> net, images, tokens = model.network(), jnp.ones((2, 4, 4, 3)), jnp.full((2, 5), 10)
    >>> params = net.init(jax.random.key(0), images, tokens)
    >>> jax.tree.map(jnp.shape, net.apply(params, images, tokens))
    ((2, 8), (2, 8), ())
    """

    image: Layer
    text: Layer
    log_scale: Layer

    def forward(
        self, images: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return features of images and texts, and the scale of their products."""
        return self.encode_image(images), self.encode_text(tokens), jnp.exp(self.log_scale())

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Return features of length 1.

        Args:
            images: Images (..., H, W, C).
        """
        return _unit(self.image(images))

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Return features of length 1.

        Args:
            tokens: Tokens (..., T); those after the end token have no effect.
        """
        return _unit(self.text(tokens))


def _unit(x: jax.Array) -> jax.Array:
    """Return features of length 1, computed in at least float32."""
    wide = widened(x)
    return (wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class MLP(Model):
    """Multilayer perceptron with ReLU and dropout."""

    width: Annotated[int, size] = 128
    """Units of each hidden layer."""
    depth: Annotated[int, depths] = 1
    """Number of hidden layers."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate of the hidden layers, in [0, 1)."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from (..., features) to (..., outputs).

        A dropout rate of 0 keeps the dropout layers, so that parameters have the same paths at all
        rates, and the rate may be traced.

        Args:
            outputs: Number of output features.

        >>> MLP(width=64, dropout=0.5).network(outputs=10)
        Sequential(Dense(64), jax.nn.relu, Dropout(0.5), Dense(10))
        """
        hidden = (Dense(self.width), jax.nn.relu, Dropout(self.dropout)) * self.depth
        return Sequential(*hidden, Dense(outputs))


@dataclasses.dataclass(frozen=True)
class CharLSTM(Model):
    """LSTM language model over characters.

    Reference: Graves, Generating sequences with recurrent neural networks, 2013.
    """

    width: Annotated[int, size] = 256
    """Features of a character, and units of each layer."""
    layers: Annotated[int, size] = 2
    """Number of recurrent layers."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate after each recurrent layer, in [0, 1)."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from characters (..., T) to logits (..., T, outputs).

        Args:
            outputs: Number of characters of the vocabulary.

        >>> net = CharLSTM(width=64, layers=1).network(outputs=84)
        >>> net.layers["embedding"], net.layers["layers"], net.layers["head"]
        (Embedding(84, 64), Sequential(Recurrent(LSTMCell(64)), Dropout(0.0)), Dense(84))
        """
        layers = (Recurrent(LSTMCell(self.width)), Dropout(self.dropout)) * self.layers
        return Sequential(
            embedding=Embedding(outputs, self.width),
            layers=Sequential(*layers),
            head=Dense(outputs),
        )

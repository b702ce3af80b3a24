"""CLIP: two networks that embed images and texts into one space."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import jax

from ..core.composite import Composite
from ..core.layer import Layer
from ..functional import quick_gelu
from ..initializers import constant, normal
from ..interop.source_arrays import Names
from ..interop.torch_names import own_name
from ..layers import check_divides
from ..layers.attention import MultiHeadAttention
from ..layers.elementwise import LearnedArray
from ..layers.embedding import Embedding, PatchEmbedding
from ..layers.linear import Dense
from ..layers.normalization import LayerNorm
from ..layers.positions import LearnedPositions
from ..validation import natural
from .encoders import PatchTransformer, at_end
from .families import Family
from .model import DualEncoder, Model, exact_gelu, feed_forward, size, transformer_blocks
from .pretrained import Published

_ANY_END = 2  # the value of old checkpoints, in which the end token is the largest one


class LastTokenEncoder(Composite):
    """Causal transformer that returns the features of the end token: tokens (..., T) to (..., n).

    Args:
        embedding: Embedding of tokens.
        positions: Layer that adds position encodings.
        blocks: Layer that contains all transformer blocks.
        norm: Final norm.
        head: Output layer.
        end: The token at whose first position the features are taken; None for the largest token
            of each text.

    Raises:
        ValueError: If a text of concrete tokens does not have the end token. The features of a text
            of traced tokens without it are NaN.

    >>> net = CLIP(image=4, patch=2, image_layers=1, text_layers=1, text_width=8, text_heads=2)
    >>> type(net.network().text).__name__
    'LastTokenEncoder'
    """

    embedding: Layer
    positions: Layer
    blocks: Layer
    norm: Layer
    head: Layer
    end: int | None

    def forward(self, tokens: jax.Array) -> jax.Array:
        """Return the features."""
        x = self.blocks(self.positions(self.embedding(tokens)))
        return self.head(self.norm(at_end(x, tokens, self.end)))


CLIP_NAMES: Names = {
    "image/patches": "vision_model.embeddings.patch_embedding",
    "image/token": ("vision_model.embeddings.class_embedding", own_name),
    "image/positions": "vision_model.embeddings.position_embedding",
    "image/embedding_norm": "vision_model.pre_layrnorm",
    "image/blocks": "vision_model.encoder.layers.*",
    "image/norm": "vision_model.post_layernorm",
    "image/head": "visual_projection",
    "text/embedding": "text_model.embeddings.token_embedding",
    "text/positions": "text_model.embeddings.position_embedding",
    "text/blocks": "text_model.encoder.layers.*",
    "text/norm": "text_model.final_layer_norm",
    "text/head": "text_projection",
    "**/attention_norm": ".layer_norm1",
    "**/attention": ".self_attn",
    **{f"**/{name}": f".{name[0]}_proj" for name in ("query", "key", "value")},
    "**/out": ".out_proj",
    "**/feed_forward_norm": ".layer_norm2",
    "**/feed_forward": ".mlp",
    "**/feed_forward/up": ".fc1",
    "**/feed_forward/down": ".fc2",
    "log_scale": ("logit_scale", own_name),
}
"""transformers' CLIPModel, for `CLIP`."""

CLIP_FAMILIES = (
    Family(
        "clip",
        "CLIPModel",
        "",
        CLIP_NAMES,
        {
            "projection_dim": ("features", 512),
            "vision_config.image_size": ("image", 224),
            "vision_config.patch_size": ("patch", 32),
            "vision_config.num_hidden_layers": ("image_layers", 12),
            "vision_config.hidden_size": ("image_width", 768),
            "vision_config.num_attention_heads": ("image_heads", 12),
            "vision_config.intermediate_size": ("image_hidden", 3072),
            "vision_config.hidden_act": ("activation", "quick_gelu"),
            "vision_config.layer_norm_eps": ("eps", 1e-5),
            "text_config.vocab_size": ("vocabulary", 49408),
            "text_config.max_position_embeddings": ("length", 77),
            "text_config.num_hidden_layers": ("text_layers", 12),
            "text_config.hidden_size": ("text_width", 512),
            "text_config.num_attention_heads": ("text_heads", 8),
            "text_config.intermediate_size": ("text_hidden", 2048),
            "text_config.hidden_act": ("activation", "quick_gelu"),
            "text_config.layer_norm_eps": ("eps", 1e-5),
            "text_config.eos_token_id": ("end", 49407),
        },
        {
            "vision_config.num_channels": (3,),
            "vision_config.attention_dropout": (0.0,),
            "text_config.attention_dropout": (0.0,),
        },
    ),
)
"""The model type of `CLIP`."""


@dataclasses.dataclass(frozen=True)
class CLIP(Published, Model):
    """Vision transformer and causal transformer that embed images and texts into one space.

    The default is ViT-B/32 of the paper. `from_pretrained` loads checkpoints of CLIP in the format
    of transformers, including models of OpenCLIP in this format. Weights are drawn from a normal
    distribution with a standard deviation of 0.02, and the scale starts at 1 / 0.07.

    Reference: Radford et al., Learning transferable visual models from natural language
    supervision, 2021.
    """

    features: Annotated[int, size] = 512
    """Number of features of an image or a text."""
    image: Annotated[int, size] = 224
    """Height and width of the images."""
    patch: Annotated[int, size] = 32
    """Height and width of a patch, a divisor of the image size."""
    image_layers: Annotated[int, size] = 12
    """Number of blocks of the image network."""
    image_width: Annotated[int, size] = 768
    """Features of each patch."""
    image_heads: Annotated[int, size] = 12
    """Number of attention heads, a divisor of image_width."""
    image_hidden: Annotated[int | None, None | size] = None
    """Units of the feed-forward networks for images; None for 4 * image_width."""
    vocabulary: Annotated[int, size] = 49408
    """Number of tokens."""
    length: Annotated[int, size] = 77
    """Largest number of tokens of a text."""
    text_layers: Annotated[int, size] = 12
    """Number of blocks of the text network."""
    text_width: Annotated[int, size] = 512
    """Features of each token."""
    text_heads: Annotated[int, size] = 8
    """Number of attention heads, a divisor of text_width."""
    text_hidden: Annotated[int | None, None | size] = None
    """Units of the feed-forward networks for texts; None for 4 * text_width."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Activation of the feed-forward networks; "gelu" in most of OpenCLIP."""
    eps: float = 1e-5
    """Added to the variance in the norms."""
    end: Annotated[int, natural] = 49407
    """Token at the end of a text; 2 selects the largest token of each text, as in old configs."""
    implementation: str | None = None
    """Implementation of `nn.MultiHeadAttention`; "cudnn" for NVIDIA GPUs in bfloat16."""

    families: ClassVar[tuple[Family, ...]] = CLIP_FAMILIES
    patch_positions: ClassVar[tuple[str, ...]] = ("image", "positions")

    def __post_init__(self) -> None:
        """Check the fields, and that patches and heads divide the sizes."""
        super().__post_init__()
        check_divides(self, "patch", "image")
        check_divides(self, "image_heads", "image_width")
        check_divides(self, "text_heads", "text_width")

    def network(self) -> Layer:
        """Build the network, from images (..., H, W, C) and tokens (..., T) to their features.

        >>> net = CLIP(image=4, patch=2, image_layers=1, text_layers=1).network()
        >>> net.image.patches, net.text.positions
        (PatchEmbedding(768, 2, bias=False, w_init=normal(stddev=0.02)), LearnedPositions(77))
        """
        w_init, norm = normal(0.02), LayerNorm(eps=self.eps)
        image = PatchTransformer(
            patches=PatchEmbedding(self.image_width, self.patch, bias=False, w_init=w_init),
            token=LearnedArray((self.image_width,), w_init=w_init),
            positions=LearnedPositions((self.image // self.patch) ** 2 + 1),
            dropout=None,
            embedding_norm=norm,
            blocks=self._blocks("image"),
            norm=norm,
            head=Dense(self.features, bias=False, w_init=w_init),
            image=self.image,
        )
        text = LastTokenEncoder(
            embedding=Embedding(self.vocabulary, self.text_width, w_init=w_init),
            positions=LearnedPositions(self.length),
            blocks=self._blocks("text"),
            norm=norm,
            head=Dense(self.features, bias=False, w_init=w_init),
            end=None if self.end == _ANY_END else self.end,
        )
        return DualEncoder(image, text, LearnedArray((), w_init=constant(math.log(1 / 0.07))))

    def _blocks(self, side: str) -> Layer:
        names = ("layers", "heads", "width", "hidden")
        layers, heads, width, hidden = (getattr(self, f"{side}_{name}") for name in names)
        w_init, implementation = normal(0.02), self.implementation
        attention = MultiHeadAttention(
            heads, causal=side == "text", implementation=implementation, w_init=w_init
        )
        activation = quick_gelu if self.activation == "quick_gelu" else exact_gelu
        network = feed_forward(activation, hidden, width, w_init)
        return transformer_blocks(layers, attention, network, LayerNorm(eps=self.eps))

    def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shapes and types of an image and a text."""
        images = jax.ShapeDtypeStruct((1, self.image, self.image, 3), "float32")
        return images, jax.ShapeDtypeStruct((1, 1), "int32")

"""Models: configurations that build networks from layers.

Each configuration is a frozen dataclass of plain numbers, and `network(outputs)` builds its
network. The composites are the layers of which these networks consist. `from_pretrained` loads
published weights, and `Tokenizer` their tokenizers.
"""

from .clip import CLIP, LastTokenEncoder
from .convolutional import ConvNeXt, LeNet, ResNet, ResNetBlock, UNet, UNetLevel
from .encoders import BERT, PatchTransformer, TextEncoder, ViT
from .model import MLP, CharLSTM, DualEncoder, EncoderDecoder
from .pretrained import Pretrained
from .t5 import T5, RelativeDecoder, RelativeEncoder
from .tokenizer import Tokenizer, Tokens
from .transformers import GPT, Decoder

__all__ = [
    "BERT",
    "CLIP",
    "GPT",
    "MLP",
    "T5",
    "CharLSTM",
    "ConvNeXt",
    "Decoder",
    "DualEncoder",
    "EncoderDecoder",
    "LastTokenEncoder",
    "LeNet",
    "PatchTransformer",
    "Pretrained",
    "RelativeDecoder",
    "RelativeEncoder",
    "ResNet",
    "ResNetBlock",
    "TextEncoder",
    "Tokenizer",
    "Tokens",
    "UNet",
    "UNetLevel",
    "ViT",
]

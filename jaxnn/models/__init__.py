"""Models: configurations that build networks from layers.

Each configuration is a frozen dataclass of plain numbers, and `network(outputs)` builds its
network. The composites are the layers of which these networks consist. `from_pretrained` loads
published weights.
"""

from .convolutional import LeNet, ResNet, ResNetBlock, UNet, UNetLevel
from .encoders import BERT, PatchTransformer, TextEncoder, ViT
from .model import MLP, CharLSTM
from .pretrained import Pretrained
from .transformers import GPT, Decoder

__all__ = [
    "BERT",
    "GPT",
    "MLP",
    "CharLSTM",
    "Decoder",
    "LeNet",
    "PatchTransformer",
    "Pretrained",
    "ResNet",
    "ResNetBlock",
    "TextEncoder",
    "UNet",
    "UNetLevel",
    "ViT",
]

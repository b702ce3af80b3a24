"""Models: configurations that build networks from layers.

Each configuration is a frozen dataclass of plain numbers, and `network(outputs)` builds its
network. The composites are the layers of which these networks consist. `from_pretrained` loads
published weights.
"""

from .bert import BERT, TextEncoder
from .convolutional import LeNet, ResNet, ResNetBlock, UNet, UNetLevel
from .model import MLP, CharLSTM
from .pretrained import Pretrained
from .transformers import GPT, Decoder, PatchTransformer, ViT

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

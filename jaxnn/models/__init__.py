"""Models: configurations that build networks from layers.

Each configuration is a frozen dataclass of plain numbers, and `network(outputs)` builds its
network. The composites are the layers of which these networks consist.
"""

from .char_lstm import CharLSTM
from .gpt import GPT, Decoder
from .lenet import LeNet
from .mlp import MLP
from .resnet import ResNet, ResNetBlock
from .unet import UNet, UNetLevel
from .vit import PatchTransformer, ViT

__all__ = [
    "GPT",
    "MLP",
    "CharLSTM",
    "Decoder",
    "LeNet",
    "PatchTransformer",
    "ResNet",
    "ResNetBlock",
    "UNet",
    "UNetLevel",
    "ViT",
]

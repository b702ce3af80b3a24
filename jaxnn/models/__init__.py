"""Models: short values built from layers.

Each is a configuration of plain numbers, and `network(outputs)` is the network it stands for. The
composites are what networks are printed as.
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

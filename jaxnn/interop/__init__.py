"""Other libraries: their weights and modules here, and networks elsewhere."""

from .flax_weights import from_flax
from .keras_weights import from_keras
from .linen import from_linen, to_linen
from .nnx import from_nnx
from .onnx_file import pack_onnx
from .orders import channels_first, channels_last, tied
from .program import export, load_program
from .source import Converter, Source
from .torch_models import GPT2, LLAMA, RESNET, VIT
from .torch_weights import from_torch

__all__ = [
    "GPT2",
    "LLAMA",
    "RESNET",
    "VIT",
    "Converter",
    "Source",
    "channels_first",
    "channels_last",
    "export",
    "from_flax",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_torch",
    "load_program",
    "pack_onnx",
    "tied",
    "to_linen",
]

"""Conversion of weights and modules from other libraries, and export of networks."""

from .flax_modules import from_linen, from_nnx, to_linen
from .flax_weights import from_flax
from .keras_weights import from_keras
from .orders import channels_first, channels_last, tied
from .source_arrays import Converter, SourceArrays
from .stablehlo import export, load_program, pack_onnx
from .torch_names import BERT, CONVNEXT, GPT2, LLAMA, RESNET, VIT
from .torch_weights import from_torch

__all__ = [
    "BERT",
    "CONVNEXT",
    "GPT2",
    "LLAMA",
    "RESNET",
    "VIT",
    "Converter",
    "SourceArrays",
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

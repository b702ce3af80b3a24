"""from_keras: the weights of a keras model as parameters and state; keras itself is not needed."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..core import paths
from ..core.layer import Layer
from ..layers.attention import MultiHeadAttention
from ..layers.batch_norm import BatchNorm
from ..layers.convolution import DepthwiseConv
from ..layers.elementwise import PReLU
from ..layers.lstm import ConvLSTMCell, LSTMCell
from ..layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from ..layers.patches import ConvTranspose
from ..layers.recurrence import Cell, GRUCell, RNNCell
from ..train.weights import Weights
from ..validation import Accepts
from .conversion import by_unique_name, convert_weights
from .orders import Unfit, fitted
from .source_arrays import (
    KERNELS,
    NORMS,
    TABLES,
    Library,
    Names,
    SourceArrays,
    bias,
    cell_arrays,
    kernel_attention,
    renamed,
    single_array,
)


def from_keras(
    net: Layer,
    weights: Any,
    *inputs: Any,
    names: Names | None = None,
    ignore: Iterable[str] = (),
    **named: Any,
) -> Weights:
    """Convert the weights of a keras 3 model to `train.Weights` for `net`.

    A layer at the path `conv` receives the arrays `conv/kernel`, `conv/bias`, and so on. `names`
    and `ignore` have the same form as in `from_torch`, with `/` between the segments. If the names
    begin with the name of the model, write `names={"": "sequential"}`. The weights of a cell may be
    under `lstm_cell`, `gru_cell`, or `simple_rnn_cell`.

    Images have channels last by default, as in keras. If the model has a layer with
    `data_format="channels_first"`, or `names` contains `interop.channels_first(C, H, W)`, weights
    that run over a flattened image are reordered as by `from_torch`. A kernel of EinsumDense with
    other axes than (inputs, outputs) is loaded into `nn.Einsum`.

    A `.weights.h5` file numbers the variables of each layer, as in `layers/dense_1/vars/0`. The
    numbers follow the order in which keras creates the variables: kernel, recurrent kernel, bias;
    gamma, beta, moving mean, moving variance. If a norm has only one of gamma and beta, the numbers
    do not determine which one, and the error shows the converter to write.

    Args:
        net: The network.
        weights: The model, `model.weights`, or a dict of arrays by name, such as the contents of a
            `.weights.h5` file.
        *inputs: Example inputs, as for `net.init`: arrays or `jax.ShapeDtypeStruct`.
        **named: Named inputs, as `*inputs`.
        names: Dict from a path of the network, or a pattern of paths, to a prefix of names.
            Default: None, prefixes equal paths.
        ignore: Patterns of names that may remain unused. The states of random generators may
            always remain unused. Default: ().

    Returns:
        Parameters and state, in the types that the network declares.

    Raises:
        ValueError: Two weights have the same path; an array is missing, unused, used by two layers,
            or of another shape; a path in `names` is not in the network; or a GRU has
            `reset_after=False`, which computes another function. The message lists all problems.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(dense=nn.Dense(2))
    >>> weights = {"sequential/dense/kernel": np.ones((3, 2)), "sequential/dense/bias": np.zeros(2)}
    >>> found = from_keras(net, weights, jnp.ones((1, 3)), names={"": "sequential"})
    >>> jax.tree.map(jnp.shape, found.params)
    {'dense': {'b': (2,), 'w': (3, 2)}}
    """
    library = KERAS
    if not isinstance(weights, Mapping):
        library = KERAS._replace(channels_first=_has_channels_first(weights))
        weights = _by_path(getattr(weights, "weights", weights))
    return convert_weights(library, net, weights, inputs, named, names or {}, ignore)


def _has_channels_first(layer: Any) -> bool:
    """Return whether a layer of a keras model, or one inside, has channels first."""
    if getattr(layer, "data_format", None) == "channels_first":
        return True
    return any(_has_channels_first(one) for one in getattr(layer, "_layers", ()))


_variable = Accepts(
    "a model, its weights, or arrays by name",
    lambda v: hasattr(v, "path"),
    TypeError,
    hint="write keras.saving.load_model(file).weights for a .keras file, or a dict of the arrays "
    "of a .weights.h5 file",
    abstract=True,
)


def _by_path(variables: Iterable[Any]) -> dict[str, Any]:
    """Return variables by their paths; ValueError if two have one, TypeError for other values."""
    given: Any = variables if isinstance(variables, Iterable) else [variables]
    return by_unique_name(
        ((_variable(one, "from_keras.weights").path, one) for one in given),
        "give the layers different names, such as Block(name='block_1'), or call "
        "model.save_weights('model.weights.h5') and pass the arrays of that file by name, in which "
        "each name occurs once",
    )


_PARTS = {
    "query": "query_dense",
    "key": "key_dense",
    "value": "value_dense",
    "attention_output": "output_dense",
    **dict.fromkeys(("simple_rnn_cell", "lstm_cell", "gru_cell", "conv_lstm_cell"), "cell"),
}


def _numbered(layer: Any, name: str) -> str:
    """Return the name of a variable in a `.weights.h5` file: its number in the layer."""
    part, _, last = name.rpartition("/")
    if isinstance(layer, BatchNorm | LayerNorm | GroupNorm | InstanceNorm):
        affine = (("gamma", layer.scale), ("beta", layer.bias))
        made = [*(n for n, there in affine if there), "moving_mean", "moving_variance"]
    else:
        made = ["kernel", "recurrent_kernel", "bias"] if isinstance(layer, Cell) else []
        made = made or ["kernel", "bias"]
    number = made.index(last) if last in made else 0
    return f"{_PARTS.get(part, part)}/vars/{number}".removeprefix("/")


def _is_buffer(name: str, array: Any, layers: list[Any]) -> bool:
    """Return whether an array is the state of a random generator, which a dropout layer keeps."""
    return "seed_generator" in name.split("/")


def _check_one(layer: Any, source: SourceArrays, theirs: str, ours: str) -> None:
    """Raise Unfit if a number does not show whether the one array is gamma or beta."""
    if not isinstance(layer, RMSNorm) and not source.has_itself(theirs) and source.has("vars/0"):
        path, prefix = paths.text(source.path), source.book.prefix(source.path)
        raise Unfit(
            f"{source.full('vars/0')} is gamma or beta, which its name does not show; if it is "
            f'{theirs}, write names={{"{path}": ("{prefix}", lambda layer, source: '
            f'{{"{ours}": source("vars/0")}})}}'
        )


def norm(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """gamma and beta; or the `scale` of RMSNormalization."""
    if "scale" in source.declared and "b" not in source.declared:
        _check_one(layer, source, "gamma", "scale")
    elif "b" in source.declared and "scale" not in source.declared:
        _check_one(layer, source, "beta", "b")
    scale = "gamma" if source.has("gamma") else "scale"
    return {
        ours: source(theirs)
        for ours, theirs in (("scale", scale), ("b", "beta"))
        if ours in source.declared
    }


def depthwise(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """kernel `(*window, channels, multiplier)`."""
    kernel = source("kernel")
    wanted = source.shape("w")
    channels = wanted[-1] // layer.multiplier
    fitted(kernel, (*wanted[:-2], channels, layer.multiplier), "kernel")
    return {"w": kernel.reshape(wanted)} | bias(source)


def _transposed_convolution(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """kernel `(*window, features, inputs)`."""
    return {"w": np.swapaxes(source("kernel"), -1, -2)} | bias(source)


def _prelu(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """alpha, one for each feature, with axes of 1 before it."""
    alpha, wanted = source("alpha"), source.shape("alpha")
    fitted(alpha, (*(1,) * (alpha.ndim - len(wanted)), *wanted), "alpha")
    return {"alpha": alpha.reshape(wanted)}


def _cell(source: SourceArrays, name: str) -> tuple[Any, Any, Any]:
    """kernel, recurrent_kernel and bias."""
    cell = f"{name}/" if source.has(f"{name}/kernel") else ""
    kernel, recurrent = source(f"{cell}kernel"), source(f"{cell}recurrent_kernel")
    if not source.has(f"{cell}bias"):
        return kernel, recurrent, None
    return kernel, recurrent, source(f"{cell}bias")


def _recurrent(name: str) -> Any:
    """SimpleRNN, and LSTM, whose gates are in our order."""

    def convert(layer: Any, source: SourceArrays) -> dict[str, Any]:
        return cell_arrays(source, *_cell(source, name))

    return convert


def _gru(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """GRU: gates z, r, h, and biases (2, 3 features) of the input and of the hidden state."""
    w, u, b = _cell(source, "gru_cell")
    b = np.zeros((1 + layer.reset_after, w.shape[-1]), w.dtype) if b is None else b
    if (b.ndim == 2 and len(b) == 2) != layer.reset_after:
        raise Unfit(
            f"bias has the shape {b.shape}, that of reset_after={not layer.reset_after}: write "
            f"nn.GRUCell({layer.features}, reset_after={not layer.reset_after})"
        )
    b = b.reshape(-1, b.shape[-1])

    def ordered(a: Any) -> Any:
        z, r, h = np.split(a, 3, -1)
        return np.concatenate([r, z, h], -1)

    w, u, b = ordered(w), ordered(u), ordered(b)
    return cell_arrays(source, w, u, *b, apart=layer.features if layer.reset_after else 0)


KERAS = Library(
    "keras",
    "/",
    {
        **KERNELS,
        DepthwiseConv: depthwise,
        ConvTranspose: _transposed_convolution,
        **dict.fromkeys(NORMS, norm),
        **dict.fromkeys(TABLES, single_array("embeddings")),
        PReLU: _prelu,
        MultiHeadAttention: kernel_attention("attention_output"),
        RNNCell: _recurrent("simple_rnn_cell"),
        LSTMCell: _recurrent("lstm_cell"),
        ConvLSTMCell: _recurrent("conv_lstm_cell"),
        GRUCell: _gru,
    },
    {BatchNorm: renamed(mean="moving_mean", var="moving_variance")},
    other_name=_numbered,
    is_buffer=_is_buffer,
    if_not_shared=", and if it has two weights of this name, pass model.weights, not a dict",
)

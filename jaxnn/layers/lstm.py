"""LSTM cells: dense, with projection, peepholes, or layer normalization, and convolutional."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param, Variable
from ..functional.convolution import convolution
from ..functional.gradients import shared_product, shared_sum
from ..functional.linear import along_axis, linear
from ..functional.normalization import layer_norm
from ..functional.recurrence import lstm_step
from ..functional.windows import Padding, PerAxis, per_axis
from ..initializers import InitFn, glorot_uniform, ones, orthogonal, zeros
from . import AXES, check_window, positive_size, sizes
from .recurrence import Cell, check_carry, masked


class LongShortTerm(Cell):
    """Base of the LSTM cells, which differ in their products."""

    gates = 4

    def carries(self, x: Any) -> dict[str, Variable]:
        """Declare the cell state c and the hidden state h."""
        return {"c": self._slot(x), "h": self._slot(x)}

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Declare weights of the input and of the hidden state, and the biases."""
        own: Any = self
        biases = (own.b_init, own.forget_init, own.b_init, own.b_init) * own.bias
        return {
            "input": self._input(x, (own.w_init,) * 4, biases),
            "recurrent": self._recurrent((own.recurrent_init,) * 4),
        }

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """Return the new carry and the output h."""
        c, h = lstm_step(carry["c"], *gates)
        return {"c": c, "h": h}, h


class LSTMCell(LongShortTerm):
    """LSTM cell: `c' = f * c + i * g, h' = o * tanh(c')`; the output is h'.

    The gates are i, f, o = sigmoid(x @ w + h @ w_h + b) and g = tanh(x @ w + h @ w_h + b), each
    with separate parameters. These are concatenated in the order i, f, g, o: input w
    (n, 4 features) and b (4 features,), and recurrent w (features, 4 features). The carry is
    {"c", "h"}, each of shape (..., features).

    Three options add parameters, and a product or sum to each step:

    - `projection`: h' = (o * tanh(c')) @ w has `projection` features, like `proj_size` in torch.
      The parameter is projection w (features, projection).
    - `peepholes`: i and f also receive c times a weight of each feature, and o receives c'. The
      parameter is peephole w (3, features), for i, f, and o.
    - `layer_norm`: x @ w and h @ w_h are each standardized over the features of all gates together,
      and scaled, before b is added; in h', c' is standardized, scaled, and shifted before the tanh.
      Parameters are input_norm and recurrent_norm with a scale, and cell_norm with scale and b.

    Args:
        features: Number of features of the cell state and the hidden state.
        w_init: Initializer of the input's weights of each gate. Default: `glorot_uniform()`.
        recurrent_init: Initializer of the hidden state's weights of each gate. Default:
            `orthogonal()`.
        b_init: Initializer of the biases of i, g, and o. Default: `zeros()`.
        forget_init: Initializer of the bias of f. Default: `ones()`, so that a new cell remembers.
        bias: Whether there is a bias b. Default: True.
        projection: Number of features of the hidden state and the output. Default: None, those of
            the cell state, without a projection.
        peepholes: Whether the gates receive the cell state. Default: False.
        layer_norm: Whether the gates and the cell state are normalized. Default: False.

    References: Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers et al., Learning to
    forget, 2000; Jozefowicz et al., An empirical exploration of recurrent network architectures,
    2015 (bias of the forget gate); Gers and Schmidhuber, Recurrent nets that time and count, 2000
    (peepholes); Sak et al., Long short-term memory based recurrent neural network architectures,
    2014 (projection); Ba et al., Layer normalization, 2016.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = LSTMCell(8), jnp.zeros((2, 3))
    >>> carry = cell.initial_carry(x)
    >>> params = cell.init(jax.random.key(0), carry, x)
    >>> jax.tree.map(jnp.shape, params)
    {'input': {'b': (32,), 'w': (3, 32)}, 'recurrent': {'w': (8, 32)}}
    >>> carry, y = cell.apply(params, carry, x)
    """

    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    forget_init: InitFn = ones()
    bias: bool = True
    projection: Annotated[int | None, None | positive_size] = None
    peepholes: bool = False
    layer_norm: bool = False

    @property
    def hoists(self) -> bool:
        """Whether the cell has none of the options that add to a step."""
        return self.projection is None and not self.peepholes and not self.layer_norm

    def carries(self, x: Any) -> dict[str, Variable]:
        """Declare the cell state c and the hidden state h."""
        return {"c": self._slot(x), "h": self._slot(x, self.projection)}

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Declare weights of input and hidden state, biases, and the parameters of options."""
        n, declared = self.features, super().parameters(carry, x)
        if self.projection is not None:
            inits = (self.recurrent_init,) * 4
            declared["recurrent"] = self._recurrent(inits, self.projection)
            declared["projection"] = {"w": Param((n, self.projection), self.w_init)}
        if self.peepholes:
            declared["peephole"] = {"w": Param((3, n), self.b_init)}
        if self.layer_norm:
            gates = {"scale": Param((4 * n,), ones())}
            cell = {"scale": Param((n,), ones()), "b": Param((n,), zeros())}
            declared |= {"input_norm": gates, "recurrent_norm": gates, "cell_norm": cell}
        return declared

    def forward(
        self, params: Any, carry: Any, x: jax.Array, *, recurrent_mask: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Return the new carry, and the output at x."""
        if self.hoists:
            return super().forward(params, carry, x, recurrent_mask=recurrent_mask)
        check_carry(carry, self.carries(x))
        c, given = carry["c"], params["input"]
        z = linear(x, given["w"])
        dtype, wide = z.dtype, c.dtype
        h = masked(carry["h"], recurrent_mask)
        u = linear(h.astype(dtype), params["recurrent"]["w"])
        if self.layer_norm:
            z = _scaled(layer_norm(z), params["input_norm"]["scale"])
            u = _scaled(layer_norm(u), params["recurrent_norm"]["scale"])
        gates = z + u
        if self.bias:
            gates = shared_sum(gates, given["b"])
        i, f, g, o = jnp.split(gates.astype(wide), 4, -1)
        seen = params["peephole"]["w"].astype(wide) if self.peepholes else ()
        seen = [along_axis(w, c.ndim, -1) for w in seen]
        if seen:
            i, f = i + seen[0] * c, f + seen[1] * c
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        if seen:
            o = o + seen[2] * c
        state = c
        if self.layer_norm:
            state = _scaled(layer_norm(c), params["cell_norm"]["scale"].astype(wide))
            state = shared_sum(state, params["cell_norm"]["b"].astype(wide))
        h = jax.nn.sigmoid(o) * jnp.tanh(state)
        if self.projection is not None:
            h = linear(h.astype(dtype), params["projection"]["w"]).astype(wide)
        return {"c": c, "h": h}, h.astype(dtype)


def _scaled(a: jax.Array, scale: jax.Array) -> jax.Array:
    return shared_product(a, scale)


class ConvLSTMCell(LongShortTerm):
    """Convolutional LSTM cell: an `LSTMCell` whose products are convolutions.

    x has shape `(..., *axes, n)`; y, c, and h have shape `(..., *axes, features)`, with the axes of
    the convolution of x. A sequence of images has shape `(..., T, *axes, n)`. Parameters are input
    w `(*kernel_size, n, 4 features)` and b (4 features,), and recurrent w
    `(*kernel_size, features, 4 features)`, with gates as in `LSTMCell`. There are no weights from c
    to the gates (peepholes). The convolution of h has padding "same" and stride 1, as in keras.

    Args:
        features: Number of channels of the cell state and the hidden state.
        kernel_size: Size of the window along each axis; an int means one axis.
        w_init: Initializer of the input's kernel of each gate. Default: `glorot_uniform()`.
        recurrent_init: Initializer of the hidden state's kernel of each gate. Default:
            `orthogonal()`.
        b_init: Initializer of the biases of i, g, and o. Default: `zeros()`.
        forget_init: Initializer of the bias of f. Default: `ones()`.
        stride: Stride of the convolution of x, one number for all axes or one for each. Default: 1.
        dilation: Dilation of the convolution of x, likewise. Default: 1.
        padding: Padding of the convolution of x, as for `Conv`. Default: "same".
        bias: Whether there is a bias b. Default: True.

    Reference: Shi et al., Convolutional LSTM network, 2015.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = ConvLSTMCell(8, (3, 3)), jnp.zeros((2, 5, 5, 1))
    >>> params = jax.eval_shape(cell.init, jax.random.key(0), cell.initial_carry(x), x)
    >>> jax.tree.map(jnp.shape, params["recurrent"])
    {'w': (3, 3, 8, 32)}
    """

    kernel_size: Annotated[PerAxis, sizes()]
    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    forget_init: InitFn = ones()
    stride: PerAxis = 1
    dilation: PerAxis = 1
    padding: Padding = "same"
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the window."""
        check_window(self)

    @property
    def axes(self) -> int:
        """Number of axes of the image and its channels."""
        return len(per_axis(self.kernel_size, 1)) + 1

    def project(self, params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        """Return the input's contribution to each gate, by one convolution."""
        return tuple(jnp.split(self._convolved(x, params["w"], params.get("b")), 4, -1))

    def recur(self, params: Any, h: jax.Array) -> tuple[jax.Array, ...]:
        """Return h's contribution to each gate, by one convolution."""
        return tuple(jnp.split(convolution(h, params["w"]), 4, -1))

    def _convolved(self, x: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
        given: Any = {"stride": self.stride, "dilation": self.dilation, "padding": self.padding}
        return convolution(x, w, b, **given)

    def _slot(self, x: Any, features: int | None = None) -> Variable:
        # The declaration of parameters reports an input of another rank.
        if len(x.shape) >= self.axes:
            kernel = jax.ShapeDtypeStruct((*self._window(), x.shape[-1], 1), x.dtype)
            x = jax.eval_shape(self._convolved, x, kernel)
        return super()._slot(x, features)

    def _window(self) -> tuple[int, ...]:
        return per_axis(self.kernel_size, 1)

    def _wanted(self) -> str:
        return f"(..., {AXES[self.axes - 1]}, channels)"

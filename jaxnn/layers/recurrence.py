"""Cells: one step of a recurrence. `Recurrent` runs them over a sequence.

A cell's forward takes the carry and one element of the sequence, and gives the new carry and the
output. `carries` declares the carry, as `parameters` does the parameters. The cells here are of one
structure (`Cell`), by which `Recurrent` takes products out of its scan.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..explain.text import mismatches
from ..functional.convolution import PerAxis, convolution, per_axis
from ..functional.gradients import shared_sum
from ..functional.linear import along_axis, floating_type, linear, wider_type
from ..functional.recurrence import gru_step, joined, lstm_step, minimal_gated_step
from ..initializers import (
    InitFn,
    Initializer,
    Shape,
    constant,
    glorot_uniform,
    ones,
    orthogonal,
    zeros,
)
from .checks import AXES, check_activation, check_per_axis, check_positive, check_rank


class Cell(Primitive):
    """Base of the cells that add what comes of the input and of the hidden state in each gate.

    A subclass says how many `gates` it has, whether the last one keeps the two `apart`, and writes

    - `parameters(carry, x)`: in two parts, `input` with w and b, and `recurrent` with w (and b, for
      the last gate, where it is apart); blocks along the last axis belong to the gates in turn;
    - `carries(x)`: the carry, a dict of `Variable`, by default one called h, the hidden state;
    - `step(carry, *gates)`: the new carry and y, elementwise, without parameters.

    So `Recurrent` takes the products with the input out of its scan. The carry is kept in at least
    float32; y has the type of the input. A cell of another structure is any layer with
    `forward(carry, x) -> (carry, y)` and a method `carries(x)`.
    """

    features: int

    gates = 1
    apart = False

    def __post_init__(self) -> None:
        """Check the number of features."""
        check_positive(self, "features")

    def _has_method(self, name: str) -> bool:
        return name == "forward"

    @property
    def axes(self) -> int:
        """The number of axes of one element: what is in front of them is batch."""
        return 1

    def carries(self, x: Any) -> dict[str, Variable]:
        """The declared carry for one element x of a sequence."""
        return {"h": self._slot(x)}

    def initial_carry(self, x: Any) -> dict[str, jax.Array]:
        """The carry before the first step, for one element x of a sequence: zeros.

        >>> import jax, jax.numpy as jnp
        >>> jax.tree.map(jnp.shape, LSTMCell(5).initial_carry(jnp.zeros((2, 3))))
        {'c': (2, 5), 'h': (2, 5)}
        """
        return initial(self.carries(x))

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """The new carry and the output."""
        raise NotImplementedError

    def forward(self, params: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """The new carry, and the output at x."""
        check_carry(carry, self.carries(x))
        z = self.project(params["input"], x)
        u = self.recur(params["recurrent"], carry["h"].astype(z[0].dtype))
        return self.wide_step(z[0].dtype, carry, *joined(z, u, self.apart))

    def project(self, params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        """What the input adds to each gate, at one step or many."""
        pairs = zip(*(jnp.split(params[k], self.gates, -1) for k in ("w", "b")), strict=True)
        return tuple(linear(x, w, b) for w, b in pairs)

    def recur(self, params: Any, h: jax.Array) -> tuple[jax.Array, ...]:
        """What h adds to each gate, at one step or many; linear in the parameters."""
        *first, last = jnp.split(linear(h, params["w"]), self.gates, -1)
        if "b" in params:
            last = shared_sum(last, along_axis(params["b"], last.ndim, -1))
        return (*first, last)

    def wide_step(self, dtype: Any, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """`step` in the type of the carry, with y in `dtype`."""
        carry, y = self.step(carry, *(gate.astype(carry["h"].dtype) for gate in gates))
        return carry, y.astype(dtype)

    def _slot(self, x: Any) -> Variable:
        shape = (*x.shape[:-1], self.features)
        return Variable(shape, dtype=wider_type(floating_type(x), jnp.float32))

    def _input(self, x: Any, inits: tuple[Any, ...], biases: tuple[Any, ...]) -> dict[str, Param]:
        """Weights and biases of the input, with a block for each gate."""
        check_rank(self, x, self.axes, self._wanted())
        shape = (*self._window(), x.shape[-1], len(inits) * self.features)
        return {"w": Param(shape, by_gate(inits)), "b": Param(shape[-1:], by_gate(biases))}

    def _recurrent(self, inits: tuple[Any, ...]) -> dict[str, Param]:
        """Weights of the hidden state, with a block for each gate."""
        shape = (*self._window(), self.features, len(inits) * self.features)
        return {"w": Param(shape, by_gate(inits))}

    def _window(self) -> tuple[int, ...]:
        return ()

    def _wanted(self) -> str:
        return "(..., inputs)"


class RNNCell(Cell):
    """h' = activation(x @ w + h @ w_h + b), the output too.

    x is (..., n), h and y (..., features). Parameters: input w (n, features) and b (features,),
    recurrent w (features, features). The carry is {"h"}.

    Reference: Elman, Finding structure in time, 1990.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = RNNCell(8), jnp.zeros((2, 3))
    >>> carry = cell.initial_carry(x)
    >>> params = cell.init(jax.random.key(0), carry, x)
    >>> jax.tree.map(jnp.shape, params)
    {'input': {'b': (8,), 'w': (3, 8)}, 'recurrent': {'w': (8, 8)}}
    >>> carry, y = cell.apply(params, carry, x)
    """

    activation: Callable[..., Any] = jnp.tanh
    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_activation(self, "activation")

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Weights of the input and of the hidden state, and the bias."""
        return {
            "input": self._input(x, (self.w_init,), (self.b_init,)),
            "recurrent": self._recurrent((self.recurrent_init,)),
        }

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """The new hidden state, twice."""
        h = self.activation(*gates)
        return {"h": h}, h


class LongShortTerm(Cell):
    """Base of the LSTM cells, whatever their products; both have the four initializers."""

    gates = 4

    def carries(self, x: Any) -> dict[str, Variable]:
        """The sum that the cell remembers, and its output."""
        return {"c": self._slot(x), "h": self._slot(x)}

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Weights of the input and of the hidden state, and the biases."""
        own: Any = self
        biases = (own.b_init, own.forget_init, own.b_init, own.b_init)
        return {
            "input": self._input(x, (own.w_init,) * 4, biases),
            "recurrent": self._recurrent((own.recurrent_init,) * 4),
        }

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """The new carry, and its h."""
        c, h = lstm_step(carry["c"], *gates)
        return {"c": c, "h": h}, h


class LSTMCell(LongShortTerm):
    """c' = f * c + i * g, h' = o * tanh(c'), with gates from x @ w + h @ w_h + b; y is h'.

    i, f and o are sigmoids, g is a tanh, and the matrices of i, f, g, o stand side by side in one:
    input w (n, 4 features) and b (4 features,), recurrent w (features, 4 features). Initializers
    draw the matrix of one gate. The bias of the forget gate starts at 1, so that a fresh cell
    remembers. The carry is {"c", "h"}, each (..., features).

    References: Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers et al., Learning to
    forget, 2000; Jozefowicz et al., An empirical exploration of recurrent network architectures,
    2015 (the forget gate's bias).

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


class GRUCell(Cell):
    """h' = (1 - k) * n + k * h, with n = tanh(x @ w_n + b_n + r * (h @ w_hn + b_hn)); y is h'.

    r and k are sigmoids of x @ w + h @ w_h + b, and the matrices of r, k, n stand side by side in
    one: input w (n, 3 features) and b (3 features,), recurrent w (features, 3 features) and b
    (features,), the last for n alone. Initializers draw the matrix of one gate. The carry is {"h"}.

    The gate r multiplies what comes of the hidden state, as in torch and cuDNN, so that there is
    one product a step. Cho et al. have it multiply the hidden state itself, (r * h) @ w_hn, which
    takes a second product after the gates; the two are different functions.

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder, 2014.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = GRUCell(8), jnp.zeros((2, 3))
    >>> jax.tree.map(jnp.shape, cell.init(jax.random.key(0), cell.initial_carry(x), x))
    {'input': {'b': (24,), 'w': (3, 24)}, 'recurrent': {'b': (8,), 'w': (8, 24)}}
    """

    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()

    gates = 3
    apart = True

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Weights and biases of the input and of the hidden state."""
        return {
            "input": self._input(x, (self.w_init,) * 3, (self.b_init,) * 3),
            "recurrent": self._recurrent((self.recurrent_init,) * 3)
            | {"b": Param((self.features,), self.b_init)},
        }

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """The new hidden state, twice."""
        h = gru_step(carry["h"], *gates)
        return {"h": h}, h


class MinimalGatedCell(Cell):
    """h' = (1 - f) * n + f * h, with n = tanh(x @ w_n + b_n + f * (h @ w_hn + b_hn)); y is h'.

    f is the sigmoid of x @ w_f + h @ w_hf + b_f: a GRU with one gate in place of two. The matrices
    of f, n stand side by side in one: input w (n, 2 features) and b (2 features,), recurrent w
    (features, 2 features) and b (features,), the last for n alone. Initializers draw the matrix of
    one gate. The bias of f starts at 1, so that a fresh cell remembers. The carry is {"h"}. As in
    flax, f = 1 keeps h; Zhou et al. write 1 - f for it, and f * h inside the product.

    Reference: Zhou et al., Minimal gated unit for recurrent neural networks, 2016.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = MinimalGatedCell(8), jnp.zeros((2, 3))
    >>> jax.tree.map(jnp.shape, cell.init(jax.random.key(0), cell.initial_carry(x), x))
    {'input': {'b': (16,), 'w': (3, 16)}, 'recurrent': {'b': (8,), 'w': (8, 16)}}
    """

    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    forget_init: InitFn = ones()

    gates = 2
    apart = True

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Weights and biases of the input and of the hidden state."""
        return {
            "input": self._input(x, (self.w_init,) * 2, (self.forget_init, self.b_init)),
            "recurrent": self._recurrent((self.recurrent_init,) * 2)
            | {"b": Param((self.features,), self.b_init)},
        }

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """The new hidden state, twice."""
        h = minimal_gated_step(carry["h"], *gates)
        return {"h": h}, h


class ConvLSTMCell(LongShortTerm):
    """An LSTM over images, with convolutions in place of its products.

    x is (..., *axes, n) with an axis for each number of `kernel_size` (an int is one axis), y, c
    and h are (..., *axes, features): padding is "same". Input w (*kernel_size, n, 4 features) and b
    (4 features,), recurrent w (*kernel_size, features, 4 features), with gates as in `LSTMCell`.
    As in other libraries there are no weights from c to the gates (peepholes). A sequence of images
    is (..., T, *axes, n).

    Reference: Shi et al., Convolutional LSTM network, 2015.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = ConvLSTMCell(8, (3, 3)), jnp.zeros((2, 5, 5, 1))
    >>> params = cell.init(jax.random.key(0), cell.initial_carry(x), x)
    >>> jax.tree.map(jnp.shape, params["recurrent"])
    {'w': (3, 3, 8, 32)}
    """

    kernel_size: PerAxis
    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    forget_init: InitFn = ones()

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_per_axis(self, "kernel_size")

    @property
    def axes(self) -> int:
        """Those of the image, and its channels."""
        return len(per_axis(self.kernel_size, 1)) + 1

    def project(self, params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        """What the input adds to each gate, by one convolution."""
        return tuple(jnp.split(convolution(x, params["w"], params["b"]), 4, -1))

    def recur(self, params: Any, h: jax.Array) -> tuple[jax.Array, ...]:
        """What h adds to each gate, by one convolution."""
        return tuple(jnp.split(convolution(h, params["w"]), 4, -1))

    def _window(self) -> tuple[int, ...]:
        return per_axis(self.kernel_size, 1)

    def _wanted(self) -> str:
        return f"(..., {AXES[self.axes - 1]}, channels)"


class by_gate(Initializer):
    """Blocks along the last axis, one for each gate, each drawn by its own initializer.

    >>> by_gate((zeros(), ones()))(jax.random.key(0), (4,)).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """

    inits: tuple[InitFn, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array of `shape` and `dtype` drawn from `key`."""
        n = len(self.inits)
        block = (*shape[:-1], shape[-1] // n)
        keys = jax.random.split(key, n)
        return jnp.concatenate(
            [init(k, block, dtype) for init, k in zip(self.inits, keys, strict=True)], -1
        )


def initial(slots: Any) -> Any:
    """The arrays that a declared carry starts as."""
    check_constant(slots)
    return paths.map_with_path(lambda _, slot: slot.init(None, slot.shape, slot.dtype), slots)


def check_constant(slots: Any) -> None:
    """Raise TypeError for a declared carry that starts random."""
    for path, slot in paths.walk(slots):
        if not isinstance(slot.init, constant):
            raise TypeError(
                f"a carry starts constant, as nn.zeros() does, but {paths.text(path)!r} starts as "
                f"{slot.init!r}; pass another one by name: net.apply(params, x, carry=carry)"
            )


def check_carry(carry: Any, slots: Any) -> None:
    """Raise ValueError where a carry does not have the names and shapes that are declared."""
    lines = mismatches(slots, carry)
    if lines:
        raise ValueError(
            f"the carry is not that of this cell for this input: {'; '.join(lines)}; write carry = "
            "cell.initial_carry(x), or pass the carry that the step before gave"
        )

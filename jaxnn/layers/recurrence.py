"""Recurrent cells: one step of a recurrence. `Recurrent` runs a cell over a sequence.

A cell's forward takes the carry and one element of the sequence, and returns the new carry and the
output. `carries` declares the carry, as `parameters` declares the parameters. The cells here share
the structure `Cell`, which lets `Recurrent` move matrix products out of its scan.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..explain.text import check_matches
from ..functional.gradients import shared_sum
from ..functional.linear import floating_type, linear, wider_type
from ..functional.recurrence import gate_sums, gru_step, minimal_gated_step
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
from ..validation import instance, unwritten
from . import check_rank, plain_function, positive_size


class Cell(Primitive):
    """Base of cells whose gates add a function of the input and a function of the hidden state.

    A subclass sets `gates`, the number of gates, and `apart`, whether the last gate receives the
    two terms separately, and defines

    - `parameters(carry, x)`: a dict of two parts, `input` with w and b, and `recurrent` with w (and
      b for the last gate if it is `apart`); blocks along the last axis belong to successive gates.
    - `carries(x)`: the carry, a dict of `Variable`; by default h only, the hidden state.
    - `step(carry, *gates)`: the new carry and y, elementwise, without parameters.

    `Recurrent` then computes the products with the input outside its scan. The carry is kept in at
    least float32; y has the type of the input. A cell of another structure may be any layer with
    `forward(carry, x) -> (carry, y)` and a method `carries(x)`.

    The named input `recurrent_mask`, numbers of the shape of h, multiplies h in its products, but
    not in the carry; `Recurrent(recurrent_dropout=)` passes one mask to all steps.

    Args:
        features: Number of features of the hidden state and the output.

    >>> import jaxnn as nn
    >>> class Leaky(nn.Cell):
    ...     def parameters(self, carry, x):
    ...         w, b = (nn.glorot_uniform(),), (nn.zeros(),)
    ...         return {"input": self._input(x, w, b), "recurrent": self._recurrent(w)}
    ...     def step(self, carry, gate):
    ...         h = 0.9 * carry["h"] + 0.1 * jnp.tanh(gate)
    ...         return {"h": h}, h
    >>> net, x = nn.Recurrent(Leaky(8)), jnp.ones((2, 5, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).shape
    (2, 5, 8)
    """

    features: Annotated[int, positive_size]

    gates = 1
    apart = False

    def _has_method(self, name: str) -> bool:
        return name == "forward"

    @property
    def hoists(self) -> bool:
        """Whether a step has no products other than those of `project` and `recur`."""
        return True

    @property
    def axes(self) -> int:
        """Number of axes of one element; the axes in front of them are batch axes."""
        return 1

    def carries(self, x: Any) -> dict[str, Variable]:
        """Declare the carry for one element x of a sequence."""
        return {"h": self._slot(x)}

    def initial_carry(self, x: Any) -> dict[str, jax.Array]:
        """Return the carry before the first step: zeros.

        Args:
            x: One element of a sequence, or its `jax.ShapeDtypeStruct`.

        >>> import jax, jax.numpy as jnp
        >>> from jaxnn import LSTMCell
        >>> jax.tree.map(jnp.shape, LSTMCell(5).initial_carry(jnp.zeros((2, 3))))
        {'c': (2, 5), 'h': (2, 5)}
        """
        return initial(self.carries(x))

    @unwritten("no step; write def step(self, carry, *gates): ... return carry, y")
    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """Return the new carry and the output."""
        ...

    def forward(
        self, params: Any, carry: Any, x: jax.Array, *, recurrent_mask: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Return the new carry, and the output at x."""
        check_carry(carry, self.carries(x))
        z = self.project(params["input"], x)
        u = self.recur(params["recurrent"], masked(carry["h"], recurrent_mask).astype(z[0].dtype))
        return self.wide_step(z[0].dtype, carry, *gate_sums(z, u, self.apart))

    def project(self, params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        """Return the input's contribution to each gate, at one step or many."""
        weights = jnp.split(params["w"], self.gates, -1)
        biases = jnp.split(params["b"], self.gates) if "b" in params else [None] * self.gates
        return tuple(linear(x, w, b) for w, b in zip(weights, biases, strict=True))

    def recur(self, params: Any, h: jax.Array) -> tuple[jax.Array, ...]:
        """Return h's contribution to each gate, at one step or many; linear in the parameters."""
        *first, last = jnp.split(linear(h, params["w"]), self.gates, -1)
        if "b" in params:
            last = shared_sum(last, params["b"])
        return (*first, last)

    def wide_step(self, dtype: Any, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """Call `step` in the type of the carry; return y in `dtype`."""
        carry, y = self.step(carry, *(gate.astype(carry["h"].dtype) for gate in gates))
        return carry, y.astype(dtype)

    def _slot(self, x: Any, features: int | None = None) -> Variable:
        shape = (*x.shape[:-1], self.features if features is None else features)
        return Variable(shape, dtype=wider_type(floating_type(x), jnp.float32))

    def _input(self, x: Any, inits: tuple[Any, ...], biases: tuple[Any, ...]) -> dict[str, Param]:
        """Declare weights and biases of the input, one block for each gate; () for no bias."""
        check_rank(x, self.axes, self._wanted())
        shape = (*self._window(), x.shape[-1], len(inits) * self.features)
        w = {"w": Param(shape, by_gate(inits))}
        return w | {"b": Param(shape[-1:], by_gate(biases))} if biases else w

    def _recurrent(self, inits: tuple[Any, ...], features: int | None = None) -> dict[str, Param]:
        """Declare weights of the hidden state, with one block for each gate."""
        hidden = self.features if features is None else features
        shape = (*self._window(), hidden, len(inits) * self.features)
        return {"w": Param(shape, by_gate(inits))}

    def _window(self) -> tuple[int, ...]:
        return ()

    def _wanted(self) -> str:
        return "(..., inputs)"


class RNNCell(Cell):
    """Elman recurrent cell: `h' = activation(x @ w + h @ w_h + b)`; the output is h'.

    x has shape (..., n); h and y have shape (..., features). Parameters are input w (n, features)
    and b (features,), and recurrent w (features, features). The carry is {"h"}.

    Args:
        features: Number of features of the hidden state.
        activation: Activation of the hidden state. Default: `jnp.tanh`.
        w_init: Initializer of the input's weights. Default: `glorot_uniform()`.
        recurrent_init: Initializer of the hidden state's weights. Default: `orthogonal()`.
        b_init: Initializer of the bias. Default: `zeros()`.
        bias: Whether there is a bias. Default: True.

    Reference: Elman, Finding structure in time, 1990.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = RNNCell(8), jnp.zeros((2, 3))
    >>> carry = cell.initial_carry(x)
    >>> params = cell.init(jax.random.key(0), carry, x)
    >>> jax.tree.map(jnp.shape, params)
    {'input': {'b': (8,), 'w': (3, 8)}, 'recurrent': {'w': (8, 8)}}
    >>> carry, y = cell.apply(params, carry, x)
    """

    activation: Annotated[Callable[..., Any], plain_function] = jnp.tanh
    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    bias: bool = True

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Declare weights of the input and of the hidden state, and the bias."""
        return {
            "input": self._input(x, (self.w_init,), (self.b_init,) * self.bias),
            "recurrent": self._recurrent((self.recurrent_init,)),
        }

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """Return the new hidden state as carry and output."""
        h = self.activation(*gates)
        return {"h": h}, h


class GRUCell(Cell):
    """GRU cell: `h' = (1 - k) * n + k * h`; the output is h'.

    n = tanh(x @ w_n + b_n + r * (h @ w_hn + b_hn)), and r, k = sigmoid(x @ w + h @ w_h + b), each
    with separate parameters. These are concatenated in the order r, k, n: input w (n, 3 features)
    and b (3 features,), recurrent w (features, 3 features), and recurrent b (features,), which is
    b_hn. The carry is {"h"}, of shape (..., features).

    As in torch and cuDNN, the gate r multiplies the product h @ w_hn, which needs one product per
    step. With `reset_after=False`, it multiplies the hidden state, (r * h) @ w_hn, as in the paper
    and by default in ONNX. This computes a different function, needs a second product, and has no
    b_hn.

    Args:
        features: Number of features of the hidden state.
        w_init: Initializer of the input's weights of each gate. Default: `glorot_uniform()`.
        recurrent_init: Initializer of the hidden state's weights of each gate. Default:
            `orthogonal()`.
        b_init: Initializer of the biases. Default: `zeros()`.
        bias: Whether there are biases. Default: True.
        reset_after: Whether r multiplies the product instead of the hidden state. Default: True.

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder, 2014.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = GRUCell(8), jnp.zeros((2, 3))
    >>> params = jax.eval_shape(cell.init, jax.random.key(0), cell.initial_carry(x), x)
    >>> jax.tree.map(jnp.shape, params)
    {'input': {'b': (24,), 'w': (3, 24)}, 'recurrent': {'b': (8,), 'w': (8, 24)}}
    """

    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    bias: bool = True
    reset_after: bool = True

    gates = 3
    apart = True

    @property
    def hoists(self) -> bool:
        """Whether no product depends on a gate."""
        return self.reset_after

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Declare weights and biases of the input and of the hidden state."""
        recurrent = self._recurrent((self.recurrent_init,) * 3)
        if self.bias and self.reset_after:
            recurrent["b"] = Param((self.features,), self.b_init)
        biases = (self.b_init,) * 3 * self.bias
        return {"input": self._input(x, (self.w_init,) * 3, biases), "recurrent": recurrent}

    def forward(
        self, params: Any, carry: Any, x: jax.Array, *, recurrent_mask: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Return the new carry, and the output at x."""
        if self.reset_after:
            return super().forward(params, carry, x, recurrent_mask=recurrent_mask)
        check_carry(carry, self.carries(x))
        z, h = self.project(params["input"], x), carry["h"]
        seen = masked(h, recurrent_mask)
        dtype, w = z[0].dtype, params["recurrent"]["w"]
        both, last = w[:, : 2 * self.features], w[:, 2 * self.features :]
        u = jnp.split(linear(seen.astype(dtype), both), 2, -1)
        r, k = (jax.nn.sigmoid((a + b).astype(h.dtype)) for a, b in zip(z[:2], u, strict=True))
        n = jnp.tanh((z[2] + linear((r * seen).astype(dtype), last)).astype(h.dtype))
        h = n + k * (h - n)
        return {"h": h}, h.astype(dtype)

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """Return the new hidden state as carry and output."""
        h = gru_step(carry["h"], *gates)
        return {"h": h}, h


class MinimalGatedCell(Cell):
    """Minimal gated cell: `h' = (1 - f) * n + f * h`; the output is h'.

    n = tanh(x @ w_n + b_n + f * (h @ w_hn + b_hn)), and f = sigmoid(x @ w_f + h @ w_hf + b_f): a
    GRU with one gate instead of two. Parameters are concatenated in the order f, n: input w
    (n, 2 features) and b (2 features,), recurrent w (features, 2 features), and recurrent b
    (features,), which is b_hn. The carry is {"h"}, of shape (..., features).

    As in flax, f = 1 keeps h; the paper uses 1 - f instead, and multiplies h by f before the
    product.

    Args:
        features: Number of features of the hidden state.
        w_init: Initializer of the input's weights of each gate. Default: `glorot_uniform()`.
        recurrent_init: Initializer of the hidden state's weights of each gate. Default:
            `orthogonal()`.
        b_init: Initializer of b_n and b_hn. Default: `zeros()`.
        forget_init: Initializer of b_f. Default: `ones()`, so that a new cell remembers.
        bias: Whether there are biases. Default: True.

    Reference: Zhou et al., Minimal gated unit for recurrent neural networks, 2016.

    >>> import jax, jax.numpy as jnp
    >>> cell, x = MinimalGatedCell(8), jnp.zeros((2, 3))
    >>> params = jax.eval_shape(cell.init, jax.random.key(0), cell.initial_carry(x), x)
    >>> jax.tree.map(jnp.shape, params)
    {'input': {'b': (16,), 'w': (3, 16)}, 'recurrent': {'b': (8,), 'w': (8, 16)}}
    """

    w_init: InitFn = glorot_uniform()
    recurrent_init: InitFn = orthogonal()
    b_init: InitFn = zeros()
    forget_init: InitFn = ones()
    bias: bool = True

    gates = 2
    apart = True

    def parameters(self, carry: Any, x: Any) -> dict[str, dict[str, Param]]:
        """Declare weights and biases of the input and of the hidden state."""
        recurrent = self._recurrent((self.recurrent_init,) * 2)
        if self.bias:
            recurrent["b"] = Param((self.features,), self.b_init)
        biases = (self.forget_init, self.b_init) * self.bias
        return {"input": self._input(x, (self.w_init,) * 2, biases), "recurrent": recurrent}

    def step(self, carry: Any, *gates: jax.Array) -> tuple[Any, jax.Array]:
        """Return the new hidden state as carry and output."""
        h = minimal_gated_step(carry["h"], *gates)
        return {"h": h}, h


def masked(h: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Return h times a `recurrent_mask`, in the type of h."""
    return h if mask is None else h * mask.astype(h.dtype)


class by_gate(Initializer):
    """Concatenate one block for each gate along the last axis, each drawn by its own initializer.

    >>> by_gate((zeros(), ones()))(jax.random.key(0), (4,)).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """

    inits: tuple[InitFn, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype` drawn from `key`."""
        n = len(self.inits)
        block = (*shape[:-1], shape[-1] // n)
        keys = jax.random.split(key, n)
        return jnp.concatenate(
            [init(k, block, dtype) for init, k in zip(self.inits, keys, strict=True)], -1
        )


def initial(slots: Any) -> Any:
    """Return the initial arrays of a declared carry."""
    check_constant(slots)
    return paths.map_with_path(lambda _, slot: slot.init(None, slot.shape, slot.dtype), slots)


_start = instance(
    constant,
    "constant, such as nn.zeros()",
    "pass another carry by name: net.apply(params, x, carry=carry)",
)


def check_constant(slots: Any) -> None:
    """Raise TypeError if a declared carry is not initialized by a constant."""
    for path, slot in paths.walk(slots):
        _start(slot.init, f"the initializer of the carry {paths.text(path)!r}")


def check_carry(carry: Any, slots: Any) -> None:
    """Raise ValueError if a carry does not have the declared names and shapes."""
    check_matches(
        slots,
        carry,
        "the carry does not match this cell and input",
        "write carry = cell.initial_carry(x), or pass the carry that the previous step returned",
    )

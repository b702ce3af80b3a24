"""Recurrent and Bidirectional: apply a cell over a sequence, in one or both directions."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arrays import narrowed, widened
from ..core import paths
from ..core.calls import Arrays, Call, Outcome, evaluate_layer
from ..core.composite import Composite, Wrapper
from ..core.declarations import Variable
from ..core.layer import Layer, LayerLike, Signature, signature
from ..core.values import copy_with, fields
from ..explain.layer_errors import check_inputs, check_kept, check_params, check_state
from ..fields import is_traced
from ..functional.dropout import dropout
from ..functional.recurrence import Marks, marks, scan, unroll
from ..functional.segments import check_segments
from ..layers import (
    cache_length,
    check_direction,
    check_not_training,
    check_sequence,
    dropout_rate,
    plain_function,
)
from ..layers.recurrence import Cell, check_carry, check_constant, initial
from ..tree import map_layers, unwrapped, validated
from ..validation import Accepts, check_none, one_of

_OUTPUT = one_of("all", "last").such(hint="for the carry use method='unroll'")


_CELL = Accepts(
    "a cell, with a method carries(x) that declares a carry",
    lambda v: isinstance(v, Layer) and callable(getattr(unwrapped(v)[-1], "carries", None)),
    TypeError,
    hint="write for example Recurrent(nn.LSTMCell(128))",
)


_MASKED = Accepts(
    "a cell that takes the named input recurrent_mask, for recurrent_dropout",
    lambda v: "recurrent_mask" in v._takes("forward"),
    TypeError,
    hint="write for example Recurrent(nn.LSTMCell(128), recurrent_dropout=0.2)",
)


class Given(NamedTuple):
    """Inputs of one call; `passing` are named inputs that are passed to every step unchanged."""

    x: Any
    carry: Any
    segment_ids: Any
    passing: dict[str, Any]


class Recurrent(Wrapper):
    """Apply a cell over a sequence: `carry, y_t = cell(carry, x_t)`, by `lax.scan`.

    x has shape (..., T, n) and y (..., T, features); for a cell over images, the image's axes
    follow T. Parameters are those of the cell. Matrix products with the input are computed outside
    the scan, and so are, in the backward pass, the products for the gradients of the weights.

    Named inputs:

    - `segment_ids`: integers (..., T) that mark padding and packed sequences. At 0 the carry is
      unchanged and y is 0; a new number starts a new sequence.
    - `carry`, which may also be the second input: the initial carry of the first sequence of each
      row. Default: zeros.

    `method="unroll"` returns (carry, y): the last carry, and all outputs. In a composite, write
    `carry, y = self.encoder.unroll(source)` and then `self.decoder(target, carry)`.

    To stack layers, use `Sequential`, for example with dropout:
    `Sequential(Recurrent(LSTMCell(64)), Dropout(0.2), Recurrent(LSTMCell(64)))`, in which
    `Dropout(0.2, broadcast_dims=-2)` would draw one mask for all steps.

    Args:
        inner: A `Cell` (fastest), or any layer with `forward(carry, x) -> (carry, y)` and a method
            `carries(x)` that declares the carry by `Variable`s. It may draw random numbers; each
            step has a separate key.
        reverse: Whether to process the sequence from its end. Default: False.
        output: "all" returns all outputs. "last" returns the output (..., features) of the last
            step that is not padding (with `reverse`, of the first one in time). Default: "all".
        cache: If positive, the carry is state, so that a sequence can be passed in chunks; set by
            `nn.with_cache`. The carry has a fixed size, so there is no maximum length. Default: 0.
        recurrent_dropout: Dropout rate of the hidden state in its products, in training; the carry
            itself is not dropped. Each row has one mask for all steps and gates (variational
            dropout). May be traced. Default: 0.

    Raises:
        TypeError: If `inner` is not a cell, or if it takes no `recurrent_mask` and
            `recurrent_dropout` is given.
        ValueError: If the sequence has length 0, if the carry does not match the cell, or if the
            cell keeps state.

    Reference: Gal and Ghahramani, A theoretically grounded application of dropout in recurrent
    neural networks, 2016 (recurrent_dropout).

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import LSTMCell
    >>> net, x = Recurrent(LSTMCell(8)), jnp.ones((2, 5, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'input': {'b': (32,), 'w': (3, 32)}, 'recurrent': {'w': (8, 32)}}
    >>> net.apply(params, x).shape
    (2, 5, 8)
    >>> carry, y = net.apply(params, x, method="unroll")
    >>> bool((carry["h"] == y[:, -1]).all())
    True
    """

    inner: Annotated[LayerLike, _CELL]
    reverse: bool = False
    output: Annotated[str, _OUTPUT] = "all"
    cache: Annotated[int, cache_length] = 0
    recurrent_dropout: Annotated[float, dropout_rate] = 0.0

    def __post_init__(self) -> None:
        """Check that a cached layer is not reversed, and that the cell can drop its state."""
        check_direction(self)
        if self._drops:
            _MASKED(self.wrapped, "Recurrent.inner")

    @property
    def _drops(self) -> bool:
        return is_traced(self.recurrent_dropout) or self.recurrent_dropout > 0

    def _cell(self) -> Any:
        """Return the cell inside all wrappers."""
        return unwrapped(self.wrapped)[-1]

    # ---- methods and inputs ----

    def _has_method(self, name: str) -> bool:
        return name in ("forward", "unroll")

    def _methods(self) -> list[str]:
        return ["unroll"]

    def _signature(self, method: str) -> Signature:
        return signature(_inputs, 0)

    def _takes(self, method: str) -> set[str]:
        passing = self.wrapped._takes("forward") - set(self._of_the_cell())
        return passing | set(self._signature(method).inputs)

    def _of_the_cell(self) -> tuple[str, ...]:
        """Return the cell's names for the carry and the element of the sequence."""
        return self.wrapped._signature("forward").inputs[:2]

    def _given(self, method: str, inputs: Any, named: Any) -> Given:
        own = self._signature(method)
        check_inputs(own, method, inputs, named)
        passing = {name: item for name, item in named.items() if name not in own.inputs}
        given = dict(zip(own.inputs, inputs, strict=False)) | named
        x, segment_ids = given["x"], given.get("segment_ids")
        axes = getattr(self._cell(), "axes", 1)
        wanted = "(..., T, features)" if axes == 1 else f"(..., T, *{axes} axes)"
        check_sequence(x, axes, wanted)
        time = len(x.shape) - axes - 1
        if segment_ids is not None:
            check_segments(segment_ids, x.shape[: time + 1])
        return Given(x, given.get("carry"), segment_ids, passing)

    def _time(self, x: Any) -> int:
        """Return the axis of time; those before it are batch axes."""
        return len(x.shape) - getattr(self._cell(), "axes", 1) - 1

    def _element(self, x: Any) -> jax.ShapeDtypeStruct:
        """Return the shape of one step."""
        time = self._time(x)
        return jax.ShapeDtypeStruct((*x.shape[:time], *x.shape[time + 1 :]), x.dtype)

    def _slots(self, x: Any, carries: Any) -> dict[str, Any]:
        """Return the declared state."""
        if not self.cache:
            return {}
        return {"carry": carries, "segment": Variable(x.shape[: self._time(x)], dtype="int32")}

    # ---- evaluation ----

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Return the parameters of the cell; raise ValueError if the cell keeps state."""
        check_none(
            map(repr, sorted(state)),
            f"a cell may keep no state besides its carry, but {self.wrapped!r} keeps some",
            "put such layers before or after Recurrent",
        )
        return params, state

    def _evaluate(self, call: Call) -> Outcome:
        given = self._given(call.method, call.inputs, call.named)
        x, time = given.x, self._time(given.x)
        carries = self._cell().carries(self._element(x))
        start = initial(carries)
        carry, last = start, jnp.zeros(x.shape[:time], jnp.int32)
        if call.abstract:
            check_constant(carries)
            call.params.frame.state = self._slots(x, carries)
        else:
            check_state(call, self._slots(x, carries))
        if self.cache and not call.abstract:
            check_not_training(self, call.train)
            state: Any = call.state
            carry, last = state["carry"], state["segment"]
        if given.carry is not None:
            check_carry(given.carry, carries)
            carry = jax.tree.map(lambda new, old: new.astype(old.dtype), given.carry, start)
        found = None
        if given.segment_ids is not None:
            found, last = marks(given.segment_ids, last, reverse=self.reverse)
            x = jnp.where(found.real[(..., *(None,) * (x.ndim - time - 1))], x, jnp.zeros_like(x))
        front = None if found is None else Marks(*(jnp.moveaxis(m, time, 0) for m in found))
        cell = self.wrapped
        hoists = isinstance(cell, Cell) and cell.hoists and not call.abstract
        run = self._hoisted if hoists else self._general
        passing = given.passing
        if self._drops and call.train:
            ones = jnp.ones_like(start["h"])
            key: Any = call.random_key("recurrent_dropout")
            passing = passing | {"recurrent_mask": dropout(key, ones, self.recurrent_dropout)}
        of_cell = call.replace(
            inputs=(carry, x), named=passing, state={}, method="forward", inner=True
        )
        (carry, y), _, collected = run(of_cell, start, front)
        state = {"carry": carry, "segment": last} if self.cache else {}
        if call.method == "unroll" or self.output == "all":
            y = jax.tree.map(lambda a: jnp.moveaxis(a, 0, time), y)
            return Outcome((carry, y) if call.method == "unroll" else y, state, collected)
        return Outcome(self._last(y, found), state, collected)

    def _hoisted(self, call: Call, start: Any, marks: Marks | None) -> Outcome:
        """Scan a `Cell`, with its products computed outside the scan: a call of the cell with the
        whole sequence."""
        cell: Any = self.wrapped

        def run(call: Call) -> Outcome:
            carry, x = call.inputs
            spec = cell._declared_by(cell.parameters, (carry, self._element(x)), {})
            check_params(spec, call.params)
            params, time = call.cast_params(), self._time(x)
            # Batch axes come first, so that they remain sharded if a convolution merges axes.
            z = tuple(jnp.moveaxis(a, time, 0) for a in cell.project(params["input"], x))
            dtype = z[0].dtype

            def recur(params: Any, h: jax.Array) -> Any:
                return cell.recur(params, h.astype(dtype))

            mask = call.named.get("recurrent_mask")
            return Outcome(
                unroll(
                    recur,
                    functools.partial(cell.wide_step, dtype),
                    cell.apart,
                    time,
                    self.reverse,
                    params["recurrent"],
                    carry,
                    start,
                    z,
                    marks,
                    None if mask is None else mask.astype(carry["h"].dtype),
                )
            )

        return evaluate_layer(cell, call, run)

    def _general(self, call: Call, start: Any, marks: Marks | None) -> Outcome:
        """Scan any cell, with a separate key for each step."""
        params, _, key = call.arrays()
        carry, x = call.inputs
        time = self._time(x)
        # The derivative of a scan accumulates gradients of closed-over arrays in their type.
        wide = widened(params)

        def step(carry: Any, at: Any) -> Any:
            x, number = at
            below = None if key is None else jax.random.fold_in(key, number)
            arrays = Arrays(narrowed(wide, params), {}, below)
            outcome = self._inside(call.with_arrays(arrays).replace(inputs=(carry, x)))
            pair = isinstance(outcome.output, tuple) and len(outcome.output) == 2
            check_kept(carry, outcome.output[0] if pair else None, _RETURNS, outcome.output)
            return *outcome.output, outcome.collected

        xs = jnp.moveaxis(x, time, 0), jnp.arange(x.shape[time], dtype=jnp.uint32)
        carry, y, collected = scan(step, carry, start, xs, marks, self.reverse)
        return Outcome((carry, y), {}, collected)

    def _last(self, y: Any, found: Marks | None) -> Any:
        """Return the output of the last step for each row; y has time as its first axis."""
        if found is None:
            return jax.tree.map(lambda a: a[0 if self.reverse else -1], y)
        real = found.real
        length = real.shape[-1]
        ahead = jnp.argmax(real if self.reverse else jnp.flip(real, -1), -1)
        index = ahead if self.reverse else length - 1 - ahead

        def leaf(a: jax.Array) -> jax.Array:
            where = index.reshape(1, *index.shape, *(1,) * (a.ndim - 1 - index.ndim))
            return jnp.take_along_axis(a, where, 0)[0]

        return jax.tree.map(leaf, y)


def _inputs(x: Any, carry: Any = None, segment_ids: Any = None) -> None:
    """Inputs of `forward` and `unroll`."""


_RETURNS = "a cell must return (carry, y), with the shapes and types of the carry that it received"


def side_by_side(forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Concatenate both outputs along the last axis.

    >>> import jax.numpy as jnp
    >>> side_by_side(jnp.zeros((3, 2)), jnp.zeros((3, 2))).shape
    (3, 4)
    """
    return jnp.concatenate([forward, backward], -1)


_REVERSIBLE = Accepts(
    "a layer, with a field `reverse` in it or in a layer below",
    lambda v: isinstance(v, Layer) and reversed_layer(v) != v,
    hint="write for example Bidirectional(nn.Recurrent(nn.LSTMCell(128)))",
)


class Bidirectional(Composite):
    """Process a sequence in both directions: `y = merge(forward(x), backward(x))`.

    `backward` is the same layer with separate parameters and with each field `reverse` inverted. x
    has shape (..., T, n) and y, by default, (..., T, 2 * features). With `output="last"` in the
    layer, y is (..., 2 * features): the last output of each direction, each of which depends on the
    whole sequence. Parameters are {"forward": ..., "backward": ...}.

    Rows of different lengths are padded on either side and marked by `segment_ids`. The named input
    `carry` is a dict of a carry for each direction, and so is the carry that `method="unroll"`
    returns. In `Sequential(Bidirectional(...), Bidirectional(...))` each layer receives both
    directions of the previous one.

    Args:
        layer: A `Recurrent` or `LinearRecurrence`, or a network that contains some.
        merge: Function of both outputs, such as `jnp.add`. Default: concatenation along the last
            axis.

    Raises:
        ValueError: If nothing in the layer can be reversed, or under `nn.with_cache`.

    Reference: Schuster and Paliwal, Bidirectional recurrent neural networks, 1997.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import LSTMCell, Recurrent
    >>> net, x = Bidirectional(Recurrent(LSTMCell(8))), jnp.ones((2, 5, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> sorted(params), net.apply(params, x).shape
    (['backward', 'forward'], (2, 5, 16))
    """

    layer: Annotated[Layer, _REVERSIBLE]
    merge: Annotated[Callable[..., Any], plain_function] = side_by_side

    def _children(self) -> Any:
        return {"forward": self.layer, "backward": reversed_layer(self.layer)}

    def _with_children(self, children: Any) -> Any:
        ahead, back = children["forward"], children["backward"]
        if not isinstance(ahead, Layer):  # bound
            return copy_with(self, layer=(ahead, back))
        # Both directions are one layer, so a change of one changes the other.
        return copy_with(self, layer=ahead if ahead != self.layer else reversed_layer(back))

    def forward(self, x: Any, carry: Any = None) -> Any:
        """Return both outputs, merged."""
        both: Any = self.layer
        if carry is None:
            return self.merge(*(one(x) for one in both))
        return self.merge(*(one(x, carry=begin) for one, begin in self._each(carry)))

    def unroll(self, x: Any, carry: Any = None) -> Any:
        """Return the last carries by direction, and all outputs, merged."""
        begins = self._each({"forward": None, "backward": None} if carry is None else carry)
        (ahead, y), (back, z) = (one.unroll(x, carry=begin) for one, begin in begins)
        return {"forward": ahead, "backward": back}, self.merge(y, z)

    def _each(self, carry: Any) -> list[tuple[Any, Any]]:
        """Return both directions, each with its carry."""
        _directions(carry, "carry")
        both: Any = self.layer
        return list(zip(both, (carry["forward"], carry["backward"]), strict=True))


_directions = Accepts(
    "a carry for each direction, a dict of 'forward' and 'backward' as unroll returns it",
    lambda carry: isinstance(carry, dict) and set(carry) == {"forward", "backward"},
    abstract=True,
)


def reversed_layer(layer: Layer) -> Layer:
    """Return the layer with each field `reverse` in it inverted."""

    def turned(path: paths.Path, one: Any) -> Any:
        if any(field.name == "reverse" for field in fields(one)):
            return validated(copy_with(one, reverse=not one.reverse))
        return one

    return map_layers(turned, layer)

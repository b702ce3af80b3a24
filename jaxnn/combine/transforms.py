"""Wrappers around one layer: Repeat (scan), Ensemble (vmap), Remat (checkpoint), and Inference.

`capture` returns intermediate outputs of a network, and `Tap` gives any value a path, so that
`capture` can return it.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.calls import Arrays, Call, Next, Outcome
from ..core.composite import Wrapper
from ..core.declarations import declare_copies, split_arrays
from ..core.layer import LayerLike, Primitive
from ..explain.layer_errors import check_kept
from ..explain.text import Mismatch, describe
from ..functional.convolution import looped
from ..functional.gradients import dear
from ..layers import check_not_training, copies, path_pattern
from ..tree import layers
from ..validation import check_none


class Repeat(Wrapper):
    """Repeat a layer `n` times in sequence, with separate parameters, as one `lax.scan`.

    The result equals that of `Sequential(*[layer] * n)` with the same parameters, but the layer is
    traced and compiled once. Parameters and state have a leading axis of size n; copy i is
    initialized with the key `fold_in(key, i)`. Named inputs are passed to every copy.

    Args:
        inner: Layer or function with one input, whose shape and type it keeps.
        n: Number of copies, at least 1.

    Raises:
        ValueError: If the layer changes the shape or type of its input.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Repeat(Dense(4), 3)
    >>> x = jnp.ones((2, 4))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'b': (3, 4), 'w': (3, 4, 4)}
    """

    inner: LayerLike
    n: Annotated[int, copies]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stack parameters and state, one copy after the other."""
        return declare_copies(params, self.n), declare_copies(state, self.n)

    def _evaluate(self, call: Call) -> Outcome:
        if call.method != "forward":
            raise ValueError(f"Repeat applies forward of its copies in sequence, not {call.method}")
        params, state, key = call.arrays()
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)
        check_stacked((params, state), self.n)

        def body(x: Any, copy: Any) -> Any:
            params, state, number = copy
            below = None if key is None else jax.random.fold_in(key, number)
            arrays = Arrays(params, state, below)
            outcome = self._inside(call.with_arrays(arrays).replace(inputs=(x,)))
            check_kept((x,), (outcome.output,), _KEEPS, outcome.output)
            return outcome.output, (outcome.state, outcome.collected)

        if len(call.inputs) != 1:
            check_kept(call.inputs, None, _KEEPS, None)
        with looped():
            output, (state, collected) = lax.scan(body, call.inputs[0], (params, state, hashes))
        return Outcome(output, state, collected)


_KEEPS = (
    "Repeat passes the output of each copy to the next, so the layer must have one input and keep "
    "its shape and type"
)


def check_stacked(tree: Any, n: int) -> None:
    """Raise Mismatch unless parameters or state contain n copies."""
    leaves = jax.tree.leaves(tree)
    check_none(
        (describe(leaf) for leaf in leaves if leaf.ndim == 0 or leaf.shape[0] != n),
        f"parameters and state of {n} copies must have a leading axis of {n}",
        "write params = net.init(key, x)",
        Mismatch,
    )


class Ensemble(Wrapper):
    """Apply `n` copies of a network to the same inputs by `jax.vmap`, and stack their outputs.

    Parameters, state, and outputs have a leading axis of size n. Member i uses the key
    `fold_in(key, i)` for initialization and for random numbers.

    Args:
        inner: Network, a layer or a function.
        n: Number of members, at least 1.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Ensemble(Dense(4), 5)
    >>> x = jnp.ones((2, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).shape
    (5, 2, 4)
    """

    inner: LayerLike
    n: Annotated[int, copies]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stack parameters and state, one member after the other."""
        return declare_copies(params, self.n), declare_copies(state, self.n)

    def _evaluate(self, call: Call) -> Outcome:
        return self._members(call, (), lambda call, _: call)

    def _members(self, call: Call, mapped: Any, given: Callable[[Call, Any], Call]) -> Outcome:
        """Return the stacked outcomes of all members; member i receives element i of `mapped`."""
        params, state, key = call.arrays()
        check_stacked((params, state), self.n)
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)

        def member(arrays: Any) -> Outcome:
            params, state, number, each = arrays
            below = None if key is None else jax.random.fold_in(key, number)
            return self._inside(given(call.with_arrays(Arrays(params, state, below)), each))

        members = (params, state, jnp.asarray(hashes), mapped)
        if key is not None and "threefry" not in str(jax.random.key_impl(key)):
            # Under vmap other generators use the first key only, so all masks would be equal.
            return lax.map(member, members)
        return jax.vmap(member)(members)


POLICIES: dict[str, Any] = {"nothing": None, "products": dear}


class Remat(Wrapper):
    """Run a layer under `jax.checkpoint`, which saves memory at the cost of a second forward pass.

    The backward pass recomputes activations instead of storing them. The results are unchanged.

    Args:
        inner: Layer or function.
        keep: The values to store besides inputs and parameters. "nothing" recomputes everything.
            "products" stores matrix products, convolutions, and random bits, so that only cheap
            operations are recomputed; for a layer in `Repeat`, whose scan copies all stored values,
            this is faster on a CPU than storing everything. Default: "nothing".

    Raises:
        ValueError: If `keep` has another value.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> nn.Repeat(Remat(nn.Sequential(nn.Dense(4), jax.nn.gelu), keep="products"), 6)
    Repeat(Remat(Sequential(Dense(4), jax.nn.gelu), keep='products'), 6)
    """

    inner: LayerLike
    keep: Literal["nothing", "products"] = "nothing"

    def _evaluate(self, call: Call) -> Outcome:
        if call.abstract:  # there is nothing to keep
            return self._inside(call)
        given, join = split_arrays((call.inputs, call.named))

        def run(arrays: Arrays, given: Any) -> Outcome:
            inputs, named = join(given)
            return self._inside(call.with_arrays(arrays).replace(inputs=inputs, named=named))

        # Key and state are arguments: in a closure, keys would repeat and state would leak.
        return jax.checkpoint(run, policy=POLICIES[self.keep])(call.arrays(), given)


class Inference(Wrapper):
    """Run a layer in inference mode, even while the network around it is trained.

    Inside, `train` is False, no key is needed or passed, and parameters are constants:

        y = layer.apply(lax.stop_gradient(params), x, state=state)

    Gradients with respect to the inputs are computed. State is read and returned unchanged, except
    for the caches of `nn.with_cache`, which are updated. `train.Minimize`, `train.Supervised`, and
    all other training steps exclude the parameters from the optimizer: they have no moments, no
    weight decay, and do not count in a global norm. They remain part of the network's parameters,
    at the same paths as without this wrapper.

    The adapters of an `nn.LoRA` outside `Inference` are trained, so
    `nn.add_lora(nn.Inference(net), params, key, x)` fine-tunes a network whose own parameters do
    not change. The parameters of an `nn.WeightNorm` outside `Inference` are constants, since they
    replace weights inside.

    Args:
        inner: Layer or function.

    Raises:
        ValueError: In training, if a layer inside keeps a cache.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> teacher = nn.Sequential(nn.Dense(2), nn.Dropout(0.5))
    >>> net, x = nn.Sequential(teacher=Inference(teacher), head=nn.Dense(3)), jnp.ones((1, 4))
    >>> params = net.init(jax.random.key(0), x)
    >>> gradient = jax.grad(lambda params: net.apply(params, x, train=True).sum())(params)
    >>> float(jnp.abs(gradient["teacher"][0]["w"]).sum()), gradient["head"]["b"].tolist()
    (0.0, [1.0, 1.0, 1.0])
    """

    inner: LayerLike

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Freeze every parameter."""
        frozen = paths.map_with_path(lambda _, p: dataclasses.replace(p, frozen=True), params)
        return frozen, state

    def _evaluate(self, call: Call) -> Outcome:
        caching = {
            path: layer for path, layer in layers(self.wrapped) if getattr(layer, "cache", 0)
        }
        for layer in caching.values():
            check_not_training(layer, call.train)
        outcome = self._inside(
            call.replace(
                params=call.params if call.stopped else lax.stop_gradient(call.params),
                key=None,
                train=False,
                # State that does not change may be read inside a user's own transform.
                foreign=call.foreign and bool(caching),
            )
        )
        after = dict(paths.walk(outcome.state))

        def kept(path: paths.Path, before: Any) -> Any:
            cached = any(path[: len(place)] == place for place in caching)
            return after[path] if cached else before

        return outcome._replace(state=paths.map_with_path(kept, call.state or {}))


class capture(Wrapper):
    """Return intermediate outputs of a network: the output becomes `(y, {path: value})`.

    The value at a path is the output of the layer there. A second call of the same layer is stored
    under `path@1`, and another method under `path.method`. Under `Repeat` and `Ensemble`, values
    are stacked.

    Args:
        inner: Network, a layer or a function.
        match: Path pattern of the values to return. `*` matches any text within one segment, and
            `**` matches any number of segments. A pattern that ends with `.method` returns what
            this pure method of the layers returns for the same inputs, such as the attention
            weights of `"**/*.weights"`. Default: `"**"`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense, Sequential
    >>> net = capture(Sequential(hidden=Dense(4), act=jax.nn.relu, out=Dense(2)), match="hidden")
    >>> x = jnp.ones((3, 5))
    >>> y, values = net.apply(net.init(jax.random.key(0), x), x)
    >>> y.shape, jax.tree.map(jnp.shape, values)
    ((3, 2), {'hidden': (3, 4)})
    """

    inner: LayerLike
    match: Annotated[str, path_pattern] = "**"

    def _evaluate(self, call: Call) -> Outcome:
        output, state, collected = self._inside(call.intercepted(partial(_seen, self.match)))
        # What another method returns is collected below the layer: "a/.weights" for "a.weights".
        values = {path.replace("/.", "."): a for path, a in collected.get(KIND, {}).items()}
        own = {path: item for path, item in values.items() if paths.matches(self.match, path)}
        # An interceptor outside may collect values, too, also some that are not captured here.
        return Outcome((output, own), state, {} if call.interceptor is None else collected)


KIND = "captured"


def _seen(match: str, path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
    """Collect the output of the outermost layer at each path that matches."""
    outcome, place, name = next(call), paths.text(path), ""
    if call.inner or not path:
        return outcome
    above, _, method = match.rpartition(".")
    if call.method == "forward" and layer._has_method(method) and paths.matches(above, place):
        output, name = next(call.replace(method=method)).output, f".{method}"
    elif paths.matches(match, place):
        output = outcome.output
    else:
        return outcome
    if call.foreign:
        raise ValueError(
            f"{place!r} would be captured inside a transform of your own, from which "
            "its value cannot come out; use Repeat, Remat or Ensemble in its place"
        )
    captured = {**outcome.collected.get(KIND, {}), name: output}
    return outcome._replace(collected={**outcome.collected, KIND: captured})


class Tap(Primitive):
    """Identity layer, which gives a value a path for `capture`.

    >>> import jax.numpy as jnp
    >>> Tap().apply({}, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, params: Any, x: Any) -> Any:
        """Return the input."""
        return x

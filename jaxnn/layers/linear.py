"""Linear layers: Dense, Einsum, and Bilinear."""

import dataclasses
import re
from typing import Annotated, Any, NamedTuple

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.gradients import shared_sum
from ..functional.linear import bilinear, linear, to_compute_type, wide_einsum
from ..initializers import InitFn, he_normal, lecun_normal, variance_scaling, zeros
from ..validation import Accepts, check_shape, each, positive, tuple_of
from . import axis_or_axes, check_rank, distinct_axes, positive_size

_FEATURES = each(positive, "an int >= 1 or a tuple of them").such(
    hint="write for example Dense(features=128)"
)


class Dense(Primitive):
    """Affine map: `y = x @ w + b`.

    x has shape (..., n) and y (..., features), in the type of x. Parameters are w (n, features) and
    b (features,). With several axes or a tuple of features, w has shape
    `(*sizes of the axes, *features)` and b `features`; y has the other axes of x followed by
    `features`.

    Args:
        features: Number of output features, or a tuple of several sizes.
        bias: Whether to add b. Default: True.
        axis: Axis of x, or a tuple of axes, to sum over. Default: -1.
        w_init: Initializer of w. Default: `he_normal()`, for ReLU.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `features` is below 1, or if the input lacks an axis of `axis`.

    Reference: He et al., Delving deep into rectifiers, 2015 (initialization).

    >>> import jax, jax.numpy as jnp
    >>> params = Dense(128).init(jax.random.key(0), jnp.zeros((32, 784)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (128,), 'w': (784, 128)}
    >>> heads = Dense((8, 16)).init(jax.random.key(0), jnp.zeros((32, 784)))
    >>> jax.tree.map(jnp.shape, heads)
    {'b': (8, 16), 'w': (784, 8, 16)}
    >>> joined = Dense(784, axis=(-2, -1)).init(jax.random.key(0), jnp.zeros((32, 8, 16)))
    >>> jax.tree.map(jnp.shape, joined)
    {'b': (784,), 'w': (8, 16, 784)}
    """

    features: Annotated[int | tuple[int, ...], _FEATURES]
    bias: bool = True
    axis: Annotated[int | tuple[int, ...], axis_or_axes] = -1
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        check_rank(x, 1, "(..., inputs)")
        features, w_init = self.features, self.w_init
        sizes = tuple(x.shape[i] for i in distinct_axes(x, self.axis))
        if not isinstance(features, tuple):
            features = (features,)
        if len(sizes) + len(features) > 2:
            inputs = tuple(range(len(sizes)))
            outputs = tuple(range(len(sizes), len(sizes) + len(features)))
            w_init = by_axes(w_init, inputs, outputs)
        shapes = {"w": Param((*sizes, *features), w_init)}
        return shapes | {"b": Param(features, self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x @ w + b."""
        return linear(x, params["w"], params["b"] if self.bias else None, self.axis)


class _Terms(NamedTuple):
    x: str
    w: str
    y: str


_TERM = r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)"
_EQUATION = re.compile(rf"{_TERM},([a-zA-Z]+)->{_TERM}")


def _terms(equation: str) -> _Terms:
    """Return the terms of a valid equation."""
    return _Terms(*_EQUATION.findall(equation.replace(" ", ""))[0])


def _is_equation(text: Any) -> bool:
    if not isinstance(text, str) or not _EQUATION.fullmatch(text.replace(" ", "")):
        return False
    terms = _terms(text)
    return (
        all(len(set(t) - {"."}) == len(t.replace("...", "")) for t in terms)
        and set(terms.y) <= {*terms.x, *terms.w}
        and ("..." in terms.x) == ("..." in terms.y)
        and set(terms.w) <= {*terms.x, *terms.y}
    )


_equation = Accepts(
    "'x,w->y' with a letter for each axis, none twice in a term, each letter of w in x or y, and "
    "'...' in both x and y or in neither",
    _is_equation,
    hint="write for example Einsum('...n,nm->...m', (784, 128))",
)


class Einsum(Primitive):
    """Einstein summation with a weight: `y = einsum(equation, x, w) + b`.

    b has an axis for each letter that is in both w and y, in the order of y. y has the type of x.

    Args:
        equation: String "x,w->y" with one letter for each axis; "..." matches any axes that x and y
            share.
        shape: Shape of w.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Summed axes of w are its inputs, axes that x shares with y are a
            batch, and the others are its outputs. Default: `he_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the equation has another form, or if the axes of x do not match it.

    >>> import jax, jax.numpy as jnp
    >>> net, x = Einsum("...n,nhd->...hd", (6, 2, 3)), jnp.zeros((4, 5, 6))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (2, 3), 'w': (6, 2, 3)}
    >>> net.apply(params, x).shape
    (4, 5, 2, 3)
    """

    equation: Annotated[str, _equation]
    shape: tuple[int, ...]
    bias: bool = True
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check that the equation and the shape match."""
        letters = _terms(self.equation).w
        what = f"a tuple of an int >= 1 for each letter of w, {letters!r}"
        tuple_of(positive, what, (len(letters),))(self.shape, "Einsum.shape")

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        terms = _terms(self.equation)
        sizes = dict(zip(terms.w, self.shape, strict=True))
        self._check_input(x, terms.x, sizes)
        groups: dict[str, list[int]] = {"inputs": [], "outputs": [], "batch": []}
        for i, letter in enumerate(terms.w):
            kind = "outputs" if letter not in terms.x else "batch"
            groups[kind if letter in terms.y else "inputs"].append(i)
        axes = {kind: tuple(found) for kind, found in groups.items()}
        declared = {"w": Param(self.shape, by_axes(self.w_init, **axes))}
        if not self.bias:
            return declared
        shape = tuple(sizes[letter] for letter in terms.y if letter in sizes)
        return declared | {"b": Param(shape, self.b_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the sum of products plus the bias."""
        x, w = to_compute_type(x, params["w"])
        y = wide_einsum(self.equation, x, w)
        if not self.bias:
            return y
        terms = _terms(self.equation)
        before, dots, after = terms.y.partition("...")
        free = [""] * (y.ndim - len(before) - len(after)) if dots else []
        sizes = zip([*before, *free, *after], y.shape, strict=True)
        shape = [n if letter and letter in terms.w else 1 for letter, n in sizes]
        return shared_sum(y, params["b"].reshape(shape))

    def _check_input(self, x: Any, term: str, sizes: dict[str, int]) -> None:
        before, dots, after = term.partition("...")
        least = len(before) + len(after)
        check_rank(x, least, f"({', '.join([*before, *['...'] * bool(dots), *after])})")
        named = [*zip(before, x.shape, strict=False)]
        named += [*zip(after[::-1], x.shape[::-1], strict=False)]
        wrong = [letter for letter, n in named if sizes.get(letter, n) != n]
        if wrong or (len(x.shape) > least and not dots):
            wanted = {letter: sizes[letter] for letter, _ in named if letter in sizes}
            raise ValueError(
                f"expected an input of axes {term!r}, of sizes {wanted}, got {describe(x)}"
            )


class Bilinear(Primitive):
    """Bilinear form of two inputs: `y_k = sum_ij x_i w_ijk z_j + b_k`.

    x has shape (..., n), z (..., m) with the same leading axes, and y (..., features), in the type
    of x. Parameters are w (n, m, features) and b (features,).

    Args:
        features: Number of output features.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Default: `lecun_normal()`, of variance 1 / (n * m).
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the leading axes of the inputs differ.

    >>> import jax, jax.numpy as jnp
    >>> params = Bilinear(5).init(jax.random.key(0), jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'b': (5,), 'w': (3, 4, 5)}
    """

    features: Annotated[int, positive_size]
    bias: bool = True
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any, z: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        for one in (x, z):
            check_rank(one, 1, "(..., inputs)")
        same = (*x.shape[:-1], z.shape[-1])
        hint = "use jnp.broadcast_to for inputs with different leading axes"
        check_shape(z, same, f"the second input of Bilinear, for a first one {describe(x)},", hint)
        shapes = {"w": Param((x.shape[-1], z.shape[-1], self.features), self.w_init)}
        return shapes | {"b": Param((self.features,), self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array, z: jax.Array) -> jax.Array:
        """Return the bilinear form plus the bias."""
        return bilinear(x, z, params["w"], params["b"] if self.bias else None)


def by_axes(
    init: InitFn,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    batch: tuple[int, ...] = (),
) -> InitFn:
    """Return `init` with its fans counted by these axes.

    Initializers without fans, and those that set their axes explicitly, are returned unchanged.

    >>> from jaxnn.initializers import he_normal
    >>> by_axes(he_normal(), (0,), (1, 2)).fan((8, 2, 5))
    8
    """
    if not isinstance(init, variance_scaling):
        return init
    if (init.in_axis, init.out_axis, init.batch_axis) != (-2, -1, ()):
        return init
    return dataclasses.replace(init, in_axis=inputs, out_axis=outputs, batch_axis=batch)

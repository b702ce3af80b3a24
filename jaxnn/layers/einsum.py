"""Einsum: a product with a weight, written as an equation."""

import re
from typing import Any, NamedTuple

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.gradients import shared_sum
from ..functional.linear import to_compute_type, wide_einsum
from ..initializers import InitFn, he_normal, zeros
from ..validation import positive, tuple_of
from .checks import check_rank
from .fans import by_axes


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

    equation: str
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


class _Terms(NamedTuple):
    x: str
    w: str
    y: str


def _terms(equation: Any) -> _Terms:
    """Return the terms of an equation; raise ValueError if it has another form."""
    text = equation.replace(" ", "") if isinstance(equation, str) else ""
    dotted = r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)"
    match = re.fullmatch(rf"{dotted},([a-zA-Z]+)->{dotted}", text)
    terms = _Terms(*match.groups()) if match else None
    if (
        terms is None
        or any(len(set(t) - {"."}) < len(t.replace("...", "")) for t in terms)
        or not set(terms.y) <= {*terms.x, *terms.w}
        or ("..." in terms.x) != ("..." in terms.y)
        or any(c not in terms.x and c not in terms.y for c in terms.w)
    ):
        raise ValueError(
            "Einsum.equation must be 'x,w->y' with a letter for each axis, none twice in a term, "
            "each letter of w in x or y, and '...' in both x and y or in neither; got "
            f"{equation!r}; write for example Einsum('...n,nm->...m', (784, 128))"
        )
    return terms

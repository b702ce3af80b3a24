"""cached: the same network, keeping keys, carries and positions from call to call."""

from typing import Any, TypeVar

from ..core import paths
from ..core.layer import Layer
from ..core.values import copy_with, fields
from ..core.wrapper import Wrapper

Net = TypeVar("Net", bound=Layer)


def cached(net: Net, length: int = 256) -> Net:
    """`net` with a cache of `length` positions in every layer that can keep one.

    It has the same parameters, and takes a sequence in pieces of any length, each call with the
    state that the last one gave; the outputs are those of the whole sequence at once. It is for
    inference: training raises. `init_state` begins everything afresh: where the network keeps other
    state, such as running statistics, put that in its place. Writing past the length raises where
    the position is known while tracing, and gives NaN where it is not.

    Raises ValueError for a network in which no layer has a field `cache`, and for a length < 1.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Residual(nn.Attention(2, causal=True))
    >>> x = jax.random.normal(jax.random.key(0), (3, 4))  # three positions
    >>> params = net.init(jax.random.key(1), x)
    >>> one_by_one, state = cached(net, length=8), cached(net, length=8).init_state(x)
    >>> for t in range(3):
    ...     y, state = one_by_one.apply(params, x[t : t + 1], state=state)
    >>> bool(jnp.allclose(y[0], net.apply(params, x)[2], atol=1e-5))
    True
    """
    if not isinstance(net, Layer):
        raise TypeError(f"cached wants a layer, got {net!r}; write nn.cached(net, length=256)")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f"a cache has a length of at least 1 position, an int; got {length!r}")
    if not _keeps(net):
        shown = repr(net)
        raise ValueError(
            f"no layer of {shown if len(shown) <= 80 else type(net).__name__ + '(...)'} has a "
            "field `cache`: only layers that look at other positions of a sequence, such as "
            "nn.Attention, keep any"
        )
    return _with_cache(net, length)


def uncached(net: Net) -> Net:
    """`net` without a cache in any layer."""
    return _with_cache(net, 0)


def _keeps(net: Any) -> bool:
    """Whether the layer, what it wraps, or one below it has a field `cache`."""
    if not isinstance(net, Layer):
        return any(_keeps(child) for _, child in paths.walk(net) if child is not None)
    if any(field.name == "cache" for field in fields(net)):
        return True
    return _keeps(net.wrapped if isinstance(net, Wrapper) else net._children())


def _with_cache(net: Any, length: int) -> Any:
    if net is None:
        return None
    if not isinstance(net, Layer):
        return paths.map_with_path(lambda _, child: _with_cache(child, length), net)
    if not _keeps(net):
        return net
    if isinstance(net, Wrapper):
        new = copy_with(net, inner=_with_cache(net.wrapped, length))
    elif children := net._children():
        new = net._with_children(_with_cache(children, length))
    else:
        new = net
    if any(field.name == "cache" for field in fields(new)):
        new = copy_with(new, cache=length)
    new.__post_init__()  # brought to normal form and validated, as its constructor does
    return new

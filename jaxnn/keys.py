"""Random keys: any key that JAX takes as a typed one, and its words as they are kept in a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The generators that a raw key may belong to, by its shape; JAX's default one if it is among them.
RAW_KEYS: dict[Any, tuple[str, ...]] = {(2,): ("threefry2x32",), (4,): ("rbg", "unsafe_rbg")}


def as_key(key: Any) -> jax.Array:
    """A typed key from a typed or an old-style key; anything else raises TypeError."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            if key.shape == ():
                return key  # type: ignore[return-value]
        elif key.dtype == np.uint32 and key.shape in RAW_KEYS:
            kinds, default = RAW_KEYS[key.shape], jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
            kind = default if default in kinds else kinds[0]
            return jax.random.wrap_key_data(jnp.asarray(key), impl=kind)
        raise TypeError(
            f"a single random key is wanted, got an array of shape {key.shape} and type "
            f"{key.dtype}; write jax.random.key(seed), or jax.vmap over several keys"
        )
    raise TypeError(
        f"a random key is wanted, got {type(key).__name__} {key!r}; write jax.random.key(seed)"
    )


# How the words of a key are kept in a state, by generator: a shape for each. An array of words is
# taken wherever one of numbers is: stacked, saved, and given to a compiled step.
KEPT_SHAPES: dict[str, tuple[int, ...]] = {
    "threefry2x32": (2,),
    "rbg": (4,),
    "unsafe_rbg": (1, 4),
}


def kept_words(key: jax.Array) -> jax.Array:
    """The words of a typed key, in the shape that names its generator.

    >>> import jax
    >>> kept_words(jax.random.key(0)).shape, kept_words(jax.random.key(0, impl="unsafe_rbg")).shape
    ((2,), (1, 4))
    """
    words = jax.random.key_data(key)
    return words.reshape(KEPT_SHAPES.get(str(jax.random.key_impl(key)), words.shape))


def kept_key(words: Any) -> jax.Array:
    """The typed key whose words were kept by `kept_words`; a typed key as it is.

    >>> import jax
    >>> key = jax.random.key(0, impl="unsafe_rbg")
    >>> bool(kept_key(kept_words(key)) == key)
    True
    """
    for kind, shape in KEPT_SHAPES.items():
        if jnp.shape(words) == shape and words.dtype == np.uint32:
            return jax.random.wrap_key_data(jnp.asarray(words).reshape(-1), impl=kind)
    return as_key(words)


def key_words(key: Any) -> np.ndarray:
    """The words of a key on the host, in one row; those of a numpy array are taken as they are."""
    if not isinstance(key, np.ndarray):
        key = np.asarray(jax.random.key_data(as_key(key)))
    return key.reshape(-1)

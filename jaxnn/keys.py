"""Random keys: conversion to typed keys, and the words of a key as arrays in a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Generators of a raw key by its shape; JAX's default generator is used if it is among them.
RAW_KEYS: dict[Any, tuple[str, ...]] = {(2,): ("threefry2x32",), (4,): ("rbg", "unsafe_rbg")}


def as_key(key: Any) -> jax.Array:
    """Return a typed key from a typed or a raw key; raise TypeError for anything else."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            if key.shape == ():
                return key  # type: ignore[return-value]
        elif key.dtype == np.uint32 and key.shape in RAW_KEYS:
            kinds, default = RAW_KEYS[key.shape], jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
            kind = default if default in kinds else kinds[0]
            return jax.random.wrap_key_data(jnp.asarray(key), impl=kind)
        got = f"an array of shape {key.shape} and type {key.dtype}"
    else:
        got = f"{type(key).__name__} {key!r}"
    raise TypeError(
        f"key must be a single random key, got {got}; write jax.random.key(seed), and jax.vmap for "
        "several keys"
    )


# Shape of the words of a key in a state, by generator. Unlike a key, an array of words can be
# stacked, saved, and passed to a compiled step as other arrays.
KEPT_SHAPES: dict[str, tuple[int, ...]] = {
    "threefry2x32": (2,),
    "rbg": (4,),
    "unsafe_rbg": (1, 4),
}


def kept_words(key: jax.Array) -> jax.Array:
    """Return the words of a typed key, in the shape that identifies its generator.

    >>> import jax
    >>> kept_words(jax.random.key(0)).shape, kept_words(jax.random.key(0, impl="unsafe_rbg")).shape
    ((2,), (1, 4))
    """
    words = jax.random.key_data(key)
    return words.reshape(KEPT_SHAPES.get(str(jax.random.key_impl(key)), words.shape))


def kept_key(words: Any) -> jax.Array:
    """Return the typed key of the words that `kept_words` returned, or a typed key unchanged.

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
    """Return the words of a key on the host, as a vector; a NumPy array contains words already."""
    if not isinstance(key, np.ndarray):
        key = np.asarray(jax.random.key_data(as_key(key)))
    return key.reshape(-1)

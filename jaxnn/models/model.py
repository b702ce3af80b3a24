"""The base of the configurations of networks, which checks their fields."""

from ..validation import Accepts, check_fields, natural, positive, tuple_of

# Layers decide whether a traced number sets a shape.
size: Accepts = positive.such(traced=True)
depths: Accepts = natural.such(traced=True)
two_sizes: Accepts = tuple_of(size, "a tuple of 2 ints >= 1", (2,))
some_sizes: Accepts = tuple_of(size, "a tuple of ints >= 1")


class Model:
    """Base of the configurations, which are frozen dataclasses with a method `network`."""

    def __post_init__(self) -> None:
        """Raise unless every field holds what its annotation accepts."""
        check_fields(self)

"""Which axes of a weight with more than two axes are its inputs and outputs."""

import dataclasses

from ..initializers import InitFn, variance_scaling


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

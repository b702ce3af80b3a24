"""Which axes of a weight count as inputs and outputs where it has more of them than two."""

import dataclasses

from ..initializers import InitFn, variance_scaling


def by_axes(
    init: InitFn,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    batch: tuple[int, ...] = (),
) -> InitFn:
    """`init` with its fans counted by these axes; one that names axes of its own, or counts no
    fans, stays as it is.

    >>> from jaxnn.initializers import he_normal
    >>> by_axes(he_normal(), (0,), (1, 2)).fan((8, 2, 5))
    8
    """
    if not isinstance(init, variance_scaling):
        return init
    if (init.in_axis, init.out_axis, init.batch_axis) != (-2, -1, ()):
        return init
    return dataclasses.replace(init, in_axis=inputs, out_axis=outputs, batch_axis=batch)

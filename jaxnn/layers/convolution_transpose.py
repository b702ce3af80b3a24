"""Transposed convolution over 1 to 3 axes, channels last."""

from typing import Annotated, Any, Literal

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.convolution import transposed_convolution
from ..functional.windows import Padding, PerAxis, per_axis
from ..initializers import InitFn, he_normal, zeros
from ..validation import require
from .checks import check_divides, check_window, positive_size, sizes
from .convolution import kernel_parameters


class ConvTranspose(Primitive):
    """Transposed convolution: `y[t * stride + i * dilation] += x[t] @ w[i]`, plus b.

    x has shape `(..., *axes, n)` and y `(..., *axes, features)`, in the type of x. Parameters are w
    `(*kernel_size, n / groups, features)` and b (features,). Along an axis of s elements the output
    has length

        (s - 1) * stride + (kernel_size - 1) * dilation + 1 - before - after + output_padding

    as in torch.nn.ConvTranspose1d to ConvTranspose3d.

    Args:
        features: Number of output channels.
        kernel_size: Size of the window along each axis; an int means one axis.
        stride: Step between the outputs of neighboring inputs, one number for all axes or one for
            each. Default: 1.
        dilation: Step between the elements of a window, as `stride`. Default: 1.
        groups: Number of groups of neighboring channels; must divide n and `features`. Default: 1.
        padding: Number of output elements to remove: an int for both ends, a pair (before, after),
            "valid" for none, "same" for an output of length s * stride + output_padding, or a tuple
            with one such entry for each axis. Default: "same".
        output_padding: Number of elements to add at the end; must be smaller than the stride or the
            dilation. "stride" adds what a window shorter than the stride lacks, as keras and flax
            do for padding="valid": the length is then at least s * stride. Default: 0.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Default: `he_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `groups` does not divide the channels, if the output would be empty, or if
            the input has too few axes.

    Reference: Zeiler et al., Deconvolutional networks, 2010.

    >>> import jax, jax.numpy as jnp
    >>> net, x = ConvTranspose(8, (4, 4), stride=2), jnp.zeros((2, 7, 7, 16))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'w': (4, 4, 16, 8)}
    >>> net.apply(params, x).shape
    (2, 14, 14, 8)
    """

    features: Annotated[int, positive_size]
    kernel_size: Annotated[PerAxis, sizes()]
    stride: PerAxis = 1
    dilation: PerAxis = 1
    groups: Annotated[int, positive_size] = 1
    padding: Padding = "same"
    output_padding: PerAxis | Literal["stride"] = 0
    bias: bool = True
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the window and the groups."""
        axes = check_window(self, ("same", "valid"))
        check_divides(self, "groups", "features")
        if self.output_padding == "stride":
            return
        sizes(axes, 0)(self.output_padding, "ConvTranspose.output_padding")
        most = tuple(map(max, per_axis(self.stride, axes), per_axis(self.dilation, axes)))
        given = per_axis(self.output_padding, axes)
        require(
            not any(extra and extra >= n for extra, n in zip(given, most, strict=True)),
            "ConvTranspose.output_padding",
            f"below the stride or the dilation, {most}",
            self.output_padding,
        )

    def _extra(self) -> PerAxis:
        if not isinstance(self.output_padding, str):
            return self.output_padding
        kernel = per_axis(self.kernel_size, 1)
        each = (per_axis(a, len(kernel)) for a in (self.stride, self.dilation))
        windows = zip(kernel, *each, strict=True)
        return tuple(max(stride - ((k - 1) * d + 1), 0) for k, stride, d in windows)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, and b if there is a bias."""
        return kernel_parameters(self, x, self.groups, self.features)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the transposed convolution plus the bias."""
        return transposed_convolution(
            x,
            params["w"],
            params["b"] if self.bias else None,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
            output_padding=self._extra(),
        )

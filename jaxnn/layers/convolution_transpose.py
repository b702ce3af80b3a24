"""The transposed convolution over 1 to 3 axes, channels last."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.convolution import PerAxis, per_axis, transposed_convolution
from ..functional.padding import Padding
from ..initializers import InitFn, he_normal, zeros
from .checks import check_per_axis, check_positive
from .kernel import check_groups, check_kernel, kernel_parameters


class ConvTranspose(Primitive):
    """y[t * stride + i * dilation] += x[t] @ w[i], plus b: the transpose of a convolution.

    x is (..., *axes, n) and y (..., *axes, features), in the type of x; w is
    (*kernel_size, n / groups, features), b (features,). Along an axis of s elements the output has

        (s - 1) * stride + (kernel_size - 1) * dilation + 1 - before - after + output_padding

    where `padding` is an int (cut off on both sides), a pair (before, after), "valid" (0), "same"
    (as many as leave s * stride + output_padding), or a tuple with such an entry for each axis. An
    int is the padding of torch.nn.ConvTranspose1d to 3d, and so is `output_padding`, which has to
    be below the stride or the dilation. Raises ValueError where groups divide neither channels nor
    features, where nothing is left, and for an input with fewer axes.

    Reference: Zeiler et al., Deconvolutional networks, 2010.

    >>> import jax, jax.numpy as jnp
    >>> net, x = ConvTranspose(8, (4, 4), stride=2), jnp.zeros((2, 7, 7, 16))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (8,), 'w': (4, 4, 16, 8)}
    >>> net.apply(params, x).shape
    (2, 14, 14, 8)
    """

    features: int
    kernel_size: PerAxis
    stride: PerAxis = 1
    dilation: PerAxis = 1
    groups: int = 1
    padding: Padding = "same"
    output_padding: PerAxis = 0
    bias: bool = True
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def __post_init__(self) -> None:
        """Check the fields."""
        axes = check_kernel(self, ("same", "valid"))
        check_positive(self, "features", "groups")
        check_groups(self, self.features, "features")
        check_per_axis(self, "output_padding", axes, least=0)
        most = zip(per_axis(self.stride, axes), per_axis(self.dilation, axes), strict=True)
        for extra, pair in zip(per_axis(self.output_padding, axes), most, strict=True):
            if extra and extra >= max(pair):
                raise ValueError(
                    f"ConvTranspose.output_padding is below the stride or the dilation, got "
                    f"{self.output_padding!r} with stride {self.stride!r} and dilation "
                    f"{self.dilation!r}; write output_padding={max(pair) - 1}, say"
                )

    def parameters(self, x: Any) -> dict[str, Param]:
        """w, and b where there is a bias."""
        return kernel_parameters(self, x, self.groups, self.features)

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The transposed convolution plus the bias."""
        return transposed_convolution(
            x,
            params["w"],
            params["b"] if self.bias else None,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
            output_padding=self.output_padding,
        )

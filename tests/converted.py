"""Fixtures and comparisons for networks converted from other libraries."""

from typing import Any

import jax
import numpy as np

from jaxnn.interop.torch_names import state_dict
from tests.fixtures import interop as fixtures

# Tolerance for converted networks: float32 sums of up to about 100 terms, in another order.
NEAR = 1e-5


def fixture(model: str, kind: str = "weights") -> tuple[dict[str, Any], list[Any], Any]:
    """Return the weights by their original names or those in Keras's file, inputs, and output."""
    with np.load(fixtures.FILE) as file:
        found = {k.removeprefix(f"{model}:"): file[k] for k in file if k.startswith(f"{model}:")}
    start = f"{kind}:"
    weights = {k.removeprefix(start): a for k, a in found.items() if k.startswith(start)}
    inputs = [found[name] for name in sorted(found) if name[0] == "x"]
    as_int = [x.astype(np.int32) if x.dtype == np.int64 else x for x in inputs]
    return weights, as_int, found["y"]


def outputs(net: Any, weights: Any, *inputs: Any, **named: Any) -> Any:
    """Return the output of `net` in inference."""

    def run(params, state, inputs, named):
        return net.apply(params, *inputs, state=state, **named)[0]

    return jax.jit(run)(weights.params, weights.state, inputs, named)


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert that the outputs are equal up to rounding, and are not all close to zero."""
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=NEAR, atol=NEAR)


def assert_same_gradients(net: Any, gradients: Any, names: Any, expected: Any) -> None:
    """Assert that gradients by the names of torch are those of a fixture, `grad NAME`."""
    found = state_dict(net, gradients, names)
    wanted = {name[5:]: array for name, array in expected.items() if name.startswith("grad ")}
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=NEAR, atol=NEAR, err_msg=name)

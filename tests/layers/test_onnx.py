"""Layers with the weights of torch.nn modules, as the onnx package has them: torch's outputs."""

import numpy as np
import pytest

from tests.onnx_cases import NAMES, OUT_OF_SCOPE, network, read

IN_SCOPE = [name for name in NAMES if name not in OUT_OF_SCOPE]


def test_every_case_is_run_or_listed():
    assert len(IN_SCOPE) >= 75
    assert set(OUT_OF_SCOPE) <= set(NAMES)
    assert set(IN_SCOPE) | set(OUT_OF_SCOPE) == set(NAMES)
    assert all(OUT_OF_SCOPE.values())


@pytest.mark.parametrize("name", IN_SCOPE)
def test_as_written_down(name):
    sample = read(name)
    y = network(sample)(sample.x)
    assert y.dtype == sample.y.dtype
    # Outputs are of order one, and sums of at most some hundred terms.
    np.testing.assert_allclose(y, sample.y, rtol=1e-5, atol=1e-5)

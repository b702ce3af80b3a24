"""The parts of the GPU benchmark in small sizes on a CPU, and its driver."""

import importlib
import re

import pytest

from benchmarks.gpu import driver
from benchmarks.gpu.training import parameters_of
from benchmarks.networks.sizes import GPT2

EXPECTED = {
    "device": r"cpu",
    "gpt2_jaxnn": r"blocks in a row: [\d.]+ ms a step of 32 tokens, [\d,]+ tokens/s",
    "gpt2_flax_nnx": r"flax nnx: [\d.]+ ms",
    "sums": r"Recurrent LSTM, float16: off by",
    "attention": r"xla: [\d.]+ ms; off from own by 0",
    "first_network": r"later ones [\d.]+ ms",
    "lanes": r"4 lanes: .* 4 losses finite",
    "cases": r"4 of 4 cases compared with the CPU, 0 wrong or failed, 0 not reached",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_part_finds_something(name):
    module = importlib.import_module(f"benchmarks.gpu.{driver.PARTS[name].module}")
    lines = list(getattr(module, name)(True))
    assert re.search(EXPECTED[name], "\n".join(lines)), lines
    assert not [line for line in lines if "failed:" in line]


def test_every_part_is_tested():
    assert set(driver.PARTS) - set(EXPECTED) == {"gpt2_torch"}  # torch is not a dependency
    assert driver.WHOLE <= 300


def test_a_part_that_fails_does_not_cost_the_others(tmp_path):
    parts = {
        "nothing": driver.Part("correctness", 60),
        "sums": driver.Part("correctness", 0.2),
        "device": driver.Part("correctness", 60),
    }
    shown: list[str] = []
    results = tmp_path / "RESULTS-GPU.md"
    failed = driver.main(parts, small=True, results=results, show=shown.append)
    text = results.read_text()
    assert failed == 2
    assert "**nothing failed with status 1** AttributeError: module" in text
    assert "**sums stopped after its time**" in text
    assert re.search(r"^cpu \(cpu\); 20", text, re.MULTILINE)
    assert text.index("## nothing") < text.index("## sums") < text.index("## device")
    assert shown[0] == "## nothing"


def test_no_part_is_begun_without_time(tmp_path):
    parts = {"device": driver.Part("correctness", 60)}
    results = tmp_path / "RESULTS-GPU.md"
    assert driver.main(parts, results=results, whole=1, show=lambda line: None) == 1
    assert "not run: the time for all parts was over" in results.read_text()


def test_the_parameters_are_those_that_jaxnn_has():
    """GPT-2 small is published with 124 million parameters."""
    import jax
    import numpy as np

    from jaxnn.models import GPT

    net = GPT(layers=12, width=768, num_heads=12, length=1024).network(50257)
    spec = net.spec(jax.ShapeDtypeStruct((1, 8), np.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(spec)) == parameters_of(GPT2) == 124_439_808

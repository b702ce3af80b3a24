"""The parts of the GPU benchmark in small sizes on a CPU, and its driver."""

import importlib
import pkgutil
import re
from typing import Any

import jax
import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks.gpu import driver
from benchmarks.gpu.measure import Speed
from benchmarks.gpu.training import parameters_of
from benchmarks.networks.sizes import GPT2

EXPECTED = {
    "device": r"cpu",
    "gpt2_jaxnn": r"blocks in a row: [\d.]+ ms a step of 32 tokens, [\d,]+ tokens/s; init [\d.]+ s",
    "gpt2_jaxnn_default": r"default attention, blocks repeated: [\d.]+ ms",
    "gpt2_flax_nnx": r"flax nnx, default attention: [\d.]+ ms",
    "gpt2_equinox": r"equinox: [\d.]+ ms",
    "resnet_jaxnn": r"jaxnn: [\d.]+ ms a step of 2 images, [\d,]+ images/s",
    "resnet_flax_nnx": r"flax nnx: [\d.]+ ms",
    "lstm_jaxnn": r"jaxnn, bfloat16: [\d.]+ ms a step of 16 tokens",
    "decode_jaxnn": r"jaxnn, 1 at once: [\d.]+ ms a token",
    "thousand": r"2 trials as lanes: .* 2 losses finite.*\n- a process for each trial: [\d.]+ s",
    "sums": r"Recurrent LSTM, float16: off by",
    "attention": r"xla: [\d.]+ ms; off from own by 0",
    "first_network": r"later ones [\d.]+ ms",
    "lanes": r"4 lanes: .* 4 losses finite",
    "cases": r"4 of 4 cases compared with the CPU, 0 wrong or failed, 0 not reached",
}
TORCH = {"gpt2_torch", "resnet_torch", "lstm_torch", "decode_torch"}  # is not a dependency


# A comparison with a reference, a step of training, and a layer; all others are slow.
QUICK = {"device", "cases", "lstm_jaxnn", "attention"}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXPECTED]
)
def test_a_part_finds_something(name):
    module = importlib.import_module(f"benchmarks.gpu.{driver.PARTS[name].module}")
    lines = list(getattr(module, name)(True))
    assert re.search(EXPECTED[name], "\n".join(lines)), lines
    assert not [line for line in lines if "failed:" in line]


TRACED = (
    "gpt2_jaxnn", "gpt2_jaxnn_default", "gpt2_ablation", "gpt2_flax_nnx", "gpt2_equinox",
    "resnet_jaxnn", "resnet_flax_nnx", "decode_jaxnn",
)  # fmt: skip


@pytest.mark.parametrize("name", TRACED)
def test_a_part_can_be_traced(name, monkeypatch):
    """A part that a change of jaxnn breaks fails for every change, without any compilation."""
    module = importlib.import_module(f"benchmarks.gpu.{driver.PARTS[name].module}")
    stepped: list[Any] = []

    def speed(step: Any, wait: Any, small: bool) -> Speed:
        stepped.append(step())
        return Speed(1.0, 1.0, 1.0, 1.0)

    lines: list[str] = []
    monkeypatch.setattr(module, "speed", speed)
    monkeypatch.setattr(jax, "block_until_ready", lambda value: value)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    jax.eval_shape(lambda: lines.extend(getattr(module, name)(True)))
    assert lines and not [line for line in lines if "failed:" in line]
    assert len(stepped) == (0 if name == "decode_jaxnn" else len(lines))


def test_every_benchmark_can_be_imported():
    """Except those of libraries that are not installed, and torch, which takes too long."""
    names = {module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")}
    others = {name for name in names if name.endswith((".torch_", ".transformers_", ".keras_"))}
    assert len(others) == 4 and set(command.NAMES) <= {name.split(".")[1] for name in names}
    for name in sorted(names - others):
        importlib.import_module(name)


def test_every_part_is_tested():
    assert set(driver.PARTS) - set(EXPECTED) == TORCH | {"gpt2_ablation"}
    assert driver.WHOLE < 8 * 60


@pytest.mark.slow
def test_an_ablation_changes_no_number():
    from benchmarks.gpu import training

    lines = list(training.gpt2_ablation(True))
    losses = {re.findall(r"loss (.*)", line)[0] for line in lines}
    assert len(lines) == 3 and len(losses) == 1
    assert re.search(r"NaN not kept apart: [\d.]+ ms", lines[-1])


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


def test_a_difference_beyond_the_tolerance_is_held_against_float64(monkeypatch):
    """A gradient that is 0 in truth has no digits: the CPU is as far from it as any device."""
    import jax.numpy as jnp

    import jaxnn as nn
    from benchmarks.gpu import correctness
    from tests.cases import Case, floats

    case = Case("norm of a bias", nn.Sequential(nn.Dense(4), nn.BatchNorm()), (floats(6, 3),))
    monkeypatch.setattr(correctness, "TOLERANCE", -1.0)
    found = correctness._compared(case, float("inf"))
    assert found is not None
    assert found.difference == 0 and found.device == found.cpu > 0
    assert found.cpu < 0.1 and jnp.isfinite(found.cpu)

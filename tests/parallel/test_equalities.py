"""Eight devices give the numbers of one, however a network is split, and exchange no more than
necessary."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnn import parallel
from jaxnn.parallel.placement import Gathering, gathered
from jaxnn.parallel.rules import flatten_with_paths
from tests.parallel import on_eight
from tests.parallel.on_eight import MESHES, NETWORKS, program_of

QUICK = (
    "mlp:DATA_PARALLEL",
    "mlp:FSDP",
    "mlp:TENSOR_PARALLEL",
    "mlp:FSDP_TENSOR_PARALLEL",
    "gpt:FSDP_TENSOR_PARALLEL",
    "convolution:FSDP",
)
SLOW = tuple(
    case
    for name in NETWORKS
    for table in MESHES
    # The tables of tensor parallelism match the names of the models.
    if (case := f"{name}:{table}") not in QUICK
    and not (name in ("convolution", "lstm") and "TENSOR" in table)
)


@functools.cache
def trained(cases):
    """What `on_eight` prints for the cases, in one process for all of them."""
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    child = subprocess.run(
        [sys.executable, "-m", on_eight.__name__, *cases],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        slow = [pytest.param(case, marks=pytest.mark.slow) for case in SLOW]
        metafunc.parametrize("case", [*QUICK, *slow])


def found_in(case):
    return trained(QUICK if case in QUICK else SLOW)[case]


def test_eight_devices_are_one(case):
    found = found_in(case)
    # Sums in another order: some float32 roundings of 6e-8 each, over three steps of Adam.
    assert found["apart"] < 2e-5
    assert found["metrics"] < 5e-6
    assert found["lies"]


def test_weights_are_split(case):
    name, table = case.split(":")
    # A device's part of the largest array.
    parts = {"DATA_PARALLEL": 1, "FSDP": 8, "TENSOR_PARALLEL": 4, "FSDP_TENSOR_PARALLEL": 8}
    wanted = parts[table]
    if name == "gpt" and "TENSOR" in table:  # positions, which no layer's role splits
        wanted //= 4
    assert found_in(case)["part"] == 1 / wanted


def test_nothing_else_is_exchanged(case):
    kinds = set(found_in(case)["collectives"])
    # Sums of gradients; weights made whole. Never activations from one split to another, by
    # all-to-all or collective-permute.
    assert kinds <= ({"all-reduce"} if "DATA" in case else {"all-reduce", "all-gather"})
    assert "all-reduce" in kinds
    assert ("all-gather" in kinds) or "FSDP" not in case


MATRICES, VECTORS = 4 * (16 * 32 + 32 * 8), 4 * (32 + 8)
METRICS = 4 * (2 + 2)  # two sums over the rows, and how many labels each is over


@pytest.mark.parametrize(
    ("table", "gathered", "summed"),
    [
        # Every gradient, and the metrics.
        ("DATA_PARALLEL", 0, MATRICES + VECTORS + METRICS),
        # Each matrix once more: it is kept from the forward pass to the backward one.
        ("FSDP", MATRICES, MATRICES + VECTORS + METRICS),
        # The first layer's part of the vectors, all of the second's; 8 rows of 8 outputs.
        ("TENSOR_PARALLEL", 0, MATRICES // 4 + 4 * (32 // 4 + 8) + METRICS + 4 * 8 * 8),
        ("FSDP_TENSOR_PARALLEL", MATRICES // 4, MATRICES // 4 + 4 * (8 + 8) + METRICS + 4 * 64),
    ],
)
def test_bytes_exchanged_by_a_perceptron(table, gathered, summed):
    found = trained(QUICK)[f"mlp:{table}"]["collectives"]
    assert found.get("all-gather", [0, 0])[1] == gathered
    assert found["all-reduce"][1] == summed


def test_weights_of_a_transformer_are_gathered_a_layer_at_a_time():
    layers, weights = 2, 6  # query, key, value, out; up, down
    size = 4 * (4 * 16 * 16 + 2 * 16 * 64)
    positions, table = 4 * 256 * 16, 4 * 64 * 16
    # A quarter of each weight but the positions, forward and, under Remat, backward; the table for
    # the embedding and for the head. And the largest logit of each quarter of the tokens with its
    # place, 4 rows of 8, for the metric.
    times, total = trained(QUICK)["gpt:FSDP_TENSOR_PARALLEL"]["collectives"]["all-gather"]
    assert times == 2 * layers * weights + 3 + 2
    assert total == (2 * layers * size + 2 * table) // 4 + positions + 2 * 4 * 4 * 8 * 4


def test_plans_are_what_xla_reports_of_the_real_step(case):
    """Planned here, in a process with one device, and compiled there for eight."""
    name, table = case.split(":")
    if case.startswith("gpt") and case in QUICK:
        pytest.skip("takes 4 s: the other networks do")
    program, batch = program_of(name)
    placement = parallel.Placement(
        parallel.abstract_mesh(**MESHES[table]), getattr(parallel, table)
    )
    found = parallel.plan(program, batch, placement)
    memory = found_in(case)["memory"]
    given = found.state + found.batch
    # XLA may leave out a key or a scalar that no step reads.
    np.testing.assert_allclose(given, memory["given"], rtol=0.01)
    np.testing.assert_allclose(found.total, memory["total"], rtol=0.1)
    parts = given + found.gradients + found.activations
    np.testing.assert_allclose(parts, memory["total"], rtol=0.1)


def test_gathering_changes_nothing_in_a_network():
    """It takes the same parameters, and is another value: its program is another one."""
    net, _, (x, _) = NETWORKS["gpt"]
    mesh, spec = parallel.abstract_mesh(data=8), net.spec(x)

    def gathering(rules):
        places = dict(flatten_with_paths(parallel.shardings(spec, mesh, rules)))
        leaves = ((path, one.shape, places[path].spec) for path, one in flatten_with_paths(spec))
        return gathered(net, mesh, Gathering(mesh, tuple(leaves)).specs(spec))

    assert gathering(parallel.FSDP).spec(x) == net.spec(x)
    assert gathering(parallel.FSDP) != net
    assert gathering(parallel.DATA_PARALLEL) is net

"""Plans: closed forms, texts, and a network that exceeds the memory of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn import parallel, train
from jaxnn.parallel.memory_plan import collectives
from tests.parallel import on_programs

X = jax.ShapeDtypeStruct((16, 64), "float32")
NET = nn.Sequential(up=nn.Dense(128), activation=jax.nn.relu, down=nn.Dense(64, bias=False))
MESH = parallel.abstract_mesh(data=2, model=4)


BATCH = X, jax.ShapeDtypeStruct((16,), "int32")


def planned(program, rules, batch=BATCH):
    return parallel.plan(program, batch, parallel.Placement(MESH, rules))


def supervised(net=NET):
    return train.Supervised(net, train.Classification(64), optax.adam(1e-3))


def test_the_gradient_of_a_depthwise_kernel_gathers_no_images():
    """On one device it is a loop over rows of all images."""
    net = nn.Sequential(nn.DepthwiseConv(3), nn.GlobalAvgPool())
    images = jax.ShapeDtypeStruct((16, 8, 8, 4), "float32"), BATCH[1]
    placement = parallel.Placement(parallel.abstract_mesh(data=4))
    program = train.Supervised(net, train.Classification(4), optax.sgd(0.1))
    assert list(parallel.plan(program, images, placement).collectives) == ["all-reduce"]


def test_bytes_by_hand():
    found = planned(supervised(), parallel.FSDP_TENSOR_PARALLEL)
    matrices, bias = 2 * 64 * 128 * 4 // 8, 128 * 4 // 4
    params = matrices + bias
    assert found.gradients == params
    # Two moments and their count; the step and the key.
    assert found.parts == {"params": params, "opt_state": 2 * params + 4, "step": 4, "key": 8}
    assert found.state == 3 * params + 16
    assert found.batch == (16 // 2) * (64 * 4 + 4)
    assert found.rows["params/up/w"].bytes == 64 * 128 * 4
    assert found.rows["params/up/w"].bytes_per_device == 64 * 128 * 4 // 8
    assert found.collectives["all-gather"].bytes >= matrices * 2
    text = str(found)
    assert "params/up/w            f32[64,128]  data, model   32.0 KiB     4.0 KiB" in text
    assert "mesh             data=2 x model=4" in text
    assert "state/params     8.1 KiB per device" in text
    assert "<td" in found._repr_html_()


def test_parameters_in_inference_have_no_gradients_or_moments():
    net = nn.Sequential(NET, nn.Inference(nn.Dense(64)))
    found = planned(supervised(net), parallel.FSDP)
    trained = 2 * 64 * 128 * 4 // 2 + 128 * 4  # the axis `data` splits matrices alone
    assert found.gradients == trained
    assert found.parts["opt_state"] == 2 * trained + 4
    assert found.parts["params"] == trained + 64 * 64 * 4 // 2 + 64 * 4


def test_a_plan_of_parameters_that_are_given():
    params = NET.init(jax.random.key(0), X)
    program = train.Supervised(NET, train.Classification(64), optax.sgd(1e-3), initial=params)
    found = planned(program, parallel.FSDP)
    assert found.gradients == found.parts["params"] == 2 * 64 * 128 * 4 // 2 + 128 * 4


class Walk(train.Program):
    """A program without data and layers."""

    matrix: Any

    def init(self, key, batch):
        return {"x": jnp.ones(16), "key": key}

    def step(self, state, batch):
        return state | {"x": self.matrix @ state["x"]}, {"loss": 0.0}


def test_a_plan_of_a_program_without_data():
    found = planned(Walk(jnp.eye(16)), (("x", P("model")),), batch=None)
    # Two words of threefry.
    assert found.parts == {"x": 16 * 4 // 4, "key": 8}
    assert (found.batch, found.gradients) == (0, 0)
    # Each device has the matrix, too.
    assert 16 * 16 * 4 <= found.total < 16 * 16 * 4 + 1024


def test_a_plan_of_two_networks():
    gan, batch = on_programs.A_GAN, jax.ShapeDtypeStruct((8, 2), "float32")
    found = planned(gan, parallel.FSDP, batch)
    generator = (4 * 32 + 32 * 2) * 4 // 2 + (32 + 2) * 4
    critic = (2 * 32 + 32 * 1) * 4 // 2 + (32 + 1) * 4
    assert found.gradients == generator + critic
    assert (found.parts["g"], found.parts["c"]) == (generator, critic)
    assert found.parts["optimizers"] == 2 * (generator + critic) + 2 * 4
    assert set(found.collectives) == {"all-gather", "all-reduce"}


def test_what_a_plan_rejects():
    x, y = jax.ShapeDtypeStruct((15, 64), "float32"), jax.ShapeDtypeStruct((15,), "int32")
    with pytest.raises(
        ValueError,
        match=r"batch/0 must be .* into 2 equal parts, got float32\[15,64\]; .* a multiple of 2",
    ):
        planned(supervised(), parallel.FSDP, (x, y))


HLO = """\
HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

%body.1 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %g = f32[8,4]{1,0} all-gather(%x), channel_id=1, dimensions={0}
  %r = (bf16[4]{0}, /*index=1*/f32[2,2]{1,0}) all-reduce(%y, %z), to_apply=%add
}

%cond.1 (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.2 (p: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]) while(%t), condition=%cond.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
  %s = f32[4]{0} all-gather-start(%q), channel_id=3
  %d = f32[8]{0} all-gather-done(%s)
  ROOT %o = pred[16]{0} collective-permute(%d), channel_id=4
}
"""


def test_collectives_are_counted_with_their_loops():
    class Compiled:
        def as_text(self):
            return HLO

    assert collectives(Compiled()) == {
        "all-gather": parallel.Collective(5 + 1, 5 * 8 * 4 * 4 + 8 * 4),
        "all-reduce": parallel.Collective(5, 5 * (4 * 2 + 2 * 2 * 4)),
        "collective-permute": parallel.Collective(1, 16),
    }


LLAMA = """
import json, resource, time
import jax, optax
from jaxnn import models, parallel, train
began = time.perf_counter()
task = train.NextToken(32000)
program = train.Supervised(models.GPT.llama2_7b().network(32000), task, optax.adamw(1e-4))
tokens = jax.ShapeDtypeStruct((256, 4096), "int32")
mesh = parallel.abstract_mesh(data=16, model=16)
placement = parallel.Placement(mesh, parallel.FSDP_TENSOR_PARALLEL)
found = parallel.plan(program, (tokens, tokens), placement)
params = [row for path, row in found.rows.items() if path.startswith("params/")]
print(json.dumps({
    "seconds": time.perf_counter() - began,
    "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "elements": sum(row.bytes for row in params) // 4,
    "parts": found.parts, "total": found.total, "kinds": list(found.collectives),
}))
"""


@pytest.mark.slow
def test_llama_on_256_devices():
    run = subprocess.run(
        [sys.executable, "-c", LLAMA],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["elements"] == 6_738_415_616  # Touvron et al., 2023
    # All is split into 256 parts except for the scales of 65 norms.
    split, whole = 4 * (6_738_415_616 - 65 * 4096) // 256, 4 * 65 * 4096
    assert found["parts"]["params"] == split + whole
    assert found["parts"]["opt_state"] == 2 * (split + whole) + 4
    assert found["kinds"] == ["all-gather", "all-reduce"]
    assert found["seconds"] < 300 and found["kilobytes"] < 16 * 2**20

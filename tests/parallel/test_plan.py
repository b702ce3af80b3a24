"""Plans: closed forms, texts, and a network that no machine here could hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import optax
import pytest

import jaxnn as nn
from jaxnn import parallel, train
from jaxnn.parallel.collectives import collectives

X = jax.ShapeDtypeStruct((16, 64), "float32")
NET = nn.Sequential(up=nn.Dense(128), activation=jax.nn.relu, down=nn.Dense(64, bias=False))
MESH = parallel.abstract_mesh(data=2, model=4)


def test_bytes_by_hand():
    task, rules = train.Classification(64), parallel.FSDP_TENSOR_PARALLEL
    found = parallel.plan(NET, optax.adam(1e-3), X, MESH, rules, task=task)
    matrices, bias = 2 * 64 * 128 * 4 // 8, 128 * 4 // 4
    assert found.parameters == found.gradients == matrices + bias
    assert found.optimizer == 2 * found.parameters + 4
    assert found.state == 4 + 8  # the step and the key
    assert found.batch == (16 // 2) * (64 * 4 + 4)
    assert found.rows["up/w"].bytes == 64 * 128 * 4
    assert found.rows["up/w"].bytes_a_device == 64 * 128 * 4 // 8
    assert found.collectives["all-gather"].bytes >= matrices * 2
    text = str(found)
    assert "up/w    f32[64,128]  data, model  32.0 KiB   4.0 KiB" in text
    assert "mesh         data=2 x model=4" in text
    assert "parameters   8.1 KiB a device" in text
    assert "<td" in found._repr_html_()


def test_parameters_in_inference_have_no_gradients_or_moments():
    net = nn.Sequential(NET, nn.Inference(nn.Dense(64)))
    found = parallel.plan(net, optax.adam(1e-3), X, MESH, parallel.FSDP)
    trained = 2 * 64 * 128 * 4 // 2 + 128 * 4  # the axis `data` splits matrices alone
    assert found.gradients == trained
    assert found.optimizer == 2 * trained + 4
    assert found.parameters == trained + 64 * 64 * 4 // 2 + 64 * 4


def test_what_a_plan_refuses():
    with pytest.raises(ValueError, match=r"x is float32\[15,64\], whose rows .* a multiple of 2"):
        x = jax.ShapeDtypeStruct((15, 64), "float32")
        parallel.plan(NET, optax.sgd(0.1), x, MESH, parallel.FSDP)
    with pytest.raises(ValueError, match=r"what its targets are: write parallel.plan\(..., targ"):
        parallel.plan(NET, optax.sgd(0.1), X, MESH, parallel.FSDP, task=lambda y, t: y.mean())


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
found = parallel.plan(
    models.GPT.llama2_7b().network(32000), optax.adamw(1e-4),
    jax.ShapeDtypeStruct((256, 4096), "int32"), parallel.abstract_mesh(data=16, model=16),
    parallel.FSDP_TENSOR_PARALLEL, task=train.NextToken(32000),
)
print(json.dumps({
    "seconds": time.perf_counter() - began,
    "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "elements": sum(row.bytes for row in found.rows.values()) // 4,
    "parameters": found.parameters, "optimizer": found.optimizer,
    "total": found.total, "kinds": list(found.collectives),
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
    # All is split in 256 but the scales of 65 norms.
    split, whole = 4 * (6_738_415_616 - 65 * 4096) // 256, 4 * 65 * 4096
    assert found["parameters"] == split + whole
    assert found["optimizer"] == 2 * found["parameters"] + 4
    assert found["kinds"] == ["all-gather", "all-reduce"]
    assert found["seconds"] < 300 and found["kilobytes"] < 16 * 2**20

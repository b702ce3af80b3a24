"""Meshes and tables of rules: what they return, and what they reject."""

from typing import Any

import jax
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn import models, parallel, train

EIGHT = parallel.abstract_mesh(data=2, model=4)
X = jax.ShapeDtypeStruct((8, 16), "float32")
NET = nn.Sequential(up=nn.Dense(32), down=nn.Dense(12))


def specs(net, x, mesh, rules):
    found = parallel.shardings(net.spec(x), mesh, rules)
    return jax.tree.map(lambda sharding: tuple(sharding.spec), found)


def test_a_mesh_larger_than_the_devices():
    have = jax.device_count()
    wanted = (
        f"parallel.mesh(data={2 * have}, model=1) needs {2 * have} devices, but jax.devices() has "
        f"{have}; make an axis smaller"
    )
    with pytest.raises(ValueError) as error:
        parallel.mesh(data=2 * have, model=1)
    assert str(error.value).startswith(wanted)
    assert f"XLA_FLAGS=--xla_force_host_platform_device_count={2 * have}" in str(error.value)
    with pytest.raises(ValueError, match=rf"needs a multiple of {2 * have} devices"):
        parallel.mesh(data=-1, model=2 * have)


def test_axes_that_are_not_a_mesh():
    with pytest.raises(
        ValueError, match=r"axes of a mesh must be at least one, .*write parallel.mesh\(data=-1\)"
    ):
        parallel.mesh()
    with pytest.raises(ValueError, match=r"'data' of a mesh must be an int >= 1, or -1 .*, got 0"):
        parallel.mesh(data=0)
    with pytest.raises(ValueError, match=r"one may be -1, got \{'a': -1, 'b': -1\}"):
        parallel.mesh(a=-1, b=-1)
    with pytest.raises(ValueError, match=r"'data' of a mesh must be an int >= 1, got -1"):
        parallel.abstract_mesh(data=-1)


def test_the_first_rule_that_matches_decides():
    rules = (("down/*", P("data")), ("**/w", P(None, "model")), ("**", P()))
    assert specs(NET, X, EIGHT, rules) == {
        "up": {"w": (None, "model"), "b": ()},
        "down": {"w": ("data",), "b": ("data",)},
    }


def test_parameters_that_no_rule_matches_are_replicated():
    found = specs(NET, X, EIGHT, (("up/w", P(None, "model")),))
    assert found == {"up": {"w": (None, "model"), "b": ()}, "down": {"w": (), "b": ()}}


def test_stacked_axes_are_left_out():
    block = nn.Sequential(nn.Dense(16), nn.Dense(16))
    rules = (("0/w", P(None, "model")), ("1/w", P(("model", "data"))), ("**", P()))
    plain = specs(block, X, EIGHT, rules)
    assert plain[1]["w"] == (("model", "data"),)
    repeated = specs(nn.Repeat(block, 3), X, EIGHT, rules)
    assert repeated[0]["w"] == (None, None, "model")
    assert repeated[1]["w"] == (None, ("model", "data"))


def test_a_split_leaves_what_it_does_not_divide():
    split = parallel.Split(inputs="model", outputs="data", largest="data")
    sizes = {"data": 2, "model": 4}
    assert tuple(split.spec((3, 3, 8, 5), sizes)) == (None, None, "model", None)
    assert tuple(parallel.Split(largest="data").spec((6, 4, 6), sizes)) == (None, None, "data")
    assert tuple(parallel.Split(largest="data").spec((6,), sizes)) == (None,)


def test_what_does_not_fit_is_listed():
    rules = (("down/w", P("model", "data")), ("up/w", P(None, None, "data")), ("up/b", P("data")))
    with pytest.raises(ValueError) as error:
        parallel.shardings(nn.Sequential(up=nn.Dense(3), down=nn.Dense(5)).spec(X), EIGHT, rules)
    assert str(error.value).splitlines() == [
        "the rules do not fit the parameters:",
        f"  down/w: {P('model', 'data')} splits the axis of 3 of the shape (3, 5) in 4, which does "
        "not divide it; write None there, or parallel.Split, which leaves it whole",
        f"  down/w: {P('model', 'data')} splits the axis of 5 of the shape (3, 5) in 2, which does "
        "not divide it; write None there, or parallel.Split, which leaves it whole",
        f"  up/b: {P('data')} splits the axis of 3 of the shape (3,) in 2, which does not divide "
        "it; write None there, or parallel.Split, which leaves it whole",
        f"  up/w: {P(None, None, 'data')} has 3 entries, for the shape (16, 3)",
    ]


def test_a_rule_that_matches_nothing():
    rule = ("**/upp/w", P())
    with pytest.raises(ValueError) as error:
        parallel.shardings(NET.spec(X), EIGHT, (rule, ("**", P())))
    text = f"the rule {rule!r} matches none of the 4 paths; the closest is 'up/w'"
    assert text in str(error.value)


def test_a_mesh_axis_that_does_not_exist():
    mesh = parallel.abstract_mesh(model=4)
    rule = ("**", parallel.Split(largest="data"))
    with pytest.raises(ValueError) as error:
        parallel.shardings(NET.spec(X), mesh, (rule,))
    text = (
        f"the rule {rule!r} splits by the mesh axis 'data', but the mesh has 'model'; write "
        "parallel.mesh(data=...)"
    )
    assert text in str(error.value)
    with pytest.raises(ValueError, match="names a mesh axis twice"):
        parallel.shardings(NET.spec(X), mesh, (("**", P("model", "model")),))


def test_values_that_are_not_rules():
    with pytest.raises(
        TypeError, match=r"rules must be a tuple of pairs \(pattern, spec\).*, got \["
    ):
        parallel.shardings(NET.spec(X), EIGHT, [("**", P())])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"rules must be .* got \(\('\*\*', 'data'\),\); write"):
        parallel.shardings(NET.spec(X), EIGHT, (("**", "data"),))  # type: ignore[arg-type]


TOKENS, IMAGES = ((8, 4), "int32"), ((8, 8, 8, 3), "float32")
GPT, LLAMA = models.GPT(layers=2, width=16, num_heads=4), models.GPT.llama2_7b()
BOTTLENECK = models.ResNet((1, 1), width=8, stem="cifar", bottleneck=True)


@pytest.mark.parametrize(
    ("net", "x", "first", "second"),
    [
        (GPT.network(64), TOKENS, "blocks/attention/query/w", "blocks/attention/out/w"),
        (GPT.network(64), TOKENS, "blocks/feed_forward/up/w", "blocks/feed_forward/down/w"),
        (LLAMA.network(32000), TOKENS, "blocks/feed_forward/gate/w", "embedding/w"),
        (models.ViT(8, 4, 2, 16, 4).network(8), IMAGES, "head/w", "blocks/attention/out/w"),
        (models.MLP(32, depth=3).network(8), ((8, 16), "float32"), "6/w", "9/w"),
        (BOTTLENECK.network(8), IMAGES, "stages/1/0/branch/middle/conv/w",
         "stages/1/0/branch/wide/conv/w"),
    ],
)  # fmt: skip
def test_the_table_of_tensor_parallelism_matches_the_models(net, x, first, second):
    spec = net.spec(jax.ShapeDtypeStruct(*x))
    from jaxnn.core import paths

    def at(rules, path):
        found = dict(paths.walk(parallel.shardings(spec, EIGHT, rules)))
        sharding = found[tuple(path.split("/"))]
        axes = dict(paths.walk(spec))[tuple(path.split("/"))].ndim
        return (*sharding.spec, *(None,) * (axes - len(sharding.spec)))[-2:]

    assert at(parallel.TENSOR_PARALLEL, first)[1] == "model"
    assert at(parallel.TENSOR_PARALLEL, second)[0] == "model"
    both = at(parallel.FSDP_TENSOR_PARALLEL, first), at(parallel.FSDP_TENSOR_PARALLEL, second)
    assert both == (("data", "model"), ("model", "data"))


SMALL: Any = {"width": 16, "num_heads": 4}
PAIR: Any = {"image": 8, "patch": 4, "image_width": 16, "image_heads": 4, "text_width": 16}
PATHS = {
    "bert": ("", "embedding/w"),
    "t5": ("encoder/ decoder/", "decoder/embedding/w decoder/head/w"),
    "clip": ("image/ text/", "text/embedding/w text/head/w image/head/w"),
}
BUILT = {
    "bert": models.BERT(vocabulary=64, layers=1, **SMALL).network(),
    "t5": models.T5(
        layers=1, head_dim=4, hidden=64, feed_forward="geglu", tied=False, **SMALL
    ).network(64),
    "clip": models.CLIP(
        64, vocabulary=64, length=8, image_layers=1, text_layers=1, text_heads=4, **PAIR
    ).network(),
}
GIVEN = {"bert": (TOKENS,), "t5": (TOKENS, TOKENS), "clip": (IMAGES, TOKENS)}


@pytest.mark.parametrize("name", BUILT)
def test_tensor_parallelism_splits_heads_and_hidden_units_only(name):
    """What is split, by the axis that the two layers of a pair share (Megatron-LM, section 3)."""
    from jaxnn.core import paths

    spec = BUILT[name].spec(*(jax.ShapeDtypeStruct(*given) for given in GIVEN[name]))
    found = dict(paths.walk(parallel.shardings(spec, EIGHT, parallel.TENSOR_PARALLEL)))
    split = {}
    for path, sharding in found.items():
        axes = [i for i, axis in enumerate(sharding.spec) if axis is not None]
        if axes:
            split["/".join(path)] = [i - dict(paths.walk(spec))[path].ndim for i in axes]
    towers, others = PATHS[name]
    expected = {path: [-1] if "head" in path else [-2] for path in others.split()}
    for tower in towers.split() or [""]:
        parts = {f"{tower}blocks/attention/{part}": -1 for part in ("query", "key", "value")}
        parts |= {f"{tower}blocks/attention/out": -2}
        if tower == "decoder/":
            parts |= {key.replace("attention", "cross_attention"): i for key, i in parts.items()}
        parts |= {f"{tower}blocks/feed_forward/up": -1, f"{tower}blocks/feed_forward/down": -2}
        if name == "t5":
            parts[f"{tower}blocks/feed_forward/gate"] = -1
        expected |= {f"{path}/w": [axis] for path, axis in parts.items()}
        if name != "t5":  # biases of the first layer of a pair; those of the second are added once
            expected |= {f"{path}/b": [-1] for path, axis in parts.items() if axis == -1}
    assert split == expected


def state_shardings(net, optimizer, rules):
    program = train.Supervised(net, train.Classification(16), optimizer)
    labels = jax.ShapeDtypeStruct((8,), "int32")
    return parallel.Placement(EIGHT, rules).shardings(program, jax.random.key(0), (X, labels))


def test_an_optimizers_state_follows_the_parameters():
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {"yes": optax.adam(0.1), "no": optax.set_to_zero()}, {"up": "yes", "down": "no"}
        ),
    )
    rules = (("up/w", P(None, "model")), ("**", P()))
    found = state_shardings(NET, optimizer, rules)
    adam = found.opt_state[1].inner_states["yes"].inner_state[0]
    assert adam.mu["up"] == adam.nu["up"] == found.params["up"]
    assert tuple(adam.mu["up"]["w"].spec) == (None, "model")
    assert tuple(adam.count.spec) == tuple(found.step.spec) == ()


def test_what_an_optimizer_keeps_of_blocks_follows_the_stack():
    net = nn.Repeat(nn.Dense(16), 3)
    found = state_shardings(net, optax.contrib.muon(0.1), parallel.FSDP)
    momentum = found.opt_state.inner_states["muon"].inner_state[0].mu
    assert momentum["w"] == found.params["w"]
    assert tuple(momentum["w"].spec) == (None, None, "data")
    # flatten joins all parameters to one vector, which FSDP does not split.
    joined = state_shardings(net, optax.flatten(optax.adam(0.1)), parallel.FSDP)
    assert {tuple(leaf.spec) for leaf in jax.tree.leaves(joined.opt_state)} == {()}

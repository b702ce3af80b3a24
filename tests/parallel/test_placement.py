"""Placement: on eight devices, any program has the results of one, and the rules' shardings."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn import parallel, train
from jaxnn.parallel.placement import Gathering
from jaxnn.parallel.rules import flatten_with_paths
from tests.parallel import on_programs
from tests.parallel.test_equalities import MATRICES, METRICS, VECTORS

QUICK = ("gan", "without_data", "evaluation", "stacked", "drawing", "continuing", "by_hand")
SLOW = ("supervised",)
KEY = jax.random.key(0)
EIGHT = parallel.abstract_mesh(data=2, model=4)
X, Y = jax.ShapeDtypeStruct((8, 16), "float32"), jax.ShapeDtypeStruct((8,), "int32")


@functools.cache
def on_eight(cases):
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    child = subprocess.run(
        [sys.executable, "-m", on_programs.__name__, *cases],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def found(case):
    return on_eight(QUICK if case in QUICK else SLOW)[case]


def test_a_gan_trains_on_eight_devices_as_on_one_and_resumes_on_one():
    gan = found("gan")
    # Sums over the rows in another order, over some steps of Adam with eps=1e-2.
    assert gan["apart"] < 2e-5
    assert gan["loss"] < 5e-6
    assert gan["devices"] == 1
    assert gan["again"] == 0
    # The critic is whole by the first rule, and so is what its optimizer keeps.
    moments = {f"optimizers/g/0/{kind}/" for kind in ("mu", "nu")}
    assert gan["spec"] == gan["restored"]
    assert gan["spec"] == {
        f"{above}{path}": axes
        for above in ("g/", *moments)
        for path, axes in (("0/w", ["None", "data"]), ("2/w", ["data"]))
    }


def test_a_program_without_data_and_layers():
    mixing = found("without_data")
    # The third power of the eigenvalues 1 to 16, scaled.
    np.testing.assert_allclose(mixing["x"], (np.arange(1, 17) / 16) ** 3, rtol=1e-6)
    assert mixing["value"] == 16
    assert mixing["spec"] == {"x": ["data"], "seen": ["data"]}


def test_uneven_pieces_give_the_numbers_of_the_whole():
    evaluation = found("evaluation")
    for name, wanted in evaluation["wanted"].items():
        np.testing.assert_allclose(evaluation["found"][name], wanted, rtol=1e-6)
    assert evaluation["predictions"] < 1e-6
    assert evaluation["split"] == {"params/net/w": ["None", "data"]}


def test_stacked_axes_are_never_split():
    # Eight blocks of 16 x 16: the stacked axis is as divisible as the others.
    assert found("stacked")["spec"] == {
        f"{above}/{path}": axes
        for above in ("params", "opt_state/inner/1/0/mu", "opt_state/inner/1/0/nu",
                      "opt_state/average")
        for path, axes in (("0/0/w", ["None", "None", "data"]), ("1/w", ["data"]))
    }  # fmt: skip


def test_a_state_is_drawn_in_its_parts():
    matrices = 3 * 256 * 256 * 4
    output, temporary = found("drawing")["FSDP"]
    # The parameters and two moments; then the two counts, the step, and the words of the key.
    assert 3 * matrices // 8 <= output < 3 * matrices // 8 + 1024
    # The parts of the matrices while they are drawn together, and cut apart.
    assert temporary < 2 * matrices // 8 + 4096
    assert found("drawing")["DATA_PARALLEL"][0] >= 3 * matrices


def test_a_given_state_is_copied():
    continuing = found("continuing")
    assert continuing["apart"] < 1e-6
    assert continuing["deleted"] == [False] * 3
    assert continuing["spec"] == {"seen": ["data"]}


def test_a_program_written_by_hand_gathers_as_supervised():
    # The closed forms of test_equalities.
    exchanged = found("by_hand")
    assert exchanged["FSDP"]["all-gather"] == [2, MATRICES]
    assert exchanged["FSDP"]["all-reduce"][1] == MATRICES + VECTORS + METRICS
    both = exchanged["FSDP_TENSOR_PARALLEL"]
    assert both["all-gather"] == [2, MATRICES // 4]
    assert both["all-reduce"][1] == MATRICES // 4 + 4 * (8 + 8) + METRICS + 4 * 64
    # Both networks are gathered once: the teacher for its outputs, and the student for its own.
    assert exchanged["distillation"]["all-gather"] == [4, 2 * MATRICES]
    assert set(exchanged["distillation"]) == {"all-gather", "all-reduce"}


@pytest.mark.slow
def test_tables_give_the_numbers_of_one_device():
    for table, one in found("supervised").items():
        assert one["apart"] < 2e-5, table
        assert one["metrics"] < 5e-6, table


# ---- shardings, planned for devices that need not exist ----

NET = nn.Sequential(up=nn.Dense(32), down=nn.Dense(12))


def specs(program, rules, mesh=EIGHT, batch=(X, Y)):
    state = parallel.Placement(mesh, rules).shardings(program, KEY, batch)
    return jax.tree.map(lambda sharding: tuple(sharding.spec), state)


def supervised(net=NET, optimizer=None, **options):
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    return train.Supervised(net, train.Classification(12), optimizer, **options)


def test_rules_may_split_what_the_optimizer_keeps_alone():
    # ZeRO, stage 1: whole parameters, split moments.
    rules = (("params/**", P()), ("opt_state/**", parallel.Split(largest="data")))
    state = specs(supervised(), rules)
    assert set(jax.tree.leaves(state.params, is_leaf=lambda x: isinstance(x, tuple))) == {()}
    assert state.opt_state[0].mu["up"]["w"] == (None, "data")


def test_paths_of_the_network_reach_its_moments():
    rules = (("up/w", P(None, "model")), ("down/w", P("model")))
    state = specs(supervised(), rules)
    assert state.params == {
        "up": {"w": (None, "model"), "b": ()},
        "down": {"w": ("model",), "b": ()},
    }
    assert state.opt_state[0].mu == state.opt_state[0].nu == state.params
    assert state.step == state.key == state.opt_state[0].count == ()


def test_given_parameters_have_the_shardings_of_drawn_ones():
    class Pair(nn.Composite):
        student: nn.Layer
        teacher: nn.Layer

        def forward(self, batch):
            return jnp.mean((self.student(batch) - self.teacher(batch)) ** 2)

    net = nn.Repeat(nn.Dense(16), 8)
    teacher = net.init(KEY, X)
    program = train.Minimize(Pair(net, net), optax.sgd(0.1, 0.9), initial={"teacher": teacher})
    state = specs(program, parallel.FSDP, batch=X)
    assert state.params["teacher"]["w"] == state.params["student"]["w"] == (None, None, "data")
    assert state.opt_state[0].trace == state.params


def test_a_state_that_is_given_with_parameters():
    class Teacher(nn.Composite):
        student: nn.Layer
        teacher: nn.Layer

        def forward(self, batch):
            return jnp.mean((self.student(batch) - self.teacher(batch)) ** 2)

    x = jnp.arange(12.0).reshape(4, 3)
    net = nn.Sequential(nn.Dense(3), nn.BatchNorm())
    given = train.Weights(net.init(KEY, x), {"1": {"mean": x[0], "var": x[1]}})
    program = train.Minimize(
        Teacher(net, nn.Inference(net)), optax.sgd(0.1), initial={"teacher": given}
    )
    wanted = program.init(KEY, x)
    placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
    found = parallel.init(program, KEY, x, placement)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
    np.testing.assert_array_equal(found.state["teacher"]["1"]["mean"], x[0])


def test_blocks_of_a_program_written_by_hand():
    """The stacked axis of a network that a program holds is found by tracing its init."""
    net, other = nn.Repeat(nn.Dense(16), 8), nn.Ensemble(nn.Dense(16), 8)

    class Two(train.Program):
        def init(self, key, batch):
            a, b = net.init(key, batch), other.init(key, batch)
            moments = {"a": optax.adam(0.1).init(a), "b": optax.adam(0.1).init(b)}
            return {"a": a, "b": b, "target": {"a": jax.tree.map(jnp.copy, a)}, "kept": moments}

        def step(self, state, batch):
            return state, {"loss": 0.0}

    state = specs(Two(), parallel.FSDP, batch=X)
    assert state["a"]["w"] == state["b"]["w"] == state["target"]["a"]["w"] == (None, None, "data")
    assert state["kept"]["a"][0].mu["w"] == state["kept"]["b"][0].nu["w"] == (None, None, "data")


def test_what_has_another_shape_is_replicated_if_the_spec_does_not_fit():
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=8)

    def kept(rule):
        state = specs(supervised(optimizer=optimizer), (rule,))
        assert state.params["up"]["w"] == tuple(rule[1])
        factored = state.opt_state[0]
        return factored.v_row["up"]["w"], factored.v_col["up"]["w"], factored.v["up"]["w"]

    # For a matrix (16, 32), Adafactor keeps vectors (16,) and (32,), and a placeholder (1,).
    assert kept(("**/up/w", P(None, "model"))) == ((), (), ())
    assert kept(("**/up/w", P("model"))) == (("model",), ("model",), ())


def test_stacked_axes_of_what_has_another_shape_are_not_split():
    net = nn.Sequential(nn.Repeat(nn.Dense(16), 8), nn.Dense(12))
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=8)
    rules = (("0/w", parallel.Split(outputs="model")),)
    factored = specs(supervised(net, optimizer), rules).opt_state[0]
    # For eight matrices (16, 16), vectors (8, 16) and placeholders (8, 1).
    assert factored.v_row[0]["w"] == factored.v_col[0]["w"] == (None, "model")
    assert factored.v[0]["w"] == ()


def test_statistics_scalars_and_keys_stay_whole():
    class Keys(train.Program):
        def init(self, key, batch):
            return {"key": key, "keys": jax.random.split(key, 8), "n": 0, "x": jnp.zeros(8)}

        def step(self, state, batch):
            return state, {"loss": 0.0}

    assert specs(Keys(), (("**", P("data")),)) == {"key": (), "keys": (), "n": (), "x": ("data",)}
    state = specs(supervised(nn.Sequential(nn.BatchNorm(), nn.Dense(12))), (("**", P()),))
    assert set(jax.tree.leaves(state.state, is_leaf=lambda x: isinstance(x, tuple))) == {()}


# ---- gathering, compiled for devices that need not exist ----


class Applying(train.Program):
    """A network applied in a way that the test decides."""

    net: nn.Layer
    apply: Any

    def init(self, key, batch):
        return {"a": self.net.init(key, batch), "b": self.net.init(jax.random.key(1), batch)}

    def step(self, state, batch):
        def loss(a):
            return jnp.mean((self.apply(a, batch) - self.net.apply(state["b"], batch)) ** 2)

        value, grads = jax.value_and_grad(loss)(state["a"])
        return state | {"a": jax.tree.map(lambda p, g: p - g, state["a"], grads)}, {"loss": value}


WIDE = nn.Dense(64, bias=False)  # 16 x 64 weights, of which eight devices have 16 x 8
EIGHT_ROWS = parallel.abstract_mesh(data=8)


def exchanged(apply, rules):
    placement = parallel.Placement(EIGHT_ROWS, rules)
    return parallel.plan(Applying(WIDE, apply), X, placement).collectives


def test_a_jitted_network_is_traced_for_each_placement():
    apply = jax.jit(WIDE.apply)
    for spec in (P(None, "data"), P("data"), P(None, "data")):
        # Each network is gathered once, from where it is.
        found = exchanged(apply, (("**/w", spec),))
        assert found["all-gather"] == parallel.Collective(2, 2 * 16 * 64 * 4)
        assert set(found) == {"all-gather", "all-reduce"}
    program, x = Applying(WIDE, apply), jnp.ones((8, 16))
    found = program.step(program.init(KEY, x), x)
    plain = Applying(WIDE, WIDE.apply).step(program.init(KEY, x), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, plain)


def test_what_a_jitted_init_draws_does_not_shift_what_is_placed():
    narrow = nn.Dense(8, bias=False)
    jitted = jax.jit(narrow.init)

    class Two(train.Program):
        def init(self, key, batch):
            return {"a": jitted(key, batch), "b": WIDE.init(key, batch)}

        def step(self, state, batch):
            return state, {"loss": 0.0}

    placement = parallel.Placement(EIGHT_ROWS, parallel.FSDP)
    make, _ = placement._drawing(Two(), KEY, X)
    words = jax.ShapeDtypeStruct((2,), "uint32")
    lines = make.lower(words, X, None).as_text().splitlines()
    # Parameters that are drawn inside another `jax.jit` are placed by XLA.
    (placed,) = (line for line in lines if "sharding_constraint" in line)
    assert "tensor<16x64xf32>" in placed


def test_a_network_inside_shard_map_is_left_alone():
    def apply(params, x):
        rows = P("data")
        one = jax.shard_map(WIDE.apply, mesh=EIGHT_ROWS, in_specs=(P(), rows), out_specs=rows)
        return one(params, x)

    found = exchanged(apply, parallel.FSDP)
    assert found["all-gather"] == parallel.Collective(2, 2 * 16 * 64 * 4)


class Members(train.Program):
    """Three networks, with stacked parameters."""

    by: str

    def init(self, key, batch):
        return jax.vmap(lambda key: WIDE.init(key, batch))(jax.random.split(key, 3))

    def step(self, state, batch):
        def loss(params):
            return jnp.mean(WIDE.apply(params, batch) ** 2)

        def total(state):
            if self.by == "vmap":
                return jax.vmap(loss)(state).sum()
            return jax.lax.scan(lambda sum, one: (sum + loss(one), None), 0.0, state)[0]

        value, grads = jax.value_and_grad(total)(state)
        return jax.tree.map(lambda p, g: p - g, state, grads), {"loss": value}


@pytest.mark.parametrize("by", ["vmap", "scan"])
def test_stacked_networks_are_gathered_inside_of_a_transform(by):
    x = jax.ShapeDtypeStruct((1024, 16), "float32")
    found = parallel.plan(Members(by), x, parallel.Placement(EIGHT_ROWS, parallel.FSDP))
    # The weights once, and not the rows, which are five times as large.
    assert found.collectives["all-gather"].bytes == 3 * 16 * 64 * 4
    assert set(found.collectives) == {"all-gather", "all-reduce"}


class Captured(train.Program):
    """The mean square of what a layer of an ensemble returns."""

    net: nn.Layer

    def init(self, key, batch):
        return self.net.init(key, batch)

    def step(self, state, batch):
        def loss(params):
            return jnp.mean(self.net.apply(params, batch)[1]["0"] ** 2)

        value, grads = jax.value_and_grad(loss)(state)
        return jax.tree.map(lambda p, g: p - g, state, grads), {"loss": value}


def test_values_are_captured_inside_of_a_wrapper_that_gathers():
    net = nn.capture(nn.Ensemble(nn.Sequential(WIDE, jnp.tanh), 3), "0")
    x = jax.ShapeDtypeStruct((1024, 16), "float32")
    found = parallel.plan(Captured(net), x, parallel.Placement(EIGHT_ROWS, parallel.FSDP))
    assert found.collectives["all-gather"].bytes == 3 * 16 * 64 * 4


def test_equal_networks_with_other_rules_are_left_to_xla():
    rules = (("a/w", P(None, "data")), ("b/w", P("data")))
    watch = gathering(rules)
    # The shapes do not decide which of the two it is.
    assert watch.specs({"w": jax.ShapeDtypeStruct((16, 64), "float32")}) == {}
    both = {name: {"w": jax.ShapeDtypeStruct((16, 64), "float32")} for name in "ab"}
    assert watch.specs(both) == {("a", "w"): (None, "data"), ("b", "w"): ("data", None)}
    same = gathering(parallel.FSDP)
    assert same.specs({"w": jax.ShapeDtypeStruct((16, 64), "float32")}) == {("w",): (None, "data")}
    assert same.specs({"w": jax.ShapeDtypeStruct((16, 32), "float32")}) == {}
    assert same.specs({}) == {}


def gathering(rules):
    placement = parallel.Placement(EIGHT_ROWS, rules)
    state = jax.eval_shape(Applying(WIDE, WIDE.apply).init, KEY, X)
    places = placement.shardings(Applying(WIDE, WIDE.apply), KEY, X)
    leaves = zip(flatten_with_paths(state), jax.tree.leaves(places), strict=True)
    return Gathering(EIGHT_ROWS, tuple((path, one.shape, at.spec) for (path, one), at in leaves))


# ---- what is rejected ----


def test_rules_that_do_not_fit_name_paths_of_the_state():
    rules = (("**/upp/w", P("data")), ("**/w", P(None, "model")))
    with pytest.raises(ValueError) as error:
        specs(supervised(nn.Sequential(up=nn.Dense(32), down=nn.Dense(10))), rules)
    # Moments do not fit for the reason of their parameters, which are named once.
    assert str(error.value).splitlines() == [
        "the rules do not fit the state:",
        f"  the rule {rules[0]!r} matches none of the 19 paths; the closest is 'up/w'",
        f"  params/down/w: {rules[1][1]} splits the axis of 10 of the shape (32, 10) in 4, which "
        "does not divide it; write None there, or parallel.Split, which leaves it whole",
    ]


def test_axes_that_the_mesh_does_not_have():
    with pytest.raises(ValueError) as error:
        parallel.Placement(parallel.abstract_mesh(model=4), parallel.FSDP)
    assert "the rules do not fit the mesh: the rule ('**', Split(" in str(error.value)
    assert (
        "by the mesh axis 'data', but the mesh has 'model'; write parallel.mesh(data=...)"
        in str(error.value)
    )


def test_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    what = r"Placement.mesh must be a mesh whose axes are AxisType.Auto, got "
    with pytest.raises(TypeError, match=rf"{what}Mesh.*Explicit.*; write parallel.Placement\("):
        parallel.Placement(mesh, parallel.FSDP)
    with pytest.raises(TypeError, match=rf"{what}8; write parallel.Placement\("):
        parallel.Placement(8, parallel.FSDP)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Placement.rules must be a tuple of pairs .*, got \["):
        parallel.Placement(EIGHT, [("**", P())])  # type: ignore[arg-type]


def test_batches_that_the_devices_do_not_divide():
    placement = parallel.Placement(EIGHT, parallel.FSDP)
    with pytest.raises(ValueError) as error:
        jax.eval_shape(placement.pinned_batch, {"x": jnp.zeros((3, 2))})
    assert str(error.value) == (
        "batch/x must be an array whose rows can be split into 2 equal parts, got float32[3,2]; "
        "data=2 of the mesh needs them: write a batch_size that is a multiple of 2"
    )


def test_an_init_that_reads_values():
    class Reading(train.Program):
        def init(self, key, batch):
            return jnp.float32(float(batch.mean()))

        def step(self, state, batch):
            return state, {"loss": state}

    with pytest.raises(TypeError, match=r"Reading.init reads values of its batch or key in Python"):
        parallel.Placement(EIGHT, parallel.DATA_PARALLEL).shardings(Reading(), KEY, X)


def test_steps_on_a_mesh_are_traced_once():
    traces = []

    def loss(outputs, targets):
        traces.append(1)
        return jnp.mean((outputs - targets) ** 2)

    x = np.ones((16, 4), np.float32)
    program = train.Supervised(nn.Dense(1), loss, optax.sgd(0.1))
    for rows in ((x, x[:, :1]), nn.data.HostArrays(x, x[:, :1])):
        traces.clear()
        train.fit(program, rows, key=KEY, steps=4, every=2, batch_size=8, progress=False,
                  placement=parallel.Placement(parallel.mesh(data=1)))  # fmt: skip
        assert len(traces) == 1


def test_a_program_starts_from_parameters_on_the_mesh():
    net, x = nn.Dense(4), jnp.ones((8, 2))
    placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
    data = x, jnp.zeros(8, int)
    options = {"key": KEY, "batch_size": 4, "progress": False}
    task = train.Classification(4)
    first, _ = train.fit(
        train.Supervised(net, task, optax.adam(0.1)), data, steps=2, placement=placement, **options
    )
    second = train.Supervised(net, task, optax.sgd(0.1), initial=first.params)
    found, _ = train.fit(second, data, steps=3, placement=placement, **options)
    wanted, _ = train.fit(second, data, steps=3, **options)
    assert not first.params["w"].is_deleted()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)


def test_placements_are_values():
    placement = parallel.Placement(parallel.mesh(data=1))
    assert placement == parallel.Placement(parallel.mesh(data=1))
    assert hash(placement) == hash(parallel.Placement(parallel.mesh(data=1)))

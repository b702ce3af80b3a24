"""Trains programs on one device and on eight simulated ones, and compares them.

Run by test_placement.py in a separate process: `python -m tests.parallel.on_programs`. It prints a
JSON object with what each function of `CASES` returns, by name.
"""

import json
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from jaxnn import models, parallel, train
from jaxnn.parallel.rules import flatten_with_paths
from tests.parallel.on_eight import CLASSES, LABELS, MESHES, NETWORKS, OPTIMIZER, ROWS, apart

KEY = jax.random.key(0)
EIGHT = {"data": 8}
GENERATOR = nn.Sequential(nn.Dense(32), jax.nn.relu, nn.Dense(2))
CRITIC = nn.Sequential(nn.Dense(32), jax.nn.relu, nn.Dense(1))
ANGLES = np.random.default_rng(0).uniform(0, 2 * np.pi, 256)
RING = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1).astype("f")


class GAN(train.Program):
    """Two networks, two optimizers: a Wasserstein GAN with two critic steps."""

    optimizers: dict[str, Any]
    penalty: float = 10.0
    critic_steps: int = 2

    def init(self, key, batch):
        g = GENERATOR.init(nn.fold_in(key, "generator"), jnp.zeros((1, 4)))
        c = CRITIC.init(nn.fold_in(key, "critic"), batch)
        kept = {"g": self.optimizers["g"].init(g), "c": self.optimizers["c"].init(c)}
        return {"g": g, "c": c, "optimizers": kept, "key": key, "step": jnp.int32(0)}

    def step(self, state, batch):
        real = batch
        key = jax.random.fold_in(state["key"], state["step"])

        def fake(g, key):
            return GENERATOR.apply(g, jax.random.normal(key, (len(real), 4)))

        def critic_loss(c, key):
            made = fake(state["g"], key)
            share = jax.random.uniform(key, (len(real), 1))
            between = share * real + (1 - share) * made
            slope = jax.vmap(jax.grad(lambda x: CRITIC.apply(c, x)[0]))(between)
            distance = CRITIC.apply(c, made).mean() - CRITIC.apply(c, real).mean()
            return distance + self.penalty * ((jnp.linalg.norm(slope, axis=-1) - 1) ** 2).mean()

        def critic(carry, key):
            c, kept = carry
            loss, grads = jax.value_and_grad(critic_loss)(c, key)
            updates, kept = self.optimizers["c"].update(grads, kept, c)
            return (optax.apply_updates(c, updates), kept), loss

        keys = jax.random.split(key, self.critic_steps + 1)
        kept = state["optimizers"]
        (c, kept_c), losses = jax.lax.scan(critic, (state["c"], kept["c"]), keys[1:])
        grads = jax.grad(lambda g: -CRITIC.apply(c, fake(g, keys[0])).mean())(state["g"])
        updates, kept_g = self.optimizers["g"].update(grads, kept["g"], state["g"])
        g = optax.apply_updates(state["g"], updates)
        new = {"g": g, "c": c, "optimizers": {"g": kept_g, "c": kept_c}}
        return state | new | {"step": state["step"] + 1}, {"loss": losses.mean()}


ADAM = train.Optimizer(optax.adam, learning_rate=1e-2, b1=0.5, eps=1e-2)
A_GAN = GAN({"g": ADAM, "c": ADAM})


class Mixing(train.Program):
    """No data, no layers: x becomes a @ x, scaled to a largest element of 1; power iteration."""

    matrix: Any

    def init(self, key, batch):
        return {"x": jnp.ones((16,)), "key": key, "seen": jnp.zeros((16, 8))}

    def step(self, state, batch):
        x = self.matrix @ state["x"]
        scale = jnp.max(jnp.abs(x))
        return state | {"x": x / scale, "seen": state["seen"] + 1}, {"value": scale}


class Scores(nn.Composite):
    """Metrics of each kind: a mean, a ratio whose counts are uneven, and one of all rows."""

    net: nn.Layer

    def forward(self, batch):
        outputs = self.net(batch["x"])[:, 0]
        error = (outputs - batch["y"]) ** 2
        weighted = train.Ratio((error * batch["w"]).sum(), batch["w"].sum())
        median = train.Collected(np.median, (outputs,))
        return weighted, {"mean": error.mean(), "median": median}

    def predict(self, x):
        return self.net(x)


def spec_of(state):
    """The mesh axes that split each array: {path: [axes]}."""
    return {
        "/".join(path): [str(axis) for axis in leaf.sharding.spec]
        for path, leaf in flatten_with_paths(state)
        if any(leaf.sharding.spec)
    }


def numbers(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if not train.program.is_key(leaf)]


def gap(one, other):
    """The largest difference of two states."""
    return max(map(apart, numbers(one), numbers(other)))


def fitted(program, data, mesh=None, rules=parallel.FSDP, **options):
    """The state and the history on a mesh, or on one device."""
    given = {"key": KEY, "progress": False} | options
    if mesh is not None:
        given["placement"] = parallel.Placement(parallel.mesh(**mesh), rules)
    return train.fit(program, data, **given)


RULES = (("**/c/**", jax.P()), ("**", parallel.Split(largest="data")))


def gan():
    """Four steps on eight devices, then on one of them, against six steps on one device."""
    options: dict[str, Any] = {"every": 2, "batch_size": 64}
    whole, records = fitted(A_GAN, RING, steps=6, **options)
    with tempfile.TemporaryDirectory() as folder:
        options["hooks"] = [train.Divergence(retries=2), train.Checkpoints(folder)]
        eight, _ = fitted(A_GAN, RING, EIGHT, RULES, steps=4, **options)
        one, history = fitted(A_GAN, RING, steps=6, **options)
        again, _ = fitted(A_GAN, RING, EIGHT, RULES, steps=6, **options)
    differences = [abs(a["loss"] - b["loss"]) for a, b in zip(records, history, strict=True)]
    return {
        "apart": gap(one, whole),
        "loss": max(differences),
        "devices": max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(one)),
        "again": gap(again, one),
        "spec": spec_of(eight),
        "restored": spec_of(again),
    }


def without_data():
    matrix = np.diag(np.arange(1, 17)).astype("f")
    rules = (("x", jax.P("data")), ("seen", parallel.Split(largest="data")))
    state, history = fitted(Mixing(jnp.asarray(matrix)), None, EIGHT, rules, steps=3)
    return {
        "x": np.asarray(state["x"]).tolist(),
        "value": history[-1]["value"],
        "spec": spec_of(state),
    }


def supervised():
    """Losses of a run, with validation of uneven pieces, by table."""
    net = NETWORKS["mlp"][0]
    program = train.Supervised(net, CLASSES, OPTIMIZER, accumulate=2)
    options = {
        "steps": 3,
        "batch_size": 16,
        "validation": (ROWS[:13], LABELS[:13]),
        "hooks": [train.Divergence(retries=1)],
    }
    one, records = fitted(program, (ROWS, LABELS), **options)
    found = {}
    for table, mesh in MESHES.items():
        state, history = fitted(program, (ROWS, LABELS), mesh, getattr(parallel, table), **options)
        pairs = zip(records, history, strict=True)
        metrics = max(abs(a[name] - b[name]) for a, b in pairs for name in a)
        found[table] = {"apart": gap(state, one), "metrics": metrics}
    return found


def evaluation():
    """Metrics and predictions of 21 rows in pieces of 8, of which the last does not divide."""
    random = np.random.default_rng(3)
    program = train.Minimize(Scores(nn.Dense(8)), optax.sgd(0.1))
    rows = {
        "x": random.normal(size=(21, 5)).astype("f"),
        "y": random.normal(size=21).astype("f"),
        "w": random.integers(0, 3, 21).astype("f"),
    }
    placement = parallel.Placement(parallel.mesh(**EIGHT), parallel.FSDP)
    state = parallel.init(program, KEY, rows, placement)
    given = {"batch_size": 8, "placement": placement}
    found = train.evaluate(program, state, rows, **given)
    predictions = train.predict(program, state, rows["x"], **given)
    w, b = (np.asarray(state.params["net"][name], np.float64) for name in ("w", "b"))
    outputs = rows["x"] @ w + b
    error = (outputs[:, 0] - rows["y"]) ** 2
    wanted = {
        "loss": float((error * rows["w"]).sum() / rows["w"].sum()),
        "mean": float(error.mean()),
        "median": float(np.median(outputs[:, 0])),
    }
    return {
        "found": found,
        "wanted": wanted,
        "predictions": float(np.abs(np.asarray(predictions) - outputs).max()),
        "split": spec_of(state),
    }


def stacked():
    """The shardings of the state of a network of blocks."""
    net = nn.Sequential(nn.Repeat(nn.Sequential(nn.Dense(16), nn.BatchNorm()), 8), nn.Dense(8))
    optimizer = train.with_ema(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))
    program = train.Supervised(net, CLASSES, optimizer)
    placement = parallel.Placement(parallel.mesh(**EIGHT), parallel.FSDP)
    state = parallel.init(program, KEY, (ROWS, LABELS), placement)
    return {"spec": spec_of(state)}


def drawing():
    """XLA's account of drawing three matrices of 256 x 256 and their moments."""
    net = nn.Sequential(*[nn.Dense(256, bias=False)] * 3)
    program = train.Supervised(net, train.Classification(256), optax.adam(1e-3))
    batch = (
        jax.ShapeDtypeStruct((8, 256), "float32"),
        jax.ShapeDtypeStruct((8,), "int32"),
    )
    found = {}
    for table in ("FSDP", "DATA_PARALLEL"):
        placement = parallel.Placement(parallel.mesh(**EIGHT), getattr(parallel, table))
        words = jax.ShapeDtypeStruct((2,), "uint32")
        make, _ = placement._drawing(program, KEY, batch)
        memory = make.lower(words, batch, None).compile().memory_analysis()
        found[table] = [memory.output_size_in_bytes, memory.temp_size_in_bytes]
    return found


class ByHand(train.Program):
    """What `train.Supervised` does for a network, without a key, written by hand."""

    optimizer: Any
    net: nn.Layer
    task: Any

    def init(self, key, batch):
        params = self.net.init(key, batch[0])
        return {"net": params, "kept": self.optimizer.init(params)}

    def step(self, state, batch):
        def loss(params):
            measured = self.task.measure(self.net.apply(params, batch[0]), batch[1])
            return measured["loss"].value, measured

        grads, metrics = jax.grad(loss, has_aux=True)(state["net"])
        updates, kept = self.optimizer.update(grads, state["kept"], state["net"])
        return {"net": optax.apply_updates(state["net"], updates), "kept": kept}, metrics


class Distillation(ByHand):
    """The outputs of the network approach those of a teacher, which is another network."""

    def init(self, key, batch):
        teacher = self.net.init(nn.fold_in(key, "teacher"), batch[0])
        return super().init(key, batch) | {"teacher": teacher}

    def step(self, state, batch):
        wanted = self.net.apply(state["teacher"], batch[0])
        new, metrics = super().step(state, (batch[0], wanted))
        return new | {"teacher": state["teacher"]}, metrics


def exchanged(program, table):
    """Collectives of a step of a program on rows and labels."""
    mesh, batch = parallel.mesh(**MESHES[table]), (ROWS, LABELS)
    placement = parallel.Placement(mesh, getattr(parallel, table))
    state = parallel.init(program, KEY, batch, placement)
    step: Any = train.make_step(program, placement=placement)
    compiled = step.lower(state, parallel.shard_batch(batch, mesh)).compile()
    return {kind: [one.times, one.bytes] for kind, one in parallel.collectives(compiled).items()}


def by_hand():
    """Collectives of a program that is written by hand, and of a teacher and its student."""
    net = models.MLP(width=32, depth=1).network(8)
    found = {
        table: exchanged(ByHand(OPTIMIZER, net, CLASSES), table)
        for table in ("FSDP", "FSDP_TENSOR_PARALLEL")
    }
    task = train.Regression(outputs=8)
    return found | {"distillation": exchanged(Distillation(OPTIMIZER, net, task), "FSDP")}


def continuing():
    """A run on a mesh from a state of one device, whose arrays stay valid."""
    program = Mixing(jnp.asarray(np.diag(np.arange(1, 17)).astype("f")))
    rules = (("*", parallel.Split(largest="data")),)
    first, _ = fitted(program, None, steps=2)
    one, _ = fitted(program, None, state=first, steps=2)
    eight, _ = fitted(program, None, EIGHT, rules, state=first, steps=2)
    deleted = [leaf.is_deleted() for leaf in jax.tree.leaves(first)]
    return {"apart": gap(eight, one), "deleted": deleted, "spec": spec_of(eight)}


CASES = {
    one.__name__: one
    for one in (
        gan,
        without_data,
        evaluation,
        stacked,
        drawing,
        continuing,
        by_hand,
        supervised,
    )
}

if __name__ == "__main__":
    print(json.dumps({name: CASES[name]() for name in sys.argv[1:]}))

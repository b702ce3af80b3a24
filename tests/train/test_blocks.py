"""An optimizer sees the blocks of stacked parameters as separate arrays.

The expected updates are optax's own, on parameters whose blocks are separate arrays: those of
`nn.unstack_layers`, or of members and experts taken apart by hand. Blocks are scaled by 1, 4, and
9, so that a norm of a stack is not the norm of a block.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from optax import contrib

import jaxnn as nn
from jaxnn import train
from jaxnn.models import GPT

X = jnp.ones((2, 4))
NET = nn.Sequential(nn.Dense(4), nn.Repeat(nn.Dense(4), 3))
SPEC = NET.spec(X)

# Factories that need arguments other than a learning rate, and factories that join others.
MASK = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
ARGUMENTS = {
    "adafactor": {"learning_rate": 0.1, "min_dim_size_to_factor": 4},
    "adamw": {"learning_rate": 0.1, "weight_decay": 0.5, "mask": MASK},
    "adaptive_grad_clip": {"clipping": 0.01},
    "apply_if_finite": {"inner": optax.lamb(0.1), "max_consecutive_errors": 3},
    "apply_every": {"k": 2},
    "clip": {"max_delta": 0.1},
    "clip_by_block_rms": {"threshold": 1e-2},
    "clip_by_global_norm": {"max_norm": 0.1},
    "conditionally_mask": {
        "inner": optax.adam(0.1),
        "should_transform_fn": lambda step, **_: step % 2 == 0,
    },
    "conditionally_transform": {
        "inner": optax.adam(0.1),
        "should_transform_fn": lambda step, **_: step % 2 == 0,
    },
    "ema": {"decay": 0.9},
    "flatten": {"inner": optax.adam(0.1)},
    "galore": {"learning_rate": 0.1, "rank": 2},
    "masked": {"inner": optax.lars(0.1), "mask": MASK},
    "measure_with_ema": {"measure": lambda updates, **_: optax.tree.norm(updates), "decay": 0.9},
    "mechanize": {"base_optimizer": optax.adam(0.1)},
    "muon": {"learning_rate": 0.1, "weight_decay": 0.1},
    "scale": {"step_size": -0.1},
    "scale_by_factored_rms": {"min_dim_size_to_factor": 4},
    "scale_by_galore": {"rank": 2},
    "scale_by_schedule": {"step_size_fn": lambda step: -0.1 / (step + 1)},
    "schedule_free": {"base_optimizer": optax.sgd(0.1), "learning_rate": 0.1},
    "snapshot": {"measure_name": "norm", "measure": lambda updates, **_: optax.tree.norm(updates)},
    "split_real_and_imaginary": {"inner": optax.adam(0.1)},
    "stateless": {"f": lambda updates, params: jax.tree.map(lambda g: g / jnp.sum(g**2), updates)},
    "stateless_with_tree_map": {"f": lambda update, param: update * jnp.sum(param**2)},
    "trace": {"decay": 0.9},
    "with_extra_args_support": {"tx": optax.lamb(0.1)},
}
GROUPS: Any = {"matrix": optax.adafactor(0.1, min_dim_size_to_factor=4), "rest": optax.lamb(0.1)}
LABELS = functools.partial(jax.tree.map, lambda leaf: "matrix" if leaf.ndim > 1 else "rest")
VECTORS: Any = functools.partial(jax.tree.map, lambda leaf: leaf.ndim == 1)
JOINED = {
    "chain": optax.chain(optax.clip_by_global_norm(0.1), optax.lamb(0.1)),
    "named_chain": optax.named_chain(("clip", optax.clip(0.1)), ("lars", optax.lars(0.1))),
    "multi_transform": optax.multi_transform(GROUPS, LABELS),
    "partition": optax.partition(GROUPS, LABELS),
    "freeze": optax.freeze(VECTORS),
    "selective_transform": optax.selective_transform(optax.lamb(0.1), freeze_mask=VECTORS),
    "inject_hyperparams": optax.inject_hyperparams(optax.lamb)(learning_rate=0.1),
}
NOT_COMPARED = {
    "inject_stateful_hyperparams": "the deprecated name of inject_hyperparams",
    "optimistic_adam": "the deprecated form of optimistic_adam_v2",
    "add_noise": "draws other noise for parameters in another order",
    "noisy_sgd": "draws other noise for parameters in another order",
    "dpsgd": "takes a gradient for each example",
    "differentially_private_aggregate": "takes a gradient for each example",
    "lbfgs": "takes the loss as a function",
    "scale_by_backtracking_linesearch": "takes the loss as a function",
    "scale_by_zoom_linesearch": "takes the loss as a function",
    "lookahead": "takes two sets of parameters",
    "sam": "asks for a second gradient",
    "scale_by_muon": "takes matrices only; muon chooses them",
    "sophia": "takes the loss as a function",
    "measure_with_ema": "returns a measurement in place of updates",
    "hutchinson_estimator_diag_hessian": "takes the loss as a function",
}
UNANNOTATED = {"scale_by_factored_rms", "dog", "dowg", "hutchinson_estimator_diag_hessian"}


def factories():
    """Every public function of optax that returns an optimizer, by name."""
    for module in (optax, contrib):
        for name, function in vars(module).items():
            if name.startswith("_") or inspect.isclass(function) or not callable(function):
                continue
            try:
                returned = str(inspect.signature(function).return_annotation)
            except ValueError:
                continue
            if "GradientTransformation" in returned or name in UNANNOTATED:
                yield name, function


FACTORIES = dict(factories())
OPTIMIZERS = [name for name in FACTORIES if name not in NOT_COMPARED]
# One of each mechanism; all others are slow.
MECHANISMS = {
    "adam": "each element separately",
    "stateless": "a sum over an array",
    "lars": "norms of arrays, and a mask",
    "novograd": "a state of one number per array",
    "sm3": "a state of one vector per axis",
    "adafactor": "a factorization that depends on the rank",
    "adaptive_grad_clip": "norms of the units of an array",
    "muon": "matrices and vectors separately",
    "galore": "projections of matrices",
    "flatten": "all arrays as one vector",
    "prodigy": "sums over all arrays, and a state with the first parameters",
    "dog": "the largest of all distances",
    "momo": "the loss",
    "apply_if_finite": "a condition on all elements",
    "conditionally_transform": "a condition on the step",
    "partition": "groups of arrays",
    "inject_hyperparams": "numbers in the state",
}


def made(name):
    if name in JOINED:
        return JOINED[name]
    needed = [
        parameter.name
        for parameter in inspect.signature(FACTORIES[name]).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    given = ARGUMENTS.get(name, {"learning_rate": 0.1} if needed == ["learning_rate"] else {})
    return FACTORIES[name](**given)


def trees(spec, count, seed=0):
    """Random trees of the parameters' shapes, with block i of each stack scaled by (i + 1)**2."""
    random = np.random.default_rng(seed)

    def leaf(param):
        depth = len(param.stack)
        scale = np.ones(())
        for size in param.shape[:depth]:
            scale = np.multiply.outer(scale, np.arange(1, size + 1) ** 2.0)
        scale = scale.reshape(scale.shape + (1,) * (len(param.shape) - depth))
        return jax.device_put((random.normal(size=param.shape) * scale).astype(np.float32))

    return [jax.tree.map(leaf, spec) for _ in range(count)]


def trained(optimizer, params, gradients):
    """The sum of the updates of a step for each gradient, with a loss that falls."""

    def step(carry, item):
        params, state, total = carry
        gradient, value = item
        more = {"value": value}
        updates, state = train.optimizer.updated(optimizer, gradient, state, params, **more)
        total = jax.tree.map(jnp.add, total, updates)
        return (optax.apply_updates(params, updates), state, total), None

    @jax.jit
    def run(params, gradients):
        several = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
        values = 1 / jnp.arange(1.0, len(gradients) + 1)
        carry = params, optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, carry, (several, values))[0][2]

    return run(params, gradients)


def assert_near(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(b).max()) + 1e-9
        # Sums are taken in another order, which some optimizers divide small numbers by.
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=2e-4)


def test_every_factory_is_known():
    assert set(NOT_COMPARED) <= set(FACTORIES)
    assert len(OPTIMIZERS) > 90
    assert MECHANISMS.keys() <= set(OPTIMIZERS)


def slow_unless(quick, *case):
    return pytest.param(*case, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("name", [slow_unless(name in MECHANISMS, name) for name in OPTIMIZERS])
def test_a_repeat_is_updated_as_its_blocks_in_a_row(name):
    optimizer = made(name)
    params, *gradients = trees(SPEC, 4)
    row = [nn.unstack_layers(NET, tree)[1] for tree in (params, *gradients)]
    wanted = trained(optimizer, row[0], row[1:])
    found = trained(train.for_network(optimizer, NET, X), params, gradients)
    assert_near(nn.unstack_layers(NET, found)[1], wanted)


CROSSING = {
    "global norm": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)),
    "rank mask": optax.adamw(0.1, weight_decay=0.5, mask=MASK),
    "lamb": optax.lamb(0.1),
    "muon": contrib.muon(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=4),
    "largest element": optax.stateless(
        lambda updates, _: optax.tree.scale(1 / optax.tree.norm(updates, ord="inf"), updates)
    ),
    "number of elements": optax.stateless(
        lambda updates, _: optax.tree.scale(1 / optax.tree.size(updates), updates)
    ),
    "number of arrays": optax.stateless(
        lambda updates, _: optax.tree.scale(1 / len(jax.tree.leaves(updates)), updates)
    ),
}


def taken_apart(spec, tree):
    """Every block as a separate array: a list for each parameter."""

    def leaf(param, array):
        depth = len(param.stack)
        return list(array.reshape(-1, *array.shape[depth:])) if depth else array

    return jax.tree.map(leaf, spec, tree)


NETWORKS = {
    "a repeat in an ensemble": nn.Ensemble(nn.Repeat(nn.Dense(4), 3), 2),
    "experts": nn.MixtureOfExperts(nn.Dense(4), experts=4),
    "one parameter": nn.Repeat(nn.Dense(4, bias=False), 3),
    "one copy": nn.Sequential(nn.Repeat(nn.Dense(4), 1), nn.Repeat(nn.Dense(4), 2)),
}


# Each optimizer on one network, and each network with two; all other pairs are slow.
PAIRS = {
    "global norm": "a repeat in an ensemble",
    "rank mask": "one copy",
    "lamb": "experts",
    "muon": "a repeat in an ensemble",
    "adafactor": "one parameter",
    "largest element": "experts",
    "number of elements": "one parameter",
    "number of arrays": "one copy",
}


@pytest.mark.parametrize(
    ("name", "network"),
    [slow_unless(PAIRS[n] == network, n, network) for n in CROSSING for network in NETWORKS],
)
def test_members_and_experts_are_separate_arrays(name, network):
    net = NETWORKS[network]
    spec = net.spec(X)
    params, *gradients = trees(spec, 3)
    apart = [taken_apart(spec, tree) for tree in (params, *gradients)]
    wanted = trained(CROSSING[name], apart[0], apart[1:])
    found = trained(train.for_network(CROSSING[name], net, X), params, gradients)
    assert_near(taken_apart(spec, found), wanted)


def mean_square(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


@pytest.mark.parametrize("wrap", [lambda o: o, train.with_ema, train.dynamic_loss_scale])
def test_a_step_of_training_is_that_of_the_row(wrap):
    params = trees(SPEC, 1)[0]
    found = []
    for net, start in ((NET, params), nn.unstack_layers(NET, params)):
        optimizer = wrap(train.Optimizer(optax.lamb, learning_rate=0.1))
        program = train.Supervised(net, mean_square, optimizer)
        ts, step = program.init(jax.random.key(0), (X, X)), train.make_step(program)
        ts, _ = step(ts._replace(params=jax.tree.map(jnp.copy, start)), (X, X))
        found.append(ts.params)
    assert_near(nn.unstack_layers(NET, found[0])[1], found[1])


@pytest.mark.slow  # muon is compared on a stack, and on one of members, for every change
def test_muon_orthogonalizes_each_matrix_of_a_gpt():
    net = GPT(layers=2, width=8, num_heads=2, length=4).network(outputs=10)
    tokens = jnp.zeros((1, 4), int)
    spec = net.spec(tokens)
    params, *gradients = trees(spec, 3)
    optimizer = contrib.muon(0.1)
    row = [nn.unstack_layers(net, tree)[1] for tree in (params, *gradients)]
    wanted = trained(optimizer, row[0], row[1:])
    ours = train.for_network(optimizer, net, tokens)
    assert_near(nn.unstack_layers(net, trained(ours, params, gradients))[1], wanted)
    momentum = ours.init(params).inner_states["muon"].inner_state[0].mu
    shapes = {jnp.shape(leaf)[len(param.stack) :] for param, leaf in zip(
        jax.tree.leaves(spec, is_leaf=lambda node: hasattr(node, "stack")),
        jax.tree.leaves(momentum, is_leaf=lambda node: not isinstance(node, dict | tuple)
                        or isinstance(node, optax.MaskedNode)),
        strict=True,
    ) if not isinstance(leaf, optax.MaskedNode)}  # fmt: skip
    assert shapes and all(len(shape) == 2 for shape in shapes)


def equations(jaxpr):
    inner = [getattr(one, "jaxpr", one) for e in jaxpr.eqns for one in jaxprs_in_params(e.params)]
    return len(jaxpr.eqns) + sum(map(equations, inner))


def test_adam_on_a_stack_compiles_what_it_compiles_on_any_arrays():
    def count(optimizer, net):
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), net.spec(X))
        state = jax.eval_shape(optimizer.init, params)
        return equations(jax.make_jaxpr(optimizer.update)(params, state, params).jaxpr)

    for n in (2, 50):
        net = nn.Repeat(nn.Dense(4), n)
        for plain in (optax.adam(0.1), optax.adamw(0.1), optax.sgd(0.1, momentum=0.9)):
            # A jitted function of one equation is written out.
            assert count(train.for_network(plain, net, X), net) <= count(plain, net)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.lamb(0.1))
    few, many = (nn.Repeat(nn.Dense(4), n) for n in (2, 50))
    assert count(train.for_network(clipped, few, X), few) == count(
        train.for_network(clipped, many, X), many
    )


def test_masks_and_labels_find_parameters_by_path():
    net = nn.Repeat(nn.Sequential(nn.Dense(4), nn.LayerNorm()), 3)
    spec = net.spec(X)
    params, gradient = trees(spec, 2)
    walk = jax.tree_util.tree_map_with_path
    chosen = {"[0]['w']": True, "[0]['b']": False, "[1]['scale']": False, "[1]['b']": False}
    masks = [
        lambda tree: walk(lambda path, _: path[-1].key == "w", tree),
        lambda tree: walk(lambda path, _: path[-1] in {jax.tree_util.DictKey("w")}, tree),
        lambda tree: walk(
            lambda path, _: isinstance(path[-1], jax.tree_util.DictKey) and path[-1].key == "w",
            tree,
        ),
        lambda tree: walk(lambda path, _: chosen[jax.tree_util.keystr(path)], tree),
        ({"w": True, "b": False}, {"scale": False, "b": False}),
    ]
    wanted = trained(optax.masked(optax.lars(0.1), masks[-1]), *(
        taken_apart(spec, tree) if tree is params else [taken_apart(spec, tree)]
        for tree in (params, gradient)
    ))  # fmt: skip
    optimizers = [optax.masked(optax.lars(0.1), mask) for mask in masks]
    optimizers += [train.partition({"0/w": optax.lars(0.1), "**": optax.identity()})]
    for optimizer in optimizers:
        found = trained(train.for_network(optimizer, net, X), params, [gradient])
        assert_near(taken_apart(spec, found), wanted)


def test_a_mask_that_blocks_cannot_keep_is_rejected():
    net = nn.Repeat(nn.Dense(4), 3)
    walk = jax.tree_util.tree_map_with_path
    optimizer = optax.adamw(0.1, mask=lambda tree: walk(lambda path, _: len(path) == 1, tree))
    with pytest.raises(ValueError, match=r"whole path of a parameter.*train\.partition"):
        params = trees(net.spec(X), 1)[0]
        trained(train.for_network(optimizer, net, X), params, [params])


def test_each_block_has_its_own_noise():
    net = nn.Repeat(nn.Dense(4), 3)
    params = jax.tree.map(jnp.zeros_like, trees(net.spec(X), 1)[0])
    optimizer = train.for_network(optax.add_noise(0.1, 0.1, key=0), net, X)
    noise = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p)[0])(params)
    rows = np.asarray(noise["w"]).reshape(3, -1)
    assert np.abs(np.corrcoef(rows) - np.eye(3)).max() < 0.9


def test_a_loss_that_an_optimizer_calls_gets_stacked_parameters():
    net = nn.Repeat(nn.Dense(4), 3)
    spec = net.spec(X)
    params = trees(spec, 1)[0]

    def loss(params):
        return jnp.sum(net.apply(params, X) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    plain = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    more = {"value": value, "grad": gradient}

    @functools.partial(jax.jit, static_argnums=0)
    def updated(optimizer, params):
        state = optimizer.init(params)
        return optimizer.update(gradient, state, params, value_fn=loss, **more)[0]

    assert_near(updated(train.for_network(plain, net, X), params), updated(plain, params))


def test_hyperparameters_may_be_traced_and_mapped():
    params, gradient = trees(SPEC, 2)

    def one(rate):
        optimizer = train.Optimizer(
            optax.chain,
            train.Optimizer(optax.clip_by_global_norm, max_norm=rate),
            train.Optimizer(optax.lamb, learning_rate=rate),
        )
        optimizer = train.for_network(optimizer, NET, X)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    rates = jnp.array([0.1, 0.2])
    found = jax.jit(jax.vmap(one))(rates)
    for i, rate in enumerate(rates):
        assert_near(jax.tree.map(lambda leaf, i=i: leaf[i], found), jax.jit(one)(rate))


def test_wrapping_twice_counts_once():
    optimizer = train.for_network(optax.lamb(0.1), NET, X)
    assert train.for_network(optimizer, NET, X) == optimizer
    plain = optax.lamb(0.1)
    assert train.for_network(plain, nn.Dense(4), X) is plain
    params, gradient = trees(SPEC, 2)
    wanted = trained(optimizer, params, [gradient])
    nested = train.for_network(train.apply_if_finite(optimizer), NET, X)
    assert train.apply_if_finite(nested) is nested
    assert_near(trained(nested, params, [gradient]), wanted)


def test_a_state_without_blocks_is_rejected():
    params, gradient = trees(SPEC, 2)
    for plain in (contrib.muon(0.1), optax.adafactor(0.1, min_dim_size_to_factor=3)):
        with pytest.raises(ValueError, match=r"not that of separate blocks.*program\.init"):
            train.for_network(plain, NET, X).update(gradient, plain.init(params), params)
    with pytest.raises(ValueError, match=r"made for parameters with the structure"):
        train.for_network(optax.adam(0.1), NET, X).init(params[0])

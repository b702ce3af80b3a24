"""An optimizer sees the blocks of stacked parameters as separate arrays.

The expected updates are optax's own, on parameters whose blocks are separate arrays: those of
`nn.unstacked`, or of members and experts taken apart by hand. Blocks are scaled by 1, 4, and 9, so
that a norm of a stack is not the norm of a block.
"""

import functools
import inspect

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
from jaxnn.train.blocks import Stacks

X = jnp.ones((2, 4))
NET = nn.Serial(nn.Dense(4), nn.Repeat(nn.Serial(nn.Dense(4), nn.LayerNorm()), 3))
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
    "freeze": {"mask": {"b": True}},
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
    "selective_transform": {"optimizer": optax.lamb(0.1), "freeze_mask": {"b": True}},
    "snapshot": {"measure_name": "norm", "measure": lambda updates, **_: optax.tree.norm(updates)},
    "split_real_and_imaginary": {"inner": optax.adam(0.1)},
    "stateless": {"f": lambda updates, params: jax.tree.map(lambda g: g / jnp.sum(g**2), updates)},
    "stateless_with_tree_map": {"f": lambda update, param: update * jnp.sum(param**2)},
    "trace": {"decay": 0.9},
    "with_extra_args_support": {"tx": optax.lamb(0.1)},
}
GROUPS = {"matrix": optax.adafactor(0.1, min_dim_size_to_factor=4), "rest": optax.lamb(0.1)}
LABELS = functools.partial(jax.tree.map, lambda leaf: "matrix" if leaf.ndim > 1 else "rest")
JOINED = {
    "chain": optax.chain(optax.clip_by_global_norm(0.1), optax.lamb(0.1)),
    "named_chain": optax.named_chain(("clip", optax.clip(0.1)), ("lars", optax.lars(0.1))),
    "multi_transform": optax.multi_transform(GROUPS, LABELS),
    "partition": optax.partition(GROUPS, LABELS),
    "freeze": optax.freeze(lambda params: jax.tree.map(lambda leaf: leaf.ndim == 1, params)),
    "selective_transform": optax.selective_transform(
        optax.lamb(0.1),
        freeze_mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim == 1, params),
    ),
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


def made(name):
    if name in JOINED:
        return JOINED[name]
    needed = [
        parameter.name
        for parameter in inspect.signature(FACTORIES[name]).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
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
        return jnp.asarray(random.normal(size=param.shape) * scale, jnp.float32)

    return [jax.tree.map(leaf, spec) for _ in range(count)]


def trained(optimizer, params, gradients):
    """The parameters after a step for each gradient, and a loss that falls."""
    optimizer = optax.with_extra_args_support(
        optax.GradientTransformationExtraArgs(
            optimizer.init, functools.partial(train.optimizer.updated, optimizer)
        )
    )

    def step(carry, item):
        params, state = carry
        gradient, value = item
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params, gradients):
        several = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
        values = 1 / jnp.arange(1.0, len(gradients) + 1)
        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, (several, values))[0][0]

    return run(params, gradients)


def assert_near(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(b).max()) + 1e-6
        # Sums are taken in another order, which some optimizers divide small numbers by.
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=2e-4)


def test_every_factory_is_known():
    assert set(NOT_COMPARED) <= set(FACTORIES)
    assert len(OPTIMIZERS) > 90


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_repeat_is_updated_as_its_blocks_in_a_row(name):
    optimizer = made(name)
    params, *gradients = trees(SPEC, 4)
    row = [nn.unstacked(NET, tree)[1] for tree in (params, *gradients)]
    wanted = trained(optimizer, row[0], row[1:])
    found = trained(train.for_network(optimizer, NET, X), params, gradients)
    assert_near(nn.unstacked(NET, found)[1], wanted)

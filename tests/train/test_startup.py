"""The number of programs that the start of a run compiles."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.fields import is_traced

COMPILED = "/jax/core/compile/backend_compile_duration"

OPTIMIZERS = {
    "optax": lambda: optax.adamw(optax.cosine_decay_schedule(1e-3, 100)),
    "Optimizer": lambda: train.Optimizer(optax.adamw, train.Cosine(1e-3, 100), weight_decay=1e-4),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fit_compiles_at_most_eight_programs(name):
    random = np.random.default_rng(0)
    # Sizes that no other test uses: a process keeps the programs that it compiled.
    x, y = random.normal(size=(91, 13)).astype("float32"), random.integers(7, size=91)
    net = nn.Sequential(nn.Dense(11), jax.nn.relu, nn.Dense(7))
    program = train.Supervised(net, train.Classification(7), OPTIMIZERS[name]())
    key, names, active = jax.random.key(0), [], [True]

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if active and event == COMPILED:
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        held_out = x[:17], y[:17]
        train.fit(program, (x, y), key=key, epochs=2, batch_size=23, validation=held_out)
    finally:
        active.clear()
    assert {"jit(run)", "jit(evaluate)"} <= set(names), names  # what is counted is compiled here
    assert len(names) <= 8, names


def test_a_first_state_that_reads_parameters_by_numpy_is_not_compiled():
    scale = optax.stateless(lambda updates, params: updates)
    optimizer = scale._replace(init=lambda params: float(np.asarray(params["w"]).sum()))
    program = train.Supervised(nn.Dense(1), train.Regression(), optimizer)
    state = program.init(jax.random.key(0), (np.ones((4, 3)), np.ones(4)))
    np.testing.assert_allclose(state.opt_state, state.params["w"].sum(), rtol=1e-6)


def test_a_leaked_tracer_in_a_first_state_is_raised_at_once():
    leaked: list[Any] = []
    jax.jit(lambda x: leaked.append(x))(1.0)
    calls: list[Any] = []

    def init(params: Any) -> Any:
        calls.append(is_traced(params["w"]))
        return leaked[0] + 1

    optimizer = optax.stateless(lambda updates, params: updates)._replace(init=init)
    program = train.Supervised(nn.Dense(1), train.Regression(), optimizer)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        program.init(jax.random.key(0), (np.ones((4, 3)), np.ones(4)))
    assert calls == [True]  # and not a second time, outside of a program

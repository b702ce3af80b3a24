"""Runs of a program: `fit` and `make_step` against hand-written jax, and a watched run."""

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from benchmarks.peers import LEARNING_RATE, pure_jax
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved
from jaxnn import data, train
from jaxnn.data.order import epoch_order

WIDTHS = (784, 128, 10)
SMALL = (16,) * 5  # 4 layers
BATCH = 128
EPOCHS = 12
ROUNDS = 15
SCAN = "pure jax, a scan an epoch"
CALL = "pure jax, a call a step"


def run() -> Result:
    """Measure both networks, and single steps."""
    random = np.random.default_rng(0)
    small = random.normal(size=(6400, 16)).astype(np.float32), random.integers(16, size=6400)
    return Result(
        "`train.fit(program, data)` in its steady state, against a hand-written scan of the same "
        "steps on the same rows and against `train.fit(net, task, ...)`. Watched, it has `Log`, "
        "`EarlyStopping`, and `Divergence`, with a record an epoch.",
        [
            _runs("784-128-10", WIDTHS, *data.mnist_5k().train_and_validation),
            _runs("16 wide, 4 layers", SMALL, *small),
            _steps("784-128-10", WIDTHS),
            _steps("16 wide, 4 layers", SMALL),
        ],
    )


def _runs(title: str, widths: Sequence[int], x: np.ndarray, y: np.ndarray) -> Table:
    y = y.astype(np.int32)
    program, net = _program(widths), _network(widths)
    given = {"key": jax.random.key(0), "epochs": EPOCHS + 1, "batch_size": BATCH}
    fresh = itertools.count()

    def fitted(place: str | None = None) -> float:
        times: list[float] = []
        hooks: list[Any] = []
        if place is not None:
            stopping = train.EarlyStopping("loss", patience=99)
            log = train.Log(Path(place, f"{next(fresh)}.jsonl"))
            hooks = [train.Divergence(), stopping, log]
        for event in train.run(program, (x, y), hooks=hooks, **given):
            event.metrics.plain()  # both wait for their numbers
            times.append(time.perf_counter())
        return _steady(times)

    def as_before() -> float:
        times: list[float] = []
        train.fit(
            net, _loss, optax.adam(LEARNING_RATE), (x, y),
            report=lambda record: times.append(time.perf_counter()), **given,
        )  # fmt: skip
        return _steady(times)

    with tempfile.TemporaryDirectory() as place:
        sides: dict[str, Callable[[], float]] = {
            SCAN: _by_hand(widths, x, y),
            "jaxnn run": fitted,
            "jaxnn run, watched": lambda: fitted(place),
            "jaxnn fit(net, ...)": as_before,
        }
        samples = interleaved(sides, rounds=ROUNDS)
    bare = samples["jaxnn run"]
    bars = [
        Bar("jaxnn run over the scan", bare.over(samples[SCAN]), 1.03),
        Bar("jaxnn run over fit(net, ...)", bare.over(samples["jaxnn fit(net, ...)"]), 1.03),
        Bar("watched over bare", samples["jaxnn run, watched"].over(bare), 1.03),
    ]
    return Table(f"An epoch, {title}, batch {BATCH}", "ms", samples, SCAN, bars)


def _by_hand(widths: Sequence[int], x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    """A scan an epoch on rows in the same order, drawn while the epoch before runs."""
    arrays = jax.device_put((x, y))
    key = jax.random.key(0)

    def epoch(state: Any, arrays: Any, order: Any) -> Any:
        rows = lambda i: jax.tree.map(lambda leaf: leaf[i], arrays)  # noqa: E731
        return jax.lax.scan(lambda s, i: pure_jax._update(s, rows(i)), state, order)

    compiled = jax.jit(epoch, donate_argnums=0)

    def order(number: int) -> np.ndarray:
        used = len(x) // BATCH * BATCH
        return epoch_order(key, number, len(x))[:used].reshape(-1, BATCH)

    def run() -> float:
        state = pure_jax._state(widths)
        times, rows = [], order(0)
        for number in range(EPOCHS + 1):
            state, losses = compiled(state, arrays, rows)
            rows = order(number + 1)
            np.asarray(losses).mean()
            times.append(time.perf_counter())
        return _steady(times)

    return run


def _steps(title: str, widths: Sequence[int]) -> Table:
    random = np.random.default_rng(0)
    x = jax.device_put(random.normal(size=(BATCH, widths[0])).astype(np.float32))
    y = jax.device_put(random.integers(10, size=BATCH).astype(np.int32))
    program = _program(widths)
    compiled, state = train.make_step(program), program.init(jax.random.key(0), (x, y))

    def ours() -> None:
        nonlocal state
        metrics: Any = None
        for _ in range(100):
            state, metrics = compiled(state, (x, y))
        jax.block_until_ready(metrics)

    (by_hand,) = pure_jax.steps(widths).values()

    def theirs() -> None:
        value = None
        for _ in range(100):
            value = by_hand(x, y)
        jax.block_until_ready(value)

    samples = interleaved({CALL: theirs, "jaxnn make_step": ours}, rounds=ROUNDS, per=100)
    bar = Bar("jaxnn over pure jax", samples["jaxnn make_step"].over(samples[CALL]), 1.05)
    return Table(f"A step, {title}, batch {BATCH}", "us", samples, CALL, [bar])


def _program(widths: Sequence[int]) -> train.Program:
    return train.Supervised(_network(widths), _loss, optax.adam(LEARNING_RATE))


def _network(widths: Sequence[int]) -> nn.Layer:
    layers = itertools.chain.from_iterable((nn.Dense(width), jax.nn.relu) for width in widths[1:])
    return nn.Sequential(*list(layers)[:-1])


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _steady(times: list[float]) -> float:
    """Seconds of an epoch after the first."""
    return (times[-1] - times[0]) / (len(times) - 1)

"""Intervals of scores, against scipy and closed forms."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from scipy import stats

import jaxnn as nn
from jaxnn import data, train
from jaxnn.experiment import Experiment
from jaxnn.experiment.experiment import configured
from jaxnn.experiment.prediction import intervals_of, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (9, 10), (935, 1000)])
def test_the_interval_of_a_proportion_is_wilsons(right, count):
    theirs = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson(right, count)[:2], theirs, rtol=1e-6, atol=1e-9)


class Scores(train.Program):
    """A program whose metrics of a batch are known functions of its rows (x, y)."""

    def init(self, key, batch):
        return jax.numpy.zeros(())

    def step(self, state, batch):
        return state, {"loss": state}

    def evaluate(self, state, batch, *, key):
        x, y = batch
        return {
            "loss": x.mean(),
            "share": train.Ratio((x > 0).sum(), x.size),
            "valid": train.Ratio(((x > 0) & (y >= 0)).sum(), (y >= 0).sum()),
            "weighted": train.Ratio((x * y**2).sum(), (y**2).sum()),
            "square": train.Derived(lambda total, n: (total / n) ** 2, (x.sum(), 1.0 * x.size)),
            "median": train.Collected(np.median, (x,)),
            "r2": train.r2(x, 1.0 * y),
            "widest": x.max() - x.min(),  # not a combination of rows
        }


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: int = 1
    batch_size: int = 20


def test_the_intervals_of_a_run_are_those_of_scipy():
    random = np.random.default_rng(1)
    x = random.normal(1, 2, 400).astype(np.float32)
    y = random.integers(-1, 3, 400)
    one = configured(Experiment("toy", Config, data=lambda config: (x, y),
                                program=lambda config, rows: Scores()), Config())  # fmt: skip
    scores = train.evaluate(one.program, np.zeros(()), (x, y), batch_size=400)
    found = intervals_of(one, np.zeros(()), (x, y), scores)
    assert found.keys() == scores.keys() - {"widest"}
    methods = {name: each.method for name, each in found.items()}
    assert methods == {**dict.fromkeys(methods, "bootstrap"), "share": "Wilson", "valid": "Wilson"}
    valid = y >= 0
    for name, where in (("share", slice(None)), ("valid", valid)):
        right = int((x[where] > 0).sum())
        theirs = stats.binomtest(right, len(x[where])).proportion_ci(0.95, "wilson")
        np.testing.assert_allclose(found[name][:2], theirs, rtol=1e-6)
    statistics = {
        "loss": np.mean,
        "median": np.median,
        "square": lambda x, axis=-1: np.mean(x, axis) ** 2,
    }
    found_by = {name: stats.bootstrap((x,), statistic, method="percentile", rng=0)
                for name, statistic in statistics.items()}  # fmt: skip
    found_by["r2"] = stats.bootstrap(
        (x, y), lambda x, y: 1 - ((x - y) ** 2).sum() / ((y - y.mean()) ** 2).sum(),
        paired=True, vectorized=False, method="percentile", rng=0, n_resamples=2000,
    )  # fmt: skip
    for name, theirs in found_by.items():
        theirs = theirs.confidence_interval
        # Bootstraps of 200 or 1,000 and of thousands of resamples differ by a part of their width.
        width = theirs.high - theirs.low
        np.testing.assert_allclose(found[name][:2], theirs, atol=0.15 * width)
        assert found[name].low < scores[name] < found[name].high


def test_the_loss_and_the_accuracy_of_a_network_have_intervals():
    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    y = (x[:, 0] > 0.1).astype(np.int32)
    rows = data.Examples(x, y)
    held = data.Dataset("toy", rows, rows, rows, class_names=("no", "yes"))

    def program(config, dataset):
        return train.Supervised(nn.Dense(2), train.Classification(2), optax.sgd(0.1))

    one = configured(Experiment("toy", Config, data=lambda config: held, program=program), Config())
    state = one.program.init(jax.random.key(0), (x, y))
    scores = train.evaluate(one.program, state, (x, y))
    found = intervals_of(one, state, (x, y), scores)
    assert found.keys() == {"accuracy", "loss"}
    right = round(scores["accuracy"] * 40)
    theirs = stats.binomtest(right, 40).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(found["accuracy"][:2], theirs, rtol=1e-6)

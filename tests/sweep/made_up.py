"""A made-up sweep: what a real one writes, by a formula, in no time."""

import math
from pathlib import Path

import numpy as np

from jaxnn.sweep.dimensions import Choice, Int, LogUniform, Uniform
from jaxnn.sweep.snapshot import Sweep
from jaxnn.sweep.tables import Cohort, Group, Trial

SPACE = {
    "optimizer": Choice("AdamW", "SGD"),
    "optimizer:adamw.learning_rate": LogUniform(1e-4, 1e-1),
    "optimizer:sgd.learning_rate": LogUniform(1e-3, 1.0),
    "model.dropout": Uniform(0.0, 0.5),
    "model.width": Choice(64, 128, 256),
    "shift": Int(0, 4),
}


def sampled(random):
    values = {name: dimension.at(random.random()) for name, dimension in SPACE.items()}
    unused = "sgd" if values["optimizer"] == "AdamW" else "adamw"
    del values[f"optimizer:{unused}.learning_rate"]
    return values


def quality(values):
    """The accuracy that a run ends at: best at AdamW, rate 0.005, dropout 0, shift 1 or 2."""
    rate = values.get("optimizer:adamw.learning_rate", values.get("optimizer:sgd.learning_rate"))
    ideal = 0.005 if values["optimizer"] == "AdamW" else 0.1
    away = math.log10(rate / ideal)
    return (
        0.965
        - 0.05 * away**2
        - 0.04 * values["model.dropout"]
        - 0.004 * (values["shift"] - 1.5) ** 2
        - 0.01 * (values["optimizer"] == "SGD")
        + 0.005 * math.log2(values["model.width"] / 128)
    )


def measured(by_trial):
    """Without the trials and seeds that nothing was measured of."""
    lanes = {n: {s: c for s, c in seeds.items() if c} for n, seeds in by_trial.items()}
    return {n: seeds for n, seeds in lanes.items() if seeds}


def made_up(trials=60, epochs=6, seeds=2, rungs=(2, 6), eta=3, seed=0, **changes):
    """A sweep of so many trials with halving at the rungs; a few diverge, the last one fails."""
    random = np.random.default_rng(seed)
    asked = [sampled(random) for _ in range(trials)]
    names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    curves = {
        name: {number: {s: [] for s in range(seeds)} for number in range(trials)} for name in names
    }
    status = dict.fromkeys(range(trials), "running")
    errors, ended, cohorts = {}, {}, []
    for values, number in zip(asked, range(trials), strict=True):
        rate = values.get("optimizer:sgd.learning_rate", 0.0)
        if rate > 0.5:
            status[number] = "diverged"
    status[trials - 1] = "failed"
    errors[trials - 1] = (
        "Traceback (most recent call last):\n  ...\nValueError: <b>shift</b> & more"
    )
    alive, begin = [n for n in range(trials) if status[n] != "failed"], 0
    for rung, end in enumerate(rungs):
        for width in SPACE["model.width"].options:
            lanes = [
                (n, s) for n in alive if asked[n]["model.width"] == width for s in range(seeds)
            ]
            if lanes:
                first = not any(c.group == f"model.width={width}" for c in cohorts)
                seconds = 0.4 + 1e-4 * width * len(lanes) * (end - begin)
                cohorts.append(
                    Cohort(f"model.width={width}", rung, begin, end, tuple(lanes),
                           seconds + 2.5 * first, 2.5 * first, len(cohorts))
                )  # fmt: skip
        for n in alive:
            for s in range(seeds):
                noise = random.normal(0, 0.003)
                for epoch in range(begin + 1, end + 1):
                    share = 1 - math.exp(-3 * epoch / epochs)
                    accuracy = (
                        0.1 + (quality(asked[n]) - 0.1) * share + noise + random.normal(0, 0.002)
                    )
                    bad = status[n] == "diverged"
                    for name in names:
                        train = 0.0 if name.startswith("validation") else 0.01
                        number = (
                            accuracy + train if "accuracy" in name else 2.3 * (1 - accuracy - train)
                        )
                        curves[name][n][s].append((epoch, None if bad else number))
            ended[n] = rung
        alive = [n for n in alive if status[n] == "running"]
        last = lambda n: np.mean([c[-1][1] for c in curves["validation_accuracy"][n].values()])  # noqa: E731
        alive.sort(key=last, reverse=True)
        kept = alive[: len(alive) // eta] if end < rungs[-1] else []
        for n in alive:
            if n not in kept:
                status[n] = "stopped" if end < rungs[-1] else "done"
        alive, begin = sorted(kept), end
    facts = {
        "search": "tpe",
        "seed": 0,
        "exact": False,
        "device": "cpu",
        "versions": {"python": "3.11.2", "jax": "0.10.2", "jaxnn": "0.1.0"},
        "traced": {name: "traced" for name in SPACE}
        | {"model.width": "models/mlp.py:31, 'Dense(self.width)': Python has to know it there",
           "optimizer": "it is not a number but 'AdamW'"},
    }  # fmt: skip
    given = dict(
        folder=Path("sweeps/mnist_mlp-1"),
        experiment="experiments.mnist_mlp",
        config={"type": "Config", "batch_size": 64, "epochs": epochs},
        dimensions=SPACE,
        metric="validation_accuracy",
        maximize=True,
        seeds=seeds,
        epochs=epochs,
        rungs=tuple(rungs),
        trials=[
            Trial(n, n // 16, 0, asked[n], f"model.width={asked[n]['model.width']}", status[n],
                  ended.get(n), errors.get(n))
            for n in range(trials)
        ],
        cohorts=cohorts,
        groups=[
            Group(f"model.width={w}", {"model.width": w}, "vmap", 16)
            for w in SPACE["model.width"].options
        ],
        curves={name: measured(by) for name, by in curves.items()},
        facts=facts,
    )  # fmt: skip
    return Sweep(**{**given, **changes})

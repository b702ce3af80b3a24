"""The search of `tuned` by another tool: `python -m benchmarks.sweeping.tuners TOOL FILE TRIALS`.

Each draws at random as the sweep does, validates after the last epoch, and prints the best loss as
JSON. jaxnn is not imported, so that no tool pays for its import.

    optuna:WAY       a study in memory, around a way of `plain`
    ray:WAY          Ray Tune, two trials at a time, a new process for each, as is its default
    ray_reuse:WAY    the same with processes that are used again
    keras_tuner      RandomSearch around `compile` and `fit` of Keras on jax
"""

import json
import os
import sys
import tempfile
from typing import Any

from benchmarks.sweeping.sizes import (
    BATCH,
    DECAYS,
    EPOCHS,
    MOMENTA,
    RATES,
    STEPS,
    TRIED_WIDTHS,
    WIDTHS,
)

WORKERS = 2


def optuna(way: str, file: str, trials: int) -> float:
    """Search by Optuna, one trial after the other."""
    import optuna

    from benchmarks.sweeping import plain

    train = plain.training(way, file)

    def objective(trial: Any) -> float:
        return train({
            "width": trial.suggest_categorical("width", TRIED_WIDTHS),
            "learning_rate": trial.suggest_float("learning_rate", *RATES, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *DECAYS, log=True),
            "momentum": trial.suggest_float("momentum", *MOMENTA),
        })  # fmt: skip

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return study.best_value


def ray(way: str, file: str, trials: int, reuse: bool = False) -> float:
    """Search by Ray Tune, two trials at a time."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray import tune  # pyright: ignore[reportMissingImports]

    def train(found: dict[str, Any]) -> dict[str, float]:
        from benchmarks.sweeping import plain  # in a worker, which imports jax for it

        return {"loss": plain.training(way, file)(found)}

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory() as place:
        tuner = tune.Tuner(
            train,
            param_space={
                "width": tune.choice(TRIED_WIDTHS),
                "learning_rate": tune.loguniform(*RATES),
                "weight_decay": tune.loguniform(*DECAYS),
                "momentum": tune.uniform(*MOMENTA),
            },
            tune_config=tune.TuneConfig(
                num_samples=trials, metric="loss", mode="min", reuse_actors=reuse
            ),
            run_config=tune.RunConfig(storage_path=place, verbose=0),
        )
        return tuner.fit().get_best_result().metrics["loss"]


def keras_tuner(file: str, trials: int) -> float:
    """Search by KerasTuner, one trial after the other."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # pyright: ignore[reportMissingImports]
    import keras_tuner  # pyright: ignore[reportMissingImports]
    import numpy as np

    with np.load(file) as arrays:
        x, y, held_x, held_y = (arrays[name] for name in ("x", "y", "held_x", "held_y"))

    def build(hp: Any) -> Any:
        width = hp.Choice("width", TRIED_WIDTHS)
        hidden = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
        model = keras.Sequential([*hidden, keras.layers.Dense(WIDTHS[-1])])
        first = hp.Float("learning_rate", *RATES, sampling="log")
        schedule: Any = keras.optimizers.schedules.CosineDecay(first, STEPS * EPOCHS)
        optimizer = keras.optimizers.AdamW(
            schedule,
            weight_decay=hp.Float("weight_decay", *DECAYS, sampling="log"),
            beta_1=hp.Float("momentum", *MOMENTA),
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=optimizer, loss=loss, steps_per_execution=STEPS)
        return model

    with tempfile.TemporaryDirectory() as place:
        tuner = keras_tuner.RandomSearch(
            build, objective="val_loss", max_trials=trials, seed=0, directory=place
        )
        held = (held_x, held_y)
        tuner.search(x, y, batch_size=BATCH, epochs=EPOCHS, validation_data=held, verbose=0)
        return float(tuner.oracle.get_best_trials()[0].score)


def main(tool: str, file: str, trials: int) -> None:
    """Search by one tool, and print the best loss."""
    name, _, way = tool.partition(":")
    if name == "keras_tuner":
        best = keras_tuner(file, trials)
    elif name == "optuna":
        best = optuna(way, file, trials)
    else:
        best = ray(way, file, trials, reuse=name == "ray_reuse")
    print(json.dumps({"best": best}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

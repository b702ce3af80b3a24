"""Optuna's TPE one trial at a time: `python -m benchmarks.sweeping.alone SEED TRIALS`.

Each trial is a `train.fit` of the program that the sweep trains, with the same seed, so both search
the same function; trials of a width share a compiled program. Prints when each trial ended, in
seconds since 1970, and its loss, as JSON.
"""

import json
import sys
import time
from typing import Any

import optuna

from benchmarks.sweeping.sizes import (
    DECAYS,
    LONG_EPOCHS,
    LONG_ROWS,
    MOMENTA,
    RATES,
    TRIED_WIDTHS,
)
from benchmarks.sweeping.tuned import EXPERIMENT, Config, load
from jaxnn.experiment.experiment import Configured, Loaded


def main(seed: int, trials: int) -> None:
    """Search, and print the losses."""
    source, losses = Loaded(load(Config(rows=LONG_ROWS))), []

    def objective(trial: Any) -> float:
        config = Config(
            width=trial.suggest_categorical("width", TRIED_WIDTHS),
            learning_rate=trial.suggest_float("learning_rate", *RATES, log=True),
            weight_decay=trial.suggest_float("weight_decay", *DECAYS, log=True),
            momentum=trial.suggest_float("momentum", *MOMENTA),
            rows=LONG_ROWS,
            epochs=LONG_EPOCHS,
            seed=seed,
        )
        _, history = Configured(EXPERIMENT, config, source).fit(progress=False)
        losses.append((time.time(), history[-1]["validation_loss"]))
        return losses[-1][1]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    first = Config()  # which the sweep tries first, too
    study.enqueue_trial({name: getattr(first, name) for name in EXPERIMENT.space.dimensions})
    study.optimize(objective, n_trials=trials)
    print(json.dumps({"best": study.best_value, "losses": losses}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

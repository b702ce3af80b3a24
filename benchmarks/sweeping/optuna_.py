"""The search by Optuna: `python -m benchmarks.sweeping.optuna_ WAY PEER FILE TRIALS`.

The way is `programs`, which trains all trials in this process, each by a separate program, or
`processes`, one process for each trial, two at a time. The study is in memory, and draws at random
as the sweep does. Prints the best loss, as JSON.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import optuna

from benchmarks import fresh
from benchmarks.sweeping.sizes import RATES

WORKERS = 2


def searched(train: Callable[[float], float], trials: int, workers: int) -> float:
    """Return the least loss of some trials, searched by Optuna.

    Args:
        train: Trains at a learning rate, and returns the loss.
        trials: Number of trials.
        workers: Number of trials at a time.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [study.ask() for _ in range(trials)]
    rates = [trial.suggest_float("learning_rate", *RATES, log=True) for trial in asked]
    with ThreadPoolExecutor(workers) as pool:
        for trial, loss in zip(asked, pool.map(train, rates), strict=True):
            study.tell(trial, loss)
    return study.best_value


def main(way: str, peer: str, file: str, trials: int) -> None:
    """Search one way, and print the best loss."""
    if way == "processes":

        def train(rate: float) -> float:
            command = ["-m", "benchmarks.sweeping.trial", peer, file, repr(rate)]
            return float(fresh.output(command).splitlines()[-1])

        best = searched(train, trials, WORKERS)
    else:
        from benchmarks.sweeping.trial import training

        best = searched(training(peer, file), trials, 1)
    print(json.dumps({"best": best}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))

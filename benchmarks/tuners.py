"""64 trials of a small network by the tools that search, from the command to the results."""

import importlib.util
import tempfile
from pathlib import Path

from benchmarks.report import Bar, Result, Table
from benchmarks.sweep import WARM_UP, Run, ours, rows_file, theirs
from benchmarks.sweeping.sizes import BATCH, DECAYS, EPOCHS, MOMENTA, RATES, STEPS, TRIED_WIDTHS
from benchmarks.timing import sample

TRIALS = 64
OURS, AGAIN = "jaxnn sweep", "jaxnn sweep, its programs cached"
# What each side runs, and the package that it is installed as.
TOOLS = {
    "Optuna, a step jitted for each trial": ("optuna:per_trial", "optuna"),
    "Optuna, one program a width": ("optuna:per_width", "optuna"),
    "Ray Tune, a step jitted for each trial": ("ray:per_trial", "ray"),
    "Ray Tune, processes used again, one program a width": ("ray_reuse:per_width", "ray"),
    "KerasTuner": ("keras_tuner", "keras_tuner"),
}


def run(trials: int = TRIALS) -> Result:
    """Measure the command, and each tool that is installed."""
    installed = {s: tool for s, tool in TOOLS.items() if importlib.util.find_spec(tool[1])}
    missing = sorted(
        {package for _, package in TOOLS.values()} - {p for _, p in installed.values()}
    )
    runs: dict[str, list[Run]] = {OURS: [], AGAIN: []}
    with tempfile.TemporaryDirectory() as place:
        file = str(rows_file(Path(place)))

        def sweep(cache: str, count: int = trials) -> Run:
            folder = Path(tempfile.mkdtemp(dir=place), "sweep")
            return ours(folder, count, "tuned", {"XDG_CACHE_HOME": f"{place}/{cache}"})

        sweep("first", WARM_UP)  # imports are read from the disk
        for side, (tool, _) in installed.items():
            theirs("benchmarks.sweeping.tuners", tool, file, str(WARM_UP))
            # The command is quick, so it is measured next to each of them.
            runs[OURS].append(sweep(f"cache-{len(runs)}"))
            runs[AGAIN].append(sweep(f"cache-{len(runs)}"))
            runs[side] = [theirs("benchmarks.sweeping.tuners", tool, file, str(trials))]
    samples = {side: sample([run.results for run in each]) for side, each in runs.items()}
    bars = [
        Bar(f"{side} over jaxnn", samples[side].over(samples[OURS]), 10, at_least=True)
        for side in installed
    ]
    losses = ", ".join(f"{side} {each[0].best:.3f}" for side, each in runs.items())
    return Result(
        f"{trials} trials of 64-w-w-10 on {BATCH * STEPS} small digits: {STEPS * EPOCHS} steps of "
        f"AdamW with a cosine decay at batch {BATCH}; w of "
        f"{', '.join(map(str, TRIED_WIDTHS))}, the learning rate and "
        f"the weight decay log-uniform in {RATES[0]:g} .. {RATES[1]:g} and {DECAYS[0]:g} .. "
        f"{DECAYS[1]:g}, the momentum uniform in {MOMENTA[0]:g} .. {MOMENTA[1]:g}. Wall time of "
        "the command, in a new process, until it has printed its results: imports and compilations "
        "included, and of jaxnn the probe, the ledger, the validation after every epoch, and the "
        "weights of the best trial. All search at random; the others validate once a trial, except "
        "Keras. jaxnn ran before each of them with an empty cache of compiled programs, and then "
        "again; each of them ran once. `one program a width` takes hyperparameters as arguments, "
        "which its user writes by hand.",
        [Table("From command to results", "s", samples, OURS, bars, missing)],
        [f"the best validation loss that each side found: {losses}"],
        ("ray", "keras-tuner"),
    )

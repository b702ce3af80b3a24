"""The command line of an experiment, whose module ends with `main(EXPERIMENT)`.

    python -m experiments.mnist_mlp                              train with the defaults
    python -m experiments.mnist_mlp --epochs 5                   change a field of the configuration
    python -m experiments.mnist_mlp optimizer:adamw              choose another optimizer
    python -m experiments.mnist_mlp predict runs/mnist_mlp-...   predict from a finished run
    python -m experiments.mnist_mlp evaluate runs/mnist_mlp-...  score a finished run
    python -m experiments.mnist_mlp export runs/mnist_mlp-...    write its network as one file
    python -m experiments.mnist_mlp resume runs/mnist_mlp-...    continue an interrupted run
    python -m experiments.mnist_mlp plan                         show what a sweep would do
    python -m experiments.mnist_mlp sweep                        sweep the experiment's space
    python -m experiments.mnist_mlp resume sweeps/mnist_mlp-...  continue an interrupted sweep
    python -m experiments.mnist_mlp run --from sweeps/...:best   train the best trial of a sweep

Commands for a finished run also accept a kept trial of a sweep: `predict sweeps/...:best`, or
`sweeps/...:17`. The default command is `run`. Errors that a user can correct are printed in one
line, without a traceback.
"""

import atexit
import functools
import gc
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ..experiment.experiment import Command, Configured, Experiment, TrainedRun, configured
from ..experiment.prediction import print_predictions, print_scores
from ..experiment.run_folder import (
    CONFIG,
    RESULT,
    RunOptions,
    default_folder,
    load_unfinished,
    restored,
)
from ..experiment.training_run import processor, run
from ..files import fresh, replace_file
from ..files.reading import printable, quoted
from ..train import Interrupted, Weights, evaluation_params
from ..train.weights import packed
from ..validation import one_of
from .parsing import (
    execute,
    folder_option,
    imported,
    module_of,
    naming_options,
    one_option,
    parse,
    read_options,
    refuse,
    texts_of,
)

__all__ = ["main"]

OFF = "--no-compilation-cache"
LARGEST = 2**30  # bytes on disk; beyond them, the least recently read entries are deleted


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Run the command line of an experiment, and return the exit status.

    The exit statuses are those of `execute`.

    Args:
        experiment: the experiment.
        arguments: the command line. Default: None, that of the process.

    Raises:
        SystemExit: 0 after printing help, 2 for unknown options.
    """
    words = use_compilation_cache(list(sys.argv[1:] if arguments is None else arguments))
    # Python's last garbage collection, through all objects of JAX, takes half a second.
    atexit.register(gc.freeze)
    # An option, or a word such as `optimizer:sgd`, belongs to the default command.
    named = bool(words) and not words[0].startswith("-") and ":" not in words[0]
    name = words.pop(0) if named else "run"
    further = {one.name: functools.partial(_further, one) for one in experiment.commands}
    by_option = naming_options(experiment.config)
    commands = {name: by_option(command) for name, command in (further | COMMANDS).items()}
    status = execute(commands, name, imported(experiment), words)
    if status in (130, 143) and arguments is None:
        # What XLA is still computing cannot be stopped, and crashes when its client is destroyed.
        atexit.register(_leave, status)
    return status


def _leave(status: int) -> None:
    """End the process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Train, and write a run folder."""
    start = None
    trials, arguments = texts_of("--from", arguments)
    for trial in trials[-1:]:
        from .sweep import trial_of

        start = trial_of(experiment, trial).config
    others = {"predict --help": "predict from a finished run",
              "evaluate --help": "score a finished run",
              "export --help": "write the network of a finished run as one file",
              "resume --help": "continue an interrupted run"}  # fmt: skip
    others |= {f"{one.name} --help": one.help for one in experiment.commands}
    if experiment.space is not None:
        others |= {
            "resume --help": "continue an interrupted run or sweep",
            "plan --help": "show what a sweep would do",
            "sweep --help": "train many configurations",
            "run --from FOLDER:best": "train the best trial, or FOLDER:17 for trial 17",
        }
    others[OFF] = "do not cache compiled programs on disk"
    width = max(map(len, others))
    lines = [f"    {call.ljust(width)}  {what}" for call, what in others.items()]
    text = [
        # tyro adds an empty line before an indented block, which has one already.
        (experiment.header or "").rstrip().replace("\n\n    ", "\n    ") + "\n",
        "\n".join([f"Other commands of python -m {module_of(experiment)}:", *lines]),
    ]
    options: list[Any] = [folder_option(f"runs/{experiment.name}-DATE-TIME"), RunOptions]
    config, where, how = parse(experiment, arguments, options, text=text, start=start)
    return _trained(experiment, config, where.folder or default_folder(experiment.name), how)


def resume_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Continue an interrupted run or sweep."""
    rest = [one for one in arguments if one != "--force"]
    if len(rest) == 1 and (Path(rest[0]) / CONFIG).is_file():
        config, options = load_unfinished(experiment, Path(rest[0]))
        return _trained(experiment, config, Path(rest[0]), options, "--force" in arguments)
    return _sweeping("resume_sweep", experiment, arguments)


def _trained(
    experiment: Experiment[Any],
    config: Any,
    folder: Path,
    options: RunOptions,
    force: bool = False,
) -> int:
    """Train, and print what was written and how to continue."""
    module = f"python -m {module_of(experiment)}"
    resume = f"continue it with {module} resume {quoted(folder)}"
    try:
        run(experiment, config, folder, options, force)
    except Interrupted as stopped:
        print(f"\n{printable(str(stopped), lines=True)}\n{resume}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        left = "nothing was written"
        if folder.exists():
            left = f"{folder} is not finished; {resume}"
        if (folder / RESULT).exists():
            left = f"{folder} is complete"
        return refuse(f"interrupted: {left}", 130)
    files = ", ".join(sorted(file.name for file in folder.iterdir()))
    print(f"\n{printable(str(folder), lines=True)} contains {files}")
    if (folder / "report.html").exists():  # if it cannot be written, the run warns
        print(f"Look at it: {printable(str(folder / 'report.html'), lines=True)}")
    one = configured(experiment, config)
    if one.predicts:
        more = "" if one.data.dataset is not None else " --input FILE"
        print(f"Predict from it: {module} predict {quoted(folder)}{more}")
    return 0


# Commands on a finished run, or on a kept trial of a sweep.
LEDGER = "ledger.sqlite"  # as in `sweep.storage`, whose import takes as long as all others
A_RUN = "a run, or a kept trial of a sweep: SWEEP:best or SWEEP:17"


def finished(experiment: Experiment[Any], folder: Path) -> tuple[Configured, Any]:
    """Return a finished run with its data and program, and its final state.

    Args:
        experiment: the experiment.
        folder: the run folder, or a sweep's folder and a kept trial, as in `sweeps/a:best`.

    Raises:
        ValueError, OSError: the run or trial does not exist, is not finished, or was not kept.
    """
    name, _, trial = folder.name.rpartition(":")
    at = folder.with_name(name) if name else folder
    named = bool(name) and (trial == "best" or trial.isdecimal()) and not folder.exists()
    if named or any((sweep / LEDGER).is_file() for sweep in (folder, at)):
        from .sweep import trial_of

        trained = trial_of(experiment, str(folder), "the trial").load()
        return configured(experiment, trained.config), trained.state
    return restored(experiment, folder)


def predict_command(experiment: Experiment[Any], arguments: list[str]) -> None:
    """Predict from a run folder."""
    text = "A .npy or .csv file with one row per example, in the units of the data set."
    inputs = one_option("input", "FILE", text, "the test rows")
    title = "Print the predictions of a finished run, one line per row."
    folder, found = read_options(experiment, "predict", title, [inputs()], arguments, A_RUN)
    print_predictions(*finished(experiment, folder), folder, found.input)


def evaluate_command(experiment: Experiment[Any], arguments: list[str]) -> None:
    """Print the scores of a run folder."""
    title = "Score a finished run on the test rows, or on the validation rows if it has none."
    (folder,) = read_options(experiment, "evaluate", title, [], arguments, A_RUN)
    print_scores(*finished(experiment, folder), folder)


def export_command(experiment: Experiment[Any], arguments: list[str]) -> None:
    """Write the network of a run folder as one file."""
    default = Path(f"{experiment.name}.stablehlo")
    text = "The file to write: a program (.stablehlo, .onnx) or the weights (.safetensors)."
    output = one_option("output", "FILE", text, str(default))
    title = "Write the network of a finished run as one file, for use without its code."
    folder, found = read_options(experiment, "export", title, [output()], arguments, A_RUN)
    file = found.output or default
    one, state = finished(experiment, folder)
    if one.network is None:
        raise ValueError(
            f"{experiment.name} trains a {type(one.program).__name__}, which has no single network "
            "to export; load its state by sweep.open or load_run"
        )
    from .. import interop

    net, inputs, named = one.network
    weights = Weights(evaluation_params(state), state.state)
    formats = {
        ".stablehlo": lambda: interop.export(net, weights, *inputs, **named),
        ".onnx": lambda: interop.pack_onnx(net, weights, *inputs),
        ".safetensors": lambda: packed(net, weights),
    }
    one_of(*formats)(file.suffix, f"the suffix of --output {file}")
    with fresh(file) as hidden:
        replace_file(hidden, formats[file.suffix]())
    print(f"{printable(str(file), lines=True)}: {file.stat().st_size:,} bytes")


def _further(command: Command, experiment: Experiment[Any], arguments: list[str]) -> None:
    """Run a further command of an experiment on a run folder."""
    title = command.help[0].upper() + command.help[1:] + "."
    folder, options = read_options(
        experiment, command.name, title, [command.options()], arguments, A_RUN
    )
    one, state = finished(experiment, folder)
    command.run(TrainedRun(one.config, one.data.data, one.program, state), options)


def _sweeping(name: str, experiment: Experiment[Any], arguments: list[str]) -> int:
    from . import sweep  # its imports take as long as all others

    return getattr(sweep, name)(experiment, arguments)


COMMANDS: dict[str, Callable[[Experiment[Any], list[str]], int | None]] = {
    "run": run_command,
    "predict": predict_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "plan": functools.partial(_sweeping, "plan_command"),
    "sweep": functools.partial(_sweeping, "sweep_command"),
    "resume": resume_command,
}


# JAX's persistent compilation cache, which the command lines use unless it is turned off.


def use_compilation_cache(words: list[str]) -> list[str]:
    """Keep compiled programs in the user's cache folder, for the next start.

    If the user set `JAX_COMPILATION_CACHE_DIR` or `JAX_ENABLE_COMPILATION_CACHE`, the setting is
    not changed. Child processes use the same folder.

    Args:
        words: The command line. `--no-compilation-cache` turns the cache off.

    Returns:
        The command line without that option.
    """
    rest = [word for word in words if word != OFF]
    settings: Any = jax.config
    chosen = settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache
    if len(rest) == len(words) and not chosen:
        options = {
            "jax_compilation_cache_dir": str(cache_folder()),
            "jax_compilation_cache_max_size": LARGEST,
            "jax_persistent_cache_min_compile_time_secs": 0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in options.items():
            os.environ.setdefault(name.upper(), str(value))
            jax.config.update(name, value)
    return rest


def cache_folder() -> Path:
    """Return the folder of compiled programs in the user's cache folder.

    JAX does not distinguish processors, and a home folder may be shared by machines, so there is a
    folder for each kind of processor.
    """
    home = Path.home()
    default = {"darwin": home / "Library" / "Caches"}.get(sys.platform, home / ".cache")
    base = Path(os.environ.get("XDG_CACHE_HOME") or default)
    instructions = processor("flags", "Features").encode()
    return base / "jaxnn" / "compiled" / hashlib.sha256(instructions).hexdigest()[:16]

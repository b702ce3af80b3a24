"""Traced or static: found by trying, with the place that says why; and sweeps that cannot be."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.experiment import AdamW
from jaxnn.experiment.functional_training import as_written, scalar
from jaxnn.models import MLP
from jaxnn.sweep import Branch, Choice, Grid, Int, LogUniform, Space, Uniform
from jaxnn.sweep.cohort import Way, Work, work
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.structure import (
    TRACED,
    Structure,
    reason,
    space_of,
    structure_of,
    traced_or_static,
)
from tests.sweep import quick
from tests.sweep.quick import Descent

RATE = {"optimizer.learning_rate": LogUniform(1e-3, 0.3)}


@dataclasses.dataclass(frozen=True)
class Wide:
    """The quick experiment, with whatever one may wish to sweep."""

    model: MLP = MLP(width=32, depth=2)  # noqa: RUF009, frozen
    optimizer: Descent | AdamW = Descent()  # noqa: RUF009, frozen
    batch_size: int = 32
    epochs: int = 4
    seed: int = 0
    smoothing: float = 0.0
    delay: int = 0
    activation: str = "relu"
    clip: float | None = None
    nesterov: bool = False


class Smoothed(train.Classification):
    """Cross entropy of labels that are right with probability 1 - smoothing."""

    smoothing: float = 0.0

    def __call__(self, outputs, targets):
        other = -jnp.mean(jax.nn.log_softmax(outputs))
        return (1 - self.smoothing) * super().__call__(outputs, targets) + self.smoothing * other


def program(config, data):
    if config.clip is not None and config.clip < 1:
        config = dataclasses.replace(config, activation="tanh")
    return quick.program(config, data, task=Smoothed(10, smoothing=config.smoothing))


def found(paths, program=program, base=None, config=Wide):
    experiment = quick.experiment(Space(config, paths), config, program=program)
    return traced_or_static(experiment, base or config())


def line_of(text, file=__file__):
    """`file:line` of the line that is this text, as a reason names it."""
    lines = Path(file).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.strip() == text]
    return f"{'/'.join(Path(file).parts[-2:])}:{number}, {text!r}: "


def test_numbers_of_the_optimizer_the_network_and_the_loss_are_traced():
    names = {
        **RATE,
        "model.dropout": Uniform(0.0, 0.5),
        "smoothing": Uniform(0.0, 0.2),
    }
    assert found(names) == dict.fromkeys(names, TRACED)


def test_what_gives_a_shape_is_static_and_the_reason_says_where():
    why = found({"model.width": Choice(16, 32)})["model.width"]
    place = r"models/model\.py:\d+, 'hidden = \(Dense\(self\.width\), .*': "
    said = "Dense.features must be an int >= 1 or a tuple of them, known before tracing"
    assert re.fullmatch(place + said, why)


def test_what_python_looks_at_is_static_and_the_reason_says_where():
    text = "if config.clip is not None and config.clip < 1:"
    assert found({"clip": Uniform(0.5, 2.0)}) == {
        "clip": line_of(text) + "Python has to know it there"
    }


def test_numbers_of_the_loop_are_static():
    assert found({"batch_size": Choice(16, 32), "epochs": Int(1, 9)}) == {
        "batch_size": "Wide.batch_size must be None or an int >= 1, known before tracing",
        "epochs": "Wide.epochs must be None or an int >= 1, known before tracing",
    }


def test_values_that_are_no_numbers_are_static():
    found_ = found(
        {
            "activation": Choice("relu", "tanh"),
            "nesterov": Choice(True, False),
            "optimizer": Branch(Descent={}, AdamW={}),
        }
    )
    for name, example in (
        ("activation", "'(relu|tanh)'"),
        ("nesterov", "(True|False)"),
        ("optimizer", "'(Descent|AdamW)'"),
    ):
        assert re.fullmatch(f"it is not a number but {example}", found_[name])


@pytest.mark.parametrize("options", [(0.5, None), (None, 0.5), (None, 2.0, 3.0, 4.0)])
def test_numbers_beside_none_are_static(options):
    """A tracer stands for a number: None would become NaN."""
    assert found({"clip": Choice(*options)}, program=quick.program) == {
        "clip": "it is not a number but None"
    }


def test_a_branch_finds_the_numbers_of_each_class():
    inner = {"learning_rate": LogUniform(1e-3, 0.3)}
    names = found({"optimizer": Branch(Descent=inner, AdamW=inner), **RATE_OF_MODEL})
    assert list(names) == [
        "optimizer",
        "optimizer:descent.learning_rate",
        "optimizer:adamw.learning_rate",
        "model.dropout",
    ]
    assert [name for name, why in names.items() if why != TRACED] == ["optimizer"]


RATE_OF_MODEL = {"model.dropout": Uniform(0.0, 0.5)}


def either(config, data):
    """Either number may be traced, but not both."""
    if not isinstance(config.smoothing, float) and not isinstance(config.model.dropout, float):
        raise RuntimeError("one of them has to be known")
    return program(config, data)


def test_what_is_called_traced_can_be_traced_together():
    names = found({"smoothing": Uniform(0.0, 0.2), **RATE_OF_MODEL}, either)
    said = line_of('raise RuntimeError("one of them has to be known")')
    assert names == {
        "smoothing": TRACED,
        "model.dropout": said + "one of them has to be known",
    }
    names = found({**RATE_OF_MODEL, "smoothing": Uniform(0.0, 0.2)}, either)
    assert (names["model.dropout"], names["smoothing"] == TRACED) == (TRACED, False)


@pytest.mark.parametrize("widths", [(4, 8), (8, 4)])
def test_a_trial_that_cannot_run_makes_no_number_static(widths):
    """Whichever the first sample has."""

    def program(config, data):
        if config.model.width == 8:
            raise ValueError("no width of 8")
        return quick.program(config, data)

    experiment = quick.experiment(Space(quick.Config, RATE | {"model.width": Choice(*widths)}))
    experiment = dataclasses.replace(experiment, program=program)
    found = traced_or_static(experiment, quick.Config())
    assert found["optimizer.learning_rate"] == TRACED
    assert "no width of 8" not in found["model.width"]


def test_an_error_of_evaluation_alone_is_found():
    """The whole program is tried, not its first step only."""

    class Picky(Smoothed):
        def metrics(self, outputs, targets):
            return {"few": jnp.mean(outputs) if self.smoothing < 0.1 else jnp.max(outputs)}

    def picky(config, data):
        return quick.program(config, data, task=Picky(10, smoothing=config.smoothing))

    why = found({"smoothing": Uniform(0.0, 0.2)}, picky)["smoothing"]
    assert why.endswith("Python has to know it there")
    assert "sweep/test_structure.py:" in why


def test_a_whole_number_is_traced_as_one():
    seen = []

    def delayed(config, data):
        seen.append(config.delay)
        return quick.program(config, data)

    assert found({"delay": Int(0, 5)}, delayed) == {"delay": TRACED}
    assert jnp.issubdtype(jnp.asarray(scalar(5)).dtype, jnp.integer)
    assert seen[-1].dtype == jnp.int32


def test_numbers_whole_and_not_are_of_one_type():
    """Otherwise each lane's type would compile another program."""
    structure = Structure(
        quick.experiment(Space(quick.Config, {"optimizer.learning_rate": Grid(0.1, 1)})),
        quick.Config(model=MLP(depth=0), seed=9),  # like no other test's, and compiled here
        (),
        ("optimizer.learning_rate",),
    )
    values = ({"optimizer.learning_rate": 0.1}, {"optimizer.learning_rate": 1})
    outcome = work(Work(structure, values, (0, 0), Way("loop", 1), (0, 1)))
    assert (outcome.error, outcome.traces) == (None, 1)


@pytest.mark.parametrize(
    ("number", "dtype"), [(0.1, "bfloat16"), (3, "int8"), (3, "bfloat16"), (0.1, "float32")]
)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: lambda x: jax.lax.map(f, x)])
def test_a_traced_number_widens_nothing_as_pythons_do_not(number, dtype, transform):
    products = transform(lambda n: as_written(n) * jnp.ones(2, dtype))(scalar(number)[None])
    assert products.dtype == (number * jnp.ones(2, dtype)).dtype == dtype
    np.testing.assert_array_equal(products.reshape(2), number * jnp.ones(2, dtype))


def test_a_number_that_only_a_wider_one_would_break_is_traced():
    """A carry that stays bfloat16 next to a Python number does so next to a traced one."""

    class Scan(train.Classification):
        scale: float = 1.0

        def metrics(self, outputs, targets):
            def body(carry, _):
                return carry * self.scale, None

            carry = jnp.ones((), jnp.bfloat16)
            return {"scale": jax.lax.scan(body, carry, None, length=2)[0].astype(jnp.float32)}

    def scaled(config, data):
        return quick.program(config, data, task=Scan(10, scale=config.smoothing))

    assert found({"smoothing": Uniform(0.0, 0.2)}, scaled) == {"smoothing": TRACED}


def test_types_of_numbers():
    assert (scalar(0.1).dtype, scalar(3).dtype) == (np.float32, np.int32)


# The reason


def raised_at(file):
    """An error from a file of this name."""
    try:
        exec(compile("raise ValueError('here\\nand more')", file, "exec"))
    except ValueError as error:
        return error
    raise AssertionError


def test_a_reason_skips_the_files_of_jax_and_none_whose_name_begins_so():
    jaxs = Path(jax.__file__).parent
    here = "sweep/test_structure.py:"
    assert reason(raised_at(f"{jaxs}/numpy.py")).startswith(here)
    assert reason(raised_at(f"{jaxs}nn/layers/dense.py")) == "layers/dense.py:1, '': here"
    assert reason(raised_at("/home/me/experiments/mine.py")) == "experiments/mine.py:1, '': here"


def test_a_reason_without_a_place():
    assert reason(ValueError("said\nmore")) == "said"


# Structures


def test_trials_of_equal_static_values_have_one_structure():
    names = traced_or_static(quick.EXPERIMENT, quick.Config())
    trials = quick.sampled(20)
    structures = {structure_of(quick.EXPERIMENT, quick.Config(), names, t) for t in trials}
    assert {s.name for s in structures} == {"model.width=16", "model.width=32"}
    assert len(structures) == 2
    structure = structure_of(quick.EXPERIMENT, quick.Config(), names, trials[0])
    made = structure.training({n: trials[0][n] for n in structure.traced}).run.program
    own = quick.program(quick.SPACE.configured(quick.Config(), trials[0]), None)
    assert jax.tree.structure(made) == jax.tree.structure(own)
    assert jax.tree.leaves(made) == jax.tree.leaves(own)
    assert Structure(quick.EXPERIMENT, quick.Config(), (), ()).name == "all"


def test_an_experiment_without_a_space():
    with pytest.raises(ValueError) as said:
        space_of(dataclasses.replace(quick.EXPERIMENT, space=None))
    assert str(said.value) == (
        "quick declares no search space: write Experiment(..., "
        'space={"optimizer.learning_rate": LogUniform(1e-4, 1e-1)}), or on the command line '
        "--sweep optimizer.learning_rate=log:1e-4:1e-1"
    )


# Sweeps that cannot be


def refused(paths=None, base=None, config=quick.Config, **settings):
    """What the planner says of it, before any compute."""
    experiment = quick.experiment(Space(config, paths) if paths else quick.SPACE, config)
    with pytest.raises(ValueError) as said:
        Planner(experiment, base or config(), Settings(**settings))
    return str(said.value)


def test_a_metric_that_the_program_does_not_report():
    assert refused(metric="validation_acuracy") == (
        "the program reports no metric 'validation_acuracy'; did you mean 'validation_accuracy'?"
    )


def test_too_many_groups():
    widths = {"model.width": Int(1, 40), "model.depth": Choice(1, 2), **RATE}
    assert refused(widths) == (
        "the space has up to 64 groups, each a program to compile, and --max-groups is 16: static "
        "are model.width (40), model.depth (2); sweep fewer values of them, or write "
        "--max-groups 64"
    )
    assert refused({"model.width": Choice(8, 9), **RATE}, max_groups=1).endswith(
        "and --max-groups is 1: static are model.width (2); sweep fewer values of them, or write "
        "--max-groups 2"
    )
    Planner(quick.experiment(Space(quick.Config, widths)), quick.Config(), Settings(trials=16))


def test_groups_of_a_branch_are_counted_branch_by_branch():
    paths = {
        "optimizer": Branch(
            Descent={"momentum": Choice(*(i / 10 for i in range(7)))},
            AdamW={"weight_decay": Choice(*(i / 10 for i in range(7)))},
        )
    }
    experiment = quick.experiment(Space(Wide, paths), Wide)
    static = dict.fromkeys(experiment.space.dimensions, "it is known")
    Planner(experiment, Wide(), Settings(trials=64, max_groups=14), static)
    with pytest.raises(ValueError, match=r"has up to 14 groups, .* --max-groups 14$"):
        Planner(experiment, Wide(), Settings(trials=64, max_groups=13), static)


def test_epochs_swept_under_halving():
    paths = {"epochs": Choice(2, 4), **RATE}
    assert refused(paths, halving="successive") == (
        "--halving successive compares trials after the same number of epochs, but epochs is "
        "swept: sweep without --halving, or take epochs out of the space"
    )
    Planner(quick.experiment(Space(quick.Config, paths)), quick.Config(), Settings())


def test_population_based_training_of_static_dimensions():
    said = refused(halving="population")
    assert said.startswith(
        "population-based training copies weights from trial to trial, but model.width is static "
        "(models/model.py:"
    )
    assert said.endswith("): sweep traced numbers only")


@dataclasses.dataclass(frozen=True)
class Seedless:
    optimizer: Descent = Descent()  # noqa: RUF009, frozen
    model: MLP = MLP(8, 1)  # noqa: RUF009, frozen
    batch_size: int = 32
    epochs: int = 4


def test_seeds_without_a_seed_field():
    def fixed(config, data):
        return quick.program(Wide(config.model, config.optimizer), data)

    experiment = quick.experiment(Space(Seedless, RATE), Seedless, program=fixed)
    with pytest.raises(ValueError) as said:
        Planner(experiment, Seedless(), Settings(seeds=2))
    assert str(said.value) == ("--seeds needs a field `seed` in the configuration, which has none")
    Planner(experiment, Seedless(), Settings())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "Settings.trials must be an int >= 1, got 0"),
        ({"seeds": 0}, "Settings.seeds must be an int >= 1, got 0"),
        ({"lanes": 0}, "Settings.lanes must be an int >= 1, got 0"),
        ({"batch": -1}, "Settings.batch must be an int >= 0, got -1"),
        ({"max_groups": 0}, "Settings.max_groups must be an int >= 1, got 0"),
        (
            {"exact": True, "by": "vmap"},
            "--exact and --by vmap contradict each other: lanes that train together round "
            "differently; leave one out",
        ),
    ],
)
def test_options_that_no_sweep_can_have(options, said):
    with pytest.raises(ValueError) as error:
        Settings(**options)
    assert str(error.value) == said

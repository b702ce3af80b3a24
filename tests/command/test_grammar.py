"""Spaces on the command line: typed texts, never evaluated; and the classes of nested fields."""

import dataclasses
import math

import pytest

from jaxnn.command import main
from jaxnn.command import sweep as commands
from jaxnn.command.grammar import GRAMMAR, swept_paths
from jaxnn.command.parsing import choose_variants, parse, texts_of
from jaxnn.experiment import SGD, AdamW, Experiment
from jaxnn.experiment.run_folder import RunOptions
from jaxnn.sweep import (
    Branch,
    Choice,
    Grid,
    Int,
    LogNormal,
    LogUniform,
    Normal,
    Space,
    Uniform,
    When,
)
from jaxnn.sweep import open as opened
from tests.sweep import quick


@dataclasses.dataclass(frozen=True)
class Encoder:
    optimizer: AdamW | SGD = SGD()  # noqa: RUF009, frozen
    activation: str = "relu"


@dataclasses.dataclass(frozen=True)
class Bare:
    size: int


@dataclasses.dataclass(frozen=True)
class Config:
    encoder: Encoder | Bare = Encoder()
    teacher: SGD | None = None
    sizes: tuple[int, ...] = (8,)
    pair: tuple[int, float] | None = None
    width: int = 3
    rate: float = 0.1
    balanced: bool = False
    name: str = ""


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("width=32,64", Choice(32, 64)),
        ("rate=1,0.5", Choice(1.0, 0.5)),
        ("name=1,relu*3", Choice("1", "relu", weights=(1, 3))),
        ("name='a,b','*2'", Choice("a,b", "*2")),
        ("sizes=(64,),(64, 32)*2", Choice((64,), (64, 32), weights=(1, 2))),
        ("pair=None,(1,0.5)", Choice(None, (1, 0.5))),
        ("balanced=true,false", Choice(True, False)),
        ("rate=uniform:0:0.5", Uniform(0, 0.5)),
        ("rate=uniform:0:1:0.25", Uniform(0, 1, step=0.25)),
        ("width=uniform:8:64:8", Int(8, 64, step=8)),
        ("width=log:1:64", Int(1, 64, log=True)),
        ("rate=log:1e-4:1", LogUniform(1e-4, 1)),
        ("rate=normal:1:0.5", Normal(1, 0.5)),
        ("rate=lognormal:-7:1", LogNormal(-7, 1)),
        ("rate=grid:0,1e-4,1e-2", Grid(0, 1e-4, 1e-2)),
    ],
)
def test_every_dimension_has_a_text(text, dimension):
    paths = swept_paths(Config, [text])
    assert paths == {text.partition("=")[0]: dimension}
    Space(Config, paths)


def test_conditions_and_classes_have_names():
    texts = [
        "rate=uniform:0:1 if width=2,3 if name=a",
        "width=uniform:1:9",
        "name=a,b",
        "encoder=Encoder",
        "encoder:encoder.optimizer=SGD,AdamW",
        "encoder:encoder.optimizer:sgd.momentum=0.5,0.9",
        "teacher=None,SGD",
    ]
    made = Space(Config, swept_paths(Config, texts))
    inner = Branch(SGD={"momentum": Choice(0.5, 0.9)}, AdamW={})
    assert made == Space(Config, {
        "rate": When("width", Choice(2, 3), When("name", "a", Uniform(0, 1))),
        "width": Int(1, 9),
        "name": Choice("a", "b"),
        "encoder": Branch(Encoder={"optimizer": inner}),
        "teacher": Branch(SGD={}, **{"None": {}}),
    }) or made.to_plain()  # fmt: skip
    assert made.active("rate", {"width": 2, "name": "a"})
    assert not made.active("rate", {"width": 4, "name": "a"})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["width"], "what to sweep must be NAME=VALUES, got 'width'"),
        (["width=uniform:1"], "the arguments of uniform must be two or three numbers, got [1]"),
        (["rate=normal:1:2:3"], "the arguments of normal must be two numbers, got [1, 2, 3]"),
        (["widht=3"], "Config has no field 'widht', which the space sweeps as 'widht'; did you "
                      "mean 'width'?"),
        (["width=a,b"], "'a' is not a value of width, which is int"),
        (["width=log:a:b"], "'a' is not a number"),
        (["rate=log:1:2:0.5"], "the step of log must be None, got 0.5; only whole "
                              "numbers have one"),
        (["width=__import__('os')"], "\"__import__('os')\" is not a value of width, which is int"),
        (["encoder:encode.activation=a"], "encoder has no class 'encode' with something to sweep; "
                                          "did you mean 'encoder'?"),
        (["width=1", "width=2"], "width is swept twice"),
        (["rate=uniform:1:0"], "Uniform(low=1.0, high=0.0): low must be less than high; write "
                               "Uniform(0.0, 1.0)"),
        (["sizes=(1,2"], "the values must be options between commas, with balanced "
                        "parentheses and quotes, got '(1,2'"),
        (["rate=1,,2"], "the values must be options between commas, with balanced "
                        "parentheses and quotes, got '1,,2'"),
    ],
)  # fmt: skip
def test_what_is_no_dimension_shows_the_grammar(texts, message):
    with pytest.raises(ValueError) as error:
        swept_paths(Config, texts)
    assert str(error.value) == f"--sweep {texts[-1]}: {message}\n\nThe forms are\n\n{GRAMMAR}"


def test_classes_must_be_swept_around_what_is_inside_of_them():
    with pytest.raises(ValueError, match="sweep encoder=Encoder,Bare, too"):
        swept_paths(Config, ["encoder:encoder.activation=a,b"])
    with pytest.raises(ValueError, match="the classes of teacher are equally likely"):
        swept_paths(Config, ["teacher=None,SGD*2"])
    texts, _ = texts_of("--sweep", ["--epochs", "3", "--sweep"])
    with pytest.raises(ValueError, match="what to sweep must be NAME=VALUES, got ''"):
        swept_paths(Config, texts)


def test_every_line_of_the_grammar_is_one():
    @dataclasses.dataclass(frozen=True)
    class Model:
        width: int = 1
        depth: int = 1
        activation: str = "relu"
        sizes: tuple[int, ...] = ()
        dropout: float = 0.0

    @dataclasses.dataclass(frozen=True)
    class Shown:
        model: Model = Model()
        optimizer: AdamW | SGD = AdamW()  # noqa: RUF009, frozen
        temperature: float = 1.0
        name: str = ""

    lines = [line.partition("--sweep ")[2] for line in GRAMMAR.splitlines()]
    texts = [line.split('"')[1] if line[0] == '"' else line.split()[0] for line in lines]
    assert len(texts) == 13
    others = ["optimizer=SGD,AdamW", "model.depth=1,2,3"]
    for text in texts:
        alone = text == others[0] or not {":", "if"} & {*text.partition("=")[0], *text.split()}
        Space(Shown, swept_paths(Shown, [text] if alone else [text, *others]))
    rate = swept_paths(Shown, ["optimizer.learning_rate=lognormal:-7:1"])["optimizer.learning_rate"]
    assert rate.at(0.5) == pytest.approx(math.exp(-7))


def program(config, data):
    """Never built."""
    raise NotImplementedError


def test_a_run_chooses_nested_and_optional_classes():
    experiment = Experiment("nested", Config, program=program)
    words = ["--teacher.momentum", "0.5", "teacher:sgd", "encoder.optimizer:adamw",
             "--encoder.optimizer.weight-decay", "0.25", "--width", "4"]  # fmt: skip
    config, _ = parse(experiment, words, [RunOptions], text=["", ""])
    assert config == Config(Encoder(AdamW(weight_decay=0.25)), SGD(momentum=0.5), width=4)
    assert choose_variants(config, ["teacher:none", "--x"]) == (
        dataclasses.replace(config, teacher=None),
        ["--x"],
    )
    with pytest.raises(ValueError, match="did you mean 'encoder"):
        choose_variants(config, ["encoder.optimizer:adam"])
    with pytest.raises(
        ValueError, match="encoder:bare starts from the defaults of Bare, which lacks"
    ):
        choose_variants(config, ["encoder:bare"])


def test_what_the_command_line_sweeps_is_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "finish", lambda result: None)  # no report
    words = ["--sweep", "optimizer.learning_rate=grid:0.01,0.1", "--sweep=model.dropout=0,0.1"]
    small = [
        "--model.depth",
        "0",
        "--no-defaults",
        "--epochs",
        "1",
        "--lanes",
        "8",
        "--by",
        "vmap",
        "--search",
        "grid",
    ]
    folder = tmp_path / "sweep"
    assert main(quick.EXPERIMENT, ["sweep", *words, *small, "--folder", str(folder)]) == 0
    result = opened(folder, quick.EXPERIMENT)
    assert [list(trial.values.values()) for trial in result.trials] == [
        [rate, dropout] for rate in (0.01, 0.1) for dropout in (0.0, 0.1)
    ]
    assert (
        result.best.config.optimizer.learning_rate == result.best.values["optimizer.learning_rate"]
    )
    assert main(quick.EXPERIMENT, ["resume", str(folder)]) == 0
    capsys.readouterr()
    assert main(quick.EXPERIMENT, ["plan", "--sweep", "width=3"]) == 1
    assert "error: --sweep width=3: Config has no field 'width'" in capsys.readouterr().err

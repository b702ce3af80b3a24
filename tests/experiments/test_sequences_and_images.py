"""The convolutional, recurrent and language experiments, made small: every command, and a sweep."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from jaxnn import data
from jaxnn.command import main
from jaxnn.sweep import Choice, Space
from jaxnn.sweep.structure import TRACED, traced_or_static
from tests.experiments.test_experiments import experiment_of, mean_scores, rows_of

SMALL = {
    "mnist_cnn": ["--model.channels", "2", "3", "--model.hidden", "8", "8", "--batch-size", "500"],
    "mnist_rnn": ["--model.width", "4", "--batch-size", "500"],
    "python_gpt": [
        "--model.layers", "1", "--model.width", "8", "--model.num-heads", "2",
        "--batch-size", "100",
    ],
}  # fmt: skip
PICTURES = {
    "mnist_cnn": {"learning_curves", "confusion_matrix", "worst_mistakes"},
    "mnist_rnn": {"learning_curves", "confusion_matrix", "worst_mistakes"},
    "python_gpt": {"learning_curves", "bits_by_position"},
}


@pytest.mark.slow  # the experiments of test_experiments.py train and predict for every change
@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_trains_and_predicts_from_its_command_line(name, tmp_path, capsys):
    made, folder = experiment_of(name), str(tmp_path / "run")
    assert main(made, ["--epochs", "1", *SMALL[name], "--folder", folder]) == 0
    assert {file.stem for file in (tmp_path / "run").glob("*.png")} == PICTURES[name]
    result = json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    capsys.readouterr()
    assert main(made, ["predict", folder]) == 0
    text = capsys.readouterr().out
    assert all(f"{metric} {number:.4g}" in text for metric, number in result.items())
    np.save(tmp_path / "rows.npy", rows_of(name)[1].x[:2])
    assert main(made, ["predict", folder, "--input", str(tmp_path / "rows.npy")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    if made.commands:
        writes_on(made, folder, tmp_path, capsys)


def writes_on(made, folder, tmp_path, capsys):
    """The command of the language model, and what it rejects."""
    sample = (tmp_path / "run" / "sample.md").read_text()
    assert len(sample) == len("The with statement ") + 400
    assert sample.startswith("The with statement ")
    options = ["--prompt", "To be", "--characters", "9", "--temperature", "0"]
    texts = set()
    for seed in ("1", "2"):
        assert main(made, ["sample", folder, *options, "--seed", seed]) == 0
        texts.add(capsys.readouterr().out)
    (text,) = texts  # at temperature 0 there is nothing to draw
    assert text.startswith("To be") and len(text) == len("To be") + 9 + 1
    assert main(made, ["sample", folder, "--prompt", "€"]) == 1
    assert "the character '€' at 0, which is not one of the 96" in capsys.readouterr().err
    assert main(made, ["samples", folder]) == 2
    assert "there is no command 'samples'; did you mean 'sample'?" in capsys.readouterr().err
    np.save(tmp_path / "no.npy", rows_of("python_gpt")[1].x[:1] + 96)
    assert main(made, ["predict", folder, "--input", str(tmp_path / "no.npy")]) == 1
    assert "not tokens, expected whole numbers in 0 .. 95" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    # Tracing the convolutions takes longest.
    [pytest.param("mnist_cnn", marks=pytest.mark.slow), "mnist_rnn", "python_gpt"],
)
def test_rates_are_traced_so_that_a_sweep_of_them_is_one_program(name):
    made = experiment_of(name)
    config = made.config(batch_size=4)
    if name == "python_gpt":
        model = dataclasses.replace(config.model, layers=1, width=8, num_heads=2)
        config = dataclasses.replace(config, model=model)
    found = traced_or_static(made, config)
    static = {"mnist_cnn": "shift", "mnist_rnn": "model.width", "python_gpt": "model.layers"}
    assert {path for path, how in found.items() if how != TRACED} == {"optimizer", static[name]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_is_planned_and_swept(name, tmp_path, capsys):
    """All that is swept, with small sizes in the place of those that are swept."""
    made, folder = experiment_of(name), str(tmp_path / "sweep")
    sizes = {"mnist_cnn": {}, "mnist_rnn": {"model.width": Choice(4, 8)}}
    sizes["python_gpt"] = {"model.layers": Choice(1, 2)}
    assert sizes[name].keys() <= made.space.fields
    space = Space(made.config, made.space.paths | sizes[name])
    made = dataclasses.replace(made, space=space)
    if name == "python_gpt":  # whose epoch takes longest
        made = dataclasses.replace(made, data=functools.partial(first_rows, made))
    options = ["--epochs", "1", "--trials", "3", *without(SMALL[name], sizes[name])]
    assert main(made, ["plan", *options]) == 0
    assert "traced" in capsys.readouterr().out
    assert main(made, ["sweep", *options, "--folder", folder]) == 0
    assert main(made, ["resume", folder]) == 0
    best = ["run", "--from", f"{folder}:best", "--folder", str(tmp_path / "run")]
    assert main(made, best) == 0


def first_rows(made, config):
    """The data of an experiment, with 200 rows in each part."""
    whole = made.data(config)
    parts = (whole.train, whole.validation, whole.test)
    few = (data.Examples(x[:200], y[:200]) for x, y in parts)
    return dataclasses.replace(
        whole, **dict(zip(("train", "validation", "test"), few, strict=True))
    )


def without(options, swept):
    """The options, without those of swept fields, which have one value each."""
    names = {f"--{path}" for path in swept}
    first = [at for at, word in enumerate(options) if word in names]
    return [word for at, word in enumerate(options) if at not in first and at - 1 not in first]


@pytest.mark.slow
def test_digits_by_convolution_reach_what_the_header_promises():
    assert mean_scores("mnist_cnn")["accuracy"] >= 0.975


@pytest.mark.slow
def test_digits_row_by_row_are_classified_better_than_by_logistic_regression():
    """The mean of five seeds, compared with scikit-learn on the same split."""
    from sklearn.linear_model import LogisticRegression

    digits = data.mnist_5k()
    peer = LogisticRegression(max_iter=1000).fit(digits.train.x, digits.train.y)
    accuracy = mean_scores("mnist_rnn")["accuracy"]
    assert accuracy >= 0.955 and accuracy > peer.score(digits.test.x, digits.test.y) + 0.04

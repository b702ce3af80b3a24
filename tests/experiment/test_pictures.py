"""Pictures say what they show: axes, titles, and the numbers in them."""

import dataclasses
import warnings

import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.data import Dataset, Examples
from jaxnn.experiment import Experiment
from jaxnn.experiment import report as pictures
from jaxnn.experiment.experiment import configured
from jaxnn.experiment.prediction import bits_of
from jaxnn.html import charts

NAMES = ("cat", "dog", "owl")
Y = np.array([0, 0, 1, 2, 2])
P = np.array(
    [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.0, 1.0, 0.0], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]],
    np.float32,
)


def test_learning_curves_have_a_panel_per_metric_and_a_curve_per_part():
    history = [{"epoch": e, "step": e, "loss": 1 / e, "mae": 2 / e, "validation_loss": 2 / e,
                "validation_mae": 3 / e, "seconds": 1.0} for e in (1, 2, 3)]  # fmt: skip
    figure = pictures.learning_curves(history)
    assert [panel.get_title("left") for panel in figure.axes] == ["loss", "mae"]
    for panel in figure.axes:
        assert panel.get_xlabel() == "epoch"
        labels = [text.get_text() for text in panel.get_legend().get_texts()]
        assert labels == ["training", "validation"]
    np.testing.assert_array_equal(figure.axes[1].lines[1].get_ydata(), [3, 1.5, 1])


def test_the_confusion_matrix_counts_true_rows_and_predicted_columns():
    figure = pictures.confusion_counts(Y, P.argmax(1), NAMES)
    (panel,) = figure.axes
    places = {text.get_position(): text.get_text() for text in panel.texts}
    # By (column, row): a cat is predicted to be a dog, and an owl to be a cat.
    assert places == dict.fromkeys([(0, 0), (1, 0), (1, 1), (0, 2), (2, 2)], "1")
    assert [label.get_text() for label in panel.get_xticklabels()] == list(NAMES)
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted class", "true class")
    assert figure.get_suptitle() == "2 of 5 test examples wrong"


def test_the_worst_mistake_comes_first():
    figure = pictures.worst_images(np.zeros((5, 4, 4)), Y, P, NAMES)
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["true cat\npredicted dog (80 %)", "true owl\npredicted cat (60 %)"]
    figure = pictures.worst_profiles(np.zeros((5, 2)), Y, P, NAMES, ("height", "weight"))
    assert [panel.get_title() for panel in figure.axes] == titles
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["height", "weight"]


def test_the_worst_sequences_are_drawn_with_the_means_of_the_classes():
    x = np.arange(5 * 4 * 2, dtype=np.float32).reshape(5, 4, 2)
    figure = pictures.worst_profiles(x, Y, P, NAMES, ("demand", "price"))
    first, second, below, _ = figure.axes
    assert first.get_title() == "true cat\npredicted dog (80 %)"
    assert second.get_title() == "true owl\npredicted cat (60 %)"
    assert (first.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == (
        "demand", "price", "step"
    )  # fmt: skip
    cat, dog, owl, one = (line.get_ydata() for line in below.lines)
    np.testing.assert_array_equal(cat, x[:2, :, 1].mean(0))
    np.testing.assert_array_equal(dog, x[2, :, 1])
    np.testing.assert_array_equal(owl, x[3:, :, 1].mean(0))
    np.testing.assert_array_equal(one, x[1, :, 1])


def test_bits_by_position_are_means_over_the_windows():
    p = np.array([[[0.5, 0.5], [0.25, 0.75]], [[0.5, 0.5], [0.0625, 0.9375]]])
    figure = pictures.bits_by_position(np.zeros((2, 2), int), p)
    (panel,) = figure.axes
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [1, 3])  # (2 + 4) / 2 at the second
    assert (panel.get_xlabel(), panel.get_ylabel()) == (
        "tokens of context",
        "bits per token",
    )
    assert figure.get_suptitle() == "Bits per token by position, on 4 test tokens"


def test_without_mistakes_the_least_certain_are_shown():
    rows, title = pictures.worst(P.argmax(1), P, most=2)
    np.testing.assert_array_equal(rows, [3, 1])
    assert title == "No mistakes; the 2 least certain of 5 test examples"


def test_regression_pictures_name_the_quantity_and_the_errors():
    y, predicted = np.array([100.0, 200.0]), np.array([110.0, 190.0])
    figure = pictures.predicted_and_true(y, predicted, "price")
    assert figure.axes[0].get_xlabel() == "true price"
    assert figure.axes[0].get_ylabel() == "predicted price"
    assert "R² 0.960, RMSE 10.0, MAE 10.0" in figure.get_suptitle()
    figure = pictures.residuals(y, predicted, "price")
    assert figure.axes[0].get_ylabel() == "error: predicted - true"
    assert charts.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("bad", [slice(1), slice(None)])
def test_residuals_that_are_not_numbers_are_left_out(bad):
    y = np.arange(5.0)
    predicted = y + 1
    predicted[bad] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # matplotlib's, of an axis without numbers
        figure = pictures.residuals(y, predicted, "target")
        assert charts.png(figure)[1:4] == b"PNG"
    counts = sum(bar.get_width() for bar in figure.axes[1].patches)
    assert counts == np.isfinite(predicted).sum()


def test_bits_of_ignored_labels_and_of_a_probability_of_zero():
    bits = bits_of(np.array([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]), np.array([0, -100, 0]))
    np.testing.assert_array_equal(bits[:2], [2, np.nan])
    assert 126 <= bits[2] < 127  # of the smallest normal float32, 2**-126


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: int = 1
    batch_size: int = 5


def drawn(x, y, task, predictions, **names):
    """The pictures of a run with these test rows."""
    part = Examples(x, y)
    one = Experiment(
        "plain",
        Config,
        data=lambda config: Dataset("plain", part, part, part, **names),
        program=lambda config, data: train.Supervised(nn.Dense(3), task, optax.sgd(0.1)),
    )
    history = [{"epoch": 1, "step": 1, "loss": 1.0}]
    found = pictures.drawings(configured(one, Config()), history, predictions)
    figures = {name.removesuffix(".png"): draw() for name, draw in found.items()}
    assert all(charts.png(figure)[1:4] == b"PNG" for figure in figures.values())
    return figures


@pytest.mark.parametrize("shape", [(3,), (4, 3), (4, 4, 1), (2, 4, 4, 1)])
def test_every_picture_of_data_without_names_and_image_shape_is_drawn(shape):
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    found = drawn(x, Y.astype(np.int32), train.Classification(3), P)
    worst = {"worst_mistakes"} if len(shape) < 3 else set()
    assert found.keys() == {"learning_curves", "confusion_matrix"} | worst


def test_ignored_labels_are_in_no_picture():
    y = np.where(np.arange(5) == 3, -100, Y).astype(np.int32)
    found = drawn(np.ones((5, 3), np.float32), y, train.Classification(3), P)
    assert found["confusion_matrix"].get_suptitle() == ("1 of 4 test examples wrong")


def test_other_tasks_have_learning_curves_alone():
    x, y = np.ones((5, 3), np.float32), np.ones((5, 3), np.float32)
    assert drawn(x, y, train.Regression(outputs=3), y).keys() == {"learning_curves"}


def test_a_regression_names_its_target():
    x, y = np.ones((5, 3), np.float32), np.arange(5, dtype=np.float32)
    found = drawn(x, y, train.Regression(), y + 1, target_name="price")
    assert found.keys() == {"learning_curves", "predicted_and_true", "residuals"}
    assert found["residuals"].axes[0].get_xlabel() == "predicted price"

"""The report of a run: what it says of made-up numbers, and that a browser shows it."""

import html
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxnn.experiment.prediction import Interval
from jaxnn.experiment.report import (
    confusion_counts,
    residuals,
    run_report,
    worst_profiles,
)
from jaxnn.html.charts import png

RECORDS = [
    {
        "epoch": n,
        "step": 27 * n,
        "loss": 2.0 / n,
        "accuracy": 1 - 0.5 / n,
        "learning_rate": 1e-3 * (12 - n),
        "gradient_norm": 3.0 / n,
        **{f"gradient_norm/layer{i}/w": (i + 1) / n for i in range(10)},
        "validation_loss": 1.0 + (n - 7) ** 2 / 50,
        "validation_accuracy": 0.9,
    }
    for n in range(1, 12)
]
TIMINGS = [
    {"epoch": n, "step": 27 * n, "seconds": 1.5 * n, "examples_per_second": 1000.0 + n}
    for n in range(1, 12)
]
FIGURE = Figure(figsize=(2, 1))
CONFIG = {"type": "Experiment", "optimizer": {"type": "AdamW", "learning_rate": 0.001}, "seed": 0}


def made(**changes):
    parts = {
        "timings": TIMINGS,
        "config": CONFIG,
        "scores": {"accuracy": 0.931, "loss": 0.25},
        "pictures": {"worst_mistakes.png": FIGURE},
        "summary": "path  shape\nlayer0/w  (2, 3)",
        "environment": {"device": "cpu", "versions": {"jax": "0.10.2"}},
        "remarks": ["stopped early at epoch 11"],
    }
    return run_report("mnist_mlp", RECORDS, **{**parts, **changes})


@pytest.fixture(scope="module")
def shown():
    return made()


def text_of(page):
    plain = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", plain)))


def test_it_says_what_there_is_to_know(shown):
    text = text_of(shown)
    for told in (
        "Run mnist_mlp",
        "accuracy 0.931 on the test rows · 11 epochs · 297 steps",
        "0.931 test accuracy",
        "16.5 s of training 1,006 rows per second (median)",
        "stopped early at epoch 11",
        "optimizer.learning_rate 0.001",
        "layer0/w (2, 3)",
        "versions.jax 0.10.2",
        "Worst mistakes",
    ):
        assert told in text, told
    # 1 + (n - 7)^2 / 50 is least at epoch 7.
    assert re.search(r"least validation loss 7 189 0.2857 ", text)
    assert re.search(r"last 11 297 0.1818 ", text)
    text = text_of(made(metric="validation_accuracy", maximize=True))
    assert re.search(r"largest validation accuracy 1 27 2 ", text)
    assert "least validation loss" not in text


def test_every_curve_is_drawn(shown):
    titles = re.findall(r">([a-z ]+)</text>", shown)
    for title in ("loss", "accuracy", "learning rate", "gradient norm", "training", "validation"):
        assert title in titles, title
    # Ten paths, of which the eight largest are drawn.
    assert re.findall(r">(layer\d)/w</text>", shown) == [f"layer{i}" for i in range(9, 1, -1)]
    assert "gradient norm, 8 largest of 10" in shown
    assert "mathdefault" not in shown  # which a browser does not read


def test_a_picture_is_drawn_in_the_colors_of_the_page():
    figure = confusion_counts(np.array([0, 1, 1]), np.array([0, 1, 0]), ["no", "yes"])
    page = made(pictures={"confusion_matrix.png": figure})
    (drawing,) = re.findall('<svg role="img" aria-label="confusion matrix".*?</svg>', page)
    assert re.findall(">(no|yes|1)</text>", drawing) == ["no", "yes", "no", "yes", "1", "1", "1"]
    tags = "".join(re.findall("<[^>]*>", drawing))
    assert "var(--level6)" in tags and "var(--ink)" in tags and not re.search("#[0-9a-f]{6}", tags)


def test_an_interval_is_shown_with_its_method():
    page = made(intervals={"accuracy": Interval(0.9123, 0.9456, "Wilson")})
    assert "0.912 to 0.946 (95 %, Wilson)" in page and "bootstrap over rows" in page


def test_the_same_values_give_the_same_text(shown):
    assert made() == shown


def test_it_asks_for_nothing(shown):
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in shown
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"', "", shown)
    assert not re.search(r'(src|href)="(?!data:|#)', outside)
    assert "<script" not in shown and "http" not in outside.replace("http-equiv", "")


def test_names_are_shown_as_they_are():
    bad = "<script>alert(1)</script>"
    page = made(config={bad: bad}, remarks=[bad], summary=bad, environment={bad: bad})
    record = {"epoch": 1, "step": 1, bad: 1.0, "<script>": 1.0}
    page += run_report(bad, [record], scores={bad: 1.0}, pictures={f"{bad}.png": FIGURE})
    assert "<script" not in page and text_of(page).count("alert(1)") >= 9


def test_numbers_that_are_not_finite_are_gaps():
    nan, inf = float("nan"), float("inf")
    losses = [1.0, nan, inf, 0.5]
    page = run_report("x", [{"epoch": i, "step": i, "loss": v} for i, v in enumerate(losses, 1)])
    assert "<td class=n>nan</td>" in page and "<td class=n>inf</td>" in page
    assert "<svg" in run_report("x", [{"epoch": 1, "step": 1, "loss": nan}])


def test_a_run_without_epochs_is_drawn_by_steps():
    page = run_report("x", [{"step": s, "loss": 1.0} for s in (10, 20)])
    assert ">step</text>" in page and ">epoch</text>" not in page
    assert "20 steps" in text_of(page) and "epoch" not in text_of(page)


def test_steps_if_an_epoch_has_several_records():
    page = run_report("x", [{"epoch": 1, "step": s, "loss": 1.0} for s in (10, 20, 30)])
    assert ">step</text>" in page and ">epoch</text>" not in page


def test_a_run_without_records_has_a_page():
    assert "The run has no records" in run_report("x", [])


def test_without_matplotlib_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"drawn by matplotlib, which is not installed"):
        made()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_complaint(shown, tmp_path, dark):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium here")
    (tmp_path / "report.html").write_text(shown)
    arguments = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1200,2600",
        f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    from matplotlib.image import imread

    picture = (imread(tmp_path / "page.png")[..., :3] * 255).round().astype(int)
    assert picture[5, 5].tolist() == ([20, 24, 31] if dark else [255, 255, 255])
    for color in ([255, 154, 61], [116, 179, 234]) if dark else ([213, 94, 0], [33, 102, 172]):
        assert (abs(picture - color).sum(-1) == 0).sum() > 100  # validation and training


# Any text, any number.

EVIL: tuple[str, ...] = (
    "red", "#2166ac", "#feff01", "<script>alert(1)</script>", "a\"b'c", "a\nb", "\ud800",
    "$\\frac{", "_hidden", "%s{}", "x" * 3000, "\x1b[31m", "\u202eabc", "", "日本",
)  # fmt: skip


def test_a_report_shows_any_text():
    records = [
        {"epoch": n, "step": n, **dict.fromkeys(EVIL, 1.0 / n)}
        | {f"gradient_norm/{name}": 1.0 for name in EVIL}
        for n in (1, 2)
    ]
    texts = dict.fromkeys(EVIL, "<script>")
    page = run_report(
        EVIL[3], records, scores=dict.fromkeys(EVIL, 0.5), config=texts, environment=texts,
        remarks=EVIL, summary="".join(EVIL),
        pictures={f"{name}.png": FIGURE for name in EVIL},
    )  # fmt: skip
    assert "<script" not in page
    assert page.encode()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5
    assert ">#2166ac<" in page  # in a drawing, where colors are replaced
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert ">日本<" in page  # without a warning that a font lacks it


@pytest.mark.parametrize("a", [1e308, 5e-324, 1e16])
def test_a_report_draws_any_finite_numbers(a):
    records = [
        {"epoch": n, "step": n, "loss": x, "accuracy": y, "learning_rate": x, "gradient_norm": y}
        for n, (x, y) in enumerate([(a, -1e308), (-a, a), (2.0, 10**400)], 1)
    ]
    page = run_report("run", records, scores={"loss": a}, timings=[{"step": 1, "seconds": a}])
    for place in re.findall(r' (?:d|x|y|transform|viewBox)="[^"]*"', page):
        assert not re.search("nan|inf", place)


@pytest.mark.parametrize("name", ["$\\frac{$", "\ud800" + "x" * 3000])
def test_a_picture_shows_any_name(name):
    y, p = np.array([0, 1]), np.array([[0.2, 0.8], [0.3, 0.7]])
    png(confusion_counts(y, p.argmax(1), [name, "b"]))
    png(worst_profiles(np.ones((2, 1)), y, p, [name, "b"], [name]))
    png(residuals(y * 1e308, p[:, 0], name))

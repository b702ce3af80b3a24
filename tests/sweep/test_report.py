"""The report: what it says of a sweep whose results are known, and that a browser shows it."""

import base64
import dataclasses
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxnn.sweep.dimensions import Choice, Grid, Int, LogUniform, Uniform, at_edge
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.report import (
    data_of,
    defaults_of,
    headline,
    main_numbers,
    sweep_report,
    write_report,
)
from jaxnn.sweep.report.parameters import (
    common_scores,
    edge_sentence,
    embedded,
    failure_counts,
    importance,
    importance_of,
    shown_order,
)
from jaxnn.sweep.report.scores import (
    known_best,
    records_of,
    score_scale,
    survivors,
    timeline,
)
from jaxnn.sweep.score import seed_mean
from jaxnn.sweep.snapshot import mean, read
from jaxnn.sweep.tables import Change, Cohort, EpochResult, Group
from tests.sweep.made_up import SPACE, made_up

SWEEP = made_up()
META = {
    "experiment": "experiments.mnist_mlp",
    "config": {"type": "Config", "epochs": 2},
    "space": [
        {"name": "rate", "kind": "loguniform", "low": 1e-4, "high": 0.1, "log": True, "when": {}},
        {"name": "width", "kind": "choice", "options": [64, 128], "log": False, "when": {}},
        {"name": "depth", "kind": "int", "low": 1, "high": 3, "log": False, "when": {}},
        {"name": "decay", "kind": "uniform", "low": 0.0, "high": 1.0, "log": False, "when": {}},
        {"name": "batch", "kind": "grid", "options": [32, 64], "log": False, "when": {}},
    ],
    "metric": "validation_accuracy",
    "maximize": True,
    "seeds": 2,
    "epochs": 2,
    "rungs": [1, 2],
    "search": "random",
}


@pytest.fixture(scope="module")
def shown_page():
    return sweep_report(SWEEP)


def data_in(page):
    """The numbers that the script of a page draws."""
    (plain,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(plain)


def text_of(page):
    plain = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", plain)))


def small_ledger(folder):
    values = {"rate": 0.01, "width": 64, "depth": 1, "decay": 0.5, "batch": 32}
    with Ledger.create(folder, META) as ledger:
        ledger.add_group(Group("all", {}, "vmap", 4))
        ledger.ask(0, 0, [({**values, "depth": d}, "all") for d in (1, 2, 3)])
        lanes = tuple((t, s) for t in range(3) for s in range(2))
        finals = {0: 0.5, 1: 0.7, 2: np.nan}
        ledger.commit(
            Cohort("all", 0, 0, 1, lanes, seconds=3.0, compile_seconds=1.0),
            [EpochResult(t, s, 1, "validation_accuracy", finals[t] + 0.01 * s) for t, s in lanes],
            {0: "stopped", 1: "running", 2: "diverged"},
            lanes=b"",
        )
        ledger.commit(
            Cohort("all", 1, 1, 2, ((1, 0), (1, 1)), seconds=1.0),
            [EpochResult(1, s, 2, "validation_accuracy", 0.8 + 0.02 * s) for s in range(2)],
            {1: "done"},
        )
    return folder


# What the numbers are.


def test_a_ledger_is_read_as_it_was_written(tmp_path):
    with Ledger.open(small_ledger(tmp_path / "sweep")) as ledger:
        sweep = read(ledger)
    assert sweep.dimensions == {
        "rate": LogUniform(1e-4, 0.1), "width": Choice(64, 128), "depth": Int(1, 3),
        "decay": Uniform(0.0, 1.0), "batch": Grid(32, 64),
    }  # fmt: skip
    assert [trial.number for trial in sweep.ranking] == [1, 0]
    assert sweep.scores[1].each == (0.8, 0.8 + 0.02)
    assert sweep.scores[1].epoch == 2
    assert common_scores(sweep) == (1, {0: pytest.approx(0.505), 1: pytest.approx(0.705)})
    assert sweep.curves["validation_accuracy"][2] == {0: [(1, None)], 1: [(1, None)]}
    assert sweep.facts == {"search": "random"}
    assert known_best(sweep) == [
        (3.0, pytest.approx(0.705), 1),
        (4.0, pytest.approx(0.81), 1),
    ]


def test_a_changed_trial_has_its_last_values(tmp_path):
    with Ledger.open(small_ledger(tmp_path / "sweep"), write=True) as ledger:
        last = dict(ledger.trials()[1].values) | {"rate": 0.02}
        ledger.decide({}, changes=[Change(1, 1, last, source=0)])
        sweep = read(ledger)
    assert sweep.trials[1].values["rate"] == 0.02
    assert [*sweep.changed] == [1]
    assert "which is another run" in text_of(headline(sweep))


def test_a_ledger_without_what_a_sweep_says_is_refused(tmp_path):
    said = "lacks 'config', 'space', 'metric'"
    with (
        Ledger.create(tmp_path / "sweep", {"experiment": "experiments.a"}) as ledger,
        pytest.raises(ValueError, match=said) as error,
    ):
        read(ledger)
    assert str(error.value).endswith("it was not written by a sweep")


def test_more_epochs_go_before_better_scores_and_lost_trials_have_no_place():
    ranking = SWEEP.ranking
    places = [(-SWEEP.scores[t.number].epoch, -SWEEP.scores[t.number].mean) for t in ranking]
    assert places == sorted(places)
    assert {t.status for t in ranking} == {"done", "stopped"}
    turned = dataclasses.replace(SWEEP, metric="validation_loss", maximize=False)
    assert turned.best is not None
    losses = [turned.scores[t.number].mean for t in turned.finalists]
    assert turned.scores[turned.best.number].mean == min(losses)


def test_a_trial_of_which_one_seed_diverged_has_no_score():
    number = SWEEP.ranking[0].number
    curves = {name: dict(trials) for name, trials in SWEEP.curves.items()}
    lanes = dict(curves[SWEEP.metric][number])
    lanes[1] = [*lanes[1][:-1], (lanes[1][-1][0], None)]
    curves[SWEEP.metric][number] = lanes
    changed = dataclasses.replace(SWEEP, curves=curves)
    assert number not in changed.scores
    assert 6 not in changed.means[number]


def test_the_interval_is_students():
    # By hand: s = 0.02, t(0.975, 2) = 4.3027 (any table), half = 4.3027 * 0.02 / sqrt(3).
    mean = seed_mean([0.90, 0.92, 0.94])
    assert mean.mean == pytest.approx(0.92)
    assert mean.half == pytest.approx(0.049683, abs=1e-6)  # the table's digits
    assert seed_mean([0.9]).half is None


def test_what_lies_at_an_edge():
    assert at_edge(LogUniform(1e-4, 1e-1), 1.2e-4) == "lower"
    assert at_edge(Uniform(0.0, 0.5), 0.49) == "upper"
    assert at_edge(Uniform(0.0, 0.5), 0.25) is None
    assert at_edge(Int(0, 4), 4) == "upper"
    assert at_edge(Grid(1, 3, 10), 1) == "lower"
    assert at_edge(Choice(64, 128), 128) is None


def test_scores_far_off_do_not_squeeze_the_others():
    scale = score_scale([0.1] + [0.9 + 0.001 * i for i in range(19)], maximize=True)
    assert scale.low > 0.8
    assert scale.beyond == 2  # the tenth of 20 that lies below the quantile
    assert score_scale([0.001, 0.1, 0.1, 0.1], maximize=False).log


def test_survivors_are_those_of_the_ledger():
    first, last = survivors(SWEEP)
    ended = [trial.status for trial in SWEEP.trials]
    assert (first["epoch"], last["epoch"]) == (2, 6)
    assert first["reached"] == ended.count("stopped") + ended.count("done")
    assert first["stopped"] == ended.count("stopped")
    assert first["lost"] == ended.count("diverged") + ended.count("failed")
    assert last["reached"] == ended.count("done")


def test_failures_are_counted_where_they_are():
    lost, ran, parts = failure_counts(SWEEP, "optimizer:sgd.learning_rate")
    sgd = [t for t in SWEEP.trials if t.values["optimizer"] == "SGD"]
    assert sum(ran) == len(sgd)
    assert lost[:4] == [0, 0, 0, 0] or SWEEP.trials[-1] in sgd
    assert lost[4] >= sum(t.status == "diverged" for t in SWEEP.trials)
    assert (parts[0][:9], parts[-1][-5:]) == ("0.001 to ", " to 1")


def test_importance_finds_what_the_formula_hangs_on():
    sweep = made_up(trials=150, epochs=2, seeds=1, rungs=(2,))
    found = importance_of(sweep)
    assert not isinstance(found, str)
    assert (found.epoch, found.compared) == (None, len(sweep.ranking))
    rates = [name for name in SPACE if name.endswith("learning_rate")]
    assert max(found.shares, key=lambda name: found.shares[name]) in rates
    have = {name: sum(name in trial.values for trial in sweep.ranking) for name in SPACE}
    assert found.trials == have
    assert have[rates[0]] + have[rates[1]] == len(sweep.ranking)
    text = text_of(importance(found, sweep))
    assert "137 trials are compared, each after its last epoch" in text
    halved = importance_of(made_up(trials=150, epochs=3, seeds=1, rungs=(2, 3)))
    assert not isinstance(halved, str)
    assert "after epoch 2, the last that all of them reached" in text_of(importance(halved, SWEEP))


def test_too_few_trials_are_said_to_be():
    said = importance_of(made_up(trials=10))
    assert isinstance(said, str)
    assert re.fullmatch(
        r"Too few trials to find out which parameters matter: \d trials can be compared, and at "
        r"least 25 are needed.",
        said,
    )


def test_a_page_of_many_trials_has_the_best_and_the_records():
    records = records_of(SWEEP)
    once = [number for number, _ in records]
    assert embedded(SWEEP, once) == [
        *SWEEP.ranking,
        *(trial for trial in SWEEP.trials if trial.number not in SWEEP.scores),
    ]
    some = [trial.number for trial in embedded(SWEEP, once, size=1500)]
    assert len(some) < 40
    ranking = [trial.number for trial in SWEEP.ranking]
    assert some[:10] == ranking[:10]
    assert set(once) <= set(some)
    scores = [score for _, score in records]
    assert scores == sorted(scores)
    assert records[-1] == (ranking[0], SWEEP.scores[ranking[0]].mean)


def test_the_script_gets_the_numbers_of_the_sweep():
    names = shown_order(SWEEP, {"shift": 0.2, "optimizer:sgd.learning_rate": 0.9})
    assert names[0] == "shift"
    assert names[-2:] == ["optimizer:sgd.learning_rate", "optimizer:adamw.learning_rate"]
    data = data_of(SWEEP, names)
    trials = data["trials"]
    assert sorted(trials["number"]) == list(range(60))
    for t, number in enumerate(trials["number"]):
        trial, score = SWEEP.trials[number], SWEEP.scores.get(number)
        assert data["statuses"][trials["status"][t]] == trial.status
        assert trials["score"][t] == (None if score is None else pytest.approx(score.mean, 1e-5))
        for name, parameter, column in zip(
            names, data["parameters"], trials["values"], strict=True
        ):
            value = trial.values.get(name)
            if "options" in parameter and value is not None:
                assert parameter["options"][column[t]] == value
            else:
                assert column[t] == (None if value is None else pytest.approx(value, 1e-5))
    curve = data["curves"][0]
    lanes = [seeds[0] for seeds in SWEEP.curves["validation_accuracy"].values()]
    lanes += [seeds[1] for seeds in SWEEP.curves["validation_accuracy"].values()]
    first = [v for lane in lanes for epoch, v in lane if epoch == 1 and v is not None]
    assert curve["bands"][0][2] == pytest.approx(np.median(first), rel=1e-5)


def test_the_timeline_has_rows_for_what_overlaps_and_cuts_interruptions():
    cohorts = [
        Cohort("a", 0, 0, 1, ((0, 0), (1, 0)), 10.0, 4.0, 0, finished=110.0),
        Cohort("a", 0, 0, 1, ((2, 0),), 8.0, 0.0, 1, finished=112.0),  # began at 104
        Cohort("a", 0, 0, 1, ((3, 0),), 5.0, 0.0, 2, finished=905.0),  # after an interruption
    ]
    group = Group("a", {}, "vmap", 2, probe={"seconds": 3.0, "finished": 100.0}, compile_seconds=1)
    drawn = timeline(dataclasses.replace(SWEEP, cohorts=cohorts, groups=[group]))
    assert [bar[:5] for bar in drawn["bars"]] == [
        [0, 0.0, 3.0, 1.0, 0],
        [0, 3.0, 10.0, 4.0, 0],
        [1, 7.0, 8.0, 0.0, 0],
        [0, 15.0, 5.0, 0.0, 0],
    ]
    assert (drawn["rows"], drawn["end"], drawn["gaps"]) == (2, 20.0, [15.0])
    assert drawn["bars"][1][5] == (
        "a: 2 lanes, trials 0 to 1, epochs 1 to 1, 10.0 s, 4.0 s of it compiling"
    )


def test_the_gain_is_over_the_trial_with_the_values_of_the_configuration():
    start = next(t for t in SWEEP.finalists[1:] if t.values["optimizer"] == "AdamW")
    values = start.values
    config = {
        "type": "Config",
        "optimizer": {
            "type": "AdamW",
            "learning_rate": values["optimizer:adamw.learning_rate"],
        },
        "model": {
            "type": "MLP",
            "width": values["model.width"],
            "dropout": values["model.dropout"],
        },
        "shift": values["shift"],
    }
    sweep = dataclasses.replace(SWEEP, config=config)
    assert defaults_of(sweep) == start
    best, before = (SWEEP.scores[n].mean for n in (SWEEP.ranking[0].number, start.number))
    big, name, remark = main_numbers(sweep)[1]
    assert (float(big), name) == (pytest.approx(best - before, rel=1e-2), "gain over the defaults")
    assert remark.startswith(f"trial {start.number}, the defaults: ")
    assert defaults_of(SWEEP) is None
    assert "gain" not in str(main_numbers(SWEEP))


# What the page says.


def test_the_page_says_what_the_issue_asks_for(shown_page):
    text, best = text_of(shown_page), SWEEP.best
    assert best is not None
    assert str(seed_mean(SWEEP.scores[best.number].each)) in text
    assert "python -m experiments.mnist_mlp run --from sweeps/mnist_mlp-1:best" in text
    for said in (
        "95 % interval, 2 seeds",
        "Student's t with n - 1 degrees of freedom",
        "Right: by time, the best score known",
        "middle 80 % of all runs",
        "Trials that lack one of the two are not in that map.",
        "Before the beginning of an axis: the trial does not have it",
        "it applies to all plots",
        "How many trials reached each rung",
        "7 diverged (a loss, or validation accuracy at the end, that is not finite) and 1 failed",
        "vmap, 16 lanes",
        "models/mlp.py:31",
        "0.0001 .. 0.1, log",
    ):
        assert said in text, said


def test_the_page_says_that_the_best_lies_at_an_edge():
    best = SWEEP.best
    assert best is not None
    moved = dataclasses.replace(best, values={**best.values, "model.dropout": 0.0})
    trials = [moved if t.number == best.number else t for t in SWEEP.trials]
    sweep = dataclasses.replace(SWEEP, trials=trials)
    text = text_of(headline(sweep))
    assert "model.dropout = 0 is at the lower edge of its range (0 .. 0.5)" in text
    assert edge_sentence(sweep, ["shift", "model.dropout"]) == (
        " <b>The best is at the edge of: model.dropout (lower edge).</b>"
    )


@pytest.mark.slow
def test_the_page_is_the_same_each_time(shown_page):
    assert sweep_report(SWEEP) == shown_page


def test_the_page_asks_for_nothing_and_runs_only_its_script(shown_page):
    assert "//" not in re.sub(r"<pre>.*?</pre>", "", shown_page, flags=re.DOTALL)
    plain, script = re.findall(r"<script([^>]*)>(.*?)</script>", shown_page, flags=re.DOTALL)
    assert plain[0] == ' type="application/json" id="data"'
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', shown_page)
    assert policy is not None
    assert policy[1] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    assert "NaN" not in plain[1]
    identities = re.findall(r' id="([^"]*)"', shown_page)
    assert len(identities) == len(set(identities))
    hosts = set(re.findall(r'rows\("(plot-\w+)"', script[1]))
    assert {name for name in identities if name.startswith("plot-")} <= hosts
    assert set(re.findall(r'byId\("(\w+)"', script[1])) <= set(identities)


def test_the_page_has_the_test_score_of_the_chosen_trial():
    assert SWEEP.best is not None
    scores = {"loss": [0.4, 0.5], "accuracy": [0.90, 0.92]}
    test = {"trial": SWEEP.best.number, "rows": 360, "scores": scores}
    sweep = dataclasses.replace(SWEEP, facts={**SWEEP.facts, "test": test})
    # Half of the interval by any table: 12.706 * 0.01414 / sqrt(2).
    assert (
        "0.91 ± 0.13",
        "test accuracy",
        f"trial {SWEEP.best.number}, once, on 360 rows that chose nothing",
    ) in main_numbers(sweep)


def test_names_and_errors_are_shown_as_they_are(shown_page):
    assert "ValueError: &lt;b&gt;shift&lt;/b&gt; &amp; more" in shown_page
    assert "<b>shift" not in shown_page


@pytest.mark.parametrize(
    "sweep",
    [
        made_up(trials=3, curves={}, cohorts=[]),
        pytest.param(made_up(trials=2, epochs=1, seeds=1, rungs=(1,)), marks=pytest.mark.slow),
        made_up(trials=1, curves={}),
    ],
    ids=["nothing measured", "one score", "only a failure"],
)
def test_a_sweep_that_has_hardly_begun_has_a_page(sweep):
    text = text_of(sweep_report(sweep))
    assert "Sweep of mnist_mlp" in text
    assert ("No trial has a score yet." in text) == (sweep.best is None)


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = small_ledger(tmp_path / "sweep")
    monkeypatch.setattr("jaxnn.sweep.report.sweep_report", lambda sweep: f"{sweep.name}</html>\n")
    with Ledger.open(folder) as ledger:
        assert write_report(read(ledger)) == folder / "report.html"
        assert (folder / "report.html").read_text() == "mnist_mlp</html>\n"
        (folder / "report.html").write_text("before")

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(
            OSError, match=r"report.html: No space left on device. The contents before"
        ) as e:
            write_report(read(ledger))
        assert str(e.value).endswith("The contents before are unchanged")
    assert (folder / "report.html").read_text() == "before"
    assert not list(folder.glob(".report*"))


@pytest.mark.slow
def test_a_page_is_made_from_a_ledger(tmp_path):
    with Ledger.open(small_ledger(tmp_path / "sweep")) as ledger:
        text = text_of(write_report(read(ledger)).read_text())
    assert "0.81 ± 0.13" in text  # half of 12.706 * 0.02 / sqrt(2) / sqrt(2), by a table
    assert "1 completed, 1 stopped by halving, 1 diverged" in text


@pytest.mark.slow
def test_a_thousand_trials_make_less_than_a_megabyte():
    sweep = made_up(trials=1000, epochs=20, seeds=1, rungs=(20,))
    assert len(sweep.dimensions) == 6
    assert len(sweep_report(sweep).encode()) < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_a_complaint(shown_page, tmp_path, dark):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium here")
    (tmp_path / "report.html").write_text(shown_page)
    arguments = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1200,8000",
        f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    drawn = subprocess.run(
        [*arguments[:-2], "--dump-dom", arguments[-1]], capture_output=True, text=True, timeout=120
    ).stdout
    # Two of progress, three of curves, six parameters, their 15 pairs, parallel coordinates.
    assert len(re.findall(r'<svg viewBox="[^"]*" role="img" tabindex="0" aria-label', drawn)) == 27
    assert len(re.findall(r"<tr data-trial=", drawn)) == 50
    assert drawn.count('type="search" aria-label="filter ') == 11
    picture = picture_of(tmp_path / "page.png")
    paper = np.array([20, 24, 31] if dark else [255, 255, 255])
    assert (picture[5, 5] == paper).all()
    for color in ([255, 154, 61], [116, 179, 234]) if dark else ([213, 94, 0], [33, 102, 172]):
        assert (np.abs(picture - color).sum(-1) == 0).sum() > 200  # the best, and the bars


def picture_of(file):
    from matplotlib.image import imread

    return (imread(file)[..., :3] * 255).round().astype(int)


# Any text, any number.

EVIL = (
    "red", "#2166ac", "#feff01", "<script>alert(1)</script>", "a\"b'c", "a\nb", "\ud800",
    "$\\frac{", "_hidden", "%s{}", "x" * 3000, "\x1b[31m", "\u202eabc", "",
)  # fmt: skip


class Parsed(HTMLParser):
    """The number of scripts of a page, and the numbers in its drawings."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.places = 0, []
        page.encode()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.places += [
            value for name, value in attrs if name in ("d", "x", "y", "transform", "viewbox")
        ]


def is_whole(page):
    parsed = Parsed(page)
    assert parsed.scripts == 2
    assert not any(re.search("nan|inf", place) for place in parsed.places)
    return parsed


@pytest.mark.parametrize("start", [0, 7])
def test_a_report_shows_any_text(start):
    names = EVIL[start : start + 7]
    swept = made_up(trials=12)
    dimensions = {name: Choice(name, "other") for name in names[:3]}
    trials = [
        dataclasses.replace(
            t,
            values={name: name for name in names[:3]},
            error=names[t.number % 7],
            group=names[0],
        )
        for t in swept.trials
    ]
    metric = names[3]
    sweep = dataclasses.replace(
        swept, dimensions=dimensions, trials=trials, metric=metric,
        curves={**swept.curves, metric: swept.curves["validation_accuracy"]},
        config=dict(zip(names, names, strict=True)),
        facts={**swept.facts, "device": names[0], "traced": dict.fromkeys(names, "traced")},
    )  # fmt: skip
    shown = sweep_report(sweep)
    is_whole(shown)
    if start == 0:
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
        assert [p["name"] for p in data_in(shown)["parameters"]] == [*names[:3]]


@pytest.mark.parametrize("a", [1e308, 5e-324])
def test_a_report_draws_any_finite_numbers(a):
    swept = made_up(trials=12)

    def changed(value, number):
        return value if value is None else (a, -1e308, value)[number % 3]

    curves = {
        name: {
            n: {s: [(e, changed(v, n)) for e, v in curve] for s, curve in seeds.items()}
            for n, seeds in by_trial.items()
        }
        for name, by_trial in swept.curves.items()
    }
    ends = Uniform(-1e308, 1e308), LogUniform(5e-324, 1e308), Uniform(0.0, 5e-324)
    dimensions = dict(zip(("u", "l", "tiny"), ends, strict=True))
    trials = [
        dataclasses.replace(t, values={k: d.at(t.number / 12) for k, d in dimensions.items()})
        for t in swept.trials
    ]
    sweep = dataclasses.replace(swept, curves=curves, dimensions=dimensions, trials=trials)
    is_whole(sweep_report(sweep))


def test_the_mean_of_finite_numbers_is_finite():
    assert mean([1e308, 1e308]) == 1e308
    assert mean([0.1, 0.2]) == float(np.mean([0.1, 0.2]))
    assert str(seed_mean([1e307, -1e307, 0.0])) == "0 ± 2.5e307"  # t(0.975, 2) = 4.3027

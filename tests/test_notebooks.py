"""What a notebook shows: trees, tables, figures, and short tracebacks."""

import re
import traceback

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.explain.notebook import TreeNode, page
from jaxnn.sweep import Result
from tests.sweep.made_up import made_up


def lines(html):
    """The text of a tree without its style: (depth, text) of each line, and which are folded."""
    body = html.partition("</style>")[2]
    found, depth, folded = [], -1, []
    for tag, text in re.findall(
        r"<(/?(?:details|div|summary)[^>]*)>([^\n]*?)(?=</?(?:d|s)|$)", body
    ):
        if tag.startswith("details") or tag == "div":
            depth += 1
            if tag.startswith("details"):
                folded.append("open" not in tag)
        if tag in ("summary", "div"):
            found.append((depth, re.sub("<[^>]*>", "", text).strip()))
        if tag in ("/details", "/div"):
            depth -= 1
    return found, folded


def test_a_network_is_a_tree_of_its_paths():
    block = nn.Repeat(nn.Residual(nn.Sequential(nn.LayerNorm(), nn.Dense(4))), 3)
    net = nn.Sequential(body=block, act=lambda x: x, head=nn.Dense(2, bias=False))
    found, folded = lines(net._repr_html_())
    texts = [text for _, text in found]
    assert texts[0] == "Sequential"
    assert texts[1].startswith("body Repeat(Residual(Sequential), n=3)")
    assert texts[-1] == "head Dense(2, bias=False)"
    assert "0x" not in net._repr_html_() and not any(folded)


def test_a_large_tree_is_folded_by_levels():
    leaves = tuple(TreeNode(str(i)) for i in range(10))
    tree = TreeNode("root", "", "", tuple(TreeNode(f"n{i}", "", "", leaves) for i in range(5)))
    _, folded = lines(page(tree))
    assert folded == [False, *[True] * 5]  # 5 lines fit, 50 more do not
    wide = TreeNode("root", "", "", tuple(TreeNode(f"n{i}") for i in range(100)))
    assert lines(page(wide))[1] == [False]  # the root is never folded


def test_texts_of_a_tree_are_escaped():
    def named(x):
        return x

    named.__qualname__ = "<script>"
    html = nn.Sequential(nn.Dense(2), named)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


X, Y = jnp.ones((8, 3)), jnp.zeros(8, int)
PROGRAM = train.Supervised(nn.Dense(2), train.Classification(2), optax.adam(0.1))


@pytest.fixture(scope="module")
def fitted():
    return train.fit(PROGRAM, (X, Y), key=jax.random.key(0), epochs=20, batch_size=8,
                     validation=(X, Y), progress=False)  # fmt: skip


def test_a_state_is_a_tree_with_shapes(fitted):
    state, _ = fitted
    html = state._repr_html_()
    assert "<b>w</b> float32[3,2]" in html and "<b>step</b> int32[] = 20" in html
    assert "<b>params</b> <i>8 numbers</i>" in html  # 3 x 2 weights and 2 biases
    html = train.Weights(state.params, {})._repr_html_()
    assert "<b>w</b> float32[3,2]" in html


def test_a_history_is_a_list_that_is_shown_as_a_table(fitted):
    _, history = fitted
    assert isinstance(history, train.History) and history == list(history)
    assert [record["epoch"] for record in history] == list(range(1, 21))
    html = history._repr_html_()
    heads = re.findall("<th [^>]*>([^<]*)", html)
    assert heads == ["epoch", "step", "loss", "validation loss", "accuracy", "validation accuracy"]
    rows = [re.findall("<td[^>]*>([^<]*)", row) for row in re.findall("<tr>.*?</tr>", html)][1:]
    assert [row[0] for row in rows] == [*"123456", "⋮", "15", "16", "17", "18", "19", "20"]
    assert float(rows[-1][2]) == pytest.approx(history[-1]["loss"], rel=1e-3)


def test_a_history_draws_its_metrics(fitted):
    _, history = fitted
    figure = history.plot()
    assert [panel.get_title("left") for panel in figure.axes] == ["loss", "accuracy"]
    (panel,) = history.plot("loss").axes
    training, validation = panel.lines
    assert training.get_ydata().tolist() == [record["loss"] for record in history]
    assert validation.get_ydata().tolist() == [record["validation_loss"] for record in history]
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"history.plot.names must be one of loss, accuracy, got"):
        history.plot("los")
    with pytest.raises(ValueError, match=r"must be a history with a record"):
        train.History().plot()


def test_a_sweep_is_a_table_of_its_best_trials_and_draws_the_best_so_far():
    swept = made_up(trials=30)
    result = Result(swept)
    rows = re.findall("<tr>.*?</tr>", result._repr_html_())
    assert len(rows) == 6  # a title and five trials
    best = [re.findall("<td[^>]*>([^<]*)", row)[0] for row in rows[1:]]
    assert best == [str(trial.number) for trial in result.ranking[:5]]
    left, right = result.plot().axes
    dots, line = left.lines
    scores = {t.number: swept.scores[t.number].mean for t in swept.finalists}
    assert dict(zip(*dots.get_data(), strict=True)) == scores
    steps = list(line.get_ydata())
    assert steps == sorted(steps, reverse=not swept.maximize)
    assert steps[-1] == result.best.score
    assert result.best.score in right.lines[0].get_ydata()


class Square(nn.Composite):
    """A layer with a mistake."""

    a: nn.Layer

    def forward(self, x):
        y = self.a(x)
        return y @ y


BAD = nn.Sequential(nn.Dense(3), nn.Repeat(nn.Residual(Square(nn.Dense(3))), 2))
DATA = X, Y


def init():
    BAD.init(jax.random.key(0), X)


def apply():
    nn.Dense(2).apply({"w": X}, X)


def fit():
    program = train.Supervised(BAD, train.Classification(2), optax.adam(0.1))
    train.fit(program, DATA, key=jax.random.key(0), epochs=1, batch_size=8)


def run():
    program = train.Supervised(BAD, train.Classification(2), optax.adam(0.1))
    for _ in train.run(program, DATA, key=jax.random.key(0), epochs=1, batch_size=8):
        pass


def misused():
    train.fit(PROGRAM, DATA, key=jax.random.key(0), epoch=1)  # type: ignore[call-arg]


CASES = {init: ["init", "forward"], apply: ["apply"], fit: ["fit", "forward"],
         run: ["run", "forward"], misused: ["misused"]}  # fmt: skip


@pytest.mark.parametrize("call", CASES, ids=lambda call: call.__name__)
def test_an_error_has_the_frames_of_the_user_only(call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    found = traceback.TracebackException.from_exception(caught.value)
    names = [frame.name for frame in found.stack]
    assert names == ["test_an_error_has_the_frames_of_the_user_only", *CASES[call]]
    assert {frame.filename for frame in found.stack} == {__file__}
    found.stack[:1] = []  # that of this test
    assert len("".join(found.format()).splitlines()) < 15


def test_all_frames_are_shown_if_the_filter_is_off():
    before = jax.config.jax_traceback_filtering  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(TypeError) as caught:
            init()
    finally:
        jax.config.update("jax_traceback_filtering", before)
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert any("jaxnn/core" in file for file in files) and any("/jax/" in file for file in files)


def test_causes_are_filtered_too():
    class Careful(nn.Composite):
        a: nn.Layer

        def forward(self, x):
            try:
                return self.a(x)
            except TypeError as error:
                raise ValueError("no") from error

    with pytest.raises(ValueError, match="no") as caught:
        Careful(BAD).init(jax.random.key(0), X)
    cause = caught.value.__cause__
    assert cause is not None
    files = {frame.filename for frame in traceback.extract_tb(cause.__traceback__)}
    assert files == {__file__}

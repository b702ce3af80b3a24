"""The counts of `python -m benchmarks house`: how they are made, and those that always hold."""

from benchmarks import house

HOLD = (
    "files in core",
    "lines of code in core",
    "tests for Wrapper outside core",
    "methods _declare outside core",
)


def test_counts_that_hold():
    bars = {bar.claim: bar for bar in house.counts()}
    assert [claim for claim in HOLD if not bars[claim].met] == []


def test_no_two_things_share_a_name():
    assert house.shared_names() == {}
    assert house.shared_file_names() == {}


def test_shared_names_are_found(tmp_path, monkeypatch):
    for folder in ("core", "train", "functional", "layers"):
        (tmp_path / folder).mkdir()
    one, other = (
        "def draw(): ...\ndef _own(): ...\ndef run(): ...\n",
        "class draw: ...\ndef run(): ...\n",
    )
    (tmp_path / "core" / "plan.py").write_text(one + "class Draw:\n    def plan(self): ...\n")
    (tmp_path / "train" / "plan.py").write_text(other + "def _own(): ...\n")
    for folder in ("functional", "layers"):
        (tmp_path / folder / "linear.py").write_text("")
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    assert house.shared_names() == {"draw": ["core/plan.py", "train/plan.py"]}
    assert house.shared_file_names() == {"plan": ["core", "train"]}


def test_lines_of_code_leave_out_docstrings_comments_and_blank_lines(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        '"""Title.\n\nText."""\n\n# A comment.\nx = """a\nb"""\n\n\nif x:  # why\n    x\n'
    )
    assert house.lines_of_code(file) == 4


def test_raises_and_walkers_are_counted(tmp_path, monkeypatch):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "layer.py").write_text("isinstance(x, Wrapper)\n")
    (tmp_path / "walk.py").write_text(
        "try:\n    isinstance(x, (Layer, core.Wrapper))\nexcept E:\n    raise\n"
        "else:\n    raise E\nrequire(x, 'x', 'positive', x)\nvalidation.require(x)\nrequired(x)\n"
        "class A:\n    def _declare(self): ...\n"
    )
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    found = {bar.claim: bar.value for bar in house.counts()}
    assert found["raises, and calls of `validation.require`"] == 3
    assert found["tests for Wrapper outside core"] == 1
    assert found["methods _declare outside core"] == 1

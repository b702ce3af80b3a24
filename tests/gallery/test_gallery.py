"""Laws of every program in experiments/gallery, and at night the numbers that their files state.

`tests/gallery/programs.py` lists the programs.
"""

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnn import train
from jaxnn.train.program import is_key
from tests.gallery.killed import digest
from tests.gallery.more_programs import EAGER, MAPPED
from tests.gallery.programs import EXPECTED, SMALL, TRACES, small

KEY = jax.random.key(3)
ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments" / "gallery").glob("[a-z]*.py"))


def near(one, other):
    """Assert that two trees are equal to rounding.

    Compiled code adds float32 numbers in another order, which Adam's first step, a gradient divided
    by its own size, carries over to the parameters.
    """
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = (np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def some(names):
    """All programs, of which those that are not among `names` are slow."""
    return [case if case in names else pytest.param(case, marks=pytest.mark.slow) for case in SMALL]


def small_batch(case):
    """A small program and a batch."""
    program, data, options = SMALL[case]()
    return program, jax.tree.map(lambda leaf: leaf[: options["batch_size"]], data)


@pytest.mark.parametrize("case", some(EAGER))
def test_jit_equals_eager(case):
    program, batch = small_batch(case)
    state = program.init(KEY, batch)
    near(program.step(state, batch), jax.jit(program.step)(state, batch))


@pytest.mark.parametrize("case", some(MAPPED))
def test_vmap_over_seeds_equals_single_runs(case):
    program, batch = small_batch(case)

    def run(key):
        return program.step(program.init(key, batch), batch)

    keys = jax.random.split(KEY)
    together, single = jax.jit(jax.vmap(run))(keys), jax.jit(run)
    lanes = jax.tree.map(lambda leaf: leaf if is_key(leaf) else np.asarray(leaf), together)
    for lane, key in enumerate(keys):
        alone = single(key)
        assert all(np.isfinite(number) for number in jax.tree.leaves(alone[1]))
        near(jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes), alone)


@pytest.mark.parametrize("case", SMALL)
def test_a_broken_run_resumes_bitwise_and_another_number_traces_nothing(case, tmp_path):
    program, data, options = small(case)
    TRACES.clear()
    whole = train.fit(program, data, progress=False, **options)
    traces = len(TRACES)
    hooks = [train.Checkpoints(str(tmp_path))]
    for event in train.run(program, data, hooks=hooks, **options):
        if event.step == 2:
            break
    again = train.fit(program, data, hooks=hooks, progress=False, **options)
    assert digest(*again) == digest(*whole)

    numbers, structure = jax.tree.flatten(program)
    assert numbers or case == "pinn_lbfgs"  # optax.lbfgs has its numbers in closures
    changed = jax.tree.unflatten(structure, [x + 0.01 for x in numbers])
    train.fit(changed, data, progress=False, **options)
    assert len(TRACES) == traces > 0


@pytest.mark.slow  # tests/train/test_checkpoint.py kills a run for every change
@pytest.mark.parametrize("case", SMALL)
def test_a_killed_run_resumes_bitwise_in_another_process(case, tmp_path):
    program, data, options = small(case)
    whole = train.fit(program, data, progress=False, **options)

    def start(how):
        command = [sys.executable, "-m", "tests.gallery.killed", case, str(tmp_path), how]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    died, lived = start("die"), start("live")
    assert died.returncode == -9, died.stderr
    assert lived.stdout.strip() == digest(*whole), lived.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPECTED)
def test_a_program_reaches_its_number(case):
    """By the command in its header, compiled as users compile it."""
    command = [sys.executable, "-m", f"experiments.gallery.{case}"]
    settings = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=settings
    )
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout.splitlines()[-1])
    for number, (low, high) in EXPECTED[case].items():
        assert low <= found[number] <= high, (number, found[number])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_states_its_command_and_is_short(file):
    text = file.read_text()
    module = ast.parse(text)
    assert f"    python -m experiments.gallery.{file.stem}\n" in (
        ast.get_docstring(module, False) or ""
    )
    assert file.stem in SMALL and file.stem in EXPECTED
    assert lines_of_code(text, module) <= 100


def lines_of_code(text, module):
    """The number of lines with code, except imports and docstrings."""
    skipped = set()
    for node in ast.walk(module):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and (
            is_text or isinstance(node, ast.Import | ast.ImportFrom)
        ):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    used = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank and token.type != tokenize.ENDMARKER:
            used |= set(range(token.start[0], token.end[0] + 1))
    return len(used - skipped)

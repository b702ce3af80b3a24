"""The persistent compilation cache of the command lines."""

import json
import os
import subprocess
import sys

import jax
import pytest

from jaxnn.command import use_compilation_cache

USED = """
import json, jax
from jaxnn.command import use_compilation_cache
rest = use_compilation_cache({words})
print(json.dumps([rest, jax.config.jax_compilation_cache_dir]))
"""

MISSES = """
import collections, json, runpy, sys
import jax
found = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: found.update([event.split("/")[-1]]))
sys.argv = ["mnist_mlp", "--epochs", "1", "--folder", sys.argv[1]]
try:
    runpy.run_module("experiments.mnist_mlp", run_name="__main__")
except SystemExit:
    pass
print(json.dumps(found))
"""


def child(program, *arguments, **variables):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=kept | variables, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_programs_are_kept_in_the_cache_folder_of_the_user(tmp_path):
    rest, folder = child(USED.format(words=["run", "--epochs=2"]), XDG_CACHE_HOME=str(tmp_path))
    assert rest == ["run", "--epochs=2"]
    assert folder.startswith(f"{tmp_path}/jaxnn/compiled/")


def test_an_option_and_a_variable_turn_the_cache_off(tmp_path):
    off = child(USED.format(words=["run", "--no-compilation-cache"]), XDG_CACHE_HOME=str(tmp_path))
    assert off == [["run"], None]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_the_user_chose_is_used():
    # The suite itself chose one, in the environment.
    before = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert use_compilation_cache(["sweep"]) == ["sweep"]
    assert before == os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert before == jax.config.values["jax_compilation_cache_dir"]


@pytest.mark.slow
def test_the_second_start_compiles_nothing(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = child(MISSES, str(tmp_path / "one"), **cache)
    second = child(MISSES, str(tmp_path / "two"), **cache)
    assert first["cache_misses"] > 0
    assert second.get("cache_misses", 0) == 0
    assert second["cache_hits"] == second["compile_requests_use_cache"]

"""A real sweep in a process of its own, to be killed: `python driven.py FOLDER KIND [BOUNDARY]`.

It begins or resumes the sweep in FOLDER; KIND is one of `KINDS`. The lanes of a call are fixed, so
that the plan, and with it every bit of the ledger, is the same each time. With a BOUNDARY the
process kills itself at that one: there are three a transaction, before it, at its end, after it.
Prints `ready` once the ledger is open.
"""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from jaxnn.executors import create
from jaxnn.models import MLP
from jaxnn.sweep import Choice, LogUniform, Space, Uniform, plan
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.meta import meta_of
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.settings import Settings
from tests.sweep import quick, toy

# In the first, some trials diverge and some have no program: a dropout of 1 is refused.
BROKEN = Space(
    quick.Config,
    {
        "optimizer.learning_rate": Choice(0.01, 0.03, 0.1, 0.3, math.inf),
        "optimizer.momentum": Uniform(0.5, 0.95),
        "model.dropout": Choice(0.0, 0.1, 0.2, 1.0),
        "model.width": Choice(4, 8),
    },
)
TRACED = Space(
    quick.Config,
    {
        "optimizer.learning_rate": LogUniform(1e-3, 1.0),
        "optimizer.momentum": Uniform(0.5, 0.95),
    },
)
FIXED = {"lanes": 4, "by": "vmap"}
KINDS = {
    "none": (BROKEN, Settings(trials=16, batch=8, **FIXED)),
    "successive": (
        BROKEN,
        Settings(trials=16, batch=8, halving="successive", eta=2, score="mean:2", keep=3, **FIXED),
    ),
    "hyperband": (BROKEN, Settings(trials=20, search="tpe", halving="hyperband", eta=2, **FIXED)),
    "population": (TRACED, Settings(trials=8, seeds=2, halving="population", keep=2, **FIXED)),
    "stopping": (BROKEN, Settings(trials=16, batch=8, patience=1, score="best", keep=2, **FIXED)),
}
# Without a hidden layer: what takes time is to compile.
BASE = dataclasses.replace(quick.Config(), model=MLP(width=4, depth=0))


def experiment(kind):
    return quick.experiment(KINDS[kind][0])


def begun(made, settings, folder, opened=Ledger):
    """The sweep in `folder`, begun if it is not."""
    if (folder / "ledger.sqlite").exists():
        return opened.open(folder, write=True)
    return opened.create(folder, meta_of(made, Planner(made, BASE, settings)))


def drive(ledger, made, executor=None, workers=1, watch=lambda progress: None):
    """Go on to the end, in this process where no executor is given."""
    with contextlib.ExitStack() as stack:
        executor = executor or stack.enter_context(create("local"))
        Driver(made, ledger, executor, workers, watch).run()


def planned_once(monkeypatch):
    """Drivers in this process trace a program once to plan its sweep, and not each again."""
    for name in ("training_of", "reads_seed"):
        monkeypatch.setattr(plan, name, functools.cache(getattr(plan, name)))


def ended_at(opened, boundary, end):
    """A ledger that calls `end` at a boundary."""
    passed = iter(range(1, boundary + 1))

    def pass_one():
        if next(passed, None) == boundary:
            end()

    class Ended(opened):
        @contextlib.contextmanager
        def _transaction(self):
            pass_one()  # a checkpoint is written, and nothing speaks of it
            with super()._transaction() as db:
                yield db
                pass_one()
            pass_one()  # checkpoints that are not needed any more are still there

    return Ended


def main(folder, kind, *boundaries):
    opened = Ledger
    for boundary in boundaries:
        opened = ended_at(Ledger, int(boundary), lambda: os.kill(os.getpid(), signal.SIGKILL))
    with begun(experiment(kind), KINDS[kind][1], Path(folder), opened) as ledger:
        print("ready", flush=True)
        drive(ledger, experiment(kind))
        print(toy.digest(ledger))


if __name__ == "__main__":
    main(*sys.argv[1:])

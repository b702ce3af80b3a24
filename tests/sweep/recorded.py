"""Record what the driver sees during real sweeps: `python -m tests.sweep.recorded`.

It writes `tests/fixtures/sweep_times.json`: for each sweep its settings, its groups, and after each
cohort the cohort, the trials, the number of epochs that each lane trained, and the time.
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path

from jaxnn import sweep
from jaxnn.sweep.ledger import Ledger
from tests.sweep import quick

FILE = Path(__file__).parents[1] / "fixtures" / "sweep_times.json"
CONFIG = quick.Config(epochs=16)
SWEEPS = {
    "random": {"trials": 160},
    "tpe": {"trials": 128, "search": "tpe"},
    "successive": {"trials": 192, "halving": "successive", "eta": 4},
    "hyperband": {"trials": 150, "halving": "hyperband", "eta": 4},
    "population": {"trials": 24, "halving": "population", "least": 2, "lanes": 4, "by": "map"},
}


def recorded(name):
    """The history of a sweep as plain data."""
    rows, began = [], time.time()

    class Recording(Ledger):
        def commit(self, cohort, *arguments, **named):
            key = super().commit(cohort, *arguments, **named)
            trials = [[t.round, t.group, t.status] for t in self.trials()]
            lanes = [[*lane, epochs] for lane, epochs in self.trained_epochs().items()]
            rows.append([dataclasses.asdict(cohort), trials, lanes, time.time() - began])
            groups[:] = [dataclasses.asdict(group) for group in self.groups()]
            return key

    groups = []
    sweep.running.Ledger = Recording
    made = quick.EXPERIMENT
    if name == "population":
        paths = {k: v for k, v in quick.SPACE.paths.items() if k != "model.width"}
        made = quick.experiment(paths)
    with tempfile.TemporaryDirectory() as folder:
        where, fixed = Path(folder, name), {"config": CONFIG, "progress": False}
        result = sweep.run(made, folder=where, **SWEEPS[name], **fixed)
    return {"settings": result.sweep.facts["settings"], "groups": groups, "rows": rows}


def main():
    found = {}
    for name in SWEEPS:
        found[name] = recorded(name)
        print(name, len(found[name]["rows"]), found[name]["rows"][-1][-1], flush=True)
    FILE.write_text(json.dumps(found, separators=(",", ":")))


if __name__ == "__main__":
    main()

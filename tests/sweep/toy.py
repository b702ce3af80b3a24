"""A sweep without training, to be killed: `python toy.py FOLDER ROUNDS [BOUNDARY | size=BYTES]`.

It begins or resumes the sweep in FOLDER. What a lane reports follows from the state that it had
before, so a lost, doubled or mistaken state changes all that comes after. With a BOUNDARY the
process kills itself at that one: there are three a transaction, before it, at its end, after it.
With a size no file may grow beyond it. Prints `ready` once the ledger is open.

It runs without jax, which a ledger does not need: it starts in a tenth of a second.
"""

import contextlib
import hashlib
import json
import math
import os
import random
import signal
import struct
import sys
import types
from pathlib import Path

BATCH, SEEDS, SEGMENTS = 8, (0, 1), ((0, 2), (2, 3), (3, 5))
GROUPS = ("narrow", "wide")


def digest(ledger):
    """The SHA-256 of all trials, results, changes, and kept states, without times."""
    sha256 = hashlib.sha256()
    with ledger.snapshot():
        trials = [(trial.number, trial.values, trial.status) for trial in ledger.trials()]
        changes = [(c.trial, c.epoch, c.values, c.source) for c in ledger.changes()]
        kept = sorted((trial, text) for trial, (_, text) in ledger._kept().items())
        sha256.update(json.dumps([trials, changes, kept], sort_keys=True).encode())
        for result in ledger.results():
            sha256.update(repr(tuple(result)).encode())
    return sha256.hexdigest()


def curves(ledger, trial, name):
    """A metric of a trial as (epoch, value) pairs by seed."""
    found = {}
    for result in ledger.results(name):
        if result.trial == trial:
            found.setdefault(result.seed, []).append((result.epoch, result.value))
    return found


def sweep(ledger, rounds):
    """Ask, run, decide and change whatever the ledger does not hold yet."""
    from jaxnn.sweep.ledger import Group

    for name in GROUPS[len(ledger.groups()) :]:
        ledger.add_group(Group(name, {"width": len(name)}, "vmap", lanes=8))
    for round in range(rounds):
        if not of_round(ledger, round):
            ledger.ask(round, 0, asked(round))
        for rung, segment in enumerate(SEGMENTS):
            for group in GROUPS:
                run(ledger, round, group, rung, segment)
            if segment != SEGMENTS[-1]:
                decide(ledger, round, rung, segment[1])


def asked(round):
    rng = random.Random(round)
    rates = [rng.uniform(0.1, 1.0) for _ in range(BATCH - 1)] + [math.inf]
    return [({"rate": rate, "place": i}, GROUPS[i % 2]) for i, rate in enumerate(rates)]


def of_round(ledger, round):
    return [trial for trial in ledger.trials() if trial.round == round]


def run(ledger, round, group, rung, segment):
    from jaxnn.sweep.ledger import Cohort

    begin, end = segment
    standing, states = ledger.trained_epochs(), ledger.states()
    trials = {t.number: t for t in of_round(ledger, round) if t.status in ("asked", "running")}
    lanes = [(n, s) for n, trial in trials.items() if trial.group == group for s in SEEDS]
    lanes = tuple(lane for lane in lanes if standing.get(lane, 0) == begin)
    if not lanes:
        return
    changes = {change.trial: change for change in ledger.changes() if change.epoch == begin}
    after, results = [], []
    for number, seed in lanes:
        values, source = trials[number].values, number
        if number in changes:
            values, source = changes[number].values, changes[number].source
        state = seed / 7 + 0.1
        if begin:
            cohort, place = states[source, seed, begin]
            state = struct.unpack_from("<d", ledger.lanes(cohort), 8 * place)[0]
        for epoch in range(begin + 1, end + 1):
            state = math.fmod(997 * state + values["rate"], 1.0) if values["rate"] < 9 else math.nan
            results += [
                (number, seed, epoch, "loss", state),
                (number, seed, epoch, "big", math.inf),
            ]
        after.append(state)
    last = segment == SEGMENTS[-1]
    statuses = {n: "done" if last else "running" for n, _ in lanes}
    bad = {n: "diverged" for (n, _), state in zip(lanes, after, strict=True) if math.isnan(state)}
    packed = None if last else struct.pack(f"<{len(after)}d", *after) + bytes(5000)
    cohort = Cohort(group, rung, begin, end, lanes, seconds=0.1)
    ledger.commit(cohort, results, statuses | bad, dict.fromkeys(bad, "NaN in epoch 1"), packed)


def decide(ledger, round, rung, epoch):
    """The better half goes on; of it, the worse takes over the state of the better."""
    from jaxnn.sweep.ledger import Change

    trials = of_round(ledger, round)
    if not any(t.status == "stopped" and t.rung == rung for t in trials):
        scores = {t.number: score(ledger, t.number, epoch) for t in trials if t.status == "running"}
        order = sorted(scores, key=lambda number: (scores[number], number))
        keep = order[: (len(order) + 1) // 2]
        ledger.decide({n: "running" if n in keep else "stopped" for n in order}, rung)
    numbers = {t.number for t in trials}
    if not any(c.epoch == epoch and c.trial in numbers for c in ledger.changes()):
        left = [t.number for t in of_round(ledger, round) if t.status == "running"]
        left.sort(key=lambda number: (score(ledger, number, epoch), number))
        change = Change(left[-1], epoch, {"rate": 0.5, "place": 0}, source=left[0])
        ledger.decide({}, changes=[change])


def score(ledger, number, epoch):
    return sum(dict(curve)[epoch] for curve in curves(ledger, number, "loss").values())


def begin(kind, folder):
    """The sweep in `folder`, begun if it is not."""
    if (folder / "ledger.sqlite").exists():
        return kind.open(folder, write=True)
    return kind.create(folder, {"experiment": "experiments.toy"})


def killed_at(kind, boundary):
    """A ledger that kills its process at a boundary."""
    passed = iter(range(1, boundary + 1))

    def pass_one():
        if next(passed) == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    class Killed(kind):
        @contextlib.contextmanager
        def _transaction(self):
            pass_one()  # a checkpoint is written, and nothing speaks of it
            with super()._transaction() as db:
                yield db
                pass_one()
            pass_one()  # checkpoints that are not needed any more are still there

    return Killed


def main(folder, rounds, *limits):
    for name in ("jaxnn", "jaxnn.sweep"):  # as packages that import nothing themselves
        package = types.ModuleType(name)
        package.__path__ = [str(Path(__file__).parents[2].joinpath(*name.split(".")))]
        sys.modules[name] = package
    from jaxnn.sweep.ledger import Ledger, LedgerError

    kind = Ledger
    for limit in limits:
        if limit.startswith("size="):
            import resource

            size = int(limit.removeprefix("size="))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        else:
            kind = killed_at(Ledger, int(limit))
    try:
        with begin(kind, Path(folder)) as ledger:
            print("ready", flush=True)
            sweep(ledger, int(rounds))
    except LedgerError as error:
        sys.exit(str(error))
    assert "jax" not in sys.modules
    assert "numpy" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])

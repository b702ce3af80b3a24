"""Drawing the parameters of a transformer, first with compilation, then again, in new processes.

`python -m benchmarks.init PEER SIDE` measures one side in the process it runs in.
"""

import json
import sys

import jax

from benchmarks import fresh
from benchmarks.peers import LIBRARIES, offered, shapes
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import fastest, seconds_of

ROUNDS = 5
OURS = "jaxnn"


def run() -> Result:
    """Measure both draws of every library."""
    peers = ("jaxnn_", "pure_jax", *LIBRARIES)
    sides = {
        side: ["-m", "benchmarks.init", peer, side]
        for peer in peers
        for side in offered("initializers", by=(peer,))[0]
    }
    missing = offered("initializers", by=LIBRARIES)[1]
    samples = fresh.interleaved(sides, rounds=ROUNDS)
    tables = []
    for quantity, limit in (("first", 0.5), ("second", 1.0)):
        found = samples[quantity]
        rival, time = fastest(found, (side for side in sides if side != OURS))
        bar = Bar(f"jaxnn over the fastest other ({rival})", found[OURS].over(time), limit)
        caption = f"{quantity.capitalize()} init of a process"
        tables.append(Table(caption, "s", found, OURS, [bar], missing))
    return Result(
        f"Parameters of {shapes.BLOCKS} transformer blocks without attention (width "
        f"{shapes.WIDTH}, hidden {shapes.HIDDEN}), an embedding of {shapes.WORDS} words and a "
        "head. The library is imported and jax started; the first init compiles, the second "
        "draws the same shapes from another seed.",
        tables,
    )


def measure(peer: str, side: str) -> dict[str, float]:
    """Seconds of the first and of the second draw in this process."""
    draw = offered("initializers", by=(peer,))[0][side]
    jax.block_until_ready(jax.random.key(0))
    return {
        "first": seconds_of(lambda: jax.block_until_ready(draw(1))),
        "second": seconds_of(lambda: jax.block_until_ready(draw(2))),
    }


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))

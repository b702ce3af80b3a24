"""Run benchmarks and write their sections of RESULTS.md: `python -m benchmarks [NAME ...]`."""

import argparse
import importlib
import os

from benchmarks.report import RESULTS, section, update

NAMES = (
    "step", "sharded", "fit", "epoch", "init", "imports", "repeat", "sweep", "tuners", "search",
    "thousand", "hundred_thousand", "lanes", "models", "decode", "watched", "memory", "eager",
    "startup", "facts",
)  # fmt: skip


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; house; gpu"
    )
    names = parser.parse_args().names or NAMES
    if names == ["house"]:
        from benchmarks import house

        return house.main()
    if names[0] == "gpu":
        from benchmarks.gpu import driver

        if unknown := sorted(set(names[1:]) - set(driver.PARTS)):
            parser.error(
                f"no part called {', '.join(unknown)}: there are {', '.join(driver.PARTS)}"
            )
        chosen = {name: driver.PARTS[name] for name in names[1:]} or driver.PARTS
        raise SystemExit(driver.main(chosen))
    if unknown := sorted(set(names) - set(NAMES)):
        known = ", ".join(NAMES)
        parser.error(
            f"no benchmark called {', '.join(unknown)}: there are {known}; or house or gpu alone"
        )
    # Read when Keras and torch are imported. By default torch's idle threads spin, which takes the
    # cores from the side whose turn comes next, and stalls torch itself on a busy machine.
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    for name in names:
        result = importlib.import_module(f"benchmarks.{name}").run()
        text = section(name, result)
        update(name, text, NAMES)
        print(text)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()

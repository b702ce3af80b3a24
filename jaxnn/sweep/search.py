"""Which configurations to try next, by the name of a search.

A search is asked in rounds, for a batch at a time. What it answers is a function of the space, the
seed, the round, how many are wanted and what was observed, and of nothing else: a sweep that was
killed asks again and gets the same trials.
"""

from ..explain.text import suggestion
from .guided import CMAESSearch, GPSearch, TPESearch
from .observation import Observation, Search
from .space import Space
from .unguided import GridSearch, RandomSearch, SobolSearch

__all__ = [
    "CMAESSearch",
    "GPSearch",
    "GridSearch",
    "Observation",
    "RandomSearch",
    "Search",
    "SobolSearch",
    "TPESearch",
    "searcher",
]

SEARCHES = ("grid", "random", "sobol", "tpe", "cmaes", "gp")


def searcher(name: str, space: Space, *, seed: int = 0, points: int = 5) -> Search:
    """The search of that name over a space.

    Args:
        name: "grid" in order; "random"; "sobol", which fills the space evenly; "tpe" (tree Parzen
            estimators), "cmaes" (covariance matrix adaptation) and "gp" (Gaussian process), which
            learn from round to round.
        space: where to search.
        seed: of everything random in it.
        points: of each range of a grid.

    Raises ValueError for an unknown name, and ImportError where a library that the search needs is
    not installed.

    References: Bergstra et al., Algorithms for hyper-parameter optimization, 2011. Hansen, The CMA
    evolution strategy: a tutorial, 2016. Sobol, On the distribution of points in a cube, 1967.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep.space import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Grid(0.1, 0.3), "momentum": Uniform(0.5, 0.9)})
    >>> searcher("grid", space, points=3).ask(2, round=0, history=[])
    [{'learning_rate': 0.1, 'momentum': 0.5}, {'learning_rate': 0.1, 'momentum': 0.7}]
    """
    match name:
        case "grid":
            return GridSearch(space, points)
        case "random":
            return RandomSearch(space, seed)
        case "sobol":
            return SobolSearch(space, seed)
        case "tpe":
            return TPESearch(space, seed)
        case "cmaes":
            return CMAESSearch(space, seed)
        case "gp":
            return GPSearch(space, seed)
    raise ValueError(f"there is no search {name!r}; {suggestion(name, SEARCHES)}")

"""The whole page: one file that opens from disk and asks for nothing else."""

from ...page import drawing
from ...page.document import document
from ...page.words import count, escaped, label
from ..reading import Sweep
from .failures import failures
from .headline import headline
from .importance import Importance, importance, importance_of
from .machine import groups, settings
from .parameters import parameters
from .progress import progress
from .rungs import survival


def page(sweep: Sweep) -> str:
    """The report of a sweep as HTML.

    The same sweep gives the same text. Raises ImportError if matplotlib is not installed.
    """
    drawing.library()
    found = importance_of(sweep)
    weights = found.shares if isinstance(found, Importance) else {}
    body = "".join(
        (
            headline(sweep),
            progress(sweep),
            importance(found, sweep) if sweep.best else "",
            parameters(sweep, weights),
            survival(sweep),
            failures(sweep),
            groups(sweep),
            settings(sweep),
        )
    )
    footer = f"Made from the ledger in {escaped(sweep.folder)}."
    return document(f"Sweep of {sweep.name}", subtitle(sweep), body, footer)


def subtitle(sweep: Sweep) -> str:
    """The sweep on a line."""
    facts = [
        count(len(sweep.trials), "trial")
        + (f" of {count(sweep.seeds, 'seed')}" if sweep.seeds > 1 else ""),
        f"up to {count(sweep.epochs, 'epoch')}",
        f"{len(sweep.dimensions)} parameters by {escaped(sweep.facts.get('search', '?'))}",
        f"compared by {escaped(label(sweep.metric))}",
        escaped(sweep.facts.get("device") or ""),
    ]
    return " · ".join(fact for fact in facts if fact)

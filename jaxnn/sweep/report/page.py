"""The whole page: one file that opens from disk and asks for nothing else."""

import re

from ..reading import Sweep
from . import drawing
from .failures import failures
from .headline import headline
from .importance import Importance, importance, importance_of
from .machine import groups, settings
from .parameters import parameters
from .progress import progress
from .rungs import survival
from .style import CSS
from .words import count, escaped, label

# A browser that reads this asks no network for anything, whatever a name in the sweep may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(sweep: Sweep) -> str:
    """The report of a sweep as HTML.

    The same sweep gives the same text. Raises ImportError where matplotlib is not installed;
    without Optuna the page says what it cannot tell.
    """
    drawing.library()
    try:
        found: Importance | str = importance_of(sweep)
    except ImportError as error:
        found = f"{str(error)[0].upper()}{str(error)[1:]}."
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
    links = "".join(
        f'<a href="#{key}">{key.capitalize()}</a>'
        for key in re.findall(r'<section id="(\w+)">', body)
    )
    title = f"Sweep of {escaped(sweep.name)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{CSS}</style></head>\n'
        f"<body><header><h1>{title}</h1><p>{subtitle(sweep)}</p></header>"
        f"<nav><div>{links}</div></nav><main>{body}</main>"
        f"<footer>Made from the ledger in {escaped(sweep.folder)}.</footer></body></html>\n"
    )


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

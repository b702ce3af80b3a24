"""The whole page: one file that opens from disk and asks for nothing else."""

import re

from .style import CSS
from .words import escaped

# A browser that reads this asks no network for anything, whatever a name in the page may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, subtitle: str, body: str, footer: str) -> str:
    """A page as HTML, with links to its sections at the top.

    Args:
        title: a plain text.
        subtitle, footer: a line of HTML each.
        body: sections, as `html.section` makes them.

    >>> from .html import section
    >>> text = document("A & B", "", section("one", "One", "<p>1</p>"), "")
    >>> "<h1>A &amp; B</h1>" in text, '<a href="#one">One</a>' in text
    (True, True)
    """
    links = "".join(
        f'<a href="#{key}">{key.capitalize()}</a>'
        for key in re.findall(r'<section id="(\w+)">', body)
    )
    title = escaped(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{CSS}</style></head>\n'
        f"<body><header><h1>{title}</h1><p>{subtitle}</p></header>"
        f"<nav><div>{links}</div></nav><main>{body}</main>"
        f"<footer>{footer}</footer></body></html>\n"
    )

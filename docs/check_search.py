"""Check that the site's search finds the page of every name in `counterparts.csv`.

    python docs/check_search.py docs/_build

A query finds the pages that have all of its words, each reduced to its stem, as in the browser.
"""

import csv
import json
import re
import sys
from pathlib import Path

from sphinx.search.en import SearchEnglish

HERE = Path(__file__).parent
# Tables on the pages of other libraries.
SHARED = {"optax": "flax"} | dict.fromkeys(("torchvision", "torchaudio", "transformers"), "torch")


def pages_of(index: dict, word: str) -> set[int]:
    """Return the pages that have a word, by their numbers."""
    found = [index[part].get(word, []) for part in ("terms", "titleterms")]
    return {page for pages in found for page in ([pages] if isinstance(pages, int) else pages)}


def search(index: dict, language: SearchEnglish, query: str) -> set[str]:
    """Return the names of the pages that a query finds."""
    words = [word for word in re.split(r"\W+", query.lower()) if word]
    found = [
        pages_of(index, language.stem(word)) | pages_of(index, word)
        for word in words
        if word not in language.stopwords
    ]
    return {index["docnames"][page] for page in set.intersection(*found)} if found else set()


def main(built: Path) -> int:
    """Print the names that are not found, and return their number."""
    text = (built / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    language = SearchEnglish({})
    with (HERE / "counterparts.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    missing = []
    for name in names:
        library = name.split(".")[0]
        page = f"coming-from/{SHARED.get(library, library)}"
        if page not in search(index, language, name):
            missing.append(name)
    print(f"the search finds {len(names) - len(missing)} of {len(names)} names")
    print(*missing, sep="\n", end="\n" if missing else "")
    return len(missing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)

"""Sphinx: how `make docs` makes the site from the Markdown pages of the repository and from the docstrings.

The pages stay readable where Markdown is shown; what only the site needs is here: the navigation, and the page of
the Python reference (`docs/reference/api.rst`). The source folder is the root of the repository.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.util import logging  # noqa: E402

from bindings import __version__  # noqa: E402 -- of this checkout

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_log = logging.getLogger(__name__)

project = "bindings"
release = __version__
root_doc = "docs/README"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
include_patterns = ["*.md", "docs/**"]
exclude_patterns = [
    ".*",
    "bindings",
    "benchmarks",
    "build",
    "deploy",
    "examples",
    "migrations",
    "tests",
    "docs/site",
]
templates_path = ["templates"]

myst_heading_anchors = 4
myst_links_external_new_tab = False

default_role = "code"
autodoc_default_options = {"exclude-members": "__init__"}
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"bindings {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

GENERATED = ("index", "genindex", "py-modindex", "search")
NAVIGATION = {
    "How-to": "how-to",
    "Reference": "reference",
    "Explanation": "explanation",
    "Maintainers": "maintainers",
    "Decisions": "maintainers/decisions",
}


def _add_navigation(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the tables of contents to the index, which has the links as a table for readers."""
    if page == root_doc:
        source[0] += "\n```{toctree}\n:hidden:\n\nquickstart\n```\n"
        for caption, folder in NAVIGATION.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{folder}/*\n```\n"
        others = "\n".join(f"../{name}" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY"))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: Project\n\n{others}\n```\n"


class _Page(HTMLParser):
    """The ids and the links of a page of the site."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, _: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep the id and the link of an element."""
        for name, value in attributes:
            if name == "id" and value:
                self.ids.add(value)
            elif name in {"href", "src"} and value:
                self.links.add(value)


def _check_links(app: Sphinx, error: Exception | None) -> None:
    """Warn of links inside the site that lead nowhere: Sphinx checks none of HTML, and few of reStructuredText."""
    if error is not None or app.builder.format != "html":
        return
    site = Path(app.outdir).resolve()
    names = {*app.env.found_docs, *GENERATED}  # a page that no longer exists may still be there
    pages = {path: _Page(path) for name in names if (path := site / f"{name}.html").exists()}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            ids = pages[target].ids if target in pages else set()
            exists = target in pages or (target.suffix != ".html" and target.exists())
            if not exists or (parts.fragment and unquote(parts.fragment) not in ids):
                _log.warning("%s links to %s, which does not exist", path.relative_to(site), link)


def setup(app: Sphinx) -> None:
    """Connect what the pages need. Diagrams are shown as their source: to draw them needs a browser."""
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _check_links)
    app.add_lexer("mermaid", TextLexer)

"""The documentation site: `sphinx-build -W -b html docs site`."""

import re
from importlib.util import find_spec
from pathlib import Path

from sympformer import __version__

project = "SympFormer"
author = "SympFormer contributors"
copyright = author
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["**.ipynb"]

# Docstrings write code in single backticks, and arguments with their types in the signature.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"SympFormer {release}"
html_css_files = ["narrow.css"]

# Formulas need no network: one file of MathJax (all that its package copies would be 24 MB).
_mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"
html_static_path = ["static", str(_mathjax)]
mathjax_path = _mathjax.name


def setup(app):
    """Connect what pages and docstrings need."""
    app.connect("source-read", _as_files)
    app.connect("autodoc-process-docstring", _as_prose, priority=100)


def _as_files(app, page, source):
    """Pages link to files of the repository as GitHub shows them; the site offers them to load."""
    source[0] = re.sub(r"\]\((\.\./[^)]*\.md)\)", r"](path:\1)", source[0])


def _as_prose(app, what, name, thing, options, lines):
    """Napoleon takes what stands before a colon in an attribute's first line for its type."""
    if what == "attribute":
        lines.insert(0, "")

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
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown with the outputs they have

# Docstrings write code in single backticks, and arguments with their types in the signature.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"SympFormer {release}"
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]

# Formulas need no network: one file of MathJax (all that its package copies would be 24 MB).
_mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"
html_static_path = ["static", str(_mathjax)]
mathjax_path = _mathjax.name
mathjax3_config = {"svg": {"scale": 0.92}}  # its letters are larger than those of the text


def setup(app):
    """Connect what pages and docstrings need."""
    app.connect("source-read", _as_files)
    app.connect("autodoc-process-docstring", _hide_colon, priority=100)
    app.connect("autodoc-process-docstring", _show_colon, priority=900)


def _as_files(app, page, source):
    """Pages link to files of the repository as GitHub shows them; the site offers them to load."""
    source[0] = re.sub(r"\]\((\.\./[^)]*\.md)\)", r"](path:\1)", source[0])


COLON = "\ue000"  # stands for one in between


def _hide_colon(app, what, name, thing, options, lines):
    """Napoleon takes what stands before a colon in the first line of a value for its type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def _show_colon(app, what, name, thing, options, lines):
    lines[:] = [line.replace(COLON, ":") for line in lines]

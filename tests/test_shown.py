"""Text out of run folders steers nothing: no terminal, no Markdown, no LaTeX, no figure."""

import pytest
from rich.console import Console

from sympformer import cli
from sympformer.shown import code, markdown, mathless, visible
from sympformer.table import Table

EVIL = "a\x1b[2J\u202e`<b>[x](y)|$x_$ [red]\n# b"


@pytest.fixture
def table():
    return Table(("model", "loss"), ((EVIL, "1"),), frozenset(), code(EVIL), (EVIL,))


def test_controls_are_escapes():
    assert visible("plain ä †") == "plain ä †"
    assert visible("\x1b[2J\u202e\n") == r"\x1b[2J\u202e\n"
    assert visible("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


def test_markdown_shows_what_is_there():
    assert markdown("± a_b, `sympformer *`.") == "± a_b, `sympformer *`."
    assert markdown("<b> [x](y) *z*") == r"\<b\> \[x\](y) \*z\*"
    assert markdown("one ` tick") == "one ' tick"
    assert code("a`b") == "`a'b`"
    assert mathless("$x$") == r"\$x\$"


def test_a_table_in_markdown(table):
    lines = table.markdown().splitlines()
    assert lines[2].replace(r"\|", "").count("|") == 3
    assert "\x1b" not in table.markdown()
    assert not any(line.startswith("#") for line in lines)
    assert r"\<b\>" in lines[2]


def test_a_table_in_latex(table):
    assert "\x1b" not in table.latex()
    assert r"\$x\_\$" in table.latex()


def test_a_table_on_a_terminal(table, capsys):
    table.print(Console(force_terminal=True, color_system=None, width=200))
    out = capsys.readouterr().out
    assert r"\x1b[2J" in out
    assert "\x1b[2J" not in out
    assert "[red]" in out


def test_an_error(capsys):
    cli._end("\x1b[2J gone", 2)
    assert r"\x1b[2J" in capsys.readouterr().err

"""A table is the same in every form."""

import io

import pytest
from rich.console import Console

from sympformer.table import Table

TABLE = Table(
    columns=("model", "loss", "of 100 %"),
    rows=(("a_b", "1.5 ± 0.1", "5"), ("a|b †", "-", "7")),
    marked=frozenset({1}),
    caption="cells & more.",
    notes=("± is half the 95 % t interval.",),
)


def test_markdown_is_rectangular():
    lines = [line for line in TABLE.markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.replace(r"\|", "").count("|") for line in lines} == {4}
    assert TABLE.markdown().endswith("\n\ncells & more.\n\n± is half the 95 % t interval.\n")


def test_latex_is_escaped():
    latex = TABLE.latex()
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    assert r"a\_b & 1.5 $\pm$ 0.1 & 5 \\" in body
    assert r"a$|$b \dag{} & - & 7 \\" in body
    assert "±" not in latex
    assert r"\caption{cells \& more. $\pm$ is half the 95 \% t interval.}" in latex
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {row.replace(r"\&", "").count("&") for row in rows} == {2}


def test_rows_by_column():
    assert TABLE.dicts()[1] == {"model": "a|b †", "loss": "-", "of 100 %": "7"}


@pytest.mark.parametrize("terminal", [True, False])
def test_it_is_printed_for_terminals_and_pipes(terminal):
    stream = io.StringIO()
    TABLE.print(Console(file=stream, force_terminal=terminal, width=120))
    assert "1.5 ± 0.1" in stream.getvalue()
    assert stream.getvalue().startswith("| model |") is not terminal
    assert ("\x1b[31m" in stream.getvalue()) is terminal  # a marked row is red

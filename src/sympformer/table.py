"""Tables of text, for the terminal, Markdown, LaTeX and as plain data."""

from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from sympformer.shown import markdown, visible

NONE = "-"
"""A cell that has no value."""


@dataclass(frozen=True)
class Table:
    """Cells as text, first column names and the rest numbers; `marked` are the rows to mistrust."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int]
    caption: str
    notes: tuple[str, ...]

    def dicts(self) -> list[dict[str, str]]:
        """The rows, each by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def print(self, console: Console | None = None) -> None:
        """Print it with caption and notes; as Markdown where the output is no terminal."""
        console = console or Console()
        if console.is_terminal:
            console.print(self.rich())
        else:
            console.out(self.markdown(), highlight=False)

    def rich(self) -> Group:
        """For `rich.print`."""
        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for i, name in enumerate(self.columns):
            first = i == 0
            table.add_column(
                Text(visible(name)), justify="left" if first else "right", no_wrap=first
            )
        for i, row in enumerate(self.rows):
            table.add_row(
                *(Text(visible(cell)) for cell in row), style="red" if i in self.marked else None
            )
        lines = (Text(visible(line), style="dim") for line in (self.caption, *self.notes))
        return Group(table, Text(), *lines)

    def markdown(self) -> str:
        """As a GitHub table."""
        rule = [":--", *["--:"] * (len(self.columns) - 1)]
        lines = [
            "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
            for row in (self._markdown(self.columns), rule, *map(self._markdown, self.rows))
        ]
        caption, *notes = map(markdown, (self.caption, *self.notes))
        return "\n".join([*lines, "", caption, *(f"\n{note}" for note in notes), ""])

    @staticmethod
    def _markdown(row: tuple[str, ...]) -> list[str]:
        return [markdown(cell) for cell in row]

    def latex(self) -> str:
        """As a booktabs table."""
        header, *rows = (
            " & ".join(map(_escape, row)) + r" \\" for row in (self.columns, *self.rows)
        )
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escape(' '.join((self.caption, *self.notes)))}}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


_LATEX = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "†": r"\dag{}",
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in visible(text))

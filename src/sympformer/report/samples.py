"""Texts that models wrote."""

from sympformer.report.markup import Section, details, paragraph, text
from sympformer.report.runs import Runs
from sympformer.study.figure import MOST


def samples(runs: Runs) -> Section:
    """The section."""
    parts = []
    for entry, found in runs.entries.items():
        rows = [row for row in found[0].evaluations if row.get("sample")]
        if not rows:
            continue
        last, earlier = rows[-1], rows[:-1]
        older = "".join(_quote(f"update {row['step']:,}", row["sample"]) for row in earlier)
        body = _quote(f"update {last['step']:,}", last["sample"])
        body += details("Earlier samples", older) if older else ""
        few = len(runs.entries) <= MOST
        parts.append(f"<h3>{text(entry)}</h3>{body}" if few else details(entry, body))
    return Section(
        "samples",
        "Samples",
        "Samples",
        "What each model wrote at its last evaluation, first seed.",
        parts or [paragraph("No run has written one.")],
    )


def _quote(when: str, sample: str) -> str:
    return f"<blockquote><p>{text(sample)}</p><footer>{text(when)}</footer></blockquote>"

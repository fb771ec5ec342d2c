"""The page: its sections, put together in one file that needs no network."""

import base64
import gzip
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import sympformer
from sympformer import figures
from sympformer.errors import InputError, lookup
from sympformer.files import atomic
from sympformer.optional import require
from sympformer.report.attention import attention
from sympformer.report.audits import audits
from sympformer.report.configuration import configuration
from sympformer.report.differences import differences
from sympformer.report.energies import energies
from sympformer.report.inside import TOKENS, look_inside
from sympformer.report.losses import losses
from sympformer.report.markup import Chart, Section, embedded, paragraph, text
from sympformer.report.motion import motion
from sympformer.report.provenance import provenance
from sympformer.report.runs import Runs
from sympformer.report.samples import samples
from sympformer.report.scalars import scalars
from sympformer.report.surprise import surprise
from sympformer.study.figure import FEW, MOST
from sympformer.study.plan import baseline_among
from sympformer.study.statistics import control


def write_page(runs: Runs, path: Path, *, baseline: str = "", sentence: str | None = None) -> Path:
    """Write a page about runs, finished or not, as one HTML file; equal runs give equal files.

    Args:
        runs: of `sympformer.report.runs.see`.
        path: the file.
        baseline: entry that others are compared with; gpt if it is among them, else the first.
        sentence: plain text at which models are looked into; None if there is none.

    Raises:
        InputError: no such entry, plotly is not installed, or the file cannot be written.
    """
    plotly = _plotly()
    if baseline:
        lookup(runs.entries, baseline, "baseline among these runs")
    baseline = baseline or baseline_among(list(runs.entries))
    content = _page(runs, sections(runs, baseline, sentence), plotly)
    with atomic(path) as partial:
        partial.write_text(content, encoding="utf-8")
    return path


def sections(runs: Runs, baseline: str, sentence: str | None) -> list[Section]:
    """All that the page shows, in order."""
    looks = figures.looks(runs.entries)
    fixed = [name for name in (baseline, control(baseline)) if name in runs.entries]
    shown = _few(runs, fixed)
    insides, notes = look_inside(runs, sentence, fixed)
    found = [
        differences(runs, looks, baseline),
        losses(runs, looks, shown),
        scalars(runs, looks, shown),
    ]
    lead = "No model could be looked into."
    if insides:
        said = "".join(insides[0].labels[1:])
        lead = (
            f"The sections below follow one text of at most {TOKENS} tokens, “{said.strip()}”, "
            "through one run of each model."
        )
    found.append(Section("inside", "Inside", "Inside the models", lead, [*map(paragraph, notes)]))
    if insides:
        found += [
            surprise(insides, looks),
            attention(insides),
            motion(insides),
            energies(insides, looks),
        ]
    return [*found, samples(runs), audits(runs), configuration(runs), provenance(runs)]


def _few(runs: Runs, fixed: Sequence[str]) -> list[str]:
    """The entries whose curves are shown at first: all, or those compared with and the best."""
    entries = list(runs.entries)
    if len(entries) <= MOST:
        return entries

    def loss(entry: str) -> float:
        known = [run.standing.valid_loss for run in runs.entries[entry]]
        return min((value for value in known if value is not None), default=float("inf"))

    best = sorted((e for e in entries if e not in fixed), key=loss)
    return [*fixed, *best[: FEW - len(fixed)]]


def _page(runs: Runs, found: Sequence[Section], plotly: str) -> str:
    charts: dict[str, object] = {}
    for section in found:
        for part in section.parts:
            if isinstance(part, Chart):
                charts |= part.data()
    links = "".join(f'<li><a href="#{s.name}">{text(s.short)}</a></li>' for s in found)
    body = "".join(section.markup() for section in found)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(_title(runs))}</title>
<link rel="icon" href="data:,">
<style>{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#{found[0].name}">Skip to the results</a>
<header><h1>{text(_title(runs))}</h1>{paragraph(_summary(runs))}</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>{body}</main>
<footer><p>Written by sympformer {sympformer.__version__}, drawn with plotly.js (MIT).</p></footer>
<noscript><p>Charts need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id="charts">{embedded(charts)}</script>
<script type="text/plain" id="plotly">{plotly}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _title(runs: Runs) -> str:
    entries = list(runs.entries)
    if len(entries) == 1:
        return f"SympFormer: {entries[0]}"
    return f"SympFormer: {len(entries)} models compared"


def _summary(runs: Runs) -> str:
    states = [run.standing.state for run in runs.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    data = " | ".join(dict.fromkeys(_data(run.config.data) for run in runs.runs))
    many = f"{len(states)} runs" if len(states) > 1 else "1 run"
    return f"{many} ({counts}) on {data}. Point at a chart to read it; drag to zoom in."


def _data(data: object) -> str:
    named = getattr(data, "task", None) or getattr(data, "text", None)
    return str(named) if named else "the embedded corpus"


def _asset(name: str) -> str:
    return files("sympformer.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The library, packed: it is unpacked by the browser."""
    offline = require("plotly.offline", "report", "a page of runs")
    try:
        source = offline.get_plotlyjs().encode()
    except (AttributeError, OSError) as error:
        raise InputError(f"this version of plotly has no bundle to embed: {error}") from None
    return base64.b64encode(gzip.compress(source, 9, mtime=0)).decode()

"""Certificates: what the audit of each trained model found."""

from typing import Any

from sympformer.report.markup import Section, paragraph, table
from sympformer.report.runs import Runs

MEASURES = {
    "max_future_influence": "later tokens",
    "max_future_gradient": "their gradient",
    "max_prefix_difference": "prefix",
    "max_cache_difference": "cache",
}


def audits(runs: Runs) -> Section:
    """The section."""
    rows = []
    for run in runs.runs:
        if run.result is not None:
            audit: dict[str, Any] = run.summary["audit"]
            numbers = [_number(audit.get(name)) for name in MEASURES]
            weights = str(run.folder.summary(whole=True).get("weights", "-"))[:12]
            verdict = audit["verdict"].split(":")[0] if audit["passed"] else audit["verdict"]
            rows.append((run.folder.path.name, verdict, *numbers, weights))
    headers = ("run", "verdict", *MEASURES.values(), "weights")
    body = table(headers, rows, "Audits of finished runs", words=True)
    return Section(
        "audits",
        "Audits",
        "Audit certificates",
        "Whether any output depends on a later token, measured in float64 on the trained weights: "
        "the largest influence and gradient of later tokens, the largest difference of a prefix "
        "from the whole text, and of cached decoding from one pass; and which weights, the first "
        "digits of their SHA-256. A loss of a model that leaks is worth nothing.",
        [body if rows else paragraph("No run is finished; audits are made at the end.")],
    )


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"

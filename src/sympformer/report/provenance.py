"""Where every number comes from."""

from sympformer.report.markup import Section, table
from sympformer.report.runs import Runs


def provenance(runs: Runs) -> Section:
    """The section."""
    rows = []
    for run in runs.runs:
        about = {**run.environment, **run.summary}
        at = f"{run.standing.step:,} of {run.standing.steps:,}"
        state = run.standing.state
        changes = "; ".join(run.result.changes) if run.result is not None else ""
        rows.append(
            (
                run.folder.path.name,
                run.entry,
                run.seed,
                state + (f" ({changes})" if changes else ""),
                at,
                *(about.get(name, "-") for name in ("commit", "device", "threads", "torch")),
                about.get("command", "-"),
            )
        )
    headers = (
        *("run", "entry", "seed", "state", "updates", "commit", "machine", "threads", "torch"),
        "command",
    )
    return Section(
        "provenance",
        "Provenance",
        "Provenance",
        "Which run was made by which command, at which commit, on which machine.",
        [table(headers, rows, "Runs of this page", words=True)],
    )

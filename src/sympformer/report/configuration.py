"""In which options the entries differ, and which they share."""

from collections.abc import Mapping
from typing import Any

from sympformer.report.markup import Section, details, paragraph, table
from sympformer.report.runs import Runs
from sympformer.train.folder import CONFIG
from sympformer.typed import read_toml

_NAMES = ("preset", "variant", "name", "train.seed", "train.data_seed")


def configuration(runs: Runs) -> Section:
    """The section."""
    options = {
        entry: _flat(read_toml(found[0].folder.path / CONFIG))
        for entry, found in runs.entries.items()
    }
    names = sorted({name for each in options.values() for name in each} - set(_NAMES))
    values = {n: [each.get(n, "-") for each in options.values()] for n in names}
    differ = [n for n in names if len(set(values[n])) > 1]
    rows = [(entry, *(each.get(n, "-") for n in differ)) for entry, each in options.items()]
    shared = [(n, values[n][0]) for n in names if n not in differ]
    parts = [paragraph("The entries differ in nothing but their seeds.")]
    if differ:
        short = [n.removeprefix("model.") for n in differ]
        parts = [table(("model", *short), rows, "Options that differ", words=True)]
    parts.append(
        details("What all have in common", table(("option", "value"), shared, "Shared", words=True))
    )
    lead = "Options in which the entries differ; - is one that an entry does not have."
    return Section("configuration", "Options", "Configuration", lead, parts)


def _flat(tables: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in tables.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found

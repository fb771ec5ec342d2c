"""The runs of a comparison in one small file, without weights: to keep, and to go on from."""

import json
import re
import tarfile
import tempfile
from pathlib import Path

from sympformer.errors import InputError
from sympformer.files import atomic
from sympformer.study.hypotheses import DECLARED
from sympformer.train.folder import CONFIG, ENVIRONMENT, GIVEN_UP, SUMMARY, RunFolder
from sympformer.train.records import signed, write_json


def write_archive(folder: Path, path: Path) -> int:
    """Write the finished runs in a folder as a `.tar.xz`; return how many there are.

    Of each are kept its config, its summary, its evaluations and the machine; not its weights, nor
    its updates. What was declared before them stays with them. Unpacked, it is a folder of runs
    that `report` reads and `compare` goes on from, with texts named as they are there: of an
    absolute path only its last name is kept. The same runs make the same bytes.

    Args:
        folder: whose subfolders are runs; or, of a suite, hold runs.
        path: of the file.

    Raises:
        InputError: no finished run, a corrupt one, or the file cannot be written.
    """
    runs = [RunFolder(config.parent) for config in sorted(folder.rglob(CONFIG))]
    runs = [run for run in runs if run.finished or run.given_up]
    if not runs:
        raise InputError(f"{folder} holds no finished run")
    with (
        tempfile.TemporaryDirectory() as place,
        atomic(path) as partial,
        tarfile.open(partial, "w:xz") as archive,
    ):
        for declared in sorted(folder.rglob(DECLARED)):
            archive.add(declared, declared.relative_to(folder), filter=_anonymous)
        for run in runs:
            thin = RunFolder(Path(place) / run.path.relative_to(folder))
            _copy(run, thin)
            archive.add(thin.path, thin.path.relative_to(place), filter=_anonymous)
    return len(runs)


def _copy(run: RunFolder, thin: RunFolder) -> None:
    thin.path.mkdir(parents=True)
    for name in (CONFIG, ENVIRONMENT, *([GIVEN_UP] if run.given_up else [])):
        text = (run.path / name).read_text(encoding="utf-8")
        (thin.path / name).write_text(_nameless(text), encoding="utf-8")
    if run.finished:
        thin.log.keep(None)
        for row in run.metrics():
            if row["event"] == "eval":
                thin.log.record(row)
        summary = {**run.summary(whole=True), "metrics": thin.log.kept}
        write_json(thin.path / SUMMARY, signed(json.loads(_nameless(json.dumps(summary)))))


def _nameless(text: str) -> str:
    """Without the folders of absolute paths: where they lie is nobody's business."""
    return re.sub(r"(?<![\w/.])/(?:[^\s\"']+/)+(?=[^\s\"'/])", "", text)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry

"""The picture of the house: which room knows which."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sympformer"
LOW = ("errors", "files", "figures", "machine", "shown", "signals", "table")
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")
}


def imported(file: str) -> set[str]:
    """Modules of the package that a file imports, as `room.file` or `room`."""
    found = set()
    for node in ast.walk(ast.parse(FILES[file].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "sympformer":
            found |= {f"sympformer.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.removeprefix("sympformer.") for name in found if name.startswith("sympformer.")}


def known(room: str) -> set[str]:
    """The rooms that the files of a room import."""
    files = (file for file in FILES if file.split(".")[0] == room)
    return {name.split(".")[0] for file in files for name in imported(file)} - {room}


def test_there_is_no_circle():
    rooms = {file.split(".")[0] for file in FILES} - {"__init__"}
    order = list(TopologicalSorter({room: known(room) for room in rooms}).static_order())
    assert order.index("machine") < order.index("train") < order.index("study")


@pytest.mark.parametrize("room", LOW)
def test_low_rooms_know_nothing_above(room):
    assert known(room) <= set(LOW)


def test_the_benchmarks_know_of_training_only_the_optimizer_of_the_step_they_measure():
    assert "study" not in known("bench")
    users = {file: imported(file) for file in FILES if file.startswith("bench.")}
    users = {file: {n for n in names if n.startswith("train")} for file, names in users.items()}
    assert {file: names for file, names in users.items() if names} == {
        "bench.operations": {"train.config", "train.optimizer"}
    }


def test_the_engine_knows_no_files():
    assert not imported("train.engine") & {"files", "train.folder", "train.loop"}
    source = FILES["train.engine"].read_text(encoding="utf-8")
    assert [word for word in ("open(", "pathlib", "safetensors") if word in source] == []


def test_the_allocator_is_set_by_programs_only():
    """Its thresholds cannot be put back."""
    sources = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
    users = {name for name, source in sources.items() if "keep_freed_memory(" in source}
    programs = {"bench.memory"}  # measures in a process of its own
    assert users - programs - {"machine"} == {"commands.bench", "commands.study", "commands.train"}

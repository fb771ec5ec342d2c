"""The picture of the house: which room knows which."""

import ast
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import torch

import sympformer as sf
from sympformer.data import Loader
from sympformer.train.config import TrainConfig
from sympformer.train.engine import Engine

SOURCE = Path(__file__).parents[1] / "src" / "sympformer"
LOW = (
    "errors",
    "files",
    "figures",
    "machine",
    "minutes",
    "optional",
    "shown",
    "signals",
    "table",
)
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


@pytest.mark.parametrize(
    ("name", "update", "decoded"), [("gpt", 16, 13), ("symp-r2", 18, 14)], ids=["gpt", "symp-r2"]
)
def test_few_rooms_lie_on_the_way(name, update, decoded, tiny):
    """Files that an update and a decoded token pass through."""
    model = sf.build(tiny(name))
    tokens = np.arange(400, dtype=np.uint16) % 37
    engine = Engine(model, Loader(tokens, 24, 2, seed=0), TrainConfig(batch_size=2))
    engine.update()
    assert len(passed(engine.update)) <= update
    stream = model.eval().stream(torch.randint(37, (2, 9)), 5)
    next(stream)
    assert len(passed(lambda: next(stream))) <= decoded


def passed(run: Callable[[], object]) -> set[str]:
    """Files of the package whose functions run."""
    files: set[str] = set()

    def see(frame, event, arg):
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            files.add(frame.f_code.co_filename)

    sys.setprofile(see)
    try:
        run()
    finally:
        sys.setprofile(None)
    return files

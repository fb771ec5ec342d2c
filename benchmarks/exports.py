"""What exports: every preset as a program, beside its model; the table of docs/export.md.

    python benchmarks/exports.py                              # all presets, torch.export and ONNX
    python benchmarks/exports.py --presets gpt kda --aoti     # these anew, compiled ahead, too

Programs are saved and loaded before they run, on one row and three, on one token and a full block;
steps decode from the empty cache. A cell is the largest difference of logits over the largest
logit, in float64 and float32 where both are. Ends with 1 if one exceeds 1e-12, or 1e-4 in float32.
ONNX needs the extra onnx; without it, and without --aoti, cells stay as they are in the page.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sympformer as sf
from sympformer.errors import InputError
from sympformer.exporting import about, exported, write_program
from sympformer.files import atomic

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
COLUMNS = ("preset", "forward", "step", "forward, ONNX", "step, ONNX", "step, AOTInductor")
BEGIN = "<!-- the table of benchmarks/exports.py -->"
VOCABULARY, BLOCK = 37, 24
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-4}


class Trial:
    """One preset in one precision, with matrices so large that every part matters."""

    def __init__(self, preset: str, dtype: torch.dtype, folder: Path):
        self.folder, self.dtype, self.failed = folder, dtype, False
        sizes = {"block_size": BLOCK, "n_layer": 2, "n_head": 2, "n_embd": 16}
        torch.manual_seed(0)
        model = sf.build(sf.ModelConfig.preset(preset, vocab_size=VOCABULARY, **sizes))
        for p in model.parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.3)
        self.model = model.to(dtype).eval()
        self.text = torch.randint(VOCABULARY, (3, BLOCK))
        with torch.no_grad():
            self.logits = self.model(self.text).logits
        self.programs: dict[str, Any] = {}

    def cell(self, what: str, format: str) -> str:
        """How far a program is from its model, or why there is none."""
        file = self.folder / f"{what}.{'onnx' if format == 'onnx' else 'pt2'}"
        file.unlink(missing_ok=True)
        try:
            if what not in self.programs:
                self.programs[what] = exported(self.model, what)  # pyright: ignore[reportArgumentType]
            program = self.programs[what]
            write_program(program, file, format)  # pyright: ignore[reportArgumentType]
        except InputError as error:
            return f"no: {str(error).partition(':')[0]}"
        known = about(program)
        run = LOADERS[format](file, known)
        error = self.of_step(run, known) if what == "step" else self.of_forward(run)
        error /= float(self.logits.abs().max())
        self.failed |= not error <= LIMITS[self.dtype]
        return f"{error:.0e}"

    def of_forward(self, run: Callable) -> float:
        """The largest difference over texts of several shapes."""
        worst = 0.0
        for rows, tokens in ((1, 1), (3, BLOCK), (2, BLOCK - 7)):
            (got,) = run(self.text[:rows, :tokens].contiguous())
            worst = max(worst, self.apart(got, self.logits[:rows, :tokens]))
        return worst

    def of_step(self, run: Callable, known: dict[str, Any]) -> float:
        """The largest difference as texts are read token by token."""
        worst = 0.0
        for rows in (1, 3):
            free: dict[Any, Any] = {"batch": rows, "length": 0}
            cache = [
                torch.zeros([free.get(d, d) for d in entry["shape"]]).to(
                    getattr(torch, entry["dtype"])
                )
                for name, entry in known["inputs"].items()
                if name != "tokens"
            ]
            for i in range(BLOCK):
                got, *cache = run(self.text[:rows, i : i + 1].contiguous(), *cache)
                worst = max(worst, self.apart(got, self.logits[:rows, i]))
        return worst

    @staticmethod
    def apart(got: Tensor, want: Tensor) -> float:
        """The largest difference."""
        return float((got - want).abs().max())


def load_pt2(file: Path, known: dict[str, Any]) -> Callable:
    """A saved program, as a function from tensors to tensors."""
    return _with_dictionary(torch.export.load(file).module(), known)


def load_aoti(file: Path, known: dict[str, Any]) -> Callable:
    """The same, of a package that was compiled ahead."""
    return _with_dictionary(torch._inductor.aoti_load_package(str(file)), known)


def load_onnx(file: Path, known: dict[str, Any]) -> Callable:
    """The same, in onnxruntime."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(file))

    def run(*given: Tensor) -> list[Tensor]:
        named = {name: t.numpy() for name, t in zip(known["inputs"], given, strict=True)}
        return [torch.from_numpy(t) for t in session.run(known["outputs"], named)]

    return run


def _with_dictionary(run: Callable, known: dict[str, Any]) -> Callable:
    if known["what"] == "forward":
        return lambda tokens: [run(tokens)]
    names = [name for name in known["inputs"] if name != "tokens"]

    def step(tokens: Tensor, *cache: Tensor) -> list[Tensor]:
        logits, made = run(tokens, dict(zip(names, cache, strict=True)))
        return [logits, *(made[name] for name in names)]

    return step


LOADERS = {"pt2": load_pt2, "aoti": load_aoti, "onnx": load_onnx}


def row(preset: str, old: list[str], *, onnx: bool, aoti: bool) -> tuple[list[str], bool]:
    """The cells of a preset, and whether all values are equal."""
    with tempfile.TemporaryDirectory() as folder:
        trials = [Trial(preset, dtype, Path(folder)) for dtype in LIMITS]
        cells = [f"`{preset}`"]
        for what in ("forward", "step"):
            cells.append(", ".join(trial.cell(what, "pt2") for trial in trials))
        for what in ("forward", "step"):
            cells.append(trials[-1].cell(what, "onnx") if onnx else old[len(cells)])
        cells.append(trials[-1].cell("step", "aoti") if aoti else old[len(cells)])
        return cells, not any(trial.failed for trial in trials)


def read_table() -> tuple[str, dict[str, list[str]]]:
    """The page up to its table, and the rows that are there."""
    text, _, table = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = [line.split("|")[1:-1] for line in table.splitlines() if "`" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    return text, {cells[0].strip("`"): cells for cells in rows}


def write_table(text: str, rows: dict[str, list[str]]) -> None:
    """Write the page with these rows, in the order of the presets."""
    there = [rows[name] for name in sf.presets() if name in rows]
    lines = [COLUMNS, [":--", *["--:"] * (len(COLUMNS) - 1)], *there]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    with atomic(PAGE) as partial:
        partial.write_text(f"{text}{BEGIN}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=sf.presets())
    parser.add_argument("--aoti", action="store_true", help="compile the steps ahead, too: minutes")
    given = parser.parse_args()
    onnx = importlib.util.find_spec("onnxruntime") is not None
    wrong = []
    for preset in given.presets:
        old = read_table()[1].get(preset, [""] * len(COLUMNS))
        cells, equal = row(preset, old, onnx=onnx, aoti=given.aoti)
        wrong += [] if equal else [preset]
        text, rows = read_table()
        write_table(text, {**rows, preset: cells})
        print(*cells, sep=" | ", flush=True)
    sys.exit(f"not equal: {', '.join(wrong)}" if wrong else 0)

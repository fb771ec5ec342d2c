"""Programs as files: torch's own, compiled for a processor, ONNX."""

import json
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from sympformer import torch_private
from sympformer.compiler import DECODING, require_compiler
from sympformer.errors import InputError, lookup, one_line
from sympformer.files import atomic
from sympformer.optional import require

Format = Literal["pt2", "aoti", "onnx"]
NOTE = "sympformer"
"""Under this name a file says what `about` does, as JSON."""


def write_program(program: ExportedProgram, file: Path, format: Format = "pt2") -> None:
    """Write what `exported` made, in one step.

    | format | is read by |
    |---|---|
    | pt2 | `torch.export.load(file).module()` |
    | aoti | `torch._inductor.aoti_load_package(file)`, or in C++; compiled for this processor |
    | onnx | `onnxruntime.InferenceSession(file)`; inputs and outputs are named as in `about` |

    Raises:
        InputError: the file exists, has another ending than its format, or cannot be written; there
            is no compiler; packages are missing; ONNX lacks an operator.
    """
    require_file(file, format)
    with atomic(file) as partial:
        FORMATS[format][0](program, partial)


def require_file(file: Path, format: Format) -> None:
    """Refuse a file that `write_program` would refuse, before anything is made.

    Raises:
        InputError: there is no such format, the ending is that of another, or the file exists.
    """
    _, ending = lookup(FORMATS, format, "format")
    if file.suffix != ending:
        raise InputError(f"{file} must end in {ending}: so files of format {format!r} are known")
    if file.exists():
        raise InputError(f"{file} exists already: choose another name, or delete it")


def about(program: ExportedProgram) -> dict[str, Any]:
    """What there is to know of a program: `inputs` and `outputs` by name, in order.

    Each has its dtype and its shape, with "batch", "time", "length" for what may vary. Where there
    is a cache, an output `next.NAME` is the input NAME of the step that follows.
    """
    tokens, *rest = program.example_inputs[0]  # pyright: ignore[reportOptionalSubscript]
    given = {"tokens": tokens, **(rest[0] if rest else {})}
    places = [n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
    known = {name: node.meta["val"] for name, node in zip(given, places, strict=True)}
    batch, time = known["tokens"].shape
    symbols = {str(d): "length" for t in known.values() for d in t.shape if not _is_number(d)}
    symbols |= {str(d): name for d, name in ((batch, "batch"), (time, "time"))}
    inputs = {
        name: {
            "dtype": str(t.dtype).removeprefix("torch."),
            "shape": [d if _is_number(d) else symbols[str(d)] for d in t.shape],
        }
        for name, t in known.items()
    }
    outputs = ["logits", *(f"next.{name}" for name in given if name != "tokens")]
    return {"what": "step" if rest else "forward", "inputs": inputs, "outputs": outputs}


def _is_number(size: Any) -> bool:
    return isinstance(size, int)


def _copied(program: ExportedProgram) -> ExportedProgram:
    """The same program; torch's own passes leave traces in one that they were given."""
    file = BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


def _write_pt2(program: ExportedProgram, file: Path) -> None:
    torch.export.save(program, file, extra_files={NOTE: json.dumps(about(program))})


def _write_aoti(program: ExportedProgram, file: Path) -> None:
    require_compiler(next(iter(program.state_dict.values())).device.type)
    note = {NOTE: json.dumps(about(program))}
    torch_private.compile_ahead(_copied(program), file, DECODING, note)


def _write_onnx(program: ExportedProgram, file: Path) -> None:
    require("onnxscript", "onnx", "format 'onnx'")
    known = about(program)
    names = {"input_names": list(known["inputs"]), "output_names": known["outputs"]}
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # it tells its progress
            warnings.simplefilter("ignore")
            made = torch.onnx.export(_copied(program), dynamo=True, verbose=False, **names)
    except torch.onnx.OnnxExporterError as error:
        lacking = re.search(r"op='(\S+?)'", str(error))
        what = f"has no operator for {lacking[1]}" if lacking else f"fails: {one_line(error)}"
        raise InputError(
            f"ONNX {what}: choose format pt2 or aoti, or export the step, whose systems are smaller"
        ) from error
    assert made is not None
    made.model.metadata_props[NOTE] = json.dumps(known)
    made.save(file)


FORMATS: dict[str, tuple[Callable[[ExportedProgram, Path], None], str]] = {
    "pt2": (_write_pt2, ".pt2"),
    "aoti": (_write_aoti, ".pt2"),
    "onnx": (_write_onnx, ".onnx"),
}

"""Programs in other formats. `benchmarks/exports.py` takes all presets."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

import sympformer as sf
from sympformer.exporting import about, write_program

LONG = os.environ.get("SYMPFORMER_FAULTS") == "long"
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def text():
    return torch.randint(37, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_step_in_onnx(made, start, text, tmp_path, onnxruntime):
    model, file = made("deltanet", torch.float32, n_layer=1), tmp_path / "step.onnx"
    program = sf.exported(model, "step")
    for written in (tmp_path / "first.onnx", file):  # a program may be written more than once
        write_program(program, written, "onnx")
    session, known = onnxruntime.InferenceSession(str(file)), about(program)
    assert json.loads(session.get_modelmeta().custom_metadata_map["sympformer"]) == known
    cache = [entry.numpy() for entry in start(program, 3).values()]
    with torch.no_grad():
        want = model(text).logits
    for i in range(text.shape[1]):
        given = [text[:, i : i + 1].numpy(), *cache]
        logits, *cache = session.run(known["outputs"], dict(zip(known["inputs"], given)))  # noqa: B905
        torch.testing.assert_close(torch.from_numpy(logits), want[:, i], rtol=0, atol=1e-4)


def test_what_onnx_lacks_is_named(made, tmp_path, onnxruntime):
    program = sf.exported(made("deltanet", torch.float32, n_layer=1))
    with pytest.raises(sf.InputError, match=r"no operator for aten\.linalg_solve_triangular"):
        write_program(program, tmp_path / "forward.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not LONG, reason="compiles for a minute: SYMPFORMER_FAULTS=long")
@pytest.mark.parametrize("name", ["symp-r2", "gated-delta-symp"])
def test_a_step_compiled_ahead(name, made, start, text, tmp_path):
    model, file = made(name, torch.float32, n_layer=1), tmp_path / "step.pt2"
    program = sf.exported(model, "step")
    write_program(program, file, "aoti")
    step = torch._inductor.aoti_load_package(str(file))
    assert json.loads(step.get_metadata()["sympformer"]) == about(program)
    with torch.no_grad():
        want = model(text).logits
    for rows in (1, 3):
        cache = start(program, rows)
        for i in range(text.shape[1]):
            logits, cache = step(text[:rows, i : i + 1].contiguous(), cache)
            torch.testing.assert_close(logits, want[:rows, i], rtol=0, atol=1e-4)


def test_what_a_program_says_of_itself(made):
    model = made("symp-r2", torch.float32, n_layer=1)
    assert about(sf.exported(model)) == {
        "what": "forward",
        "inputs": {"tokens": {"dtype": "int64", "shape": ["batch", "time"]}},
        "outputs": ["logits"],
    }
    known = about(sf.exported(model, "step"))
    assert known["inputs"]["tokens"]["shape"] == ["batch", 1]
    assert known["inputs"]["blocks.0.key"]["shape"] == ["batch", 2, "length", 8]
    assert known["outputs"] == ["logits", *(f"next.{n}" for n in known["inputs"] if n != "tokens")]


def test_the_table_has_every_preset():
    rows = re.findall(r"^\| `(.*?)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[-len(sf.presets()) :] == sf.presets()

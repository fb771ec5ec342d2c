"""Programs compute what their models do, for any number of rows and tokens, without this package.

States are in the file that is loaded alone below; `benchmarks/exports.py` takes all presets.
"""

import subprocess
import sys

import pytest
import torch

import sympformer as sf
from sympformer.attention import forms
from sympformer.cli import main
from sympformer.exporting import write_program

FAMILIES = {"gpt-shift": 1, "symp-etd-ab2": 2}
SHAPES = [(1, 1), (3, 20), (2, 7)]


@pytest.fixture(scope="module")
def text():
    return torch.randint(37, (3, 20), generator=torch.Generator().manual_seed(1))


def decode(step, cache, text):
    logits = []
    for i in range(text.shape[1]):
        new, cache = step(text[:, i : i + 1], cache)
        logits.append(new)
    return torch.stack(logits, dim=1), cache


@pytest.mark.parametrize("name", FAMILIES)
def test_a_program_is_its_model(name, made, start, text):
    model = made(name, n_layer=FAMILIES[name])
    with torch.no_grad():
        want = model(text).logits
    forward = sf.exported(model).module()
    for rows, tokens in SHAPES:
        got = forward(text[:rows, :tokens])
        torch.testing.assert_close(got, want[:rows, :tokens], rtol=0, atol=1e-11)
    program = sf.exported(model, "step")
    for rows in (1, 3):
        got, cache = decode(program.module(), start(program, rows), text[:rows])
        torch.testing.assert_close(got, want[:rows], rtol=0, atol=1e-11)
    with pytest.raises((RuntimeError, AssertionError)):
        program.module()(text[:, :1], cache)  # the block is full


def test_the_model_is_left_alone(made, text):
    model = made("symp-h0", torch.float32, n_layer=1).train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    program = sf.exported(model)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not program.module()(text).requires_grad
    want = model(text).logits
    torch.testing.assert_close(program.module()(text), want, rtol=0, atol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


ALONE = """
import sys
sys.modules["sympformer"] = None  # any import of it fails
import torch
forward, step, ids = sys.argv[1:]
text = torch.load(ids)
whole = torch.export.load(forward).module()(text)
program = torch.export.load(step)
cache = {name: torch.zeros_like(t) for name, t in program.example_inputs[0][1].items()}
run = program.module()
for i in range(text.shape[1]):
    last, cache = run(text[:, i : i + 1], cache)
torch.save((whole, last), ids)
"""


def test_a_file_needs_no_package(made, text, tmp_path):
    """With states of constant size, which start as zeros of their shape."""
    model, files = made("deltanet", n_layer=1), []
    for what in ("forward", "step"):
        files.append(tmp_path / f"{what}.pt2")
        write_program(sf.exported(model, what), files[-1])
    ids, text = tmp_path / "ids", text[:2]
    torch.save(text, ids)
    words = [sys.executable, "-c", ALONE, *map(str, [*files, ids])]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, last = torch.load(ids)
    with torch.no_grad():
        want = model(text).logits
    torch.testing.assert_close(whole, want, rtol=0, atol=1e-11)
    torch.testing.assert_close(last, want[:, -1], rtol=0, atol=1e-11)


def test_what_cannot_be_exported_is_refused(made):
    model = made("symp-h0", n_layer=1)
    with pytest.raises(sf.InputError, match="did you mean 'step'"):
        sf.exported(model, "steps")
    with pytest.raises(sf.InputError, match="only models of this package"):
        sf.exported(torch.nn.Linear(2, 2))
    with pytest.raises(sf.InputError, match="block size of 2 is too small"):
        sf.exported(made("gpt", n_layer=1, block_size=2))
    with forms.using("tiled"), pytest.raises(sf.InputError, match=r"calls sympformer\.tiled"):
        sf.exported(model)


def test_the_command(tmp_path, capsys):
    sizes = "--n-layer 1 --n-head 1 --n-embd 16 --block-size 16 --batch-size 2 --steps 2 "
    sizes += "--warmup 0 --eval-every 1 --eval-blocks 2 --train-tokens 3000 --valid-tokens 400"
    run, file = str(tmp_path / "run"), tmp_path / "step.pt2"
    assert main(["train", "linear-gpt", *sizes.split(), "--out", run]) == 0
    assert main(["export-program", run, str(file), "--step"]) == 0
    note = {"sympformer": ""}
    program = torch.export.load(file, extra_files=note)
    assert '"what": "step"' in note["sympformer"]
    assert len(program.module()(*program.example_inputs[0])[0]) == 2
    capsys.readouterr()
    for refused, says in [
        ([str(file)], "exists already"),
        ([str(tmp_path / "a.onnx")], "must end in .pt2"),
        ([str(tmp_path / "a.pt2"), "--format", "onnx"], "must end in .onnx"),
    ]:
        assert main(["export-program", run, *refused]) == 2
        assert says in capsys.readouterr().err

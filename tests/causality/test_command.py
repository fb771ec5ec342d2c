"""`sympformer audit`: of presets, runs, and what a file of the user's makes."""

import json

import pytest
import torch

from sympformer.cli import main

MODELS = """
import torch
from torch import nn
from neighbour import VOCABULARY


class Last(nn.Module):
    # Logits of the last position only, unless there are targets.
    def __init__(self, leaks=False):
        super().__init__()
        self.leaks = leaks
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, ids, targets=None):
        x = self.embedding(ids)
        x = x + (x.sum(1, keepdim=True) if self.leaks else x.cumsum(1))
        return self.head(x if targets is not None else x[:, [-1]]), None


def every(model, ids):
    return model(ids, ids)


def sound():
    return {"model": Last(), "call": every, "vocab_size": VOCABULARY}


def leaking():
    return {"model": Last(leaks=True), "call": every}


def function(ids):
    return nn.functional.one_hot(ids, VOCABULARY).double()


def broken():
    return 1 / 0


def leaves():
    raise SystemExit(7)


def misspelt():
    return {"model": Last(), "cal": every}


ready = Last()
number = 3
"""


@pytest.fixture
def models(tmp_path):
    (tmp_path / "neighbour.py").write_text("VOCABULARY = 13\n")
    file = tmp_path / "models.py"
    file.write_text(MODELS)
    (tmp_path / "wrong.py").write_text("import nothing_of_this_name\n")
    return file


def run(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code


def test_what_a_file_makes(models, capsys):
    assert run("audit", f"{models}:sound", "--length", "8", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["max_future_gradient"] == 0
    assert list(found["not_made"]) == ["cache"]
    assert run("audit", f"{models}:leaking", "--length", "8", "--vocab-size", "13") == 1
    assert "LEAK" in capsys.readouterr().out
    assert run("audit", f"{models}:function", "--length", "8", "--vocab-size", "13") == 0
    assert "redrawn weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("models.py:sound", ["--set", "a=b"], "--set has no effect"),
        ("models.py:Last", [], "--vocab-size"),
        ("models.py:ready", ["--vocab-size", "13"], "a tuple of tensor (8, 1, 13)"),
        ("models.py:function", ["--vocab-size", "13", "--compile"], "a function is audited as"),
        ("models.py:broken", [], "models.py: ZeroDivisionError: division by zero"),
        ("models.py:leaves", [], "models.py: SystemExit: 7"),
        ("models.py:misspelt", [], "did you mean 'call'"),
        ("models.py:soundd", [], "did you mean 'sound'"),
        ("models.py:number", [], "not 3"),
        ("models.py", [], "models.py:NAME"),
        ("models.py:", [], "models.py:NAME, e.g. one of torch, nn, VOCABULARY, Last"),
        ("models:sound", [], "models.py:sound"),
        ("wrong.py:make", [], "line 1 of"),
        ("missing.py:make", [], "missing.py does not exist"),
        ("nowhere", [], "does not exist"),
    ],
)
def test_what_cannot_be_audited_is_said_in_one_line(models, capsys, target, options, message):
    assert run("audit", models.parent / target, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_options_without_effect_are_refused(tmp_path, capsys):
    assert run("audit", "gpt", "--vocab-size", "9") == 2
    assert "--set vocab_size" in capsys.readouterr().err


def test_a_preset_wins_over_a_folder_of_its_name_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt").mkdir()
    small = [f"{name}={n}" for name, n in (("n_layer", 1), ("n_head", 1), ("n_embd", 4))]
    assert run("audit", "gpt", "--length", "4", "--set", *small) == 0
    said = capsys.readouterr()
    assert "CAUSAL" in said.out
    assert said.err == "gpt is a preset; for the run of that name write ./gpt\n"
    assert run("audit", "./gpt") == 2
    assert "gpt" in capsys.readouterr().err


def test_small_models_need_no_length(capsys):
    small = [f"{name}={n}" for name, n in (("n_layer", 1), ("n_head", 1), ("n_embd", 4))]
    assert run("audit", "gpt", "--set", *small, "block_size=12") == 0
    assert "12 tokens" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_is_not_there_is_refused(models, capsys):
    assert run("audit", f"{models}:function", "--vocab-size", "13", "--device", "cuda") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

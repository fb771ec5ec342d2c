"""Whole models of a user's own: trained, compared, audited as far as they can be."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sympformer as sf
from sympformer import InputError
from sympformer.cli import main
from sympformer.model import MODELS, PRESETS

FAST = [
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "16"),
    *("--train-tokens", "3000", "--valid-tokens", "400", "--batch-size", "2"),
    *("--steps", "2", "--warmup", "0", "--eval-every", "1", "--eval-blocks", "2"),
]


class Means(nn.Module):
    """Logits from the mean of the tokens so far; what it sees and gives beside can be chosen."""

    def __init__(self, config, gives="tuple", sees="past"):
        super().__init__()
        self.table, self.head = nn.Embedding(512, 8), nn.Linear(8, 512)
        self.gives, self.sees = gives, sees

    def forward(self, tokens, targets=None):
        x = self.table(tokens)
        if self.sees == "all":
            x = x + x.mean(1, keepdim=True)
        elif self.sees == "targets" and targets is not None:
            x = x + self.table(targets)
        else:
            x = x.cumsum(1)
        logits = self.head(x)
        if targets is None:
            return logits if self.gives != "loss only" else None
        if self.sees == "targets in the loss":
            logits = logits + self.head(self.table(targets))
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        return {
            "tuple": (logits, loss),
            "object": SimpleNamespace(logits=logits, loss=loss),
            "dict": {"logits": logits, "loss": loss},
            "loss": loss,
            "loss only": loss,
            "nothing": logits,
        }[self.gives]


@pytest.fixture
def register():
    """Register a model for the time of a test."""
    names = []

    def add(name, *options):
        sf.register_model(name, lambda config: Means(config, *options), "means")
        names.append(name)
        return sf.build(sf.ModelConfig.preset(name, vocab_size=512, block_size=16))

    yield add
    for name in names:
        del MODELS[name], PRESETS[name]


@pytest.mark.parametrize("gives", ["tuple", "object", "dict", "loss"])
def test_its_loss_and_logits_are_found(register, gives):
    model = register("means", gives)
    tokens = torch.randint(512, (2, 9))
    loss = model(tokens, tokens.flip(1)).loss
    logits = model.model(tokens)
    assert torch.equal(loss, cross_entropy(logits.flatten(0, 1), tokens.flip(1).flatten()))
    assert torch.equal(model(tokens).logits, logits)
    assert model.num_parameters() == sum(p.numel() for p in Means(None).parameters())
    assert sf.audit(model, 8).passed


@pytest.mark.parametrize("sees", ["all", "targets"])
def test_a_leak_is_found_also_through_the_targets(register, sees):
    report = sf.audit(register("leak", "tuple", sees), 8)
    assert not report.causal
    assert report.verdict.startswith("LEAK")


def test_a_loss_that_sees_the_targets_is_no_loss_of_the_logits(register, tmp_path, capsys):
    register("peeper", "loss", "targets in the loss")
    report = sf.audit(sf.build(sf.ModelConfig.preset("peeper", vocab_size=512)), 8)
    assert report.causal
    assert not report.passed
    assert report.verdict.startswith("WRONG LOSS: the loss given targets is")
    options = [*FAST, "--vocab-size", "512", "--out", str(tmp_path / "r")]
    assert main(["train", "peeper", *options]) == 1
    assert "WRONG LOSS" in capsys.readouterr().out


def test_what_cannot_be_had_is_refused(register):
    model, tokens = register("lossless", "nothing"), torch.randint(512, (2, 9))
    with pytest.raises(InputError, match="not a loss"):
        model(tokens, tokens)
    with pytest.raises(InputError, match="no logits of every position"):
        register("mute", "loss only")(tokens)
    with pytest.raises(InputError, match="no text is generated"):
        model.stream(tokens, 3)
    with pytest.raises(InputError, match="compiled"):
        _ = model.blocks
    with pytest.raises(InputError, match="4 times"):
        model.with_loops(4)
    with pytest.raises(InputError, match="match_parameters"):
        sf.ModelConfig.preset("mute", match_parameters="gpt")
    for field in ({"dynamics": "yurii"}, {"causality": "joint"}, {"attention": "linear"}):
        with pytest.raises(InputError, match="a model of ours"):
            sf.ModelConfig.preset("mute", **field)
    assert sf.ModelConfig.preset("mute", mlp_width=3, heads="averaged").mlp_width == 3


def test_names_and_builds_that_fail_are_refused():
    with pytest.raises(InputError, match="'gpt' already"):
        sf.register_model("gpt", Means, "means")
    with pytest.raises(InputError, match="unknown model 'nowhere'"):
        sf.ModelConfig(model="nowhere")
    for build, says in ((lambda _: 1 / 0, "line .*ZeroDivisionError"), (lambda _: 3, "not 3")):
        sf.register_model("broken", build, "broken")
        try:
            with pytest.raises(InputError, match=says):
                sf.build(sf.ModelConfig(model="broken"))
        finally:
            del MODELS["broken"], PRESETS["broken"]


def test_a_comparison_with_and_without_an_audit(register, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SYMPFORMER_CACHE", str(tmp_path / "cache"))
    for name, options in (("means", ("tuple",)), ("mute", ("loss only",))):
        register(name, *options)
    out = tmp_path / "out"
    # As many ids as the models have; the tokenizer has fewer.
    options = [*FAST, "--vocab-size", "512", "--presets", "gpt", "means", "mute"]
    assert main(["compare", *options, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "means (seed 0): a model of the user's own, from which no samples" in said.err
    rows = {line.split(" | ")[0]: line for line in said.out.splitlines() if line.startswith("| ")}
    assert rows["| means"].endswith("| passed |")
    assert rows["| mute"].endswith("| not audited |")
    assert "mute: NOT AUDITED: " in said.out
    summary = json.loads((out / "mute-s0" / "summary.json").read_text())
    assert summary["audit"]["passed"] is None
    assert main(["eval", str(out / "mute-s0")]) == 0
    assert main(["audit", str(out / "means-s0"), "--length", "8"]) == 0
    capsys.readouterr()
    for command in (["generate", str(out / "means-s0")], ["audit", str(out / "mute-s0")]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["train", "mute", *FAST, "--vocab-size", "512", "--out", str(tmp_path / "r")]) == 0
    assert "NOT AUDITED" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "r")]) == 0

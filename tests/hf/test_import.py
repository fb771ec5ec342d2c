"""`sympformer import`: runs, our folders and GPT-2's become folders of ours, with momentum too."""

import json

import pytest
import torch

from sympformer.cli import main
from sympformer.data.tokenizer import train_bpe
from sympformer.train import load_model

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

FAST = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "32"]
FAST += ["--steps", "2", "--eval-every", "2", "--batch-size", "2", "--eval-blocks", "2"]
FABLES = ["--train-tokens", "3000", "--valid-tokens", "400"]


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder of GPT-2's kind, its tokenizer in the files that transformers writes."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = train_bpe(["the fox and the hen saw the moon"] * 9, 280)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=32, n_layer=2, n_head=2, n_embd=16
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.serialized)
    (folder / "text.txt").write_text(
        "\n<|endoftext|>\n".join(f"the hen saw fox {i}" for i in range(200))
    )
    return folder


def test_a_gpt_2_with_momentum(gpt2, tmp_path, capsys):
    """Imported, it is the same function to us and to transformers; then it is trained."""
    new = tmp_path / "new"
    assert run("import", gpt2, new, "--preset", "symp-r2", "--set", "lookahead=true") == 0
    said = capsys.readouterr().out
    assert "AutoModelForCausalLM.from_pretrained loads it" in said
    ids = torch.randint(280, (2, 12)) % load_model(gpt2).config.vocab_size
    theirs = AutoModelForCausalLM.from_pretrained(gpt2)(ids).logits
    model = load_model(new)
    assert model.config.gradual
    assert model.config.lookahead
    for logits in (model(ids).logits, AutoModelForCausalLM.from_pretrained(new)(ids).logits):
        torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-5)
    text = "the fox saw"
    assert AutoTokenizer.from_pretrained(new)(text) == AutoTokenizer.from_pretrained(gpt2)(text)
    assert f"`{gpt2.name}`; as the same function" in (new / "README.md").read_text()
    losses = []
    for folder in (gpt2, new):
        capsys.readouterr()
        assert run("eval", folder, "--text", gpt2 / "text.txt", "--documents", "3") == 0
        losses.append(json.loads(capsys.readouterr().out)["text"]["nats_per_token"]["value"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    trained = tmp_path / "run"
    options = ["--text", gpt2 / "text.txt", "--steps", "2", "--batch-size", "2"]
    assert run("train", "--start-from", new, *options, "--out", trained) == 0
    assert load_model(trained).config == model.config
    assert run("generate", trained, "--max-new-tokens", "3") == 0
    again = tmp_path / "again"
    assert run("import", trained, again) == 0
    assert torch.equal(load_model(again)(ids).logits, load_model(trained)(ids).logits)


def test_runs_and_our_own_folders(tmp_path, capsys):
    assert run("train", "gpt", *FAST, *FABLES, "--out", tmp_path / "run") == 0
    assert run("export", tmp_path / "run", tmp_path / "a") == 0
    assert run("import", tmp_path / "a", tmp_path / "b", "--preset", "yurii") == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text())["preset"] == "yurii"
    ids = torch.randint(400, (1, 9))
    expected = load_model(tmp_path / "run")(ids).logits
    torch.testing.assert_close(load_model(tmp_path / "b")(ids).logits, expected)
    capsys.readouterr()
    for path in ("run", "b"):
        assert run("generate", tmp_path / path, "--max-new-tokens", "9", "--temperature", "0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    for arguments, says in (
        (["b", "c", "--preset", "symp-r2"], "only a model without momentum can be given one"),
        (["run", "a"], "is not empty: give a new folder"),
        (["run", "c", "--set", "lookahead=true"], "options are of a preset"),
        (["run", "c", "--preset", "linear-symp-h0"], "has attention = 'linear'"),
        (["no", "c"], "no/config.toml does not exist"),
    ):
        source, folder, *options = arguments
        assert run("import", tmp_path / source, tmp_path / folder, *options) == 2
        said = capsys.readouterr().err
        assert says in said
        assert said.strip().count("\n") == 0
    assert not (tmp_path / "c").exists()

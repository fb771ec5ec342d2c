"""Model folders: whatever reads a trained model reads them, without transformers."""

import json
import sys

import pytest
import torch

import sympformer as sf
from sympformer.cli import main
from sympformer.errors import InputError
from sympformer.pretrained import ModelFolder
from sympformer.train import load_model

pytest.importorskip("transformers")

SIZE = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--batch-size", "2"]
FAST = [*SIZE, "--steps", "2", "--warmup", "1", "--eval-every", "2", "--eval-blocks", "2"]
FABLES = ["--block-size", "32", "--train-tokens", "3000", "--valid-tokens", "400"]
PARITY = ["--task", "parity", "--task-set", "train=8", "test=[8]"]


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs on the fables, on bytes and on a task, and the folders that they were exported to."""
    home = tmp_path_factory.mktemp("home")
    stories = "\n<|endoftext|>\n".join(f"a fox saw {i} hens" for i in range(99))
    (home / "stories.txt").write_text(stories)
    text = ["--text", home / "stories.txt", "--tokenizer", "byte", "--block-size", "32"]
    for name, preset, data in (
        ("fables", "symp-r2", FABLES),
        ("bytes", "symp-exp-euler", text),
        ("parity", "gpt", PARITY),
    ):
        assert run("train", preset, "--out", home / name, *data, *FAST) == 0
        assert run("export", home / name, home / f"{name}-folder") == 0
    return home


@pytest.fixture
def alone(monkeypatch):
    """Transformers is not installed."""
    monkeypatch.setitem(sys.modules, "transformers", None)


@pytest.mark.parametrize("name", ["fables", "bytes", "parity"])
def test_the_model_of_the_run(home, name, alone):
    own, read = load_model(home / name), load_model(home / f"{name}-folder")
    assert read.config == own.config
    assert not read.training
    tokens = torch.randint(own.config.vocab_size, (2, 8))
    assert torch.equal(read(tokens).logits, own(tokens).logits)


@pytest.mark.parametrize("name", ["fables", "bytes"])
def test_commands_read_it_as_a_run(home, name, alone, capsys):
    source, folder = home / name, home / f"{name}-folder"
    text = ("--text", home / "stories.txt") if name == "bytes" else ("--text", home / "fox.txt")
    (home / "fox.txt").write_text("The fox")
    said = []
    for path in (source, folder):
        capsys.readouterr()
        assert run("generate", path, "--max-new-tokens", "9") == 0
        assert run("generate", path, "--prompt", "a fox", "--temperature", "0") == 0
        assert run("audit", path, "--length", "8") == 0
        assert run("eval", path, *text, "--documents", "1") == 0
        said.append(capsys.readouterr().out.replace(str(path), "MODEL"))
    assert said[0] == said[1]
    assert '"low": null' in said[0]  # of a single document there is no interval
    assert run("eval", source, *text, "--against", folder) == 0
    assert json.loads(capsys.readouterr().out)["against"]["difference"]["wilcoxon_p"] == 1


def test_evaluation_on_a_task(home, capsys):
    """A run knows the options of its own task; a folder is told."""
    assert run("eval", home / "parity") == 0
    plain = json.loads(capsys.readouterr().out)
    assert run("eval", home / "parity", "--task", "parity") == 0
    assert json.loads(capsys.readouterr().out) == plain
    options = [*PARITY, "--blocks", "2"]
    assert run("eval", home / "parity-folder", *options) == 0
    (row,) = json.loads(capsys.readouterr().out)["tests"]
    assert row["setting"] == plain["tests"][0]["setting"] == "8"
    assert row["floor"] == 0
    assert row["ceiling"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["parity-folder"], "a model without a run, so no validation text is its own"),
        (["parity-folder", "--text", "a.txt"], "holds no tokenizer"),
        (["bytes-folder", "--task", "parity", "--text", "a"], "leave one of the two out"),
        (["bytes-folder", "--task-set", "train=8"], "--task-set is about a --task"),
        (["parity-folder", "--task", "mqar"], "and the model 2"),
        (["bytes-folder", "--task", "parity"], "learned positions for 32 tokens"),
    ],
)
def test_what_eval_refuses(home, arguments, says, capsys):
    folder, *options = arguments
    assert run("eval", home / folder, *options) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def damaged(folder, **config):
    folder.mkdir()
    about = {"model_type": "sympformer", "composition": {"n_layer": 1}, **config}
    (folder / "config.json").write_text(json.dumps(about))
    return ModelFolder(folder)


def test_what_is_refused(tmp_path, home):
    for number, (config, says) in enumerate(
        [
            ({"model_type": "bert"}, "it is of type 'bert', and what can be read here is"),
            ({"composition": None}, "config.json has no composition"),
            ({"composition": {"layers": 1}}, "unknown model option 'layers'"),
            ({}, "model.safetensors does not exist"),
        ]
    ):
        with pytest.raises(InputError, match=says):
            damaged(tmp_path / str(number), **config).model()
    (tmp_path / "3" / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(InputError, match="is damaged"):
        ModelFolder(tmp_path / "3").model()
    (tmp_path / "3" / "model.safetensors").write_bytes(
        (home / "bytes-folder" / "model.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="cannot be loaded: the weights"):
        ModelFolder(tmp_path / "3").model()
    (tmp_path / "3" / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="is no table"):
        load_model(tmp_path / "3")


def test_shards_of_a_large_model(home, tmp_path):
    """What `save_pretrained` cuts into several files."""
    from sympformer.hf import SympFormerForCausalLM

    model = load_model(home / "bytes")
    SympFormerForCausalLM.of(model).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(257, (1, 8))
    assert torch.equal(sf.train.load_model(tmp_path)(tokens).logits, model(tokens).logits)

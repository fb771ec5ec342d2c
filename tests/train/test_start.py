"""A run that starts from trained weights: the same function first, an optimizer of its own."""

import json
import shutil

import pytest

from sympformer.cli import main
from sympformer.data.tokenizer import load_tokenizer
from sympformer.train import load_model
from sympformer.train.folder import RunFolder
from sympformer.train.start import same_ids

SIZE = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "32"]
FAST = ["--batch-size", "2", "--eval-blocks", "2", "--warmup", "1", "--eval-every", "2"]
FABLES = ["--train-tokens", "3000", "--valid-tokens", "400"]


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A GPT on the fables, one on bytes."""
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text("\n<|endoftext|>\n".join(f"{i} foxes" for i in range(200)))
    text = ["--text", home / "text.txt", "--tokenizer", "byte"]
    for name, data in (("gpt", FABLES), ("bytes", text)):
        assert run("train", "gpt", *SIZE, *FAST, *data, "--steps", "4", "--out", home / name) == 0
    return home


def first_loss(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return next(row["loss"] for row in rows if row["event"] == "train")


def test_it_goes_on_as_the_same_function(home, tmp_path):
    """In its own composition, and in another one with momentum."""
    start = ["--start-from", home / "gpt", *FAST, *FABLES, "--steps", "2"]
    assert run("train", *start, "--out", tmp_path / "plain") == 0
    assert run("train", "symp-r2", *start, "--out", tmp_path / "moving") == 0
    plain, moving = tmp_path / "plain", tmp_path / "moving"
    assert first_loss(plain) == pytest.approx(first_loss(moving), rel=1e-6)
    assert first_loss(plain) < first_loss(home / "gpt")
    config = RunFolder(moving).config()
    assert config.model.gradual
    assert (config.model.n_embd, config.model.block_size) == (16, 32)
    assert config.train.start_from == str(home / "gpt")
    own = RunFolder(home / "gpt").newest()
    for folder in (plain, moving):
        said = RunFolder(folder).summary()["started_from"]
        assert said == {"model": str(home / "gpt"), "weights": own["weights"]}
    assert RunFolder(home / "gpt").summary()["started_from"] is None
    shares = load_model(moving).blocks[0].attention.kappa
    assert shares() != 0  # it has been trained


def test_a_resumed_run_needs_its_start_no_more(home, tmp_path):
    source = shutil.copytree(home / "gpt", tmp_path / "gpt")
    start = ["--start-from", source, *FAST, *FABLES]
    assert run("train", *start, "--steps", "4", "--out", tmp_path / "whole") == 0
    assert run("train", *start, "--steps", "2", "--out", tmp_path / "cut") == 0
    shutil.rmtree(source)
    assert run("train", "--resume", tmp_path / "cut", "--steps", "4") == 0
    assert RunFolder(tmp_path / "cut").summary()["started_from"] is not None
    # The schedule knew of fewer updates: as far as the start goes, both are one run.
    assert first_loss(tmp_path / "cut") == first_loss(tmp_path / "whole")


def test_a_text_is_read_in_the_model_s_tokens(home, tmp_path, capsys):
    text = ["--text", home / "text.txt", *FAST, "--steps", "2"]
    assert run("train", "--start-from", home / "bytes", *text, "--out", tmp_path / "a") == 0
    assert RunFolder(tmp_path / "a").config().data.tokenizer == str(home / "bytes")
    assert first_loss(tmp_path / "a") < first_loss(home / "bytes")
    capsys.readouterr()
    given = ["--tokenizer", "bpe:257", "--out", tmp_path / "b"]
    assert run("train", "--start-from", home / "bytes", *text, *given) == 2
    assert "encoded with bpe:257: give --tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--n-layer", "2"], "cannot start as another function (n_layer is 2 here, 1 there)"),
        (["linear-symp-r2"], "has attention = 'linear', and this model 'softmax'"),
        (["symp-r2", "--n-layer", "2"], "has n_layer = 2, and this model 1"),
        (["--vocab-size", "9"], "vocab_size 9 is smaller than the tokenizer's"),
    ],
)
def test_what_is_refused(home, arguments, says, tmp_path, capsys):
    given = ["--start-from", home / "gpt", *FAST, *FABLES, "--out", tmp_path / "run"]
    assert run("train", *arguments, *given) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_ids_of_two_tokenizers(home, tmp_path):
    byte, learned = load_tokenizer("byte"), tmp_path / "learned.json"
    assert same_ids(byte, load_tokenizer(home / "bytes"))
    assert not same_ids(byte, load_tokenizer("fables"))
    transformers = pytest.importorskip("sympformer.hf.tokenizer")
    transformers.hf_tokenizer(byte).backend_tokenizer.save(str(learned))
    assert load_tokenizer(learned).digest != byte.digest
    assert same_ids(byte, load_tokenizer(learned))

"""Run folders: what is written is read back, and what is corrupt is refused."""

import shutil
from dataclasses import replace

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model.weights import weights
from sympformer.train import load_model, train
from sympformer.train.contents import derive
from sympformer.train.folder import RunFolder
from sympformer.train.runs import run_of, runs_in
from sympformer.train.tensors import read_about


@pytest.fixture
def run(tmp_path, config, corpus):
    folder = RunFolder(tmp_path / "run")
    folder.begin(config, {"device": "a CPU"}, corpus.tokenizer)
    return folder


def test_a_run_begins(run, config, corpus):
    assert run.exists
    assert not run.finished
    assert run.config() == config
    assert run.tokenizer().decode([72, 105]) == "Hi"
    assert run.metrics() == []
    assert run.state() is None
    with pytest.raises(InputError, match=f"already holds a run.*--resume {run}"):
        run.begin(config, {}, corpus.tokenizer)
    with pytest.raises(InputError, match="not reached its first checkpoint"):
        run.model()


def state_of(model, step=3, **more):
    return {
        "model": weights(model),
        "optimizer": {"a.weight": {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
        "step": step,
        "best_step": step,
        "corpus": "counting-1",
        "tokenizer": "byte-1",
        "changes": [],
        **more,
    }


def test_a_state_and_its_weights_are_read_back(run, config):
    model = sf.build(config.model)
    run.save(model, state_of(model))
    state = run.state()
    assert state["step"] == 3
    assert state["model"].keys() == model.state_dict().keys()
    assert state["optimizer"]["a.weight"]["exp_avg"].tolist() == [1, 1]
    files = [run.path / name for name in ("model.safetensors", "state.safetensors")]
    for read in (run.model(), load_model(run.path), *map(load_model, files)):
        assert all(map(torch.equal, read.parameters(), model.parameters()))
        assert not read.training


def test_metrics_are_kept_up_to_the_state(run, config):
    model = sf.build(config.model)
    for step in (1, 2):
        run.log.record({"event": "train", "step": step})
    run.save(model, state_of(model))
    run.log.record({"event": "train", "step": 3})
    with open(run.path / "metrics.jsonl", "a") as stream:
        stream.write('{"event": "tra')
    again = RunFolder(run.path)
    with pytest.raises(InputError, match=r"run is corrupt \(line 4 of metrics\.jsonl"):
        again.metrics()
    again.log.keep(again.state()["metrics"])
    assert [row["step"] for row in again.metrics()] == [1, 2]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b.replace(b'"step": 2', b'"step": 5'), "metrics.jsonl is not what was recorded"),
        (lambda b: b.replace(b'"step": 2', b'"ste#: 2', 1), "line 2 of metrics.jsonl is damaged"),
        (lambda b: b[:20], "line 1 of metrics.jsonl is damaged"),
        (lambda b: b"", "metrics.jsonl is not what was recorded"),
    ],
)
def test_damaged_metrics_are_refused_by_line(run, config, damage, says):
    model, file = sf.build(config.model), run.path / "metrics.jsonl"
    for step in (1, 2, 3):
        run.log.record({"event": "train", "step": step})
    run.save(model, state_of(model))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=says):
        run.log.keep(run.state()["metrics"])


def test_a_summary_ends_the_run(run, config):
    with pytest.raises(InputError, match="summary"):
        run.summary()
    model = sf.build(config.model)
    run.save(model, state_of(model))
    run.finish({"final_loss": 1.5})
    assert run.finished
    assert run.summary() == {"final_loss": 1.5}
    file = run.path / "summary.json"
    file.write_text(file.read_text().replace("1.5", "1.4"))
    with pytest.raises(InputError, match=r"digest that was stored.*delete it, and `sympformer"):
        run.summary()


def test_runs_are_found_in_order_of_name(run, tmp_path, config, corpus):
    RunFolder(tmp_path / "a").begin(config, {}, corpus.tokenizer)
    (tmp_path / "notes").mkdir()
    assert [found.path.name for found in runs_in(tmp_path)] == ["a", "run"]
    assert [found.path for found in runs_in(run.path)] == [run.path]


def test_a_damaged_or_missing_file_is_refused(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    for name in ("state.safetensors", "model.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"state\.safetensors is damaged"):
        train(config, corpus, tmp_path, resume=True)
    with pytest.raises(InputError, match=r"state\.safetensors is damaged"):
        load_model(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    with pytest.raises(InputError, match=r"state\.safetensors does not exist"):
        train(config, corpus, tmp_path, resume=True)


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors"])
def test_any_flipped_byte_is_refused(corpus, config, tmp_path, name):
    """In the header, in what it says, in the first and in the last tensor."""
    train(config, corpus, tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for place in (3, 20, 200, header // 2, header, header + 11, len(whole) - 1):
        bad = bytearray(whole)
        bad[place] ^= 0x40
        file.write_bytes(bad)
        with pytest.raises(InputError, match=name):
            load_model(file)


def test_files_of_another_run_are_refused(corpus, config, tmp_path):
    for seed in (0, 1):
        own = replace(config, train=replace(config.train, seed=seed))
        train(own, corpus, tmp_path / str(seed))
    for name in ("state.safetensors", "model.safetensors"):
        kept = (tmp_path / "0" / name).read_bytes()
        shutil.copy(tmp_path / "1" / name, tmp_path / "0" / name)
        with pytest.raises(InputError, match=r"are of different runs: train\.seed is 0 in"):
            load_model(tmp_path / "0")
        (tmp_path / "0" / name).write_bytes(kept)
    shutil.copy(tmp_path / "1" / "summary.json", tmp_path / "0")
    with pytest.raises(InputError, match=r"other weights than those that summary\.json is about"):
        load_model(tmp_path / "0")


@pytest.mark.parametrize(
    ("old", "new"),
    [("n_head = 2", "n_head = 4"), ('causality = "prefix"', 'causality = "joint"')],
)
def test_an_edited_config_is_refused(corpus, config, tmp_path, old, new):
    train(config, corpus, tmp_path)
    file = tmp_path / "config.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=rf"different runs: model\.{old.split()[0]} is"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="different runs"):
        train(RunFolder(tmp_path).began_as(), corpus, tmp_path, resume=True)
    assert load_model(tmp_path / "model.safetensors").config == config.model


def test_weights_that_lag_behind_the_state_are_made_again(corpus, config, tmp_path):
    """As after a kill between the two; until then readers get those of the state."""
    train(config, corpus, tmp_path)
    file = tmp_path / "model.safetensors"
    last = file.read_bytes()
    run = RunFolder(tmp_path)
    state = run.state()
    model = run.model()
    with torch.no_grad():
        model.norm.weight += 1
    derive(
        run.path,
        {f"model/{n}": t for n, t in weights(model).items()},
        {**read_about(tmp_path / "state.safetensors"), "weights": "older"},
    )
    assert file.read_bytes() != last
    assert torch.equal(load_model(tmp_path).norm.weight, state["model"]["norm.weight"])
    train(config, corpus, tmp_path, resume=True)
    assert file.read_bytes() == last


def test_a_run_of_an_earlier_version_is_refused_in_one_line(run):
    (run.path / "checkpoint.pt").write_bytes(b"PK")
    for use in (run.model, run.state):
        with pytest.raises(InputError, match=r"earlier version, whose checkpoint\.pt"):
            use()


def test_a_run_is_used_by_one_process(run, config, corpus):
    with run.locked(), pytest.raises(InputError, match="another process is using"):
        train(config, corpus, run.path, resume=True)
    train(config, corpus, run.path, resume=True)


def test_looped_blocks_are_saved_once_and_read_back(run, tiny, config, corpus, tmp_path):
    looped = tiny("symp-exp-euler", vocab_size=257, n_layer=4, unique_layers=2, loop_scalars="own")
    folder = RunFolder(tmp_path / "looped")
    folder.begin(sf.train.RunConfig("symp-exp-euler", looped), {}, corpus.tokenizer)
    made = sf.build(looped)
    folder.save(made, state_of(made))
    model = folder.model()
    assert model.blocks[2].mlp.oracle is model.blocks[0].mlp.oracle
    stored = sum(p.numel() * 4 for p in model.parameters())
    assert (folder.path / "model.safetensors").stat().st_size < stored + 20_000


def test_a_folder_that_cannot_be_written_to(config, corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        RunFolder(tmp_path / "file" / "run").begin(config, {}, corpus.tokenizer)


def test_a_file_is_told_from_a_run_folder(run, config):
    """Its weights load; its tokenizer and its data are the folder's to tell."""
    run.save(model := sf.build(config.model), state_of(model))
    alone = RunFolder(run.path / "model.safetensors")
    for ask in (alone.config, alone.model):
        with pytest.raises(InputError, match="is a file: give the run folder"):
            ask()


def test_a_file_in_a_run_folder_is_read_with_what_lies_beside_it(run, config, corpus, tmp_path):
    model = sf.build(config.model)
    digests = {"tokenizer": corpus.tokenizer.digest, "corpus": corpus.digest}
    run.save(model, state_of(model, **digests))
    shutil.copy(run.path / "state.safetensors", run.path / "earlier.safetensors")
    later = sf.build(config.model)
    run.save(later, state_of(later, **digests))
    earlier = run_of(run.path / "earlier.safetensors")
    for name, tensor in weights(earlier.model()).items():
        assert torch.equal(tensor, weights(model)[name])
    assert earlier.tokenizer().digest == corpus.tokenizer.digest
    earlier.require(corpus.digest)
    with pytest.raises(InputError, match="was trained on other data"):
        earlier.require("another")
    # One of another run, and one of none.
    other = RunFolder(tmp_path / "other")
    other.begin(replace(config, train=replace(config.train, seed=7)), {}, corpus.tokenizer)
    shutil.copy(run.path / "model.safetensors", other.path)
    with pytest.raises(InputError, match=r"are of different runs: train\.seed"):
        run_of(other.path / "model.safetensors")
    shutil.copy(run.path / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="its tokenizer and data are missing"):
        run_of(tmp_path / "model.safetensors")

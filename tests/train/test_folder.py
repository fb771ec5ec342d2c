"""Run folders: what is written is read back, and what is corrupt is refused."""

import pytest

import sympformer as sf
from sympformer import InputError
from sympformer.train import load_model, train
from sympformer.train.folder import RunFolder, runs_in


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


def test_a_state_and_its_weights_are_read_back(run, config):
    model = sf.build(config.model)
    run.save(model, {"model": model.state_dict(), "step": 3})
    state = run.state()
    assert state["step"] == 3
    assert state["model"].keys() == model.state_dict().keys()
    for read in (run.model(), load_model(run.path), load_model(run.path / "model.safetensors")):
        assert all(
            (a == b).all() for a, b in zip(read.parameters(), model.parameters(), strict=True)
        )
        assert not read.training


def test_metrics_are_kept_up_to_a_step(run):
    for step in (1, 2, 3):
        run.record({"event": "train", "step": step})
    run.keep_metrics(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_a_half_written_line_of_metrics_is_dropped(run):
    run.record({"event": "train", "step": 1})
    with open(run.path / "metrics.jsonl", "a") as stream:
        stream.write('{"event": "tra')
    with pytest.raises(InputError, match=r"run is corrupt \(metrics\.jsonl"):
        run.metrics()
    run.keep_metrics(9)
    assert run.metrics() == [{"event": "train", "step": 1}]


def test_a_summary_ends_the_run(run):
    with pytest.raises(InputError, match="summary"):
        run.summary()
    run.finish({"final_loss": 1.5})
    assert run.finished
    assert run.summary() == {"final_loss": 1.5}


def test_runs_are_found_in_order_of_name(run, tmp_path, config, corpus):
    RunFolder(tmp_path / "a").begin(config, {}, corpus.tokenizer)
    (tmp_path / "notes").mkdir()
    assert [found.path.name for found in runs_in(tmp_path)] == ["a", "run"]
    assert [found.path for found in runs_in(run.path)] == [run.path]


def test_a_corrupt_file_is_refused(corpus, config, tmp_path):
    train(config, corpus, tmp_path)
    for name in ("checkpoint.pt", "model.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"checkpoint\.pt is corrupt"):
        train(config, corpus, tmp_path, resume=True)
    with pytest.raises(InputError, match=r"model\.safetensors is corrupt"):
        load_model(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match=r"checkpoint\.pt does not exist"):
        train(config, corpus, tmp_path, resume=True)


def test_looped_blocks_are_saved_once_and_read_back(run, tiny, config, corpus, tmp_path):
    looped = tiny("symp-exp-euler", vocab_size=257, n_layer=4, unique_layers=2, loop_scalars="own")
    folder = RunFolder(tmp_path / "looped")
    folder.begin(sf.train.RunConfig("symp-exp-euler", looped), {}, corpus.tokenizer)
    folder.save(sf.build(looped), {})
    model = folder.model()
    assert model.blocks[2].mlp.oracle is model.blocks[0].mlp.oracle
    stored = sum(p.numel() * 4 for p in model.parameters())
    assert (folder.path / "model.safetensors").stat().st_size < stored + 20_000


def test_a_folder_that_cannot_be_written_to(config, corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        RunFolder(tmp_path / "file" / "run").begin(config, {}, corpus.tokenizer)

"""`sympformer bench` as a user meets it."""

import json

import pytest

import sympformer.bench.run as bench_run
from sympformer.bench import Case
from sympformer.bench.memory import Peak, fresh_peak
from sympformer.cli import main
from sympformer.imports import import_from
from sympformer.model import PRESETS

FAST = [
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--vocab-size", "37"),
    *("--batch-size", "2", "--rounds", "1", "--presets", "symp-h0"),
]


def run(*arguments):
    """Exit code of the command, also where the parser ends the program."""
    try:
        return main(["bench", *map(str, arguments)])
    except SystemExit as end:
        return end.code


def test_bench_and_redraw(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_run, "fresh_peak", lambda case, threads: Peak(3000, 1000))
    out = tmp_path / "out"
    options = [*FAST, "--lengths", "8", "16", "--measure", "step", "memory", "--out", out]
    assert run(*options) == 0
    printed = capsys.readouterr()
    assert "| symp-h0 | step |" in printed.out
    assert "| symp-h0 | memory |" in printed.out
    assert "measuring" in printed.err
    files = {p.name for p in out.iterdir()}
    assert files == {"results.json", "table.md", "cost.png", "cost.svg"}
    again = tmp_path / "again"
    assert run("--redraw", out / "results.json", "--out", again) == 0
    assert (again / "table.md").read_bytes() == (out / "table.md").read_bytes()
    assert (again / "cost.svg").read_bytes() == (out / "cost.svg").read_bytes()
    models = {r["case"]["model"] for r in json.loads((out / "results.json").read_text())["results"]}
    assert models == {"plain-gpt", "symp-h0"}


def test_forms(tmp_path, capsys):
    options = ["--lengths", "8", "--measure", "step", "--forms", "auto", "tiled", "masked"]
    assert run(*FAST, *options, "--presets", "symp-h0", "linear-symp-h0", "--out", tmp_path) == 0
    printed = capsys.readouterr()
    for name in ("symp-h0", "symp-h0, tiled", "linear-symp-h0", "linear-symp-h0, masked"):
        assert f"| {name} | step |" in printed.out
    assert printed.out.count("| step |") == 5
    assert "left out, not in form 'masked': step of symp-h0" in printed.err


def test_bfloat16(tmp_path, capsys):
    options = ["--lengths", "8", "--measure", "step", "prefill", "decode", "--dtype", "bfloat16"]
    assert run(*FAST, *options, "--out", tmp_path) == 0
    assert "cpu bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--presets", "symp-r3"], "did you mean 'symp-r2'"),
        (["--measure", "stop"], "did you mean 'step'"),
        (["--n-embd", "15"], "multiple of n_head"),
        (["--lengths", "0"], "length must be"),
        (["--rounds", "0"], "rounds"),
        (["--forms", "tilde"], "did you mean 'tiled'"),
        (["--forms", "masked"], "has this form"),
        (["--threads", "0"], "threads"),
        (["--tokens-per-batch", "8", "--lengths", "16"], "tokens a batch"),
        (["--device", "cuda:9"], "not available"),
        (["--redraw", "nowhere.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path):
    assert run(*FAST, *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert says in error
    assert len([line for line in error.splitlines() if line.startswith("sympformer:")]) == 1
    assert not (tmp_path / "out").exists()


def test_wrong_usage():
    assert run("--dtype", "float8") == 2


def test_memory_of_an_imported_preset(tmp_path):
    """It is measured in a process of its own, which imports the same."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import sympformer as sf\n"
        "sf.register_preset('of-a-file', sf.Preset('mine', {'tie_embeddings': False}))\n"
    )
    import_from(str(file))
    try:
        case = Case("of-a-file", "memory", 8, 1, 1, 1, 8, 16)
        assert fresh_peak(case, threads=1).whole > 0
    finally:
        del PRESETS["of-a-file"]

"""From a run to its tables, its file and its figure."""

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from sympformer.bench import (
    BenchReport,
    BenchResult,
    Case,
    bench,
    existing,
    grid,
    operations,
    ratio,
    write_report,
)
from sympformer.bench.figure import draw
from sympformer.bench.table import FAILED, tables
from sympformer.errors import InputError

TINY = {"length": 16, "batch_size": 2, "n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 37}
FIRST = Case("plain-gpt", **TINY)
MACHINE = {
    "device": "a machine",
    "threads": 1,
    "load": 0.5,
    "torch": "2",
    "commit": "abc",
    "date": "today",
    "command": "bench",
    "rounds": 3,
}


def result(model: str, seconds=(), length: int = 16, **others) -> BenchResult:
    case = replace(FIRST, model=model, length=length, measure=others.pop("measure", "step"))
    return BenchResult(case, f"T {length}", 2 * length, 6.4e6, 1234, tuple(seconds), **others)


@pytest.fixture
def report() -> BenchReport:
    results = [
        result("plain-gpt", (1.0, 1.0, 2.0)),
        result("gpt", (0.5, 0.5, 1.0)),
        result("symp-r2", (2.0, 3.0, 4.0)),
        result("plain-gpt", (1.0, 1.0, 1.0), length=32),
        result("symp-r2", (), length=32),
        result("gpt", (2.0, 2.0, 2.0), length=32),
        result("plain-gpt", measure="memory", whole=300 * 2**20, increment=100 * 2**20),
        result("symp-r2", measure="memory", whole=330 * 2**20, increment=150 * 2**20),
    ]
    return BenchReport(MACHINE, {"cpu float32": 1e9}, tuple(results))


def test_ratios_are_made_round_by_round(report):
    plain, _, r2 = report.results[:3]
    assert ratio(r2, plain) == (2.0, 2.0, 2.5)
    assert ratio(*report.results[7:5:-1]) == (1.5, 1.1, 1.5)
    assert ratio(report.results[4], report.results[3]) is None
    with pytest.raises(ValueError, match="side by side"):
        ratio(report.results[3], plain)
    longer = replace(r2, tokens=2 * r2.tokens)
    assert ratio(longer, plain).value == 1.0  # a token


def test_tables(report):
    times, memory = tables(report)
    cells = {row[0] + row[3]: dict(zip(times.columns, row, strict=True)) for row in times.rows}
    assert cells["symp-r216"]["over plain GPT"] == "2.00 (2.00–2.50)"
    assert cells["symp-r216"]["over gpt"] == "4.00 (4.00–5.00)"
    assert cells["plain-gpt16"]["over plain GPT"] == "-"
    assert cells["plain-gpt16"]["µs/token"] == "31,250.0"
    assert cells["plain-gpt16"]["MFLOP/token"] == "0.20"
    assert cells["plain-gpt16"]["of peak"] == "0.6 %"
    assert cells["symp-r232"]["µs/token"] == FAILED
    assert memory.rows[1][-4:] == ("330", "150", "1.50 (1.10)", "-")
    assert "a machine, 1 thread, load 0.5 before" in times.markdown()


def test_the_file_gives_the_report_back_and_the_figure_again(report, tmp_path):
    first = write_report(report, tmp_path / "one")
    assert [p.name for p in first] == ["results.json", "table.md", "cost.png", "cost.svg"]
    again = BenchReport.load(tmp_path / "one" / "results.json")
    assert again == report
    second = write_report(again, tmp_path / "two")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_line_needs_several_lengths(report):
    figure = draw(report)
    (axes,) = figure.axes  # steps; memory was measured at one length
    labels = {str(line.get_label()).split()[0] for line in axes.get_lines()}
    assert labels == {"plain-gpt", "gpt"}  # symp-r2 has one time only
    line = next(h for h in axes.get_lines() if str(h.get_label()).startswith("plain-gpt"))
    assert list(line.get_ydata()) == pytest.approx([1e6 / 32, 1e6 / 64])
    assert draw(BenchReport(MACHINE, report.peak, report.results[:3])) is None


@pytest.mark.parametrize("text", [None, "{", "{}", '{"machine": {}, "peak": {}, "results": [1]}'])
def test_a_bad_file_is_refused(text, tmp_path):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"results\.json"):
        BenchReport.load(path)


def test_a_run_of_everything(tmp_path):
    """Every measure but memory, which needs processes of its own, on tiny models."""
    measures = ["step", "prefill", "decode", "generate", "recompute"]
    models = ["gpt", "symp-r2", "linear-symp-exp-euler"]
    report = bench(grid(FIRST, models, measures, [16], [16]), rounds=1)
    assert len(report.results) == 5 * 4
    for r in report.results:
        assert len(r.seconds) == 1
        assert r.flops > 0
        assert r.parameters > 0
        assert report.share(r) > 0
    stored = json.loads(write_report(report, tmp_path)[0].read_text())
    assert {"device", "cores", "threads", "torch", "commit", "date", "command"} <= set(
        stored["machine"]
    )
    assert stored["results"][0]["case"] == asdict(replace(FIRST, measure="step"))


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_left_as_it_was(fails, monkeypatch):
    """Its threads and its random state."""
    torch.manual_seed(7)
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    if fails:
        monkeypatch.setattr(operations, "adamw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        bench({"one": [FIRST, replace(FIRST, model="symp-r2")]}, rounds=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_does_not_fit_is_reported():
    cases = [FIRST, replace(FIRST, vocab_size=2**52)]
    whole, none = bench({"one": cases}, rounds=1).results
    assert whole.seconds
    assert none.failed


def test_grid():
    groups = grid(FIRST, ["gpt", "gpt"], ["step", "memory"], [16, 32], [16, 32], 64)
    assert len(groups) == 8
    for name, cases in groups.items():
        assert [c.model for c in cases] == ["plain-gpt", "gpt"]
        assert all(c.length * c.batch_size == 64 for c in cases)
        assert f"T {cases[0].length}" in name


def test_what_a_model_does_not_have_is_left_out():
    models, names = ["gpt", "symp-exp-euler", "linear-symp-r2"], ["auto", "fused", "sweep"]
    groups = grid(FIRST, models, ["step", "decode"], [16], [16], None, names)
    steps, decodes = groups.values()
    assert len(steps) == len(decodes) == 1 + 3 * 3
    kept, lines = existing(groups)
    steps, decodes = kept.values()
    assert [c.name for c in steps if c.model == "gpt"] == ["gpt", "gpt, fused"]
    assert [c.form for c in steps if c.model == "symp-exp-euler"] == ["auto", "sweep"]
    assert [c.form for c in steps if c.model == "linear-symp-r2"] == ["auto"]
    assert [c.form for c in decodes] == ["auto"] * 4  # single tokens: by the formula
    assert len(lines) == 2
    assert any("'fused'" in line and "step of symp-exp-euler" in line for line in lines)


def test_the_model_beside_has_the_same_form_if_it_can():
    def made(model, form):
        r = result(model, [1.0])
        return replace(r, case=replace(r.case, form=form))

    plain, gpt, gpt_tiled = made("plain-gpt", "auto"), made("gpt", "auto"), made("gpt", "tiled")
    tiled, swept = made("symp-r2", "tiled"), made("symp-r2", "sweep")
    report = BenchReport(MACHINE, {}, (plain, gpt, gpt_tiled, tiled, swept))
    assert report.beside(tiled, "gpt") is gpt_tiled
    assert report.beside(swept, "gpt") is gpt
    assert report.beside(swept) is plain


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "gtp"}, "did you mean 'gpt'"),
        ({"measure": "stop"}, "did you mean 'step'"),
        ({"dtype": "float8"}, "dtype"),
        ({"length": 0}, "length must be"),
        ({"n_head": 3}, "multiple of n_head"),
        ({"form": "tilde"}, "did you mean 'tiled'"),
        ({"form": "tiled"}, "plain-gpt"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        replace(FIRST, **change)


def test_what_has_no_meaning_together_is_refused():
    with pytest.raises(InputError, match="tokens a batch"):
        grid(FIRST, ["gpt"], ["step"], [16, 32], [16], 24)
    with pytest.raises(InputError, match="lengths"):
        grid(FIRST, ["gpt"], ["step"], [], [16])
    with pytest.raises(InputError, match="--n-embd needs at least one value"):
        grid(FIRST, ["gpt"], ["step"], [16], [])


def test_results_are_kept_in_a_path(report, tmp_path: Path):
    report.save(tmp_path / "new" / "r.json", targets=[{"met": "yes"}])
    assert json.loads((tmp_path / "new" / "r.json").read_text())["targets"] == [{"met": "yes"}]
    assert BenchReport.load(tmp_path / "new" / "r.json") == report

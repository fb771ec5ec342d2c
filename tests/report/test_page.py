"""The page as a file: what is in it, of which runs, and what is refused."""

import base64
import html
import json
import re
import shutil

import numpy as np
import pytest

import sympformer as sf
from sympformer.cli import main
from sympformer.report import plot
from sympformer.report.inside import look_inside
from sympformer.report.markup import embedded
from sympformer.report.page import sections
from sympformer.report.runs import see
from sympformer.study import load_results
from sympformer.study.statistics import differences_from

SECTIONS = (
    *("results", "losses", "scalars", "inside", "surprise", "attention", "motion", "energies"),
    *("samples", "audits", "configuration", "provenance"),
)


def charts(page):
    """The data of the charts."""
    source = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="charts">(.*?)</script>', source, re.S)[1])


def words(page):
    """The text of a page, without its scripts."""
    source = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return html.unescape(re.sub(r"<[^>]*>", " ", source))


def test_a_page_is_one_file_with_all_sections(page):
    source = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 6e6
    found = re.findall(r'<section id="(.*?)"', source)
    assert tuple(found) == SECTIONS
    assert not re.search(r'(src|href)="(?!#|data:)', source)  # nothing lies elsewhere
    identities = re.findall(r' id="(.*?)"', source)
    assert len(identities) == len(set(identities))
    assert set(charts(page)) <= set(identities)


def test_equal_runs_give_equal_pages(page, runs, tmp_path):
    sentence = ["--sentence", "Once there was a clever girl.", "--baseline", "gpt"]
    for name in ("one", "two"):
        assert main(["report", str(runs), "--html", str(tmp_path / name), *sentence]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert "Once there was a clever girl" in words(tmp_path / "one")


def test_differences_are_those_of_the_table(page, runs):
    difference = differences_from(load_results(runs), "gpt")["symp-exp-euler"]
    said = f"{difference.mean:+.4f} ± {difference.half_width:.4f}"
    assert said in words(page)
    assert "momentum-helps" in words(page)
    assert "Declared 20" in words(page)
    dot = charts(page)["differences"]["figures"][""]["data"][0]
    assert dot["x"] == [pytest.approx(difference.mean, rel=1e-4)]
    assert dot["error_x"]["array"] == [pytest.approx(difference.half_width, rel=1e-4)]


def test_losses_are_over_updates_tokens_time_and_operations(page, runs):
    figures = charts(page)["losses-chart"]["figures"]
    axes = {key.split("|")[1] for key in figures}
    assert axes == {"updates", "tokens", "time (minutes)", "operations (10¹⁵)"}
    lines = {trace.get("name"): trace for trace in figures["validation|tokens"]["data"]}
    results = [r for r in load_results(runs) if r.preset == "gpt"]
    assert lines["gpt"]["y"][-1] == pytest.approx(
        np.mean([r.final_loss for r in results]), rel=1e-4
    )
    assert lines["gpt"]["x"][-1] == results[0].tokens


def test_what_was_traced_is_what_is_drawn(runs):
    found, notes = look_inside(see([runs]), "Once there was a clever girl.", ["gpt"])
    assert [seen.entry for seen in found] == ["gpt", "symp-exp-euler"]
    assert notes == []
    seen = found[1]
    run = see([runs]).entries["symp-exp-euler"][0]
    ids = run.folder.tokenizer().encode("Once there was a clever girl.")
    again = sf.trace(run.folder.model(), np.array([[run.folder.tokenizer().eos, *ids]]))
    np.testing.assert_allclose(seen.surprise, again.surprise[0, 1:], rtol=1e-5)
    assert "".join(seen.labels[1:]) == "Once there was a clever girl."
    assert look_inside(see([runs]), None, [])[0] == []


def test_a_run_under_way_is_seen_too(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(runs.parent / "stopped"), "--html", str(page)]) == 0
    assert "written" in capsys.readouterr().out
    said = words(page)
    assert "so far" in said
    assert "stopped, update 2 of 4" in said
    lines = charts(page)["losses-chart"]["figures"]["validation|updates"]["data"]
    assert [trace["x"] for trace in lines if trace.get("name") == "symp-exp-euler"] == [[2]]
    assert charts(page)["training"]["figures"]  # what was learned, from the lines that are whole


def test_a_run_under_way_has_its_page_in_its_folder(runs, capsys):
    stopped = runs.parent / "stopped"
    assert main(["report", str(stopped), "--sentence", "She got a kite ."]) == 0
    page = stopped / "report.html"
    assert f"written: {page}" in capsys.readouterr().out
    page.unlink()
    assert main(["report", str(runs), "--sentence", "She got a kite ."]) == 2


@pytest.mark.parametrize("updates", [0, 1])
def test_a_run_that_has_just_begun_is_seen_too(runs, updates, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.toml", "environment.json", "tokenizer.json", "metrics.jsonl"):
        shutil.copy(runs / "gpt-s0" / name, begun)
    rows = (begun / "metrics.jsonl").read_text().splitlines(keepends=True)
    (begun / "metrics.jsonl").write_text("".join(rows[:updates]))
    assert main(["report", str(begun), "--html", str(tmp_path / "page.html")]) == 0
    said = words(tmp_path / "page.html")
    assert f"stopped, update {updates} of 4" in said
    assert "has not reached its first checkpoint" in said
    assert ("No update has been made yet." in said) == (not updates)


def test_an_unfinished_seed_beside_finished_ones_is_named(runs, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(runs, whole)
    (whole / "gpt-s1" / "summary.json").unlink()
    found = sections(see([whole]), "gpt", None)[0].markup()
    assert "gpt: seed 1 is not finished, and not in the table." in found


def test_an_unfinished_twin_of_a_finished_run_is_left_out(runs):
    found = see([runs, runs.parent / "stopped"])
    assert len(found.runs) == 4
    assert "its entry has a finished run of this seed" in found.notes[0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "runs"),
        (["nowhere", "--html", "p.html"], "nowhere is no folder"),
        (["empty", "--html", "p.html"], "holds no run"),
        (["RUNS", "--html", "p.html", "--baseline", "yurii"], "yurii"),
        (["RUNS", "RUNS"], "give one, or --html FILE"),
        (["RUNS", "--sentence", "a"], "--sentence is about the page"),
        (["RUNS", "--html", "p.html", "--sentence", "Quux!"], "quux"),
    ],
)
def test_what_makes_no_page_is_refused(given, says, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    try:
        code = main(["report", *(str(runs) if a == "RUNS" else a for a in given)])
    except SystemExit as end:
        code = end.code
    assert code == 2
    said = capsys.readouterr()
    assert says.lower() in (said.err + said.out).lower()
    assert not (tmp_path / "p.html").exists()


def test_foreign_text_is_harmless_in_a_page():
    sample = {"sample": "</script><script>alert(1)</script>", "loss": float("nan")}
    assert "</" not in embedded(sample)
    assert json.loads(embedded(sample)) == {**sample, "loss": None}


def test_maps_are_packed_to_rounding():
    z = np.array([[0.5, np.nan], [-0.25, 0.125]])
    heat = plot.heat(z, ["a", "b"], ["a", "b"], "")
    packed = np.frombuffer(base64.b64decode(heat["packed"]), "<i2").reshape(heat["shape"])
    assert packed[0, 1] == -32768
    np.testing.assert_allclose(packed[:, 0] * heat["scale"], z[:, 0], atol=1e-4)
    assert heat["zmin"] == -heat["zmax"]

"""Claims that stand before the runs, and what they are worth after."""

import json

import numpy as np
import pytest
import scipy

from sympformer.errors import InputError
from sympformer.study import Declaration, Hypothesis, Plan, load_results, write_report

TABLES = {
    "faster": {"entry": "symp-r2", "against": "gpt", "family": "momentum"},
    "far": {"entry": "symp-r2", "against": "gpt", "margin": 1.0, "family": "momentum"},
    "level": {"entry": "yurii", "against": "gpt", "claim": "equal", "margin": 0.1},
}
ENTRIES = ("gpt", "symp-r2", "yurii")


def declared(seeds=(0, 1, 2, 3)):
    return Declaration.of(TABLES, seeds, ENTRIES)


def write_all(write_run, seeds=(0, 1, 2, 3)):
    for seed in seeds:
        write_run("gpt", seed=seed, final=2.0 + 0.01 * seed)
        write_run("symp-r2", seed=seed, final=1.9 + 0.012 * seed)
        write_run("yurii", seed=seed, final=2.001 + 0.011 * seed)


def test_tests_are_those_of_scipy():
    d = np.array([-0.10, -0.08, -0.12, -0.09, 0.01])
    t, w = Hypothesis("a", "b", margin=0.02).p(d)
    assert t == pytest.approx(scipy.stats.ttest_1samp(d, -0.02).pvalue)
    assert w == pytest.approx(scipy.stats.wilcoxon(d + 0.02).pvalue)
    t, w = Hypothesis("a", "b", "equal", margin=0.2).p(d)
    sides = [
        scipy.stats.ttest_1samp(d, -0.2, alternative="greater").pvalue,
        scipy.stats.ttest_1samp(d, 0.2, alternative="less").pvalue,
    ]
    assert t == pytest.approx(max(sides))
    assert w == pytest.approx(1 / 2**5)  # all of five on the right side of both bounds


def test_outcomes(write_run, tmp_path):
    write_all(write_run)
    rows = {row["hypothesis"]: row for row in declared().table(load_results(tmp_path)).dicts()}
    assert [rows[name]["outcome"] for name in TABLES] == ["holds", "the opposite", "holds"]
    assert rows["level"]["claim"] == "yurii = gpt within 0.1"
    d = [-0.1 + 0.002 * seed for seed in range(4)]
    p = scipy.stats.ttest_1samp(d, 0.0).pvalue
    far = scipy.stats.ttest_1samp(d, -1.0).pvalue
    assert far < p < 1e-4
    assert rows["faster"]["p (Holm)"] == "< 0.0001"


def test_no_outcome_before_all_seeds_of_a_family(write_run, tmp_path):
    write_all(write_run, seeds=(0, 1))
    rows = declared(seeds=(0, 1, 2)).table(load_results(tmp_path)).dicts()
    assert {row["outcome"] for row in rows} == {"not yet: 2 of 3 seeds"}
    assert {row["p (t)"] for row in rows} == {"-"}


def test_what_was_declared_stands(write_run, tmp_path):
    folder = tmp_path / "study"
    declared().keep(folder)
    declared().keep(folder)
    assert Declaration.load(folder) == declared()
    for other in (declared(seeds=(0, 1)), Declaration({}, (0, 1, 2, 3))):
        with pytest.raises(InputError, match="declares other hypotheses or seeds"):
            other.keep(folder)
    write_all(write_run)
    with pytest.raises(InputError, match="begun before its hypotheses"):
        declared().keep(tmp_path)
    Declaration({}, (0,)).keep(tmp_path)
    assert Declaration.load(tmp_path) is None


def test_the_report_holds_the_table(write_run, tmp_path):
    write_all(write_run)
    declared().keep(tmp_path / "report")
    paths = write_report(load_results(tmp_path), tmp_path / "report")
    assert "hypotheses.json" in {path.name for path in paths}
    rows = json.loads((tmp_path / "report" / "hypotheses.json").read_text())
    assert [row["hypothesis"] for row in rows] == list(TABLES)
    assert "Declared 20" in (tmp_path / "report" / "hypotheses.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entry = 'yurii'\nagainst = 'gpt'\nclaim = 'equal'", "of 'equal' above 0"),
        ("entry = 'yurii'\nagainst = 'yurii'", "with itself"),
        ("entry = 'yurii'\nagainst = 'kda'", "'kda', which is not compared"),
        ("entry = 'yurii'\nagainst = 'gpt'\nmargn = 1.0", "margn"),
        ("entry = 'yurii'\nagainst = 'gpt'\nalpha = 1.0", "alpha"),
        ("entry = 'yurii'\nagainst = 'gpt'\nmargin = -1.0", "at least 0"),
        ("entry = 'yurii'\nagainst = 'gpt'\n[task.mqar]", "not a suite"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, text, message):
    file = tmp_path / "plan.toml"
    start = "presets = ['gpt', 'yurii']\nseeds = [0, 1]\n[hypothesis.one]\n"
    file.write_text(start + text)
    with pytest.raises(InputError, match=message):
        Plan.load(file)


def test_one_seed_decides_nothing(tmp_path):
    with pytest.raises(InputError, match="at least two seeds"):
        declared(seeds=(0,))

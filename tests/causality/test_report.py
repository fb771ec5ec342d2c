import json
import math

from sympformer.causality import Finding, Report

NOTHING = Finding(0.0, "as they are", token=1, output=0)
CAUSAL = Report(64, NOTHING, NOTHING, NOTHING, NOTHING)


def test_a_clean_report_reads_as_one_sentence_and_four_numbers():
    lines = str(CAUSAL).splitlines()
    assert lines[0] == "CAUSAL: no output depends on a later token"
    assert len(lines) == 6
    assert "FAILED" not in str(CAUSAL)


def test_a_leak_names_the_output_and_the_token():
    report = Report(64, Finding(0.43, "as they are", 20, 12), NOTHING, NOTHING, None)
    first, *rest = str(report).splitlines()
    assert first == "LEAK: output 12 moves by 0.43 standard deviations when token 20 changes"
    assert "FAILED" in rest[1]
    assert "FAILED" not in "".join(rest[2:])


def test_rounding_is_allowed_and_more_is_not():
    def report(value: float) -> Report:
        finding = Finding(value, "as they are", 3, 2)
        return Report(64, finding, NOTHING, finding, finding)

    assert report(1e-12).passed
    assert not report(1e-8).causal
    assert report(1e-8).prefix_consistent
    assert report(1e-8).cache_consistent
    assert not report(1e-4).prefix_consistent
    assert report(1e-4).cache_consistent is False


def test_no_gradient_is_allowed_at_all():
    tiny = Finding(1e-300, "as they are", 3, 2)
    report = Report(64, NOTHING, tiny, NOTHING, NOTHING)
    assert not report.causal
    assert report.verdict.startswith("LEAK: output 2 has a gradient")


def test_a_leak_outranks_every_other_fault():
    bad = Finding(1.0, "as they are", 3, 2)
    assert Report(8, bad, bad, bad, bad, ("x",)).verdict.startswith("LEAK")
    assert Report(8, NOTHING, NOTHING, bad, bad, ("x",)).verdict.startswith("UNDECIDED")
    assert Report(8, NOTHING, NOTHING, bad, bad).verdict.startswith("LENGTH DEPENDENT")
    assert Report(8, NOTHING, NOTHING, NOTHING, bad).verdict.startswith("WRONG CACHE")


def test_nothing_measured_is_not_a_pass():
    report = Report(8, None, None, None, None, ("as they are",))
    assert math.isinf(report.max_future_influence)
    assert not report.causal
    assert not report.prefix_consistent
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["max_future_influence"] is None


def test_the_dictionary_has_verdicts_values_and_places():
    report = Report(64, Finding(0.43, "as they are", 20, 12), None, NOTHING, None)
    d = json.loads(json.dumps(report.to_dict()))
    assert d["passed"] is False
    assert d["causal"] is False
    assert d["prefix_consistent"] is True
    assert d["cache_consistent"] is None
    assert d["max_future_influence"] == 0.43
    assert d["max_future_gradient"] is None
    assert d["worst"]["influence"] == {
        "value": 0.43,
        "weights": "as they are",
        "token": 20,
        "output": 12,
    }

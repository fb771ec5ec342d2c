import json
import math

from sympformer.causality import AuditReport, Finding

NOTHING = Finding(0.0, "as they are", token=1, output=0, allowed=0.0)
CAUSAL = AuditReport(64, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


def found(value: float, allowed: float = 0.0, token: int = 3, output: int = 2) -> Finding:
    return Finding(value, "as they are", token, output, allowed)


def test_a_clean_report_reads_as_one_sentence_and_five_numbers():
    lines = str(CAUSAL).splitlines()
    assert lines[0] == "CAUSAL: no output depends on a later token"
    assert len(lines) == 7
    assert "FAILED" not in str(CAUSAL)


def test_a_leak_names_the_output_and_the_token():
    report = AuditReport(64, found(0.43, token=20, output=12), NOTHING, NOTHING, None)
    first, *rest = str(report).splitlines()
    assert first == "LEAK: output 12 moves by 0.43 standard deviations when token 20 changes"
    assert "FAILED" in rest[1]
    assert "FAILED" not in "".join(rest[2:])


def test_rounding_is_allowed_and_more_is_not():
    def report(value: float) -> AuditReport:
        shape = found(value, allowed=1e-6)
        return AuditReport(64, found(value, allowed=1e-10), NOTHING, shape, shape)

    assert report(1e-12).passed
    assert not report(1e-8).causal
    assert report(1e-8).prefix_consistent
    assert report(1e-8).cache_consistent
    assert not report(1e-4).prefix_consistent
    assert report(1e-4).cache_consistent is False


def test_no_gradient_is_allowed_at_all():
    tiny = found(1e-300)
    report = AuditReport(64, NOTHING, tiny, NOTHING, NOTHING)
    assert not report.causal
    assert report.verdict.startswith("LEAK: output 2 has a gradient")


def test_a_leak_outranks_every_other_fault():
    bad = found(1.0)
    for findings, verdict in (
        ((bad, bad, bad, bad, bad, ("x",)), "LEAK"),
        ((NOTHING, NOTHING, bad, bad, bad, ("x",)), "UNDECIDED"),
        ((NOTHING, NOTHING, bad, bad, bad), "LENGTH DEPENDENT"),
        ((NOTHING, NOTHING, NOTHING, bad, bad), "WRONG CACHE: output"),
        ((NOTHING, NOTHING, NOTHING, NOTHING, bad), "WRONG CACHE: when several tokens follow"),
    ):
        report = AuditReport(8, *findings)
        assert report.verdict.startswith(verdict)
        assert not report.passed


def test_nothing_measured_is_not_a_pass():
    report = AuditReport(8, None, None, None, None, nonfinite=("as they are",))
    assert math.isinf(report.max_future_influence)
    assert not report.causal
    assert not report.prefix_consistent
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["max_future_influence"] is None


def test_the_dictionary_has_verdicts_values_and_places():
    report = AuditReport(64, found(0.43, token=20, output=12), None, NOTHING, None)
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
        "allowed": 0.0,
    }


def test_what_was_not_made_is_said_everywhere():
    reasons = {"cache": "none is taken", "redrawn weights": "the function shows none"}
    report = AuditReport(8, NOTHING, NOTHING, None, None, not_made=reasons, where="in bfloat16")
    assert report.passed
    assert report.prefix_consistent is None
    assert report.verdict.endswith("; not made: cache, redrawn weights")
    assert report.to_dict()["not_made"] == reasons
    assert report.to_dict()["where"] == "in bfloat16"
    text = str(report)
    assert "8 tokens in bfloat16" in text
    for reason in reasons.values():
        assert f"not made: {reason}" in text

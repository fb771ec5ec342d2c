import math

import numpy as np
import pytest

from sympformer.errors import InputError
from sympformer.study import RunResult, summarise
from sympformer.study.results import Curve
from sympformer.study.statistics import (
    Interval,
    PairedDifference,
    fairest,
    holm,
    steps_to,
)


def curve(*losses: float) -> Curve:
    steps = 10.0 * np.arange(1, len(losses) + 1)
    return Curve(steps, steps, np.array(losses))


def test_the_spread_of_one_seed_is_unknown():
    assert Interval.of([2.0]) == Interval(2.0, None)
    assert Interval.of([1.0, 2.0, 3.0]).half_width == pytest.approx(4.30265 / 3**0.5, rel=1e-4)


def test_the_paired_difference_is_the_textbook_one():
    values = {0: 2.0, 1: 2.1, 2: 1.9}
    reference = {0: 2.3, 1: 2.2, 2: 2.1}
    difference = PairedDifference.paired(values, reference)
    assert difference
    assert difference.mean == pytest.approx(-0.2)
    # Differences -.3, -.1, -.2: sd .1, standard error .1/√3, and 4.3027 is the .975 quantile of t
    # with two degrees of freedom, whose distribution function is 1/2 + t / (2 √(2 + t²)).
    error = 0.1 / math.sqrt(3)
    assert difference.half_width == pytest.approx(4.302653 * error, rel=1e-6)
    t = 0.2 / error
    assert difference.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6)


def test_only_common_seeds_are_paired():
    difference = PairedDifference.paired({0: 1.0, 1: 5.0}, {1: 4.0, 2: 9.0})
    assert difference == PairedDifference(1.0, None, None, seeds=(1,))
    assert PairedDifference.paired({0: 1.0}, {1: 1.0}) is None


def test_differences_that_do_not_vary_have_no_interval():
    difference = PairedDifference.paired({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0})
    assert difference == PairedDifference(0.5, None, None, seeds=(0, 1))


def test_steps_are_interpolated_between_evaluations():
    assert steps_to(curve(4.0, 3.0, 2.0), 2.5) == 25
    assert steps_to(curve(4.0, 3.0, 2.0), 2.0) == 30
    assert steps_to(curve(4.0, 3.0, 2.0), 9.0) == 10
    assert steps_to(curve(4.0, 2.0, 3.0, 1.0), 2.5) == 17.5
    assert steps_to(curve(4.0, 3.0), 2.5) is None


def test_presets_are_summarised_over_seeds_and_against_references(write_run):
    runs = [
        RunResult.load(write_run(preset, seed, final, tokens_per_second=speed))
        for preset, speed, finals in (
            ("yurii", 50.0, (2.0, 2.1)),
            ("gpt", 100.0, (2.5, 2.7)),
            ("gpt-untied", 90.0, (2.2, 2.2)),
        )
        for seed, final in enumerate(finals)
    ]
    gpt, yurii, untied = summarise(runs, "gpt")
    assert [s.preset for s in (gpt, yurii, untied)] == ["gpt", "yurii", "gpt-untied"]
    assert gpt.differences.keys() == {"gpt-untied"}
    assert untied.differences.keys() == {"gpt"}
    assert yurii.differences["gpt"]
    assert yurii.differences["gpt"].mean == pytest.approx(-0.55)
    assert yurii.final_loss.mean == pytest.approx(2.05)
    assert yurii.gap == pytest.approx(0.55)
    assert yurii.speed == 0.5
    # Losses fall linearly from 5: gpt's 2.5 is 2.5/3 of the way to 2, its 2.7 is 2.3/2.9 to 2.1.
    assert yurii.steps_to_baseline == pytest.approx(100 * (2.5 / 3 + 2.3 / 2.9) / 2)
    assert gpt.steps_to_baseline == pytest.approx(100)


def test_a_target_that_one_seed_misses_is_never_reached(write_run):
    finals = {("gpt", 0): 2.0, ("gpt", 1): 2.0, ("yurii", 0): 1.9, ("yurii", 1): 2.1}
    runs = [RunResult.load(write_run(*key, final)) for key, final in finals.items()]
    assert summarise(runs, "gpt")[1].steps_to_baseline is None


def test_faulty_presets_come_last_and_say_why(write_run, audits):
    runs = [
        RunResult.load(write_run("cheat", final=1.0, audit=audits["leak"])),
        RunResult.load(write_run("slow", final=3.0)),
        RunResult.load(write_run("gpt", final=2.0, floor=None)),
    ]
    gpt, slow, cheat = summarise(runs, "gpt")
    assert (gpt.preset, slow.preset, cheat.preset) == ("gpt", "slow", "cheat")
    assert gpt.gap is None
    assert not slow.faults
    assert cheat.leaks
    assert len(cheat.faults) == 1
    assert "below the entropy floor" in cheat.faults[0]


def test_a_missing_baseline_is_refused(write_run):
    with pytest.raises(InputError, match="baseline"):
        summarise([RunResult.load(write_run("yurii"))], "gpt")


def test_holm_corrects_the_least_p_most_and_keeps_their_order():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert corrected == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.5})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_the_fairest_control_is_the_one_with_the_same_tables():
    assert fairest("gpt", {"gpt", "gpt-untied", "yurii"}) == "gpt-untied"
    assert fairest("gpt", {"gpt", "yurii"}) == "gpt"

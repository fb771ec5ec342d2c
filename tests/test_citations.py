"""What presets are cited by."""

import re

import pytest

import sympformer as sf
from sympformer.citations import SOURCES, citation
from sympformer.errors import InputError


def keys(name):
    return set(re.findall(r"^@\w+\{(.+),$", citation(name), re.MULTILINE))


@pytest.mark.parametrize("name", sf.presets())
def test_every_preset_comes_from_somewhere(name):
    entries = citation(name)
    assert keys(name)
    assert entries.count("{") == entries.count("}")
    if "symp" in name:
        assert "2603.16535" in entries


def test_every_source_is_somebodys():
    assert set(SOURCES) == set().union(*map(keys, sf.presets()))


def test_the_ideas_of_a_preset_are_its_own():
    softmax = {"vaswani2017attention"}
    assert keys("gpt-untied") == {"radford2019language", *softmax}
    assert keys("symp-r2") == {"stein2026sympformer", *softmax}
    assert keys("symp-tao") == {"stein2026sympformer", "tao2016explicit", *softmax}
    assert keys("linear-yurii") == {"zimin2026yuriiformer", "katharopoulos2020transformers"}
    delta = {"schlag2021linear", "yang2024parallelizing"}
    assert keys("kda") == {"kimi2025linear", *delta}
    assert keys("gated-delta-symp") == {
        *("stein2026sympformer", "mclachlan2001conformal", "yang2024gated", "he2022regularized"),
        *delta,
    }


def test_an_entry():
    assert citation("yurii").startswith(
        "@misc{zimin2026yuriiformer,\n"
        "  author = {Zimin, Aleksandr and Polyanskiy, Yury and Rigollet, Philippe},\n"
        "  title = {{YuriiFormer: A Suite of Nesterov-Accelerated Transformers}},\n"
        "  year = {2026},\n"
        "  eprint = {2601.23236},\n"
        "  archivePrefix = {arXiv}\n}\n"
    )


def test_no_such_preset():
    with pytest.raises(InputError, match="symp-r3"):
        sf.citation("symp-r3")

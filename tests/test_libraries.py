"""Compiled code is kept, and made again where what was kept is damaged."""

import ctypes

import pytest

from sympformer import torch_private
from sympformer.libraries import load_library

CODE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answers.cpp"
    path.write_text(CODE, encoding="utf-8")
    return path


def test_it_is_made_once(source, tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    folder.mkdir()
    assert load_library(source, folder).answer() == 42
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(torch_private, "build_library", None)
    assert load_library(source, folder).answer() == 42


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.9])
def test_what_is_damaged_is_made_again(source, tmp_path, left):
    """Half a library ended the process: the linker maps more than there is."""
    folder = tmp_path / "kept"
    folder.mkdir()
    load_library(source, folder)
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # this process has it open
    kept.write_bytes(whole[: int(left * len(whole)) if 0 < left < 1 else left])
    library = load_library(source, folder)
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42


def test_another_source_is_another_library(source, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    load_library(source, folder)
    source.write_text(CODE.replace("42", "43"), encoding="utf-8")
    assert load_library(source, folder).answer() == 43

"""The look of figures stays in them, and equal figures are equal files."""

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from sympformer import InputError, figures


def draw():
    with figures.style():
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4])
    return figure


def test_the_style_is_put_back():
    before = dict(mpl.rcParams)
    with figures.style():
        assert mpl.rcParams["axes.spines.top"] is False
    assert dict(mpl.rcParams) == before


def test_a_dozen_lines_look_different():
    looks = figures.looks()
    assert len({next(looks) for _ in range(12)}) == 12


def test_equal_figures_are_equal_files(tmp_path):
    first, second = (figures.save(draw(), tmp_path / name, "loss") for name in ("one", "two"))
    assert [path.name for path in first] == ["loss.png", "loss.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        figures.save(draw(), tmp_path / "file", "loss")

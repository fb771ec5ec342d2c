"""The look of figures stays in them, and equal figures are equal files."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from sympformer import InputError, figures, presets


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


def test_every_preset_has_a_look_of_its_own():
    known = [name for family in figures.FAMILIES for name in family.members]
    assert len(known) == len(set(known))
    assert set(known) == {*presets(), "plain-gpt"}
    looks = figures.looks(known)
    assert len({look[:2] for look in looks.values()}) == len(looks)
    assert figures.looks(["symp-r2", "gpt"])["symp-r2"] == looks["symp-r2"]


def test_entries_of_ones_own_have_the_hue_of_their_preset():
    looks = figures.looks(["symp-r2", "symp-r2-look", "symp-r2-long", "mine", "theirs"])
    velocity = {looks[name].family for name in ("symp-r2", "symp-r2-look", "symp-r2-long")}
    assert velocity == {"momentum, velocity form"}
    assert looks["mine"].family == looks["theirs"].family == "others"
    assert len({look[:2] for look in looks.values()}) == 5
    many = figures.looks([f"p{i}" for i in range(18)])
    assert len({look[:2] for look in many.values()}) == 18


# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
}  # fmt: skip


@pytest.mark.parametrize("seen", BLINDNESS)
def test_families_can_be_told_apart_by_the_colour_blind(seen):
    """First shades: CIE Lab distances of those beside one another in our comparisons."""
    shades = {f.name: mpl.colors.to_rgb(f.shades[0]) for f in figures.FAMILIES}
    labs = {name: lab(linear(np.array(rgb)) @ BLINDNESS[seen].T) for name, rgb in shades.items()}
    for one, other in combinations(labs, 2):
        assert np.linalg.norm(labs[one] - labs[other]) > 12, (one, other)


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_labels_make_room_for_one_another():
    assert figures.spread([0.5, 0.1, 0.9], 0.1) == pytest.approx([0.5, 0.1, 0.9])
    places = figures.spread([0.5, 0.5, 0.52, 0.0], 0.1)
    assert places == pytest.approx([0.4067, 0.5067, 0.6067, 0.0], abs=1e-3)
    assert figures.spread([], 0.1) == []


def test_equal_figures_are_equal_files(tmp_path):
    first, second = (figures.save(draw(), tmp_path / name, "loss") for name in ("one", "two"))
    assert [path.name for path in first] == ["loss.png", "loss.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        figures.save(draw(), tmp_path / "file", "loss")


def test_lines_are_named_at_their_ends_and_slopes_are_those_that_are_said():
    with figures.style():
        axes = Figure(layout="constrained").subplots()
        axes.loglog([1, 10], [1, 0.1])
        figures.slope_guide(axes, (2.0, 8.0), 0.5, -2, "order 2")
        axes.set_ylim(0.01, 10)
        figures.label_lines(axes, [("one", 10, 0.1, "C0"), ("other", 10, 0.1, "C1")])
    guide = np.log(np.array(axes.get_lines()[1].get_xydata()))
    assert np.diff(guide[:, 1]) / np.diff(guide[:, 0]) == pytest.approx(-2)
    named, one, other = axes.texts
    assert named.get_text() == "order 2"
    assert one.xy == (10, 0.1)
    assert one.get_position()[1] != other.get_position()[1]

import os
import time

import pytest

from sympformer.data import folders
from sympformer.data.folders import whole_folder
from sympformer.data.packing import PROGRESS
from sympformer.errors import InputError


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "cache" / "a"

    def interrupted():
        with whole_folder(target) as partial:
            (partial / "x").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []
    with whole_folder(target) as partial:
        (partial / "x").write_text("whole")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["a"]
    assert (target / "x").read_text() == "whole"


def test_the_first_to_finish_wins(tmp_path):
    target = tmp_path / "a"
    with whole_folder(target) as slow:
        (slow / "x").write_text("slow")
        with whole_folder(target) as fast:
            (fast / "x").write_text("fast")
    assert (target / "x").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_preparation_left_goes_with_the_next(tmp_path):
    """Of a dead process only, and only what is there itself: links are not followed."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("mine")
    child = os.fork()
    if child == 0:
        with whole_folder(tmp_path / "cache" / "dead") as partial:
            (partial / "link").symlink_to(tmp_path / "outside")
            os._exit(9)
    os.waitpid(child, 0)
    (left,) = (tmp_path / "cache").iterdir()
    assert {path.name for path in left.iterdir()} == {".sympformer", "link"}
    with whole_folder(tmp_path / "cache" / "alive") as alive:
        with whole_folder(tmp_path / "cache" / "b"):
            pass
        assert {path.name for path in (tmp_path / "cache").iterdir()} == {alive.name, "b"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"alive", "b"}
    assert (tmp_path / "outside" / "x").read_text() == "mine"


def test_a_link_to_what_looks_abandoned_is_not_followed(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / ".sympformer").write_text(folders._OURS)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.1.partial").symlink_to(target)
    (tmp_path / "cache" / "a.2.partial").mkdir()
    (tmp_path / "cache" / "a.2.partial" / ".sympformer").symlink_to(target / ".sympformer")
    with whole_folder(tmp_path / "cache" / "b"):
        pass
    assert (target / ".sympformer").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(InputError, match="cannot write to"),
        whole_folder(tmp_path / "file" / "a"),
    ):
        pass


def test_a_full_disk(tmp_path):
    with pytest.raises(InputError, match="No space left"), whole_folder(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def killed(target, content="half"):
    """A process that dies while it fills `target`, with its progress saved."""
    child = os.fork()
    if child == 0:
        with whole_folder(target) as partial:
            (partial / "x").write_text(content)
            (partial / PROGRESS).write_text("{}")
            os._exit(9)
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_preparation_is_gone_on_with(tmp_path):
    target = tmp_path / "a"
    killed(target)
    with whole_folder(tmp_path / "b") as other:
        assert list(other.iterdir()) == [other / ".sympformer"], "of another text"
    with whole_folder(target) as partial:
        assert (partial / "x").read_text() == "half"
        with whole_folder(target) as second:
            assert second != partial, "the first one is at it"
        (partial / PROGRESS).unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_interrupted_preparation_stays_with_its_progress_only(tmp_path):
    def interrupted(error):
        with whole_folder(tmp_path / "a") as partial:
            (partial / PROGRESS).write_text("{}")
            raise error

    with pytest.raises(KeyboardInterrupt):
        interrupted(KeyboardInterrupt)
    (left,) = tmp_path.iterdir()
    with pytest.raises(InputError):
        interrupted(InputError("a bad document"))
    assert not left.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_progress_waits_for_a_week(tmp_path):
    killed(tmp_path / "a")
    (left,) = tmp_path.iterdir()
    for days, names in ((6, {left.name, "b"}), (8, {"b"})):
        then = time.time() - days * 24 * 3600
        os.utime(left / PROGRESS, (then, then))
        with whole_folder(tmp_path / "b"):
            pass
        assert {path.name for path in tmp_path.iterdir()} == names

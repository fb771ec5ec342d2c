"""Files that are whole or absent, whatever happens while they are written."""

import errno
import os

import pytest
import safetensors.torch
import torch

from sympformer import files
from sympformer.errors import InputError
from sympformer.files import Held, abandoned, atomic, link, locked

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    return path


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def in_child(block):
    """Run a function in a process that then dies at once, with nothing cleared up."""
    child = os.fork()
    if child == 0:
        try:
            block()
        finally:
            os._exit(9)
    os.waitpid(child, 0)


def killed_write(target):
    with atomic(target) as partial:
        partial.write_text("half")
        os._exit(9)


def test_the_file_appears_when_it_is_whole(target):
    with atomic(target) as partial:
        assert partial.suffix == ".txt"
        partial.write_text("half")
        assert target.read_text() == "before"
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
def test_an_exception_leaves_what_was_there(target, error):
    def fail():
        with atomic(target) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "before"
    assert list(target.parent.iterdir()) == [target]


@needs_fork
def test_what_a_killed_write_left_goes_with_the_next_of_that_file(target):
    in_child(lambda: killed_write(target))
    in_child(lambda: killed_write(target.with_name("b.txt")))
    assert len(list(target.parent.iterdir())) == 3
    with atomic(target) as partial:
        partial.write_text("after")
    assert sum("b.txt" in path.name for path in target.parent.iterdir()) == 1
    assert len(list(target.parent.iterdir())) == 2


def test_a_write_that_goes_on_elsewhere_is_left_alone(target):
    with atomic(target) as slow:
        slow.write_text("slow")
        with atomic(target) as fast:
            fast.write_text("fast")
        assert slow.exists()
        assert target.read_text() == "fast"
    assert target.read_text() == "slow"


def test_files_of_the_users_own_stay(target):
    """Names that are nearly ours, and a link by a name of ours."""
    mine = [".a.txt.txt", ".a.txt.backup.txt", ".a.txt.sympformer-1.txt", "a.txt.sympformer-0"]
    for name in mine:
        target.with_name(name).write_text("mine")
    target.with_name(".a.txt.sympformer-00000000.txt").symlink_to(target.with_name(mine[0]))
    with atomic(target) as partial:
        partial.write_text("after")
    assert all(target.with_name(name).read_text() == "mine" for name in mine)
    assert len(list(target.parent.iterdir())) == 6


@needs_fork
def test_who_holds_a_file(tmp_path):
    held = Held(tmp_path / "held")
    assert not abandoned(held.path)
    held.delete()
    assert not held.path.exists()
    in_child(lambda: Held(tmp_path / "left"))
    assert abandoned(tmp_path / "left")
    assert not abandoned(tmp_path / "absent")
    with pytest.raises(FileExistsError):
        Held(tmp_path / "left")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(1 << 17)),
        lambda path: torch.save({"a": torch.zeros(1 << 17)}, path),
        lambda path: safetensors.torch.save_file({"a": torch.zeros(1 << 17)}, str(path)),
    ],
    ids=["python", "torch", "safetensors"],
)
def test_a_file_that_may_not_grow(target, small_files, write):
    """Libraries hide the reason in errors of their own."""
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.txt: File too large"),
        atomic(target) as partial,
    ):
        write(partial)
    assert target.read_text() == "before"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_whatever_the_disk_says_is_one_line(target, code):
    with pytest.raises(InputError) as caught, atomic(target):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == f"cannot write {target}: {os.strerror(code)}"
    with pytest.raises(InputError, match=r"cannot write .*: 5 requested"), atomic(target):
        raise OSError("5 requested and 3 written")


def test_folders_that_cannot_be_written_to(target):
    for path in (target / "b.txt", target / "c" / "b.txt"):
        with pytest.raises(InputError, match="cannot write"), atomic(path):
            pass
    (target.parent / "folder").mkdir()
    with pytest.raises(InputError, match="directory"), atomic(target.parent / "folder"):
        pass
    assert {path.name for path in target.parent.iterdir()} == {"a.txt", "folder"}


def test_content_then_name_are_forced_to_the_disk(target, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    done = []

    def fsync(handle):
        name = os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else ""
        writable = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        done.append(("file" if writable else "folder", name == str(target.parent)))

    replace = os.replace
    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", lambda *a: done.append("rename") or replace(*a))
    with atomic(target) as partial:
        partial.write_text("after")
    assert [step if step == "rename" else step[0] for step in done] == ["file", "rename", "folder"]
    if os.path.exists("/proc/self/fd"):
        assert done[2][1]


def test_a_folder_that_cannot_be_synced(target, monkeypatch):
    def refuse(code):
        def fsync(handle):
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(files.os, "fsync", refuse(errno.EINVAL))
    with atomic(target) as partial:
        partial.write_text("after")
    assert target.read_text() == "after"
    monkeypatch.setattr(files.os, "fsync", refuse(errno.EIO))
    with pytest.raises(InputError, match="Input/output error"), atomic(target) as partial:
        partial.write_text("later")


def test_files_are_as_open_as_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        with atomic(tmp_path / "private") as partial:
            partial.write_text("a")
    finally:
        os.umask(before)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


@needs_fork
def test_a_lock_ends_with_its_process(tmp_path):
    """However that ends; meanwhile others are refused in one line."""

    def die_with_it():
        with locked(tmp_path / "lock", "the run"):
            os._exit(9)

    in_child(die_with_it)
    with locked(tmp_path / "lock", "the run"):
        refused = os.fork()
        if refused == 0:
            code = 0
            try:
                with locked(tmp_path / "lock", "the run"):
                    pass
            except InputError as error:
                code = 2 if "another process is using the run" in str(error) else 1
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(refused, 0)[1]) == 2


def test_a_second_name(tmp_path, monkeypatch):
    """Replacing the file leaves it; where a disk has no second names, it is a copy."""
    path, target = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    link(path, target)
    assert os.path.samefile(path, target)
    with atomic(path) as partial:
        partial.write_text("two")
    assert target.read_text() == "one"

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link(path, target)
    assert target.read_text() == "two"
    assert not os.path.samefile(path, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]

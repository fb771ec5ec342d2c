"""Files that are either whole or absent; what a killed process leaves of them is cleared away."""

import errno
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from sympformer.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that a process has open cannot be renamed or deleted
    fcntl = None

_MARK = "sympformer-"
_PROBE_BYTES = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    A reader, or a run killed half-way, never sees a half-written `path`; once this returns, the
    file outlives a crash of the machine. Write text as UTF-8. What an earlier, killed write of the
    same `path` left behind is deleted.

    Raises:
        InputError: the file cannot be written: no such folder, a full disk, a quota, ...
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target)
        name = f".{target.name}.{_MARK}{secrets.token_hex(4)}{target.suffix}"
        partial = Held(target.with_name(name))
        try:
            yield partial.path
            sync_file(partial.path)
            partial.rename(target)
        except OSError:
            raise
        except Exception:
            _write_more(partial.path)
            raise
        finally:
            partial.delete()
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {reason(error)}") from None


class Held:
    """A new file that is this process's as long as it lives: see `abandoned`.

    Raises:
        OSError: it cannot be made, or is there already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is not None:
            with suppress(OSError):  # where nothing can be locked, nothing is taken for abandoned
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def taken_over(cls, path: Path) -> Self | None:
        """The file of a process that is dead; None if it lives, or nobody can know."""
        handle = _of_the_dead(path)
        if handle is None:
            return None
        held = cls.__new__(cls)
        held.path, held._handle = path, handle
        return held

    def rename(self, target: Path) -> None:
        """Give the file another name, in one step."""
        if fcntl is None:
            self.release()
        os.replace(self.path, target)

    def delete(self) -> None:
        """Delete the file, if it still has its name, and let go of it."""
        if fcntl is None:
            self.release()
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of the file, which stays."""
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None


@contextmanager
def locked(path: Path, who: str) -> Iterator[None]:
    """Hold a lock inside, which ends with the process however that ends; the file stays.

    Raises:
        InputError: another process holds it; the message says that it uses `who`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from None
    try:
        if not _lock(handle):
            raise InputError(f"another process is using {who}: wait for it, or stop it")
        yield
    finally:
        os.close(handle)


def in_use(path: Path) -> bool:
    """Whether another process holds a `locked` lock; it is held for a moment to find out."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether a file could be locked; True where the system has no locks for it."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def abandoned(path: Path) -> bool:
    """Whether the process that made a `Held` file is dead; False where nobody can know."""
    if fcntl is None:
        try:
            os.rename(path, path)
        except OSError:
            return False
        return True
    handle = _of_the_dead(path)
    if handle is not None:
        os.close(handle)
    return handle is not None


def _of_the_dead(path: Path) -> int | None:
    """A locked handle of a `Held` file whose process is dead."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its owner may have renamed or deleted it between the two calls.
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def link(path: Path, target: Path) -> None:
    """Make `target` a second name of a file that is only ever replaced, in one step; else a copy.

    Raises:
        InputError: it cannot be written.
    """
    try:
        if target.exists() and os.path.samefile(path, target):
            return
    except OSError as error:
        raise InputError(f"cannot write {target}: {reason(error)}") from None
    with atomic(target) as partial:
        with suppress(OSError):
            partial.unlink()
            os.link(path, partial)
        if not partial.exists():
            shutil.copyfile(path, partial)


def delete(path: Path) -> None:
    """Delete a file that may be there.

    Raises:
        InputError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot delete {path}: {reason(error)}") from None


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    with open(path, "r+b") as file:  # for writing, or Windows refuses
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Force a folder's names to the disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders, and one may be allowed to write but not to read it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what may never end, or never begin: pipes, devices, sockets; a folder passes.

    Raises:
        OSError: it is one of those, or is not there.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = _KINDS.get(stat.S_IFMT(mode), "of no known kind")
        raise OSError(errno.EINVAL, f"it is {kind}: write it to a file first", os.fspath(path))


def read_bytes(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    require_regular(path)
    return path.read_bytes()


def reason(error: OSError) -> str:
    """What the system says; libraries leave it out at times."""
    return error.strerror or str(error) or type(error).__name__


def _clear(target: Path) -> None:
    """Delete what killed writes of `target` left behind."""
    name, suffix = glob.escape(target.name), glob.escape(target.suffix)
    for left in target.parent.glob(f".{name}.{_MARK}????????{suffix}"):
        if abandoned(left):
            left.unlink(missing_ok=True)


def _write_more(partial: Path) -> None:
    """Raise the system's error that a library hides in an exception of its own: a full disk, say.

    Raises:
        OSError: the file cannot grow.
    """
    with open(partial, "ab") as file:
        file.write(bytes(_PROBE_BYTES))

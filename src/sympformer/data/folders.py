"""Folders of the cache: whole or absent, and what killed preparations left in them."""

import glob
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sympformer.data.packing import FILES, PROGRESS
from sympformer.errors import InputError
from sympformer.files import Held, abandoned, reason, sync_file, sync_folder

_PARTIAL = ".partial"
_MARK = ".sympformer"
_OURS = "sympformer is preparing a text in this folder; delete it if none is running\n"
_KEPT_SECONDS = 7 * 24 * 3600
"""How long what an interrupted preparation has encoded waits for somebody who goes on with it."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` if the block succeeds.

    It may hold what a killed or interrupted process has made of the same `target`, if that left a
    `progress.json`. When another process makes `target` first, its folder stays and ours is
    dropped. What else killed processes left is deleted: folders that hold our mark and whose maker
    is dead, nothing else; those with a progress stay for a week.

    Raises:
        InputError: the folder or a file in it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear(target.parent)
        with _temporary(target, goes_on=True) as (partial, mark):
            yield partial
            for path in partial.iterdir():
                sync_file(path)
            mark.delete()
            sync_folder(partial)
            _rename(partial, target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write to {target.parent}: {reason(error)}") from None


def discard(entry: Path) -> None:
    """Delete a packed folder, damaged or not, in one step for all who look at it.

    Raises:
        InputError: it is no folder of ours, or cannot be deleted.
    """
    try:
        if entry.is_symlink() or not {path.name for path in entry.iterdir()} <= FILES:
            raise InputError(f"{entry} is no folder of prepared text: move it out of the way")
        with _temporary(entry) as (partial, _):
            entry.rename(partial / entry.name)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise InputError(f"cannot delete {entry}: {reason(error)}") from None


@contextmanager
def _temporary(target: Path, goes_on: bool = False) -> Iterator[tuple[Path, Held]]:
    """A folder beside `target` and the mark in it, by which it is known as ours; both go.

    With `goes_on` it may be one that was left, and stays with its progress if it is interrupted.
    """
    partial, mark = (_left(target) if goes_on else None) or _new(target)
    interrupted = False
    try:
        yield partial, mark
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if goes_on and interrupted and (partial / PROGRESS).is_file():
            mark.release()
        else:
            mark.delete()
            shutil.rmtree(partial, ignore_errors=True)


def _new(target: Path) -> tuple[Path, Held]:
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}{_PARTIAL}")
    partial.mkdir()
    mark = Held(partial / _MARK)
    mark.path.write_text(_OURS, encoding="utf-8")
    return partial, mark


def _left(target: Path) -> tuple[Path, Held] | None:
    """The folder of a dead process that began `target` and saved its progress."""
    for partial in target.parent.glob(f"{glob.escape(target.name)}.????????{_PARTIAL}"):
        if _is_ours(partial) and (partial / PROGRESS).is_file():
            mark = Held.taken_over(partial / _MARK)
            if mark is not None:
                return partial, mark
    return None


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:  # a folder that holds files is never replaced
        if not target.exists():
            raise


def _clear(cache: Path) -> None:
    """Delete what killed preparations left behind."""
    for partial in cache.glob(f"*{_PARTIAL}"):
        with suppress(OSError):
            if _is_ours(partial) and not _is_fresh(partial) and abandoned(partial / _MARK):
                shutil.rmtree(partial, ignore_errors=True)


def _is_ours(partial: Path) -> bool:
    mark = partial / _MARK
    try:
        if partial.is_symlink() or mark.is_symlink() or not mark.is_file():
            return False
        return mark.read_text(encoding="utf-8") == _OURS
    except (OSError, UnicodeDecodeError):
        return False


def _is_fresh(partial: Path) -> bool:
    """Whether somebody may go on with it."""
    progress = partial / PROGRESS
    return progress.is_file() and time.time() - progress.stat().st_mtime < _KEPT_SECONDS

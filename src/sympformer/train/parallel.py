"""Processes that train together, by torch.distributed; one process alone needs none of it.

They are started by `torchrun`, which tells each of them its rank. `joined` makes a group of them,
`current` is this process among them; `sympformer.train.spread` gives a model to all of them.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from sympformer.errors import Ended, InputError, Stopped

T = TypeVar("T")

STEP = timedelta(minutes=10)
"""How long a process waits for the others in an update."""
ALONE = timedelta(hours=24)
"""How long the others wait for what the first process does by itself: preparing data, an audit."""

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ENDED, _MOMENT = "sympformer/ended", 2.0
_FOREIGN = ("gloo", "NCCL", "Connection closed", "Connection re", "Timed out")


class Ranks:
    """A process among those that train together.

    Attributes:
        rank: its number, from 0; the first process alone prepares, writes and prints.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, control: Any = None) -> None:
        self.rank, self.size = rank, size
        self._control = control  # between processors, whatever the models are on

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def total(self, number: int) -> int:
        """The sum of what every process gives."""
        return self._reduced(number, dist.ReduceOp.SUM)

    def largest(self, number: int) -> int:
        """The largest of what every process gives."""
        return self._reduced(number, dist.ReduceOp.MAX)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of tensors of every process, in place, on their device."""
        if self._control is not None:
            dist.all_reduce(values)
        return values

    def told(self, make: Callable[[], T]) -> T:
        """What the first process makes; the others wait for it, at most `ALONE`."""
        if self._control is None:
            return make()
        made: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(made, src=0, group=self._control)
        return made[0]

    def meet(self) -> None:
        """Wait until every process is here."""
        self.total(0)

    def _reduced(self, number: int, how: Any) -> int:
        if self._control is None:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, how, group=self._control)
        return int(shared)


SINGLE = Ranks()
"""A process alone."""


def launched() -> bool:
    """Whether this process was started as one of several, or of one, that are to join."""
    return all(name in os.environ for name in _NEEDED)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes that `torchrun` has started, inside; alone if it has not.

    What ends one of them ends all: it raises here what it raised, and `Ended` everywhere else, so
    that one process says why. Where a process has died, the others notice at the next exchange, or
    after `STEP`.

    Raises:
        InputError: they cannot be joined, or one of them is gone.
        Ended: another process has said why it ended.
    """
    if not launched():
        yield SINGLE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise InputError(
            f"process {local} of this machine has no GPU, for there are "
            f"{torch.cuda.device_count()}: choose --nproc-per-node={torch.cuda.device_count()}"
        )
    if cuda:
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=STEP)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=STEP)
    except (dist.DistError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the processes cannot join ({_line(error)}): start all of them with one torchrun line"
        ) from None
    try:
        yield current()
    except BaseException as error:
        ended = _ended(error, store)
        _leave()
        if not isinstance(ended, Ended):
            _wait_for_others(store, size)
        if ended is error:
            raise
        raise ended from error
    else:
        _leave()


def _leave() -> None:
    """Release whoever waits for this process.

    A group's connections close with the last reference to it, and frames of an error hold `Ranks`.
    """
    for ranks in _known.values():
        ranks._control = None
    _known.clear()
    with suppress(Exception):
        dist.destroy_process_group()


def current() -> Ranks:
    """The place of this process in torch's process group; alone if there is none.

    The first call is one that all of them must make.

    Raises:
        InputError: several processes were started that have not joined.
    """
    if not dist.is_initialized():
        if launched() and int(os.environ["WORLD_SIZE"]) > 1:
            raise InputError(
                f"{os.environ['WORLD_SIZE']} processes were started that have not joined and would "
                "all do the same: train inside `with sympformer.train.parallel.joined():`, or "
                "start one"
            )
        return SINGLE
    group = dist.group.WORLD
    if group not in _known:
        _known.clear()
        control = dist.new_group(backend="gloo", timeout=ALONE)
        _known[group] = Ranks(dist.get_rank(), dist.get_world_size(), control)
    return _known[group]


_known: dict[Any, Ranks] = {}


def require_one_process(what: str, instead: str) -> None:
    """Refuse to do in several processes what each of them would do alone.

    Raises:
        InputError: several were started.
    """
    if launched() and int(os.environ["WORLD_SIZE"]) > 1:
        raise InputError(
            f"{what} in {os.environ['WORLD_SIZE']} processes would do the same in each: {instead}"
        )


def _ended(error: BaseException, store: Any) -> BaseException:
    """What this process raises in place of an error that ends it.

    The first that ends leaves its code in the store that all share. Where that has gone, with the
    process that kept it, everyone speaks for himself.
    """
    if isinstance(error, Ended):
        return error
    code = error.code if isinstance(error, Stopped) else 2 if isinstance(error, ValueError) else 1
    foreign = _is_foreign(error)
    try:
        if foreign and (other := _code_of(store)) is not None:
            return Ended(other)
        if store.add(_ENDED + "/by", 1) > 1:
            return Ended(code if (other := _code_of(store)) is None else other)
        store.set(_ENDED, str(2 if foreign else code))
    except (dist.DistError, RuntimeError):
        pass
    return _gone(error) if foreign else error


def _code_of(store: Any) -> int | None:
    """With which code another process has ended; it may be about to say so."""
    until = time.monotonic() + _MOMENT
    while not store.check([_ENDED]):
        if time.monotonic() > until:
            return None
        time.sleep(0.02)
    code = int(store.get(_ENDED))
    store.add(_ENDED + "/seen", 1)
    return code


def _wait_for_others(store: Any, processes: int) -> None:
    """Give the others a moment to see that this process has ended: it may keep the store."""
    until = time.monotonic() + _MOMENT
    with suppress(dist.DistError, RuntimeError):
        while store.add(_ENDED + "/seen", 0) < processes - 1 and time.monotonic() < until:
            time.sleep(0.02)


def _is_foreign(error: BaseException) -> bool:
    """Whether an exchange between processes has failed, not what this one does."""
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error) for word in _FOREIGN)


def _gone(error: BaseException) -> InputError:
    return InputError(
        f"another process of this run has died or does not answer ({_line(error)}); all have "
        "ended, and the run goes on from its last saved state with --resume"
    )


def _line(error: BaseException) -> str:
    """What a library says, in few words: no places in its source, no advice."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[\S+\] ", "", line).split(". ")[0][:120]

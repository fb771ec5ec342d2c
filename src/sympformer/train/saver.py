"""When a state is written: at once, or in a thread of its own while the next updates are made."""

import copy
import importlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from sympformer.train.folder import RunFolder
from sympformer.train.parallel import STEP, Ranks
from sympformer.train.shards import are_sharded
from sympformer.train.tensors import join, split


class Saver:
    """Keeps states of a run.

    Args:
        folder: the run, as this process sees it.
        threaded: let the caller go on while a state is written. It is copied before, so that what
            is written is what was given; a fault is raised by the next `save` or `wait`.
        ranks: this process among those that write a state together.

    Attributes:
        saved_step: the step of the last state that is known to be on disk.
    """

    def __init__(self, folder: RunFolder, threaded: bool, ranks: Ranks) -> None:
        self.folder, self.saved_step = folder, 0
        self._writer = ThreadPoolExecutor(1, "saving") if threaded else None
        # What a thread says to the others must not mix with what the updates say.
        self._group = (
            dist.new_group(backend="gloo", timeout=STEP) if threaded and ranks.size > 1 else None
        )
        self._stager: Any = None
        self._under_way: Future[int] | None = None

    def save(self, model: Any, state: dict[str, Any]) -> None:
        """Keep a state, and the metrics so far; the arguments are those of `RunFolder.save`.

        Raises:
            InputError: this one, or the one before it, cannot be written.
        """
        self.wait()
        metrics = self.folder.log.kept
        if self._writer is None:
            self.saved_step = self._write(model, state, metrics)
        else:
            self._under_way = self._writer.submit(self._write, model, self._copied(state), metrics)

    def wait(self) -> None:
        """Until what was given is on disk.

        Raises:
            InputError: it cannot be written.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            self.saved_step = under_way.result()

    def close(self) -> None:
        """Let a write that is under way end, whatever has happened here."""
        if self._writer is not None:
            self._writer.shutdown()

    def _write(self, model: Any, state: dict[str, Any], metrics: dict[str, Any]) -> int:
        self.folder.save(model, state, metrics, self._group)
        return state["step"]

    def _copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state on the CPU that no update changes."""
        tensors, rest = split(state)
        if are_sharded(tensors.values()):
            copies = self._staged(tensors)
        else:
            copies = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
        return join(copies, copy.deepcopy(rest))

    def _staged(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Shares of sharded tensors on the CPU, as torch.distributed.checkpoint copies them."""
        staging = importlib.import_module("torch.distributed.checkpoint.staging")
        if self._stager is None:
            plain = {"use_async_staging": False, "use_non_blocking_copy": False}
            memory = {"use_pinned_memory": False, "use_shared_memory": False}
            self._stager = staging.DefaultStager(staging.StagingOptions(**plain, **memory))
        return self._stager.stage(tensors)

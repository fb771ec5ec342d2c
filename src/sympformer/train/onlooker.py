"""A run folder as the processes see it that write nothing: the first one does."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from sympformer.data import Tokenizer
from sympformer.train.config import RunConfig
from sympformer.train.folder import RunFolder
from sympformer.train.metrics import MetricsLog
from sympformer.train.shards import are_sharded, write_shards
from sympformer.train.tensors import split


class Onlooker(RunFolder):
    """Reads what a `RunFolder` reads; whatever would change the folder does nothing."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.log = _Unwritten(self.log.path)

    def locked(self) -> AbstractContextManager[None]:
        """Nothing: the first process keeps others out."""
        return nullcontext()

    def begin(
        self, config: RunConfig, environment: dict[str, Any], tokenizer: Tokenizer | None
    ) -> None:
        """Write nothing."""

    def begin_again(self, environment: dict[str, Any], tokenizer: Tokenizer | None) -> None:
        """Write nothing."""

    def keep_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Write nothing."""

    def save(
        self,
        model: Any,
        state: dict[str, Any],
        metrics: Mapping[str, Any] | None = None,
        group: Any = None,
    ) -> None:
        """Write nothing but this process's share of a sharded state."""
        tensors, _ = split(state)
        if are_sharded(tensors.values()):
            write_shards(self.path, tensors, group)

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write nothing."""
        return summary

    def go_on(self) -> None:
        """Delete nothing."""

    def state(
        self,
        mend: bool = False,
        like: Callable[[str], Tensor | None] = lambda name: None,
        verify: bool = True,
    ) -> dict[str, Any] | None:
        """What was saved last; nothing is mended, and the first process hashes shards."""
        return super().state(like=like, verify=False)


class _Unwritten(MetricsLog):
    def record(self, row: dict[str, Any]) -> None:
        """Write nothing."""

    def keep(self, kept: Any) -> None:
        """Drop nothing."""

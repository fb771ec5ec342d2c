"""Programs that show runs while they train: TensorBoard, Weights & Biases, trackio.

`metrics.jsonl` is the record of a run; a tracker is told the same rows, and nothing depends on it.
A tracker is an object with `log(step, values)` and `end()`; another one is a function that makes
it, and a line in `TRACKERS`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from sympformer.errors import InputError, lookup, one_line
from sympformer.optional import require
from sympformer.train.config import RunConfig
from sympformer.train.progress import Display, Progress

PROJECT = "sympformer"


class Tracker(Protocol):
    """What is told the metrics of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, of one update."""
        ...

    def end(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard`; what it was told of later updates is taken back."""

    def __init__(self, where: Path, label: str, config: dict[str, Any], step: int) -> None:
        board = require("torch.utils.tensorboard", "tensorboard", "--watch tensorboard")
        self.writer = board.SummaryWriter(where / "tensorboard" / label, purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self) -> None:
        """Write what is left."""
        self.writer.close()


class WandB:
    """A run of Weights & Biases in the folder `wandb`, offline unless WANDB_MODE says otherwise."""

    def __init__(self, where: Path, label: str, config: dict[str, Any], step: int) -> None:
        wandb = require("wandb", "wandb", "--watch wandb")
        where.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=PROJECT,
            name=label,
            dir=where,
            config=config,
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        self.run.log(dict(values), step=step)

    def end(self) -> None:
        """Write what is left."""
        self.run.finish()


class Trackio:
    """A run in trackio's own folder, TRACKIO_DIR; `trackio show` serves it."""

    def __init__(self, where: Path, label: str, config: dict[str, Any], step: int) -> None:
        trackio = require("trackio", "trackio", "--watch trackio")
        self.run = trackio.init(project=PROJECT, name=label, config=config, resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        self.run.log(dict(values), step=step)

    def end(self) -> None:
        """Write what is left."""
        self.run.finish()


# Every extra is called as its package.
TRACKERS: dict[str, Callable[[Path, str, dict[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


class Watched(Progress):
    """A progress that tells trackers, too.

    Args:
        console: of the progress.
        watch: names in `TRACKERS`.
        where: a folder for what trackers write.
        display: of the progress.

    Raises:
        InputError: there is no such tracker, or its package is missing.
    """

    def __init__(
        self,
        console: Console,
        watch: Sequence[str],
        where: Path,
        display: Display | None = None,
    ) -> None:
        super().__init__(console, display)
        for name in watch:
            lookup(TRACKERS, name, "tracker")
            require(name, name, f"--watch {name}")
        self.watch, self.where = watch, where
        self.trackers: dict[str, Tracker] = {}

    def begin(self, config: RunConfig, step: int, forms: Sequence[str] = ()) -> None:
        """Begin a run of every tracker."""
        super().begin(config, step, forms)
        t = config.train
        label = f"{config.name}-lr{t.learning_rate:g}-s{t.seed}"
        values = {**asdict(config), "model": config.model.to_dict(), "imports": None}
        for name in self.watch:
            self._try(name, lambda name=name: self._open(name, label, values, step))

    def _open(self, name: str, label: str, values: dict[str, Any], step: int) -> None:
        self.trackers[name] = TRACKERS[name](self.where, label, values, step)

    def update(self, row: dict[str, Any]) -> None:
        """Show and tell an update."""
        super().update(row)
        self._log("train", row)

    def evaluated(self, row: dict[str, Any]) -> None:
        """Show and tell an evaluation."""
        super().evaluated(row)
        self._log("eval", row)

    def end(self) -> None:
        """End the runs of the trackers."""
        for name, tracker in list(self.trackers.items()):
            self._try(name, tracker.end)
        self.trackers.clear()
        super().end()

    def _log(self, kind: str, row: Mapping[str, Any]) -> None:
        values = numbers(row, kind)
        for name, tracker in list(self.trackers.items()):
            self._try(name, lambda tracker=tracker: tracker.log(row["step"], values))

    def _try(self, name: str, act: Callable[[], None]) -> None:
        """Let no tracker end a run: one that fails is told nothing more."""
        try:
            act()
        except InputError:
            raise
        except Exception as error:  # of a network, a disk, a foreign library: each has its own
            with suppress(KeyError):
                del self.trackers[name]
            self.say(f"{name} has failed ({one_line(error)}): it is told nothing more of this run")


def numbers(row: Mapping[str, Any], kind: str) -> dict[str, float]:
    """The numbers in a row of metrics, by `kind/name`; those of a table in it by `table/name`."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= numbers(value, name)
        elif isinstance(value, int | float) and name != "step":
            found[f"{kind}/{name}"] = value
    return found

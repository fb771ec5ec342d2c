"""Run folders: what a run leaves behind, and how it is read back."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from sympformer.data import Tokenizer, load_tokenizer, save_tokenizer
from sympformer.errors import InputError
from sympformer.files import atomic
from sympformer.model import CustomModel, LanguageModel, build
from sympformer.train.config import RunConfig

CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
MODEL, CHECKPOINT, ENVIRONMENT = "model.safetensors", "checkpoint.pt", "environment.json"


def load_model(folder: str | os.PathLike[str]) -> LanguageModel | CustomModel:
    """The trained model of a run folder, or of the `model.safetensors` in one, on the CPU.

    Raises:
        InputError: no run there, or a corrupt or unsuitable `model.safetensors`.
    """
    path = Path(folder)
    return RunFolder(path.parent if path.name == MODEL else path).model()


def runs_in(folder: Path) -> list["RunFolder"]:
    """The run folders among `folder` and its subfolders, in order of name."""
    configs = sorted([*folder.glob(CONFIG), *folder.glob(f"*/{CONFIG}")])
    return [RunFolder(config.parent) for config in configs]


class RunFolder:
    """A run on disk.

    | file | written |
    |---|---|
    | `config.toml`, `environment.json`, the tokenizer | when the run begins |
    | `metrics.jsonl` | a line for each update and evaluation |
    | `checkpoint.pt`, all that resuming needs; `model.safetensors`, the weights | at evaluations |
    | `summary.json` | when the run is complete |
    """

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether it is complete."""
        return (self.path / SUMMARY).is_file()

    def begin(self, config: RunConfig, environment: dict[str, Any], tokenizer: Tokenizer) -> None:
        """Claim the folder and write what is known before the first update.

        Raises:
            InputError: a run has begun here, or the folder cannot be written to.
        """
        if self.exists:
            raise InputError(
                f"{self} already holds a run: choose another folder, or resume it with "
                f"`sympformer train --resume {self}`"
            )
        config.save(self.path / CONFIG)
        self._write_json(ENVIRONMENT, environment)
        save_tokenizer(tokenizer, self.path)
        (self.path / METRICS).write_text("")

    def save(self, model: LanguageModel | CustomModel, state: dict[str, Any]) -> None:
        """Write all that resuming needs in one file, and the weights for those who only read them.

        Each is whole, or the previous one stands; the config is in the metadata of the weights.
        """
        with atomic(self.path / CHECKPOINT) as partial:
            torch.save(state, partial)
        with atomic(self.path / MODEL) as partial:
            metadata = {"config": json.dumps(model.config.to_dict())}
            safetensors.torch.save_model(model, str(partial), metadata)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary: the run is complete."""
        self._write_json(SUMMARY, summary)

    def record(self, row: dict[str, Any]) -> None:
        """Append a line to the metrics."""
        with open(self.path / METRICS, "a") as stream:
            stream.write(json.dumps(row) + "\n")

    def keep_metrics(self, step: int) -> None:
        """Drop the metrics of updates after `step`, and a line that was never finished."""
        kept = []
        for line in (self.path / METRICS).read_text().splitlines():
            try:
                kept.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the line that was being written when the run was killed
        with atomic(self.path / METRICS) as partial:
            rows = (json.dumps(row) + "\n" for row in kept if row["step"] <= step)
            partial.write_text("".join(rows))

    def config(self) -> RunConfig:
        """What is trained here.

        Raises:
            InputError: no run has begun here, or its config is corrupt.
        """
        return RunConfig.load(self.path / CONFIG)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its text.

        Raises:
            InputError: there is none.
        """
        return load_tokenizer(self.path)

    def state(self) -> dict[str, Any] | None:
        """What `save` was given last; None if nothing was saved yet.

        Raises:
            InputError: the checkpoint is corrupt, or gone.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            if (self.path / MODEL).exists():
                raise InputError(f"{path} does not exist: there is nothing to resume from")
            return None
        try:
            return torch.load(path, weights_only=True)
        except Exception as error:  # torch.load raises whatever its archive reader does
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{path} is corrupt ({reason}): delete the run and train again"
            ) from None

    def model(self) -> LanguageModel | CustomModel:
        """The model with the weights saved last, on the CPU.

        Raises:
            InputError: no run here, or a corrupt or unsuitable `model.safetensors`.
        """
        model = build(self.config().model)
        path = self.path / MODEL
        if not path.exists():
            raise InputError(f"{path} does not exist: the run has not reached its first checkpoint")
        try:
            safetensors.torch.load_model(model, path)
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} is corrupt or belongs to another config ({reason})") from None
        return model.eval()

    def metrics(self) -> list[dict[str, Any]]:
        """The rows that were recorded.

        Raises:
            InputError: missing or corrupt.
        """
        text = self._read(METRICS)
        return [self._parse(METRICS, line) for line in text.splitlines()]

    def summary(self) -> dict[str, Any]:
        """What `finish` was given.

        Raises:
            InputError: missing or corrupt.
        """
        return self._parse(SUMMARY, self._read(SUMMARY))

    def corrupt(self, reason: object) -> InputError:
        """The error to raise where a file of the run does not hold what it should."""
        return InputError(f"{self} is corrupt ({reason}): train this run again")

    def _write_json(self, name: str, value: Any) -> None:
        with atomic(self.path / name) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n")

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise self.corrupt(f"{name}: {error}") from None

    def _parse(self, name: str, text: str) -> dict[str, Any]:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise self.corrupt(f"{name}: {error}") from None

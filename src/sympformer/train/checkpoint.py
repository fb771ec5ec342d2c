"""Run folders: what a run leaves behind, and how a model is read back from it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from sympformer.errors import InputError
from sympformer.files import atomic
from sympformer.model import LanguageModel, build
from sympformer.train.config import RunConfig

CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
MODEL, CHECKPOINT, ENVIRONMENT = "model.safetensors", "checkpoint.pt", "environment.json"


def save_model(model: LanguageModel, path: Path) -> None:
    """Write the weights as safetensors, the config as its metadata."""
    with atomic(path) as partial:
        safetensors.torch.save_model(
            model, str(partial), {"config": json.dumps(model.config.to_dict())}
        )


def load_model(folder: str | os.PathLike[str]) -> LanguageModel:
    """The trained model of a run folder, or of the `model.safetensors` in one, on the CPU.

    Raises:
        InputError: no run there, or a corrupt or unsuitable `model.safetensors`.
    """
    folder = Path(folder)
    if folder.name == MODEL:
        folder = folder.parent
    model = build(RunConfig.load(folder / CONFIG).model)
    path = folder / MODEL
    if not path.exists():
        raise InputError(f"{path} does not exist: the run has not reached its first checkpoint")
    try:
        safetensors.torch.load_model(model, path)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is corrupt or belongs to another config ({reason})") from None
    return model.eval()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write all that resuming needs, in one file: it is whole, or the previous one stands."""
    with atomic(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        InputError: missing or corrupt.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: there is nothing to resume from")
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # torch.load raises whatever its archive reader does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is corrupt ({reason}): delete the run and train again") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a run is made."""
    return {
        "command": " ".join(["sympformer", *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str:
    """The commit of the source tree, `+` if it was changed since; "unknown" outside one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) not in here.parents:
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return platform.processor() or platform.machine()

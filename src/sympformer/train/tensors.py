"""Files of tensors and plain values that say what they are, and whether they are whole.

A file is safetensors. Its metadata hold JSON under `sympformer`: `about`, and `sha256`, the digest
of `about` and of the name, type, shape and bytes of every tensor. No code is run by reading one.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sympformer.errors import InputError
from sympformer.files import atomic, reason, require_regular

KEY = "sympformer"
"""The one key of the metadata: several would be written in any order."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a file, in one step; equal content gives equal files.

    Raises:
        InputError: the file cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about, sort_keys=True)
    with atomic(path) as partial:
        told = {"about": about, "sha256": digest(whole, text)}
        save_file(whole, partial, {KEY: json.dumps(told, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and what is said about them.

    Raises:
        InputError: the file is missing, damaged, or was not written by `write_tensors`.
    """
    with _Opened(path) as file:
        about = file.about
        tensors = {name: file.tensor(name) for name in file.names}
        if digest(tensors, file.text) != file.digest:
            raise ValueError("its content does not have the digest that was stored with it")
    return tensors, about


def read_about(path: Path) -> dict[str, Any]:
    """What a file says about its tensors; they are not read, so nothing is verified.

    Raises:
        InputError: as `read_tensors`.
    """
    with _Opened(path) as file:
        return file.about


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text and of the names, types, shapes and bytes of tensors on the CPU."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def split(tree: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part nested dictionaries into their tensors, by path (`a/b`), and the rest."""
    tensors, rest = {}, {}
    for name, value in tree.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Mapping):
            inside, rest[name] = split(value, f"{prefix}{name}/")
            tensors |= inside
        else:
            rest[name] = value
    return tensors, rest


def join(tensors: Mapping[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """Put together again what `split` parted; changes `rest`."""
    for path, tensor in tensors.items():
        *outer, name = path.split("/")
        place = rest
        for step in outer:
            place = place.setdefault(step, {})
        place[name] = tensor
    return rest


class _Opened:
    """A file that is read: whatever is wrong with it is an InputError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Opened":
        try:
            require_regular(self.path)
            with open(self.path, "rb"):  # the library names no reason
                pass
            self._file = safe_open(self.path, "pt").__enter__()
            metadata = self._file.metadata() or {}
            if KEY not in metadata:
                raise ValueError(
                    "it has no digest: an earlier version of sympformer wrote it, or another "
                    "program"
                )
            told = json.loads(metadata[KEY])
            self.about, self.digest = told["about"], told["sha256"]
            self.text = json.dumps(self.about, sort_keys=True)
            self.names = list(self._file.keys())
            if not isinstance(self.about, dict):
                raise ValueError("what it says about itself is no table")
        except Exception as error:
            raise self._refusal(error) from None
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            raise self._refusal(error) from None

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def _refusal(self, error: Exception) -> Exception:
        if isinstance(error, FileNotFoundError):
            return InputError(f"{self.path} does not exist")
        if isinstance(error, OSError):
            return InputError(f"cannot read {self.path}: {reason(error)}")
        if isinstance(error, SafetensorError | ValueError | LookupError | TypeError | RuntimeError):
            line = (str(error).splitlines() or [type(error).__name__])[0]
            return InputError(f"{self.path} is damaged ({line}): restore it, or train again")
        return error

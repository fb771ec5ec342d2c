"""Code in C++, compiled when it is first needed and kept: what is kept is whole, or made again."""

import ctypes
import hashlib
import os
import platform
import tempfile
from pathlib import Path

import torch

from sympformer import machine, torch_private
from sympformer.files import atomic


def load_library(source: Path, folder: Path) -> ctypes.CDLL:
    """The library of a C++ source without torch's headers, kept in a folder.

    Its file has its digest in its name: of one that is damaged, or half written as a process was
    killed, the linker would say nothing clear, or end the process.

    Raises:
        InputError: the folder cannot be written to.
        Exception: of any kind, where the compiler fails or what it made does not load.
    """
    code = source.read_bytes()
    # It is for this processor: another, that shares the folder, may lack its instructions.
    here = (platform.machine(), machine.processor(), torch.backends.cpu.get_cpu_capability())
    made_for = (code, torch.__version__, here, os.environ.get("CXX"))
    name = f"{source.stem}-{hashlib.sha256(repr(made_for).encode()).hexdigest()[:32]}"
    for kept in folder.glob(f"{name}-*.so"):
        if kept.name == _file_name(name, kept.read_bytes()):
            return ctypes.CDLL(str(kept))
    with tempfile.TemporaryDirectory(dir=folder) as work:
        copy = Path(work) / source.name
        copy.write_bytes(code)
        made = Path(torch_private.build_library(str(copy))).read_bytes()
    target = folder / _file_name(name, made)
    with atomic(target) as partial:
        partial.write_bytes(made)
    return ctypes.CDLL(str(target))


def _file_name(name: str, made: bytes) -> str:
    return f"{name}-{hashlib.sha256(made).hexdigest()}.so"

"""The tensors of a state that processes share, by torch.distributed.checkpoint.

Every process writes what it holds into one file of a new folder, in safetensors: no code is run by
reading one. A folder that is not named by a state counts for nothing, so a state that is written
after it commits it; the state holds the digest of every file. Any number of processes reads what
another has written.
"""

import hashlib
import importlib
import json
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sympformer.errors import InputError
from sympformer.files import reason, sync_file, sync_folder
from sympformer.train.tensors import read_about, read_tensors

KEY = "shards"
"""Where a state says which folder it is of: its name, and the digests of its files."""
_PREFIX = "shards-"
_REMEDY = "restore it, or train again"


def are_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether processes hold parts of these tensors."""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors)


def write_shards(folder: Path, tensors: Mapping[str, Tensor], group: Any = None) -> dict[str, Any]:
    """Write tensors into a new folder beside the state; all processes must take part.

    `group` is of all of them too, for what is said meanwhile; torch's own if None.

    Returns:
        What the state has to say of them, the same in every process.

    Raises:
        InputError: they cannot be written; in every process.
    """
    dcp = _dcp()
    name = [_PREFIX + secrets.token_hex(8)]
    dist.broadcast_object_list(name, src=0, group=group)
    target = folder / name[0]
    writer = dcp.HuggingFaceStorageWriter(str(target), save_distributed=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=group)
    except dcp.CheckpointException as error:
        why = next(iter(error.failures.values()), None)
        cause = reason(why[0]) if why and isinstance(why[0], OSError) else str(error).split("\n")[0]
        raise InputError(f"cannot write {target}: {cause}") from None
    own = sorted(target.glob(f"shard-{dist.get_rank() + 1:05}-*"))
    digests = {}
    for path in own:
        sync_file(path)
        digests[path.name] = _sha256(path)
    sync_folder(target)
    sync_folder(folder)
    every: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(every, digests, group=group)
    return {"folder": name[0], "files": {n: d for some in every for n, d in sorted(some.items())}}


def identity(about: Mapping[str, Any]) -> str:
    """The digest of what `write_shards` has written."""
    return hashlib.sha256(json.dumps(about["files"], sort_keys=True).encode()).hexdigest()


def read_state(
    path: Path,
    like: Callable[[str], Tensor | None] = lambda name: None,
    prefix: str = "",
    verify: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file, wherever they lie, and what is said about them.

    Args:
        path: a file of tensors, or one that names a folder of shards beside it.
        like: of sharded ones by name: a tensor that says how this process shall have it; it is left
            as it is. Whole, on the CPU, where it is None.
        prefix: only tensors whose names begin so, if they are sharded.
        verify: whether shards are hashed; a file always is.

    Raises:
        InputError: something of it is missing or damaged.
    """
    tensors, about = read_tensors(path)
    if KEY not in about:
        return tensors, about
    dcp, folder = _dcp(), path.parent / about[KEY]["folder"]
    for name, digest in about[KEY]["files"].items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} does not exist, but {path.name} is of it: {_REMEDY}")
        if verify and _sha256(file) != digest:
            raise InputError(f"{file} is damaged (not what was written): {_REMEDY}")
    reader = dcp.HuggingFaceStorageReader(str(folder))
    known: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    found: dict[str, Any] = {}
    for name in (name for name in known if name.startswith(prefix)):
        own, held = like(name), known[name]
        if own is not None and own.shape == held.size:
            found[name] = torch.zeros_like(own)
        else:
            found[name] = torch.empty(held.size, dtype=held.properties.dtype)
    alone = not are_sharded(found.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(found, storage_reader=reader, no_dist=alone)
    return found, about


def prune(folder: Path, states: Iterable[Path]) -> None:
    """Delete the folders of shards that none of these states is of.

    Raises:
        InputError: one cannot be deleted.
    """
    about = (read_about(path) for path in states if path.exists())
    kept = {said[KEY]["folder"] for said in about if KEY in said}
    try:
        for left in folder.glob(f"{_PREFIX}*"):
            if left.is_dir() and left.name not in kept:
                shutil.rmtree(left)
    except OSError as error:
        raise InputError(f"cannot delete shards in {folder}: {reason(error)}") from None


def _dcp() -> Any:
    """Imported by those who need it: it takes half a second."""
    return importlib.import_module("torch.distributed.checkpoint")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

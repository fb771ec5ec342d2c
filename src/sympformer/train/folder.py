"""Run folders: what a run leaves behind, and how it is read back.

The protocol. Two renames decide everything; each is of a whole file, synced before, and its folder
is synced after.

1. *A run has begun* when `config.toml` appears. Before it: the lock, `environment.json`, the
   tokenizer, an empty `metrics.jsonl`. A kill before leaves no run, and the same command starts it.
2. *An update is kept* when `state.safetensors` is replaced. Before it: the lines of
   `metrics.jsonl`, synced; the state says how many bytes of them count, and their digest. After it:
   `best.safetensors` (a second name of the state, where it is the best), and `model.safetensors`,
   the weights alone. Both are derived: who resumes makes them again where they are not those of the
   state, and who reads the weights before that gets them from the state.
3. *A run is finished* when `summary.json` appears: it holds the digests of the weights and of the
   metrics that it is about. It goes before a finished run is continued.

So a kill anywhere leaves the state of an evaluation (or none: the run starts again), lines of
metrics behind it are dropped, and the updates that follow are those of an uninterrupted run.
`config.toml` never changes; what `--resume` was told to change is in the state, with the step from
which it held. Every tensor file says which run it is of and holds the digest of all it says.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sympformer.data import Corpus, Tokenizer, load_tokenizer, save_tokenizer
from sympformer.errors import InputError
from sympformer.files import atomic, link, locked, reason, sync_file, sync_folder
from sympformer.imports import import_again
from sympformer.model import CustomModel, LanguageModel, ModelConfig, build
from sympformer.model.weights import load_weights
from sympformer.train.config import RunConfig
from sympformer.train.tensors import digest, join, read_about, read_tensors, split, write_tensors
from sympformer.typed import read_toml

CONFIG, METRICS, SUMMARY, LOCK = "config.toml", "metrics.jsonl", "summary.json", "lock"
STATE, BEST, MODEL = "state.safetensors", "best.safetensors", "model.safetensors"
ENVIRONMENT, OLD_STATE = "environment.json", "checkpoint.pt"

_PLACES = "text", "valid_text"
"""Of the data, where it lies: that may change, for its digest is known."""


def load_model(path: str | os.PathLike[str]) -> LanguageModel | CustomModel:
    """The trained model of a run folder, or of one `.safetensors` of it alone, on the CPU.

    Raises:
        InputError: no run there, or files that are damaged or of another run.
    """
    path = Path(path)
    if path.is_file():
        return _model(path, *read_tensors(path))
    return RunFolder(path).model()


def run_of(path: str | os.PathLike[str]) -> "RunFolder":
    """The run in a folder; of one `.safetensors` in it, the run as that file has its weights.

    Raises:
        InputError: the file lies in no run folder, is damaged, or is of another run.
    """
    path = Path(path)
    if not path.is_file():
        return RunFolder(path)
    run = RunFolder(path.parent, path)
    if not run.exists:
        raise InputError(
            f"{path} lies beside no {CONFIG}: its tokenizer and data are missing; put it into its "
            "run folder"
        )
    run.newest()
    return run


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
    | `state.safetensors`, all that resuming needs; `model.safetensors`, the weights | at evaluations |
    | `best.safetensors`, the state with the least validation loss | at evaluations |
    | `summary.json` | when the run is complete |

    Args:
        path: the folder.
        weights: the file in it whose weights are meant; by default those saved last.
    """  # noqa: E501

    def __init__(self, path: Path, weights: Path | None = None):
        self.path, self.weights = path, weights
        self._metrics, self._bytes = hashlib.sha256(), 0

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

    @property
    def goes_on(self) -> str:
        """The command that continues it."""
        return f"sympformer train --resume {self}"

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out, inside.

        Raises:
            InputError: another one is here.
        """
        return locked(self.path / LOCK, str(self))

    def begin(self, config: RunConfig, environment: dict[str, Any], tokenizer: Tokenizer) -> None:
        """Write what is known before the first update; a run exists from then on.

        Raises:
            InputError: a run has begun here, or the folder cannot be written to.
        """
        if self.exists:
            raise InputError(
                f"{self} already holds a run: choose another folder, or resume it with "
                f"`{self.goes_on}`"
            )
        self.begin_again(environment, tokenizer)
        config.save(self.path / CONFIG)

    def begin_again(self, environment: dict[str, Any], tokenizer: Tokenizer) -> None:
        """Write all but the config, as before the first update."""
        self._write_json(ENVIRONMENT, environment)
        save_tokenizer(tokenizer, self.path)
        self.keep_metrics(None)

    def save(self, model: LanguageModel | CustomModel, state: dict[str, Any]) -> None:
        """Keep a state, and the metrics so far: see the protocol.

        Args:
            model: whose config the weights are of.
            state: nested dictionaries of tensors and plain values; `model` holds the weights, and
                `step` and `best_step` say whether it is the best.
        """
        sync_file(self.path / METRICS)
        tensors, rest = split(state)
        held = {
            "kind": "state",
            "run": self._tables(),
            "config": model.config.to_dict(),
            "weights": digest(_weights(tensors)),
            "metrics": self._kept(),
            "state": rest,
        }
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        write_tensors(self.path / STATE, tensors, held)
        self._derive(tensors, held)

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write the summary, with the digests of what it is about: the run is complete."""
        weights = read_about(self.path / STATE)["weights"]
        summary = {**summary, "weights": weights, "metrics": self._kept()}
        self._write_json(SUMMARY, signed(summary))
        return summary

    def go_on(self) -> None:
        """A finished run is finished no more."""
        try:
            (self.path / SUMMARY).unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise InputError(f"cannot delete {self.path / SUMMARY}: {reason(error)}") from None

    def record(self, row: dict[str, Any]) -> None:
        """Append a line to the metrics.

        Raises:
            InputError: it cannot be written.
        """
        line = (json.dumps(row) + "\n").encode()
        try:
            with open(self.path / METRICS, "ab") as stream:
                stream.write(line)
        except OSError as error:
            raise InputError(f"cannot write {self.path / METRICS}: {reason(error)}") from None
        self._metrics.update(line)
        self._bytes += len(line)

    def keep_metrics(self, kept: Mapping[str, Any] | None) -> None:
        """Drop the lines that no state counts; all of them if `kept`, what it says, is None.

        Raises:
            InputError: the lines that count are damaged; the message names the first.
        """
        content = self._counted(kept) if kept else b""
        self._metrics, self._bytes = hashlib.sha256(content), len(content)
        if not kept or (self.path / METRICS).stat().st_size != len(content):
            with atomic(self.path / METRICS) as partial:
                partial.write_bytes(content)

    def began_as(self) -> RunConfig:
        """What was asked for when the run began.

        Raises:
            InputError: no run has begun here, or its config is corrupt.
        """
        if self.path.is_file():
            raise InputError(
                f"{self} is a file: give the run folder that it is of, where the tokenizer and the "
                "data are named"
            )
        return RunConfig.load(self.path / CONFIG)

    def config(self) -> RunConfig:
        """What is trained here now: `began_as`, and what was changed since.

        Raises:
            InputError: as `began_as`, or the state is not that of this run.
        """
        config = self.began_as()
        for change in self.changes():
            values = {name: value for name, value in change.items() if name != "from_step"}
            try:
                config = replace(config, train=replace(config.train, **values))
            except TypeError as error:
                raise self.corrupt(f"{STATE}: {error}") from None
        return config

    def changes(self) -> list[dict[str, Any]]:
        """What was changed on resuming: options, and `from_step`, the updates made before."""
        path = self.path / STATE
        if not path.exists():
            return []
        try:
            return list(read_about(path)["state"]["changes"])
        except (KeyError, TypeError) as error:
            raise self.corrupt(f"{STATE}: {type(error).__name__}: {error}") from None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its text.

        Raises:
            InputError: there is none, or another one than the weights were trained with.
        """
        tokenizer = load_tokenizer(self.path)
        about = self.newest()
        if about and tokenizer.digest != about["state"]["tokenizer"]:
            raise InputError(
                f"the tokenizer in {self} is not the one it was trained with (digest "
                f"{tokenizer.digest[:12]}, not {about['state']['tokenizer'][:12]}): restore it"
            )
        return tokenizer

    def require(self, corpus: Corpus) -> None:
        """Refuse other data than the run was trained on, as far as it has got.

        Raises:
            InputError: the digests differ; both are named.
        """
        about = self.newest()
        if about and about["state"]["corpus"] != corpus.digest:
            raise InputError(
                f"{self} was trained on other data (digest {about['state']['corpus'][:12]}, now "
                f"{corpus.digest[:12]}): its text or tokenizer has changed since; restore it, or "
                "train anew in another folder"
            )

    def state(self, mend: bool = False) -> dict[str, Any] | None:
        """What `save` was given last, with `metrics`, the lines that count; None if nothing.

        With `mend`, files that are derived from it are made again where they do not fit.

        Raises:
            InputError: the state is damaged, of another run, or gone.
        """
        path = self.path / STATE
        if not path.exists():
            self._refuse_old_format()
            if (self.path / MODEL).exists():
                raise InputError(f"{path} does not exist: there is nothing to resume from")
            return None
        tensors, about = read_tensors(path)
        self._require_own(path, about)
        if self.finished and self.summary(whole=True).get("weights") != about["weights"]:
            raise self._another(path)
        if mend:
            self._derive(tensors, about)
        return {**join(tensors, about["state"]), "metrics": about["metrics"]}

    def model(self) -> LanguageModel | CustomModel:
        """The model with the weights saved last, on the CPU.

        Raises:
            InputError: no run here, or its files are damaged or of another run.
        """
        self.began_as()
        path, state = self.path / MODEL, self.path / STATE
        if self.weights is not None:
            tensors, about = read_tensors(self.weights)
            self._require_own(self.weights, about)
            return _model(self.weights, tensors, about)
        newest = self.newest()
        if newest is None:
            self._refuse_old_format()
            raise InputError(f"{path} does not exist: the run has not reached its first checkpoint")
        tensors, about = read_tensors(path if path.exists() else state)
        self._require_own(path, about)
        if about["weights"] != newest["weights"]:
            path = state  # a kill came between the two
            tensors, about = read_tensors(path)
        if self.finished and self.summary(whole=True).get("weights") != about["weights"]:
            raise self._another(path)
        return _model(path, tensors, about)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows that were recorded; those of a finished run are verified.

        Raises:
            InputError: missing or damaged; the line is named.
        """
        if self.finished:
            content = self._counted(self.summary(whole=True)["metrics"])
        else:
            content = self._read(METRICS)
        rows = []
        for number, line in enumerate(content.splitlines(), 1):
            row = self._parse(f"line {number} of {METRICS}", line)
            if not isinstance(row, dict):
                raise self.corrupt(f"line {number} of {METRICS} is no table")
            rows.append(row)
        return rows

    def summary(self, whole: bool = False) -> dict[str, Any]:
        """What `finish` was given; with the digests that it added if `whole`.

        Raises:
            InputError: missing or damaged.
        """
        remedy = f"delete it, and `{self.goes_on}` writes it again"
        try:
            summary = self._parse(SUMMARY, self._read(SUMMARY))
        except InputError as error:
            raise InputError(f"{error}, or {remedy}") from None
        if not isinstance(summary, dict) or signed(summary) != summary:
            raise self.corrupt(
                f"{SUMMARY} does not have the digest that was stored in it",
                f"restore it, or {remedy}",
            )
        own = {name: value for name, value in summary.items() if name != "sha256"}
        if not whole:
            own = {k: v for k, v in own.items() if k not in ("weights", "metrics")}
        return own

    def corrupt(self, what: object, remedy: str = "train this run again") -> InputError:
        """The error to raise where a file of the run does not hold what it should."""
        return InputError(f"{self} is corrupt ({what}): {remedy}")

    def _tables(self) -> dict[str, Any]:
        return read_toml(self.path / CONFIG)

    def newest(self) -> dict[str, Any] | None:
        """What the weights that are meant, or the state, say about themselves; None without any.

        Raises:
            InputError: they are of another run.
        """
        for path in [self.weights] if self.weights else [self.path / STATE, self.path / MODEL]:
            if path.exists():
                about = read_about(path)
                self._require_own(path, about)
                return about
        return None

    def _derive(self, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
        """Make the files that follow from the state, where they do not."""
        rest = about["state"]
        if rest.get("best_step") == rest["step"]:
            link(self.path / STATE, self.path / BEST)
        names = ("step", "corpus", "tokenizer")
        kept = {name: rest[name] for name in names if name in rest}
        own = {k: about[k] for k in ("run", "config", "weights")}
        own |= {"kind": "weights", "state": kept}
        try:
            if read_tensors(self.path / MODEL)[1] == own:
                return
        except InputError:  # none yet, or damaged
            pass
        write_tensors(self.path / MODEL, _weights(tensors), own)

    def _require_own(self, path: Path, about: dict[str, Any]) -> None:
        """Refuse a tensor file of another run, or a config that was edited."""
        for name in ("kind", "run", "config", "weights", "state"):
            if name not in about:
                raise InputError(f"{path} is no file of a run: it does not say its {name}")
        own, known = _identity(self._tables()), _identity(about["run"])
        names = (n for n in (*known, *own) if own.get(n) != known.get(n))
        if (name := next(names, None)) is not None:
            raise InputError(
                f"{self.path / CONFIG} and {path.name} are of different runs: {name} is "
                f"{own.get(name)!r} in the one, {known.get(name)!r} in the other: restore the file "
                "that was changed (options change with --resume and the option, never in the file)"
            )

    def _another(self, path: Path) -> InputError:
        return InputError(
            f"{path} holds other weights than those that {SUMMARY} is about: restore it, or delete "
            f"{SUMMARY} and `{self.goes_on}`"
        )

    def _refuse_old_format(self) -> None:
        if (self.path / OLD_STATE).exists():
            raise InputError(
                f"{self} was trained by an earlier version, whose {OLD_STATE} has no digest and is "
                "not read any more: train again, or use that version"
            )

    def _kept(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._metrics.hexdigest()}

    def _counted(self, kept: Mapping[str, Any]) -> bytes:
        """The lines of the metrics that count, verified."""
        content = self._read(METRICS)[: kept["bytes"]]
        if hashlib.sha256(content).hexdigest() == kept["sha256"]:
            return content
        what = f"{METRICS} is not what was recorded"
        for number, line in enumerate(content.splitlines(), 1):
            try:
                json.loads(line)
            except ValueError:
                what = f"line {number} of {METRICS} is damaged"
                break
        raise self.corrupt(what, "restore the file, or train this run again")

    def _write_json(self, name: str, value: Any) -> None:
        with atomic(self.path / name) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise self.corrupt(f"{name}: {reason(error)}", "restore it, or train again") from None

    def _parse(self, name: str, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.corrupt(f"{name}: {error}") from None


def signed(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values and, under `sha256`, the digest of the others."""
    own = {name: value for name, value in values.items() if name != "sha256"}
    text = json.dumps(own, sort_keys=True)
    return {**own, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights among the tensors of a state, by their own names, on the CPU."""
    prefix = "model/"
    own = {n.removeprefix(prefix): t.cpu() for n, t in tensors.items() if n.startswith(prefix)}
    return own


def _model(
    path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]
) -> LanguageModel | CustomModel:
    """The model that a tensor file holds, by what it says about itself."""
    try:
        import_again(about["run"].get("imports", {}), str(path))
        model = build(ModelConfig.from_dict(about["config"]))
        load_weights(model, _weights(tensors) if about["kind"] == "state" else tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no file of a run ({type(error).__name__}: {error})") from None
    except InputError as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None
    return model.eval()


def _identity(tables: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run the one it is, by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        if name == "imports":
            flat[name] = sorted(value.values())
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return {n: v for n, v in flat.items() if n not in [f"data.{place}" for place in _PLACES]}

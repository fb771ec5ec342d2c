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
   A sharded state has its tensors in a folder of its own, `shards-*`, which is written before and
   whose digests the state holds; folders that no state is of are deleted after.
3. *A run is finished* when `summary.json` appears: it holds the digests of the weights and of the
   metrics that it is about. It goes before a finished run is continued.

So a kill anywhere leaves the state of an evaluation (or none: the run starts again), lines of
metrics behind it are dropped, and the updates that follow are those of an uninterrupted run.
`config.toml` never changes; what `--resume` was told to change is in the state, with the step from
which it held. Every tensor file says which run it is of and holds the digest of all it says.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sympformer.data import Tokenizer, load_tokenizer, save_tokenizer
from sympformer.errors import InputError
from sympformer.files import atomic, locked, reason, sync_folder
from sympformer.model import CustomModel, LanguageModel
from sympformer.train.config import RunConfig
from sympformer.train.contents import (
    MODEL,
    STATE,
    derive,
    model_in,
    refuse_old_format,
    require_own,
    weights_in,
    whole_weights,
)
from sympformer.train.metrics import MetricsLog
from sympformer.train.records import corrupt, read_signed, signed, write_json
from sympformer.train.shards import KEY, are_sharded, identity, read_state, write_shards
from sympformer.train.tensors import digest, join, read_about, split, write_tensors
from sympformer.typed import read_toml

CONFIG, METRICS, SUMMARY, LOCK = "config.toml", "metrics.jsonl", "summary.json", "lock"
ENVIRONMENT = "environment.json"
GIVEN_UP = "diverged.txt"


class RunFolder:
    """A run on disk.

    | file | written |
    |---|---|
    | `config.toml`, `environment.json`, the tokenizer (of a text) | when the run begins |
    | `metrics.jsonl` | a line for each update and evaluation |
    | `state.safetensors`, all that resuming needs; `model.safetensors`, the weights | at evaluations |
    | `best.safetensors`, the state with the least validation loss | at evaluations |
    | `state-*.safetensors`, earlier states, if more than the last are to be kept | at evaluations |
    | `shards-*/`, the tensors of sharded states, a file of each process | before its state |
    | `summary.json` | when the run is complete |
    | `diverged.txt` | when a comparison gives the run up, for it has others at other rates |

    `weights` is the file in it whose weights are meant; by default those saved last.
    """  # noqa: E501

    def __init__(self, path: Path, weights: Path | None = None):
        self.path, self.weights = path, weights
        self.log = MetricsLog(path / METRICS)

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
    def given_up(self) -> bool:
        """Whether it diverged, and nobody shall go on with it as it is."""
        return (self.path / GIVEN_UP).is_file()

    def give_up(self, why: str) -> None:
        """Let nobody go on with a run that diverged, until it is resumed with other options."""
        with atomic(self.path / GIVEN_UP) as partial:
            partial.write_text(why + "\n", encoding="utf-8")

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

    def begin(
        self, config: RunConfig, environment: dict[str, Any], tokenizer: Tokenizer | None
    ) -> None:
        """Write what is known before the first update; a run exists from then on.

        `tokenizer` is None of a run on a task.

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

    def begin_again(self, environment: dict[str, Any], tokenizer: Tokenizer | None) -> None:
        """Write all but the config, as before the first update."""
        write_json(self.path / ENVIRONMENT, environment)
        self.keep_tokenizer(tokenizer)
        self.log.keep(None)

    def keep_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Write the tokenizer, if there is one."""
        if tokenizer is not None:
            save_tokenizer(tokenizer, self.path)

    def save(
        self,
        model: LanguageModel | CustomModel,
        state: dict[str, Any],
        metrics: Mapping[str, Any] | None = None,
        group: Any = None,
    ) -> None:
        """Keep a state, and the metrics so far: see the protocol.

        Args:
            model: whose config the weights are of.
            state: nested dictionaries of tensors and plain values; `model` holds the weights, and
                `step` and `best_step` say whether it is the best.
            metrics: what the log said is `kept` when the state was taken; what it says now if None.
            group: the processes that write a sharded state; all of them if None.
        """
        metrics = self.log.kept if metrics is None else metrics
        self.log.sync()
        tensors, rest = split(state)
        held: dict[str, Any] = {
            "kind": "state",
            "run": read_toml(self.path / CONFIG),
            "config": model.config.to_dict(),
            "metrics": dict(metrics),
            "state": rest,
        }
        if are_sharded(tensors.values()):
            shards = write_shards(self.path, tensors, group)
            held |= {"weights": identity(shards), KEY: shards}
            tensors = {}
        else:
            held["weights"] = digest(weights_in(tensors))
            tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        write_tensors(self.path / STATE, tensors, held)
        derive(self.path, tensors, held)

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write the summary, with the digests of what it is about: the run is complete."""
        weights = read_about(self.path / STATE)["weights"]
        summary = {**summary, "weights": weights, "metrics": self.log.kept}
        write_json(self.path / SUMMARY, signed(summary))
        return summary

    def go_on(self) -> None:
        """A finished run is finished no more, one that was given up is not."""
        try:
            for name in (SUMMARY, GIVEN_UP):
                (self.path / name).unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise InputError(f"cannot delete files of {self}: {reason(error)}") from None

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
                raise corrupt(self.path, f"{STATE}: {error}") from None
        return config

    def changes(self) -> list[dict[str, Any]]:
        """What was changed on resuming: options, and `from_step`, the updates made before."""
        path = self.path / STATE
        if not path.exists():
            return []
        try:
            return list(read_about(path)["state"]["changes"])
        except (KeyError, TypeError) as error:
            raise corrupt(self.path, f"{STATE}: {type(error).__name__}: {error}") from None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its text.

        Raises:
            InputError: there is none, or another one than the weights were trained with.
        """
        if task := self.began_as().data.task:
            raise InputError(f"{self} was trained on task {task}, which is no text")
        tokenizer = load_tokenizer(self.path)
        about = self.newest()
        if about and tokenizer.digest != about["state"]["tokenizer"]:
            raise InputError(
                f"the tokenizer in {self} is not the one it was trained with (digest "
                f"{tokenizer.digest[:12]}, not {about['state']['tokenizer'][:12]}): restore it"
            )
        return tokenizer

    def require(self, data: str) -> None:
        """Refuse other data than the run was trained on, as far as it has got; `data` is a digest.

        Raises:
            InputError: the digests differ; both are named.
        """
        about = self.newest()
        if about and about["state"]["corpus"] != data:
            raise InputError(
                f"{self} was trained on other data (digest {about['state']['corpus'][:12]}, now "
                f"{data[:12]}): its text, tokenizer or task has changed since; restore it, or "
                "train anew in another folder"
            )

    def state(
        self,
        mend: bool = False,
        like: Callable[[str], Tensor | None] = lambda name: None,
        verify: bool = True,
    ) -> dict[str, Any] | None:
        """What `save` was given last, with `metrics`, the lines that count; None if nothing.

        With `mend`, files that are derived from it are made again where they do not fit. `like` and
        `verify` are those of `read_state`.

        Raises:
            InputError: the state is damaged, of another run, or gone.
        """
        path = self.path / STATE
        if not path.exists():
            refuse_old_format(self.path)
            if (self.path / MODEL).exists():
                raise InputError(f"{path} does not exist: there is nothing to resume from")
            return None
        tensors, about = read_state(path, like, verify=verify)
        require_own(self.path / CONFIG, path, about)
        if self.finished and self.summary(whole=True).get("weights") != about["weights"]:
            raise self._another(path)
        if mend:
            derive(self.path, tensors, about)
        return {**join(tensors, about["state"]), "metrics": about["metrics"]}

    def model(self) -> LanguageModel | CustomModel:
        """The model with the weights saved last, on the CPU.

        Raises:
            InputError: no run here, or its files are damaged or of another run.
        """
        self.began_as()
        path, state = self.path / MODEL, self.path / STATE
        if self.weights is not None:
            tensors, about = read_state(self.weights, prefix="model/")
            require_own(self.path / CONFIG, self.weights, about)
            return model_in(self.weights, tensors, about)
        newest = self.newest()
        if newest is None:
            refuse_old_format(self.path)
            raise InputError(f"{path} does not exist: the run has not reached its first checkpoint")
        tensors, about = read_state(path if path.exists() else state, prefix="model/")
        require_own(self.path / CONFIG, path, about)
        if about["weights"] != newest["weights"]:
            path = state  # a kill came between the two
            tensors, about = read_state(path, prefix="model/")
        if self.finished and self.summary(whole=True).get("weights") != about["weights"]:
            raise self._another(path)
        return model_in(path, tensors, about)

    def whole_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights that are meant, on the CPU, and what a file of them says.

        Raises:
            InputError: there are none yet, or they are damaged or of another run.
        """
        path = self.weights or self.path / STATE
        self.began_as()
        if not path.exists():
            refuse_old_format(self.path)
            raise InputError(f"{path} does not exist: the run has not reached its first checkpoint")
        tensors, about = whole_weights(path)
        require_own(self.path / CONFIG, path, about)
        return tensors, about

    def metrics(self) -> list[dict[str, Any]]:
        """The rows that were recorded; those of a finished run are verified.

        Raises:
            InputError: missing or damaged; the line is named.
        """
        return self.log.rows(self.summary(whole=True)["metrics"] if self.finished else None)

    def summary(self, whole: bool = False) -> dict[str, Any]:
        """What `finish` was given; with the digests that it added if `whole`.

        Raises:
            InputError: missing or damaged.
        """
        own = read_signed(self.path / SUMMARY, f"delete it, and `{self.goes_on}` writes it again")
        return own if whole else {k: v for k, v in own.items() if k not in ("weights", "metrics")}

    def newest(self) -> dict[str, Any] | None:
        """What the weights that are meant, or the state, say about themselves; None without any.

        Raises:
            InputError: they are of another run.
        """
        for path in [self.weights] if self.weights else [self.path / STATE, self.path / MODEL]:
            if path.exists():
                about = read_about(path)
                require_own(self.path / CONFIG, path, about)
                return about
        return None

    def _another(self, path: Path) -> InputError:
        return InputError(
            f"{path} holds other weights than those that {SUMMARY} is about: restore it, or delete "
            f"{SUMMARY} and `{self.goes_on}`"
        )

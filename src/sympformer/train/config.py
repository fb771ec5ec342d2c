"""What a run is made of, and its TOML form."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
import torch

from sympformer import machine
from sympformer.errors import InputError, shown
from sympformer.files import atomic
from sympformer.imports import import_again, imported
from sympformer.model import ModelConfig
from sympformer.tasks import Task, make_task
from sympformer.train.width import base_of
from sympformer.typed import check, check_fields, from_table, read_toml

_OF_TEXTS = "valid_text", "tokenizer", "separator", "field", "valid_fraction"
MOST_THREADS = 4096
"""More are a slip of the hand, and more than a system starts."""


@dataclass(frozen=True)
class DataConfig:
    """Which tokens: the embedded corpus, text of your own, or a task."""

    task: str | None = None
    """A task instead of text, generated without end (docs/tasks.md): mqar, parity, s5, ..."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """The task's options."""
    text: str | None = None
    """Training text (docs/data.md): a .txt, .md, .jsonl (also .gz, .xz, .zst) or .parquet file, a
    folder or pattern of them, or hub:NAME[:SUBSET][@REVISION]; without it, the fables."""
    valid_text: str | None = None
    """Validation text; without it, a share of the documents is held out."""
    tokenizer: str = "bpe:4096"
    """For text: byte, bpe:SIZE (trained on it), gpt2, or the path of a tokenizer."""
    separator: str = "<|endoftext|>"
    """The line that ends a document, in plain text."""
    field: str = "text"
    """The field that holds a document, in JSON lines, Parquet tables and data sets of the hub."""
    valid_fraction: float = 0.05
    """Share of the documents held out when there is no validation text."""
    document_mask: bool = False
    """No token sees one of another document: of a packed block each is a row of its own."""
    train_tokens: int = 2_000_000
    """Fables: length of the training stream."""
    valid_tokens: int = 50_000
    """Fables: length of the validation stream."""

    def __post_init__(self):
        check_fields(self)
        if not 0 < self.valid_fraction < 1:
            raise InputError(f"valid_fraction must be between 0 and 1, not {self.valid_fraction}")
        for name in _OF_TEXTS if self.text is None else ():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(
                    f"{name} = {shown(getattr(self, name))} is about a text, and would have no "
                    "effect without one: give text, or leave it out"
                )
        for name in ("train_tokens", "valid_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        object.__setattr__(self, "options", _lists(self.options))  # as TOML gives them back
        if self.task is not None:
            self._refuse_text()
            self.make_task()
        elif self.options:
            raise InputError(f"{', '.join(self.options)}: options of a task need a task")

    def make_task(self) -> Task:
        """The task.

        Raises:
            InputError: there is none, or an option is unknown or refused.
        """
        if self.task is None:
            raise InputError("there is no task: choose one with task")
        return make_task(self.task, self.options)

    def _refuse_text(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name not in ("task", "options") and value != option.default:
                raise InputError(
                    f"{option.name} has no effect on task {self.task}, which is generated: leave "
                    "it out, or the task"
                )


@dataclass(frozen=True)
class TrainConfig:
    """The published recipe (AdamW, cosine with warm-up and floor), sized for a laptop; and others
    (docs/optimisers.md).
    """

    steps: int = 500
    """Optimizer updates."""
    batch_size: int = 16
    """Blocks (of a task: sequences) in a micro-batch."""
    accumulation: int = 1
    """Micro-batches an update."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the matrices of blocks and adamw for all else."""
    learning_rate: float = 3e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine down to the floor, or the peak and a decay at the end."""
    min_lr_ratio: float = 0.1
    """Floor of the learning rate, as a share of the peak."""
    warmup: int = 50
    """Updates of linear warm-up."""
    decay: float = 0.2
    """Of wsd: the share of the updates, the last ones, in which the rate falls."""
    weight_decay: float = 0.1
    """On embeddings only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging coefficients."""
    clip: float = 1.0
    """Bound on the gradient norm, learned scalars left out."""
    scalar_lr: float = 5.0
    """Learning rate of the learned scalars, as a multiple."""
    matrix_lr: float = 1.0
    """Of muon: learning rate of the matrices, as a multiple."""
    base_width: int | None = None
    """The n_embd for which the learning rate was chosen; at another, initial weights and rates are
    scaled (muP), if heads are as wide there. Not scaled if not given."""
    eval_every: int = 50
    """Updates between evaluations; each also saves the run."""
    keep_last: int = 1
    """States that are kept, beside the best: those of the last evaluations."""
    async_save: bool = False
    """Write a state while the next updates are made, from a copy in memory."""
    eval_blocks: int = 256
    """Validation blocks (of a task: sequences) of an evaluation, the same ones every time."""
    start_from: str | None = None
    """Trained model (run folder, .safetensors in it, model folder) whose weights are those at the
    start, with a new optimizer; the model is its own, or a gradual one of the same function."""
    seed: int = 0
    """Seed of the initial weights."""
    data_seed: int = 0
    """Seed of the order of the data: runs that share it see the same batches."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the forward and backward pass; weights stay float32. The loss of float16 is
    scaled. auto: bfloat16 on a CUDA device that has it, else float32; a run keeps it."""
    skip_nonfinite: int | None = None
    """Updates in a row that are skipped where loss or gradients are not finite; at the next the run
    stops. If not given 0, and 20 in float16, whose scale is found so."""
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    """How processes that torchrun has started train together: ddp, a copy in each; fsdp, a share in
    each; auto, ddp if there are several."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    threads: int | None = None
    """CPU threads; torch's choice if not given."""
    form: str = "auto"
    """How attention is computed: auto, or a form in sympformer.attention.forms."""
    compile: bool = False
    """Compile the blocks with torch.compile."""

    def __post_init__(self):
        check_fields(self)
        counts = "steps", "batch_size", "accumulation", "eval_every", "eval_blocks", "keep_last"
        for name in counts:
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "clip", "scalar_lr", "matrix_lr"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be greater than 0, not {getattr(self, name)}")
        if not 0 <= self.min_lr_ratio <= 1:
            raise InputError(f"min_lr_ratio must be between 0 and 1, not {self.min_lr_ratio}")
        if not 0 < self.decay <= 1:
            raise InputError(f"decay must be above 0 and at most 1, not {self.decay}")
        self._refuse_without_effect("decay", "schedule", "wsd")
        self._refuse_without_effect("matrix_lr", "optimizer", "muon")
        if self.warmup < 0 or self.weight_decay < 0:
            raise InputError("warmup and weight_decay must be at least 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must be at least 0 and below 1, not {list(self.betas)}")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise InputError(f"threads must be from 1 to {MOST_THREADS}, not {self.threads}")
        if self.skip_nonfinite is not None and self.skip_nonfinite < 0:
            raise InputError(f"skip_nonfinite must be at least 0, not {self.skip_nonfinite}")
        for name in ("seed", "data_seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise InputError(f"{name} must be from 0 to 2^63 - 1, not {getattr(self, name)}")

    def _refuse_without_effect(self, option: str, choice: str, needed: str) -> None:
        value = getattr(self, option)
        if (
            getattr(self, choice) != needed
            and value != type(self).__dataclass_fields__[option].default
        ):
            raise InputError(
                f"{option} = {shown(value)} has an effect with {choice} = {needed!r} only: choose "
                "that, or leave it out"
            )


CHANGEABLE = (
    "steps",
    "learning_rate",
    "eval_every",
    "async_save",
    "threads",
    "device",
    "parallel",
)
"""Options of training that a run may go on with other values of."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    preset: str
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    variant: str = ""
    """Of a comparison's variant: what it is."""
    name: str = ""
    """What a comparison calls it; its preset if not given."""
    imports: Mapping[str, str] = field(default_factory=imported, hash=False)
    """The user's files and modules that it needs, each with its SHA-256."""

    def __post_init__(self):
        check_fields(self)
        object.__setattr__(self, "name", self.name or self.preset)
        if self.train.base_width is not None:
            base_of(self.model, self.train.base_width)
        if self.data.document_mask and self.model.causality == "joint":
            raise InputError(
                "document_mask evens out rows behind their last token, which causality = 'joint' "
                "would see: leave it out, or train a causal model"
            )
        if self.train.parallel == "fsdp" and self.data.document_mask:
            raise InputError(
                "document_mask gives each process passes of its own number, and those of parallel "
                "= 'fsdp' must be as many: choose 'ddp', or leave out document_mask"
            )
        if self.train.parallel == "fsdp" and self.train.optimizer == "muon":
            raise InputError(
                "muon needs whole matrices, and parallel = 'fsdp' shares them out: choose 'ddp', "
                "or optimizer = 'adamw'"
            )
        if self.data.document_mask and self.train.compile:
            raise InputError(
                "document_mask gives every pass a shape of its own, for which blocks would be "
                "compiled anew: leave out compile, or document_mask"
            )

    def on(self, device: torch.device) -> Self:
        """The same where nothing is left to the device: what a run keeps wherever it goes on."""
        if self.train.dtype != "auto":
            return self
        return dataclasses.replace(
            self, train=dataclasses.replace(self.train, dtype=machine.default_dtype(device))
        )

    def changes_to(self, other: "RunConfig") -> dict[str, Any]:
        """The options that a run must change to go on as `other`.

        Raises:
            InputError: it cannot, for something else differs; the message shows what.
        """
        mine, theirs = self._flat(), other._flat()
        differ = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
        changes = [name for name in differ if name.removeprefix("train.") in CHANGEABLE]
        if fixed := [name for name in differ if name not in changes]:
            shown = (f"{n} from {mine.get(n)!r} to {theirs.get(n)!r}" for n in fixed)
            options = ", ".join("--" + name.replace("_", "-") for name in CHANGEABLE)
            raise InputError(
                f"a run cannot go on with another configuration ({'; '.join(shown)}): only "
                f"{options} may change, so leave the others out, or start a new run"
            )
        return {n.removeprefix("train."): theirs.get(n) for n in changes}

    def _flat(self) -> dict[str, Any]:
        """Everything by dotted name."""
        tables = {**dataclasses.asdict(self), "model": self.model.to_dict()}
        flat: dict[str, Any] = {}
        for name, value in tables.items():
            inner = {f"{name}.{n}": v for n, v in value.items()} if isinstance(value, dict) else {}
            flat |= inner or {name: value}
        return flat

    def save(self, path: Path) -> None:
        """Write `config.toml`."""
        with atomic(path) as partial:
            tables = {**dataclasses.asdict(self), "model": self.model.to_dict()}
            partial.write_text(tomli_w.dumps(_without_none(tables)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, is no TOML, or has an unknown or bad value.
        """
        if not path.is_file():
            raise InputError(f"{path} does not exist: is {path.parent} a run folder?")
        tables = read_toml(path)
        imports = tables.get("imports", {})
        check("imports", imports, Mapping[str, Any])
        import_again(imports, str(path.parent))
        try:
            check("model", tables.get("model"), Mapping[str, Any])
            read = {
                "model": ModelConfig.from_dict(tables["model"]),
                "data": from_table(DataConfig, "data", tables.get("data", {})),
                "train": from_table(TrainConfig, "train", tables.get("train")),
                "imports": imports,
            }
            return from_table(cls, "the config", {**tables, **read})
        except InputError as error:
            raise InputError(f"{path} is corrupt ({error}): train again") from None


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lists(inner) for name, inner in value.items()}
    return list(map(_lists, value)) if isinstance(value, tuple | list) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return list(value) if isinstance(value, tuple) else value

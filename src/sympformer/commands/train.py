"""Commands about one run: train a model, let it write."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from rich.console import Console
from tyro.conf import Positional

from sympformer import machine
from sympformer.commands.data import pinned, prepare_once, vocabulary
from sympformer.commands.options import (
    Flat,
    Set,
    Size,
    Watch,
    default_sizes,
    defaults,
    overrides,
    sizes_in,
    with_options,
)
from sympformer.errors import InputError
from sympformer.model import ModelConfig
from sympformer.model.continuation import accelerated
from sympformer.model.text import continue_texts, stream_text
from sympformer.shown import visible
from sympformer.signals import LAUNCHER, noticed
from sympformer.train import (
    DataConfig,
    Progress,
    RunConfig,
    TrainConfig,
    train,
)
from sympformer.train.folder import CONFIG, RunFolder
from sympformer.train.parallel import current, launched
from sympformer.train.runs import described, run_of, trained
from sympformer.train.tensors import write_tensors
from sympformer.train.watch import Watched

WIDE = 256
"""From this n_embd on bfloat16 is offered where a processor multiplies it: the time of narrower
models is not that of their products."""


@dataclass(frozen=True)
class Train:
    """Train one model, or resume a run; in several processes by `torchrun -m sympformer train`."""

    preset: Positional[str] = "symp-r2"
    """Architecture; `sympformer presets` lists them. With --start-from that of the model there;
    another one takes it up gradually, from the same function."""
    out: Path | None = None
    """Run folder; runs/PRESET-sSEED if not given."""
    resume: Path | None = None
    """Run folder to continue; its own configuration gives the defaults of all other options. Of
    them --steps, --learning-rate, --eval-every, --async-save, --threads, --device and --parallel
    may change."""
    config: Path | None = None
    """TOML file that gives the defaults of all other options, as the config.toml of a run."""
    set: Set = ()
    """Other options of the architecture, e.g. --set lookahead=true heads=averaged."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    task_set: Set = ()
    """Options of the task, e.g. --task-set vocab_size=256 "train=[[32,4],[64,8]]"."""
    watch: Watch = ()
    """Programs that are told the metrics, too: tensorboard, wandb, trackio (docs/optimisers.md)."""
    model: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    """What a file says of the architecture beside its size."""
    options: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    """What a file says of the task."""

    def run(self) -> int:
        """Train."""
        ranks = current()
        if self.resume is not None:
            config, folder = self.resumed(), self.resume
            corpus = prepare_once(config.data, ranks)
        else:
            own = replace(self, data=ranks.told(lambda: pinned(self._data())))
            corpus = prepare_once(with_options(own.data, self.options, self.task_set), ranks)
            config = own.asked(vocabulary(corpus))
            folder = self.out or Path("runs") / f"{self.preset}-s{self.train.seed}"
        machine.keep_freed_memory()
        progress = Progress.silent()
        if ranks.first:
            progress = Watched(Console(stderr=True), self.watch, folder)
            if self.resume is None:
                _offer_bfloat16(config, progress.console)
        with noticed(ranks.first, LAUNCHER if launched() else 0) as stop:
            resume = self.resume is not None
            summary = train(config, corpus, folder, resume=resume, progress=progress, stop=stop)
        code = 1 if summary["audit"]["passed"] is False else 0
        if not ranks.first:
            return code
        print(f"{visible(str(folder))}: validation loss {summary['final_loss']:.4f} nats/token")
        for row in summary["tests"]:
            print(
                f"{row['setting']}: accuracy {row['accuracy']:.4f} of {row['ceiling']:.4f}, "
                f"loss {row['loss']:.4f} above {row['floor']:.4f}"
            )
        print(summary["audit"]["verdict"])
        return code

    @classmethod
    def load(cls, path: Path) -> Self:
        """The defaults in a TOML file: `preset`, and the tables model, data and train."""
        return cls(config=path, **defaults(path))

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """The defaults of resuming a run: what it is trained with now."""
        run = RunFolder(folder)
        config = run.config()
        return cls(resume=folder, **{**defaults(folder / CONFIG), "train": config.train})

    def resumed(self) -> RunConfig:
        """What a run is to go on as.

        Raises:
            InputError: an option was given that cannot change.
        """
        assert self.resume is not None
        if self.out not in (None, self.resume) or self.config is not None:
            raise InputError("--resume goes on in its folder: leave out --out and --config")
        config = RunFolder(self.resume).config()
        asked = self.asked(config.model.vocab_size)
        config.changes_to(
            replace(asked, name=config.name, variant=config.variant, imports=config.imports)
        )
        return replace(config, train=asked.train)

    @classmethod
    def of_model(cls, path: str) -> Self:
        """The defaults of a start from a trained model: its composition."""
        preset, model = described(path)
        size, others = sizes_in(model.to_dict())
        return cls(preset, size=size, model=others, train=TrainConfig(start_from=path))

    def _data(self) -> DataConfig:
        """The data, a text by default in the tokens of the model that is started from."""
        start, text = self.train.start_from, self.data.text
        if start is None or text is None or self.data.tokenizer != DataConfig.tokenizer:
            return self.data
        folder = Path(start).parent if Path(start).is_file() else Path(start)
        return replace(self.data, tokenizer=str(folder))

    def asked(self, vocab_size: int) -> RunConfig:
        """What the options ask for, given the tokenizer's or the task's vocabulary."""
        if self.preset.endswith(".toml"):
            raise InputError(f"{self.preset} is no preset: a file goes after --config")
        data = with_options(self.data, self.options, self.task_set)
        if self.train.start_from is not None and self.config is None and self.resume is None:
            return RunConfig(self.preset, self._continued(self.train.start_from), data, self.train)
        size = {"vocab_size": vocab_size, **default_sizes(data), **self.size.fields()}
        model = ModelConfig.preset(self.preset, **{**self.model, **size, **overrides(self.set)})
        return RunConfig(self.preset, model, data, self.train)

    def _continued(self, path: str) -> ModelConfig:
        """The model that is started from with the options asked for, or moved as a preset."""
        preset, model = described(path)
        options = {**self.size.fields(), **overrides(self.set)}
        if self.preset == preset:
            return ModelConfig.from_dict({**model.to_dict(), **options})
        return accelerated(model, self.preset, **options)


def _offer_bfloat16(config: RunConfig, console: Console) -> None:
    """Say that a processor has products of bfloat16, where a run would leave them unused."""
    device = machine.resolve_device(config.train.device)
    here = device.type == "cpu" and machine.multiplies_bfloat16()
    if here and config.train.dtype == "auto" and config.model.n_embd >= WIDE:
        console.print(
            "this processor multiplies bfloat16 in hardware: --dtype bfloat16 is faster in models "
            "as wide as this one",
            markup=False,
        )


@dataclass(frozen=True)
class Generate:
    """Continue a prompt with a trained model; tokens are printed as they come."""

    run_folder: Positional[Path]
    """Run folder, a .safetensors in it, or a model folder (docs/huggingface.md)."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Text to continue; without it, a new document. Several are one batch, printed at its end."""
    max_new_tokens: int = 100
    """Tokens to add; without --slide fewer if the block size is reached."""
    temperature: float = 0.8
    """0 always takes the most likely token."""
    top_k: int | None = None
    """Sample among the k most likely tokens only."""
    seed: int = 0
    """Seed of the sampling."""
    compile: bool = False
    """Compile the step from token to token; it takes up to a minute, and pays for long texts."""
    slide: bool = False
    """Go on beyond the block size: without end where a model has no positions; with learned ones,
    the last half of each full block is read again, and the rest forgotten."""

    def run(self) -> int:
        """Generate."""
        held = trained(self.run_folder)
        model, tokenizer = held.model(), held.tokenizer()
        options = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "seed": self.seed,
            "compile": self.compile,
            "slide": self.slide,
        }
        # On a terminal, no bytes of a model steer it; in a file they are what they are.
        shown = partial(visible, keep="\n\t") if sys.stdout.isatty() else str
        if len(self.prompt) > 1:
            texts = continue_texts(model, tokenizer, self.prompt, **options)
            print(shown("\n---\n".join(texts)))
            return 0
        for piece in stream_text(model, tokenizer, next(iter(self.prompt), None), **options):
            print(shown(piece), end="", flush=True)
        print()
        return 0


@dataclass(frozen=True)
class ExportWeights:
    """Write the weights of a run, however many processes hold them, into one .safetensors."""

    run_folder: Positional[Path]
    """Run folder, or a .safetensors in it: best.safetensors has the least validation loss."""
    file: Positional[Path]
    """Where to write; what is there already is refused."""

    def run(self) -> int:
        """Export."""
        if self.file.suffix != ".safetensors":
            raise InputError(f"{self.file} must end in .safetensors: so such files are known")
        if self.file.exists():
            raise InputError(f"{self.file} exists already: choose another name, or delete it")
        tensors, about = run_of(self.run_folder).whole_weights()
        write_tensors(self.file, tensors, about)
        step = about["state"]["step"]
        print(f"{visible(str(self.file))}: {len(tensors)} tensors of step {step}")
        return 0

"""Commands about one run: train a model, measure its loss, let it write."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from rich.console import Console
from tyro.conf import Positional

from sympformer import machine
from sympformer.commands.data import prepare
from sympformer.commands.options import Flat, Set, Size, defaults, overrides
from sympformer.data import Corpus, valid_blocks
from sympformer.model import ModelConfig
from sympformer.model.text import continue_texts, stream_text
from sympformer.train import (
    DataConfig,
    Progress,
    RunConfig,
    TrainConfig,
    evaluate,
    load_model,
    train,
)
from sympformer.train.folder import RunFolder


@dataclass(frozen=True)
class Train:
    """Train one model, or resume a run."""

    preset: Positional[str] = "symp-r2"
    """Architecture; `sympformer presets` lists them."""
    out: Path | None = None
    """Run folder; runs/PRESET-sSEED if not given."""
    resume: Path | None = None
    """Run folder to continue; its own configuration is used."""
    config: Path | None = None
    """TOML file that gives the defaults of all other options, as the config.toml of a run."""
    set: Set = ()
    """Other options of the architecture, e.g. --set lookahead=true heads=averaged."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    model: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    """What a file says of the architecture beside its size."""

    def run(self) -> int:
        """Train."""
        if self.resume is not None:
            config, folder = RunFolder(self.resume).config(), self.resume
            corpus = prepare(config.data)
        else:
            corpus = prepare(self.data)
            config = self.asked(corpus)
            folder = self.out or Path("runs") / f"{self.preset}-s{self.train.seed}"
        machine.keep_freed_memory()
        progress = Progress(Console(stderr=True))
        summary = train(config, corpus, folder, resume=self.resume is not None, progress=progress)
        print(f"{folder}: validation loss {summary['final_loss']:.4f} nats/token")
        print(summary["audit"]["verdict"])
        return 1 if summary["audit"]["passed"] is False else 0

    @classmethod
    def load(cls, path: Path) -> Self:
        """The defaults in a TOML file: `preset`, and the tables model, data and train."""
        return cls(config=path, **defaults(path))

    def asked(self, corpus: Corpus) -> RunConfig:
        """What the options ask for."""
        size = {"vocab_size": corpus.tokenizer.vocab_size, **self.size.fields()}
        model = ModelConfig.preset(self.preset, **{**self.model, **size, **overrides(self.set)})
        return RunConfig(self.preset, model, self.data, self.train)


@dataclass(frozen=True)
class Eval:
    """Measure a trained model's loss on its validation text."""

    run_folder: Positional[Path]
    """Run folder."""
    blocks: int | None = None
    """Validation blocks; all if not given."""
    loops: int | None = None
    """Apply the model's blocks this many times over, instead of as often as in training."""

    def run(self) -> int:
        """Evaluate."""
        model = load_model(self.run_folder)
        if self.loops is not None:
            model = model.with_loops(self.loops)
        config = RunFolder(self.run_folder).config()
        corpus = prepare(config.data)
        blocks = valid_blocks(
            corpus.valid, config.model.block_size, config.train.batch_size, self.blocks
        )
        print(json.dumps(asdict(evaluate(model, blocks, corpus.floor)), indent=2))
        return 0


@dataclass(frozen=True)
class Generate:
    """Continue a prompt with a trained model; tokens are printed as they come."""

    run_folder: Positional[Path]
    """Run folder."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Text to continue; without it, a new document. Several are one batch, printed at its end."""
    max_new_tokens: int = 100
    """Tokens to add; fewer if the block size is reached."""
    temperature: float = 0.8
    """0 always takes the most likely token."""
    top_k: int | None = None
    """Sample among the k most likely tokens only."""
    seed: int = 0
    """Seed of the sampling."""
    compile: bool = False
    """Compile the step from token to token; it takes up to a minute, and pays for long texts."""

    def run(self) -> int:
        """Generate."""
        run = RunFolder(self.run_folder)
        model, tokenizer = run.model(), run.tokenizer()
        options = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "seed": self.seed,
            "compile": self.compile,
        }
        if len(self.prompt) > 1:
            print("\n---\n".join(continue_texts(model, tokenizer, self.prompt, **options)))
            return 0
        for piece in stream_text(model, tokenizer, next(iter(self.prompt), None), **options):
            print(piece, end="", flush=True)
        print()
        return 0

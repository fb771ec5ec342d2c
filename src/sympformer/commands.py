"""The commands: each is its options, and what is done with them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from sympformer.errors import InputError
from sympformer.model import PRESETS, ModelConfig, build
from sympformer.train import DataConfig, Progress, RunConfig, TrainConfig, load_model

COMPARED = ("gpt", "gpt-untied", "yurii", "symp-h0", "symp-r2", "symp-exp-euler")


@dataclass(frozen=True)
class Size:
    """Size of the model."""

    n_layer: int = 4
    """Layers."""
    n_head: int = 4
    """Attention heads."""
    n_embd: int = 64
    """Model dimension."""
    block_size: int = 128
    """Context, in tokens."""
    vocab_size: int | None = None
    """Token ids; as many as the tokenizer has if not given."""

    def fields(self) -> dict[str, int]:
        """The sizes that are given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


Flat = arg(name="")
Set = Annotated[tuple[str, ...], arg(metavar="[OPTION=VALUE ...]")]


@dataclass(frozen=True)
class Presets:
    """List the architectures, one line each."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """List them."""
        if self.json:
            print(json.dumps({name: preset.summary for name, preset in PRESETS.items()}, indent=2))
        else:
            width = max(map(len, PRESETS))
            for name, preset in PRESETS.items():
                print(f"{name:<{width}}  {preset.summary}")
        return 0


@dataclass(frozen=True)
class Train:
    """Train one model, or resume a run."""

    preset: Positional[str] = "symp-r2"
    """Architecture; `sympformer presets` lists them."""
    out: Path | None = None
    """Run folder; runs/PRESET-sSEED if not given."""
    resume: Path | None = None
    """Run folder to continue; its own configuration is used."""
    set: Set = ()
    """Other options of the architecture, e.g. --set lookahead=true heads=averaged."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)

    def run(self) -> int:
        """Train."""
        from sympformer.train.loop import train

        console = Console(stderr=True)
        if self.resume is not None:
            config, folder = RunConfig.load(self.resume / "config.toml"), self.resume
            corpus = _corpus(config.data, console)
        else:
            corpus = _corpus(self.data, console)
            config = _config(self.preset, self.size, self.set, self.data, self.train, corpus)
            folder = self.out or Path("runs") / f"{self.preset}-s{self.train.seed}"
        summary = train(
            config, corpus, folder, resume=self.resume is not None, progress=Progress(console)
        )
        print(f"{folder}: validation loss {summary['final_loss']:.4f} nats/token")
        return _verdict(summary["audit"])


@dataclass(frozen=True)
class Compare:
    """Train several presets alike, audit each, print a table and draw their losses."""

    presets: tuple[str, ...] = COMPARED
    """Architectures."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each is used for the weights and for the data of every preset."""
    baseline: str = "gpt"
    """Preset that the others are compared with."""
    out: Path = Path("runs/compare")
    """Folder of the runs and the report; finished runs in it are kept, unfinished ones resumed."""
    config: Path | None = None
    """TOML file that gives the defaults of all other options; configs/ holds examples."""
    scale: float = 1.0
    """Share of the training tokens, to try a large comparison on a small machine."""
    set: Set = ()
    """Other options of every architecture, e.g. --set heads=averaged."""
    size: Annotated[Size, Flat] = field(default_factory=Size)
    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    model_of: tyro.conf.Suppress[dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Options of single presets, which only a file can give."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The defaults in a TOML file (see `sympformer.study.Plan`)."""
        from sympformer.study import Plan

        plan = Plan.load(path)
        sizes = {name: plan.model[name] for name in asdict(Size()) if name in plan.model}
        others = {name: value for name, value in plan.model.items() if name not in sizes}
        return cls(
            presets=plan.presets,
            seeds=plan.seeds,
            baseline=plan.baseline,
            config=path,
            set=tuple(f"{name}={json.dumps(value)}" for name, value in others.items()),
            size=Size(**sizes),
            data=plan.data,
            train=plan.train,
            model_of={preset: dict(options) for preset, options in plan.model_of.items()},
        )

    def plan(self) -> Any:
        """What is to be trained."""
        from sympformer.study import Plan

        if (self.train.seed, self.train.data_seed) != (0, 0):
            raise InputError("compare takes --seeds, which set the seed and the data seed of a run")
        model = {**self.size.fields(), **_overrides(self.set)}
        plan = Plan(
            self.presets, self.baseline, self.seeds, model, self.data, self.train, self.model_of
        )
        return plan.scaled(self.scale)

    def run(self) -> int:
        """Compare."""
        from sympformer.study import compare, load_results

        console = Console(stderr=True)
        plan = self.plan()
        plan.runs(vocab_size=2)  # refuse what makes no sense before any data is prepared
        corpus = _corpus(self.data, console)
        configs = plan.runs(corpus.tokenizer.vocab_size)
        runs = compare(configs, corpus, self.out, Progress(console))
        return _report(load_results(runs), self.out, self.baseline)


@dataclass(frozen=True)
class Report:
    """Write the table and the figure of runs that are already there."""

    folder: Positional[Path]
    """Folder whose subfolders are runs."""
    baseline: str = "gpt"
    """Preset that the others are compared with."""

    def run(self) -> int:
        """Report."""
        from sympformer.study import load_results

        return _report(load_results(self.folder), self.folder, self.baseline)


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
        from sympformer.data import valid_blocks
        from sympformer.train import evaluate

        model = load_model(self.run_folder)
        if self.loops is not None:
            model = model.with_loops(self.loops)
        config = RunConfig.load(self.run_folder / "config.toml")
        corpus = _corpus(config.data, Console(stderr=True))
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

    def run(self) -> int:
        """Generate."""
        from sympformer.data import load_tokenizer
        from sympformer.train.sample import continue_texts, stream_text

        model, tokenizer = load_model(self.run_folder), load_tokenizer(self.run_folder)
        options = self.max_new_tokens, self.temperature, self.top_k, self.seed
        if len(self.prompt) > 1:
            print("\n---\n".join(continue_texts(model, tokenizer, self.prompt, *options)))
            return 0
        for piece in stream_text(model, tokenizer, next(iter(self.prompt), None), *options):
            print(piece, end="", flush=True)
        print()
        return 0


@dataclass(frozen=True)
class Audit:
    """Does any output depend on a later token? Exit code 1 if so."""

    target: Positional[str]
    """A preset, or the run folder (or its model.safetensors) of a trained model."""
    length: int = 64
    """Tokens in the audited sequences."""
    json: bool = False
    """Print JSON."""
    set: Set = ()
    """Other options of the architecture, e.g. --set causality=joint."""
    form: str = "auto"
    """How attention is computed: auto, or a form in sympformer.attention.forms."""

    def run(self) -> int:
        """Audit."""
        from sympformer.attention import forms
        from sympformer.causality import audit

        if Path(self.target).exists():
            model = load_model(self.target)
        else:
            size = {**Size().fields(), "block_size": max(128, self.length), "vocab_size": 256}
            model = build(ModelConfig.preset(self.target, **{**size, **_overrides(self.set)}))
        with forms.using(self.form):
            report = audit(model, length=self.length)
        print(json.dumps(report.to_dict(), indent=2) if self.json else report)
        return 0 if report.passed else 1


@dataclass(frozen=True)
class Bench:
    """Measure time and memory side by side with a plain GPT on torch's fused attention."""

    presets: tuple[str, ...] = COMPARED
    """Architectures, beside the plain GPT."""
    measure: tuple[str, ...] = ("step", "memory", "prefill", "decode")
    """Of step, memory, prefill, decode, generate, recompute."""
    lengths: tuple[int, ...] = (512,)
    """Contexts T, in tokens."""
    n_layer: int = 8
    """Layers."""
    n_head: int = 8
    """Attention heads."""
    n_embd: tuple[int, ...] = (64,)
    """Model dimensions."""
    vocab_size: int = 50304
    """Token ids."""
    batch_size: int = 6
    """Sequences."""
    tokens_per_batch: int | None = None
    """As many sequences as hold so many tokens, at every length, instead of the batch size."""
    rounds: int = 5
    """Rounds that count, after a warm-up; in each, every model has its turn."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward pass; weights stay float32."""
    compile: bool = False
    """Compile the training step."""
    threads: int | None = None
    """CPU threads; torch's choice if not given."""
    out: Path = Path("runs/bench")
    """Folder for numbers, tables and the figure (drawn where there are several lengths)."""
    redraw: Path | None = None
    """Measure nothing: write tables and figure of this results.json."""

    def run(self) -> int:
        """Measure."""
        import torch

        from sympformer.bench import Case, Progress, bench, grid, print_tables, write_report
        from sympformer.bench import Report as BenchReport
        from sympformer.train.loop import resolve_device

        if self.rounds < 1 or (self.threads is not None and self.threads < 1):
            raise InputError("rounds and threads must be at least 1")
        if self.redraw is None:
            first = Case(
                "plain-gpt",
                n_layer=self.n_layer,
                n_head=self.n_head,
                vocab_size=self.vocab_size,
                batch_size=self.batch_size,
                device=str(resolve_device(self.device)),
                dtype=self.dtype,
                compile=self.compile,
            )
            axes = self.presets, self.measure, self.lengths, self.n_embd
            groups = grid(first, *axes, tokens_per_batch=self.tokens_per_batch)
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            report = bench(groups, self.rounds, Progress())
        else:
            report = BenchReport.load(self.redraw)
        paths = write_report(report, self.out)
        print_tables(report)
        print("written: " + ", ".join(map(str, paths)))
        return 0


@dataclass(frozen=True)
class Data:
    """Prepare a corpus and show what is in it."""

    data: Annotated[DataConfig, Flat] = field(default_factory=DataConfig)

    def run(self) -> int:
        """Prepare."""
        from sympformer.data import preview, summary

        corpus = _corpus(self.data, Console(stderr=True))
        print(json.dumps(summary(corpus), indent=2))
        print(preview(corpus))
        return 0


def _config(
    preset: str,
    size: Size,
    options: tuple[str, ...],
    data: DataConfig,
    train: TrainConfig,
    corpus: Any,
) -> RunConfig:
    fields = {"vocab_size": corpus.tokenizer.vocab_size, **size.fields(), **_overrides(options)}
    return RunConfig(preset, ModelConfig.preset(preset, **fields), data, train)


def _overrides(options: tuple[str, ...]) -> dict[str, Any]:
    overrides = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise InputError(f"--set takes OPTION=VALUE, not {option!r}")
        try:
            overrides[name] = json.loads(text)
        except json.JSONDecodeError:
            overrides[name] = text
    return overrides


def _corpus(data: DataConfig, console: Console) -> Any:
    from sympformer.data import fables, from_text

    if data.text is None:
        return fables(train_tokens=data.train_tokens, valid_tokens=data.valid_tokens)
    return from_text(
        data.text,
        data.valid_text,
        tokenizer=data.tokenizer,
        separator=data.separator,
        valid_fraction=data.valid_fraction,
    )


def _report(results: list[Any], folder: Path, baseline: str) -> int:
    from sympformer.study import print_table, write_report

    paths = write_report(results, folder, baseline=baseline)
    print_table(results, baseline=baseline)
    print("written: " + ", ".join(map(str, paths)))
    return 0


def _verdict(audit: dict[str, Any]) -> int:
    print(audit["verdict"])
    return 0 if audit["passed"] else 1


@dataclass(frozen=True)
class Lab:
    """See the theory happen: particle experiments (`sympformer lab --help` lists them)."""


COMMANDS = {
    "presets": Presets,
    "train": Train,
    "compare": Compare,
    "eval": Eval,
    "generate": Generate,
    "audit": Audit,
    "report": Report,
    "lab": Lab,
    "data": Data,
    "bench": Bench,
}

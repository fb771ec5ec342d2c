"""The training loop: deterministic, resumable, and finite or stopped."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from sympformer.allocator import keep_freed_memory
from sympformer.attention import forms
from sympformer.causality import audit
from sympformer.compiler import compile_blocks, require_compiler
from sympformer.data import Corpus, Loader, save_tokenizer, valid_blocks
from sympformer.errors import InputError
from sympformer.model import LanguageModel, build
from sympformer.model.text import continue_text
from sympformer.train import checkpoint as files
from sympformer.train.config import RunConfig, TrainConfig
from sympformer.train.evaluate import Evaluation, evaluate
from sympformer.train.optimizer import (
    adamw,
    check_finite,
    clip_gradients,
    learning_rate,
    set_learning_rate,
)
from sympformer.train.progress import Progress


def train(
    config: RunConfig,
    corpus: Corpus,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model and leave a run folder; return its summary.

    The folder holds `config.toml`, `environment.json`, `metrics.jsonl`, `model.safetensors` (the
    latest weights), `checkpoint.pt` (all that resuming needs), the tokenizer, and, once the
    run is complete, `summary.json`. A resumed run makes the updates that an
    uninterrupted one would have made.

    Args:
        config: what to train.
        corpus: its tokens; `config.model.vocab_size` must hold all their ids.
        folder: where to write; it must hold no run unless `resume`.
        resume: continue from the folder's last checkpoint.
        progress: what shows the progress; nothing if None.

    Raises:
        InputError: bad input, an unwritable folder, or a loss or gradient that is not finite
            (stopped before the update is applied; the last checkpoint is kept).
    """
    progress = progress or Progress.silent()
    with forms.using(config.train.form):
        run = Run(config, corpus, folder)
        if resume:
            run.load()
        else:
            run.start()
        progress.begin(config, run.step, run.forms)
        try:
            while run.step < config.train.steps:
                progress.update(run.update())
                if run.step % config.train.eval_every == 0 or run.step == config.train.steps:
                    progress.evaluated(run.evaluate())
                    run.save()
        finally:
            progress.end()
        return run.summarise()


class Run:
    """The state of a training run, in its folder."""

    def __init__(self, config: RunConfig, corpus: Corpus, folder: Path):
        if config.model.vocab_size < corpus.tokenizer.vocab_size:
            raise InputError(
                f"vocab_size {config.model.vocab_size} is smaller than the tokenizer's "
                f"{corpus.tokenizer.vocab_size}: leave it out, or choose at least that"
            )
        t = config.train
        if t.threads is not None:
            torch.set_num_threads(t.threads)
        keep_freed_memory()
        self.config, self.corpus, self.folder = config, corpus, folder
        self.device = resolve_device(t.device)
        torch.manual_seed(t.seed)
        self.model: LanguageModel = build(config.model).to(self.device)
        self.optimizer = adamw(self.model, t)
        self.loader = Loader(corpus.train, config.model.block_size, t.batch_size, t.data_seed)
        self.blocks = list(
            valid_blocks(corpus.valid, config.model.block_size, t.batch_size, t.eval_blocks)
        )
        self.step, self.seconds, self.best_loss = 0, 0.0, float("inf")
        self.evaluation: Evaluation | None = None
        self.forms = self._forms()
        if t.compile:
            require_compiler(self.device.type)
            compile_blocks(self.model.blocks)

    def start(self) -> None:
        """Claim the folder and write what is known before the first update."""
        if (self.folder / files.CONFIG).exists():
            raise InputError(
                f"{self.folder} already holds a run: choose another folder, or resume it with "
                f"`sympformer train --resume {self.folder}`"
            )
        self.config.save(self.folder / files.CONFIG)
        environment = {**files.environment(self.device), "attention": self.forms}
        files.write_json(self.folder / files.ENVIRONMENT, environment)
        save_tokenizer(self.corpus.tokenizer, self.folder)
        (self.folder / files.METRICS).write_text("")

    def load(self) -> None:
        """Go back to the last checkpoint, or to the start if there is none yet."""
        if not any((self.folder / name).exists() for name in (files.CHECKPOINT, files.MODEL)):
            self._keep_metrics()
            return
        state = files.load_checkpoint(self.folder / files.CHECKPOINT)
        if state["corpus"] != self.corpus.digest:
            raise InputError(
                f"{self.folder} was trained on other data: its text or tokenizer has changed since"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best_loss = state["best_loss"]
        self._keep_metrics()

    def save(self) -> None:
        """Write a checkpoint, and the weights for those who only read them."""
        files.save_checkpoint(
            self.folder / files.CHECKPOINT,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "loader": self.loader.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "best_loss": self.best_loss,
                "corpus": self.corpus.digest,
            },
        )
        files.save_model(self.model, self.folder / files.MODEL)

    def update(self) -> dict[str, float]:
        """Make one optimizer update; return what it measured."""
        t = self.config.train
        began = time.perf_counter()
        self.model.train()
        rate = learning_rate(self.step, t)
        set_learning_rate(self.optimizer, rate)
        batches = [next(self.loader) for _ in range(t.accumulation)]
        counted = sum(targets.numel() for _, targets in batches)
        total = torch.zeros((), device=self.device)
        for inputs, targets in batches:
            with precision(t, self.device):
                loss = self.model(inputs.to(self.device), targets.to(self.device)).loss
            # The sum over target tokens, divided by their number in the whole update.
            share = loss * (targets.numel() / counted)
            share.backward()
            total += share.detach()
        check_finite(self.optimizer, total, self.step)
        norm = clip_gradients(self.optimizer, t.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss, norm = torch.stack([total, norm]).tolist()  # one transfer from an accelerator
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.step += 1
        return self._record(
            "train",
            loss=loss,
            lr=rate,
            grad_norm=norm,
            tokens_per_second=counted / seconds,
        )

    def evaluate(self) -> dict[str, Any]:
        """Measure the validation loss on the fixed blocks and sample a text."""
        with precision(self.config.train, self.device):
            self.evaluation = evaluate(self.model, self.blocks, self.corpus.floor)
        self.best_loss = min(self.best_loss, self.evaluation.loss)
        # Compiled blocks are for the shape of a batch: every length would be compiled anew.
        compiled = self.config.train.compile
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            sample = continue_text(self.model, self.corpus.tokenizer, seed=0)
        return self._record("eval", valid_loss=self.evaluation.loss, sample=sample)

    def summarise(self) -> dict[str, Any]:
        """Audit the trained model and write `summary.json`."""
        if self.evaluation is None:
            self.evaluate()
        assert self.evaluation is not None
        t = self.config.train
        tokens = self._tokens()
        report = audit(self.model.cpu(), length=min(48, self.config.model.block_size))
        summary = {
            "preset": self.config.preset,
            "seed": t.seed,
            "parameters": self.model.num_parameters(),
            "steps": self.step,
            "tokens": tokens,
            "final_loss": self.evaluation.loss,
            "best_loss": self.best_loss,
            "floor": self.evaluation.floor,
            "seconds": self.seconds,
            "tokens_per_second": tokens / self.seconds,
            "causality": self.config.model.causality,
            "audit": report.to_dict(),
            "corpus": self.corpus.name,
            "attention": self.forms,
            **files.environment(self.device),
        }
        files.write_json(self.folder / files.SUMMARY, summary)
        return summary

    def _forms(self) -> list[str]:
        """In which forms attention will be computed, tried on one block."""
        block = torch.zeros(1, self.config.model.block_size, dtype=torch.int64, device=self.device)
        t = self.config.train
        with torch.no_grad(), precision(t, self.device), forms.recorded(t.compile) as used:
            self.model(block)
        return sorted(used)

    def _tokens(self) -> int:
        t = self.config.train
        return self.step * t.accumulation * t.batch_size * self.config.model.block_size

    def _record(self, event: str, **values: Any) -> dict[str, Any]:
        row = {
            "event": event,
            "step": self.step,
            "tokens": self._tokens(),
            "seconds": self.seconds,
            **values,
        }
        with open(self.folder / files.METRICS, "a") as stream:
            stream.write(json.dumps(row) + "\n")
        return row

    def _keep_metrics(self) -> None:
        """Drop the metrics of updates that are not in the checkpoint."""
        kept = [row for row in self._read_metrics() if row["step"] <= self.step]
        with files.atomic(self.folder / files.METRICS) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def _read_metrics(self) -> list[dict[str, Any]]:
        rows = []
        for line in (self.folder / files.METRICS).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the line that was being written when the run was killed
        return rows


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is an accelerator where there is one."""
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, ValueError):
        raise InputError(f"device {name!r} is not available here: use --device auto") from None


@contextmanager
def precision(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """The forward pass's precision: autocast for bfloat16."""
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        yield

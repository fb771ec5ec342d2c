"""The training loop: deterministic, resumable, and finite or stopped."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from sympformer import machine
from sympformer.attention import forms
from sympformer.compiler import compile_blocks, require_compiler
from sympformer.data import Corpus, Loader, valid_blocks
from sympformer.errors import InputError
from sympformer.model import CustomModel, LanguageModel, build
from sympformer.model.text import sample_text
from sympformer.train.audited import audited
from sympformer.train.config import RunConfig
from sympformer.train.engine import DivergenceError, Engine
from sympformer.train.evaluate import Evaluation, evaluate
from sympformer.train.folder import RunFolder
from sympformer.train.progress import Progress


def train(
    config: RunConfig,
    corpus: Corpus,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model and leave a run folder; return its summary.

    What the folder holds: see `RunFolder`. A resumed run makes the updates that an uninterrupted
    one would have made. The process is left as it was: its threads, its random state, its form of
    attention. On a processor, `sympformer.machine.keep_freed_memory` makes steps faster.

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
    device = machine.resolve_device(config.train.device)
    with (
        forms.using(config.train.form),
        machine.threads(config.train.threads),
        machine.seeded(config.train.seed, device),
    ):
        run = Run(config, corpus, RunFolder(Path(folder)), device)
        if resume:
            run.resume()
        else:
            run.start()
        progress.begin(config, run.engine.step, run.forms)
        if isinstance(run.model, CustomModel):
            progress.say("a model of the user's own, from which no samples are made")
        try:
            while run.engine.step < config.train.steps:
                progress.update(run.update())
                if run.evaluation_is_due:
                    progress.evaluated(run.evaluate())
                    run.save()
        except DivergenceError as error:
            raise InputError(
                f"{error} and the last checkpoint is kept: lower the learning rate, or train in "
                "float32"
            ) from None
        finally:
            progress.end()
        return run.summarise()


class Run:
    """A training run: an engine, what is measured of its model, and the folder that keeps both.

    The weights are drawn from torch's generator as it is.
    """

    def __init__(
        self, config: RunConfig, corpus: Corpus, folder: RunFolder, device: torch.device
    ) -> None:
        if config.model.vocab_size < corpus.tokenizer.vocab_size:
            raise InputError(
                f"vocab_size {config.model.vocab_size} is smaller than the tokenizer's "
                f"{corpus.tokenizer.vocab_size}: leave it out, or choose at least that"
            )
        t, block_size = config.train, config.model.block_size
        self.config, self.corpus, self.folder, self.device = config, corpus, folder, device
        self.model: LanguageModel | CustomModel = build(config.model).to(device)
        loader = Loader(corpus.train, block_size, t.batch_size, t.data_seed)
        self.engine = Engine(self.model, loader, t)
        self.blocks = list(valid_blocks(corpus.valid, block_size, t.batch_size, t.eval_blocks))
        self.best_loss = float("inf")
        self.evaluation: Evaluation | None = None
        self.forms = self._forms()
        if t.compile:
            require_compiler(device.type)
            compile_blocks(self.model.blocks)

    def start(self) -> None:
        """Claim the folder and write what is known before the first update."""
        environment = {**machine.environment(self.device), "attention": self.forms}
        if self.engine.records:
            self.folder.begin(self.config, environment, self.corpus.tokenizer)

    def resume(self) -> None:
        """Go back to the last checkpoint, or to the start if there is none yet."""
        state = self.folder.state()
        if state is not None:
            if state["corpus"] != self.corpus.digest:
                raise InputError(
                    f"{self.folder} was trained on other data: its text or tokenizer has changed "
                    "since"
                )
            self.engine.load_state_dict(state)
            self.best_loss = state["best_loss"]
        if self.engine.records:
            self.folder.keep_metrics(self.engine.step)

    def save(self) -> None:
        """Write a checkpoint."""
        state = self.engine.state_dict()
        state |= {"best_loss": self.best_loss, "corpus": self.corpus.digest}
        if self.engine.records:
            self.folder.save(self.model, state)

    def update(self) -> dict[str, Any]:
        """Make one optimizer update; return what it measured."""
        return self._record("train", self.engine.update())

    @property
    def evaluation_is_due(self) -> bool:
        """Whether this is a step at which the model is measured and saved."""
        t, step = self.config.train, self.engine.step
        return step % t.eval_every == 0 or step == t.steps

    def evaluate(self) -> dict[str, Any]:
        """Measure the validation loss on the fixed blocks and sample a text."""
        with self.engine.precision:
            self.evaluation = evaluate(self.model, self.blocks, self.corpus.floor)
        self.best_loss = min(self.best_loss, self.evaluation.loss)
        # Compiled blocks are for the shape of a batch: every length would be compiled anew.
        compiled = self.config.train.compile
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            sample = sample_text(self.model, self.corpus.tokenizer)
        return self._record("eval", {"valid_loss": self.evaluation.loss, "sample": sample})

    def summarise(self) -> dict[str, Any]:
        """Audit the trained model and write the summary."""
        if self.evaluation is None:
            self.evaluate()
        assert self.evaluation is not None
        engine = self.engine
        report = audited(self.model.cpu(), min(48, self.config.model.block_size))
        summary = {
            "preset": self.config.preset,
            "name": self.config.name,
            "variant": self.config.variant,
            "seed": self.config.train.seed,
            "parameters": self.model.num_parameters(),
            "steps": engine.step,
            "tokens": engine.tokens,
            "final_loss": self.evaluation.loss,
            "best_loss": self.best_loss,
            "floor": self.evaluation.floor,
            "seconds": engine.seconds,
            "tokens_per_second": engine.tokens / engine.seconds,
            "causality": self.config.model.causality,
            "audit": report,
            "corpus": self.corpus.name,
            "attention": self.forms,
            **machine.environment(self.device),
        }
        if engine.records:
            self.folder.finish(summary)
        return summary

    def _forms(self) -> list[str]:
        """In which forms attention will be computed, tried on one block."""
        block = torch.zeros(1, self.config.model.block_size, dtype=torch.int64, device=self.device)
        compiled = self.config.train.compile
        with torch.no_grad(), self.engine.precision, forms.recorded(compiled) as used:
            self.model(block, block)
        return sorted(used)

    def _record(self, event: str, values: dict[str, Any]) -> dict[str, Any]:
        engine = self.engine
        counters = {"step": engine.step, "tokens": engine.tokens, "seconds": engine.seconds}
        row = {"event": event, **counters, **values}
        if engine.records:
            self.folder.record(row)
        return row

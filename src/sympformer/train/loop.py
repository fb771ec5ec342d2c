"""The training loop: deterministic, resumable, and finite or stopped."""

import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sympformer import machine
from sympformer.attention import forms
from sympformer.compiler import compile_blocks, require_compiler
from sympformer.data import Corpus
from sympformer.errors import InputError, Stopped
from sympformer.imports import imported
from sympformer.model import CustomModel, LanguageModel, build
from sympformer.tasks import Task
from sympformer.train.audited import audited
from sympformer.train.config import RunConfig
from sympformer.train.engine import DivergenceError, Engine
from sympformer.train.evaluate import Evaluation
from sympformer.train.examples import examples
from sympformer.train.folder import RunFolder
from sympformer.train.onlooker import Onlooker
from sympformer.train.optimizer import learned_scalars, nonfinite_groups
from sympformer.train.parallel import SINGLE, Ranks, current
from sympformer.train.progress import Progress
from sympformer.train.saver import Saver
from sympformer.train.sizes import require_memory
from sympformer.train.spread import Sharded
from sympformer.train.start import start_from
from sympformer.train.width import scale_initial

FAR = 1.0
"""An evaluation this many nats per token above the best is of a run that has diverged."""


def train(
    config: RunConfig,
    data: Corpus | Task,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], int] | None = None,
) -> dict[str, Any]:
    """Train a model and leave a run folder; return its summary.

    What the folder holds: see `RunFolder`. A resumed run makes the updates that an uninterrupted
    one would have made; a finished one is left as it is. Processes that have joined
    (`sympformer.train.parallel`) and all call this make one run together, whatever their number. A
    process is left as it was: its threads, its random state, its form of attention. On a processor,
    `sympformer.machine.keep_freed_memory` makes steps faster.

    Args:
        config: what to train. A resumed run may go on with other steps, learning_rate, eval_every,
            async_save, threads, device and parallel; its state says from which step.
        data: the text or the task; `config.model.vocab_size` must hold all its ids.
        folder: where to write; it must hold no run unless `resume`.
        resume: continue from the folder's last state.
        progress: what shows the progress; nothing if None.
        stop: asked before every update, before the audit and after it: the number of the signal
            for which to save and end, or 0. One process that is told is enough.

    Raises:
        InputError: bad input, an unwritable folder, one that another process uses, or a run that
            has diverged: a loss or gradient that is not finite (the update is not applied), or an
            evaluation that is not, or is `FAR` above the best. The last good state is kept.
        Stopped: `stop` asked for it; the run is saved, or complete.
    """
    progress, ranks = progress or Progress.silent(), current()
    if resume:
        RunFolder(Path(folder)).began_as()  # or the lock would make the folder
    device = machine.resolve_device(config.train.device)
    length = data.trained if isinstance(data, Task) else None
    require_memory(config, device, length, ranks.size)
    with (
        forms.using(config.train.form),
        machine.threads(config.train.threads),
        machine.seeded(config.train.seed, device),
    ):
        kind = RunFolder if ranks.first else Onlooker
        run = Run(config, data, kind(Path(folder)), device, ranks)
        with run.folder.locked():
            if resume:
                run.resume()
            else:
                run.start()
            if ranks.told(lambda: run.folder.finished):
                return run.folder.summary()
            progress.begin(config, run.engine.step, run.forms)
            if isinstance(run.model, CustomModel):
                progress.say("a model of the user's own, from which no samples are made")
            own = stop or (lambda: 0)
            together = partial(_together, ranks, own)
            try:
                _advance(run, progress, together)
            except DivergenceError as error:
                run.saver.wait()
                run.record_divergence(str(error))
                raise DivergenceError(f"{error}; {_after_divergence(run)}") from None
            finally:
                progress.end()
                run.saver.close()  # before another process may have the folder
            summary = run.summarise()
            if number := together():
                raise Stopped(f"stopped after {run.folder}, which is complete", 128 + number)
            return summary


def _together(ranks: Ranks, stop: Callable[[], int]) -> int:
    """The signal that any of the processes has met."""
    return ranks.largest(stop())


def _advance(run: "Run", progress: Progress, stop: Callable[[], int]) -> None:
    """Make the updates that are left, measure and save."""
    number = 0
    while not run.complete:
        if number := stop():
            run.save()
            break
        if run.engine.step < run.config.train.steps:
            progress.update(run.update())
        if run.evaluation_is_due:
            progress.evaluated(run.evaluate())
            run.save()
    run.saver.wait()
    if number := number or stop():
        raise Stopped(
            f"stopped at step {run.engine.step}, which is saved: `{run.folder.goes_on}` goes on "
            "from there",
            128 + number,
        )


def _after_divergence(run: "Run") -> str:
    """What is left of a run that has diverged, and how to go on."""
    saved = run.saver.saved_step
    where = f"from step {saved}, which is saved," if saved else "from the start"
    rate = run.config.train.learning_rate / 2
    return f"go on {where} with `{run.folder.goes_on} --learning-rate {rate:.3g}`"


class Run:
    """A training run: an engine, what is measured of its model, and the folder that keeps both.

    The weights are drawn from torch's generator as it is.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Corpus | Task,
        folder: RunFolder,
        device: torch.device,
        ranks: Ranks = SINGLE,
    ) -> None:
        self.config = config = config.on(device)
        self.folder, self.device, self.ranks = folder, device, ranks
        self.data = examples(data, config)
        self.model: LanguageModel | CustomModel = build(config.model).to(device)
        if config.train.base_width is not None:
            scale_initial(self.model, config.train.base_width)
        self.started_from: dict[str, Any] | None = None
        if config.train.start_from is not None and folder.newest() is None:
            self.started_from = start_from(config.train.start_from, self.model, self.data.tokenizer)
        self.engine = Engine(self.model, self.data.loader(ranks), config.train, ranks)
        self.best_loss, self.best_step = float("inf"), 0
        self.first_loss: float | None = None
        self.evaluation: Evaluation | None = None
        self.evaluated_step = 0
        self.saver = Saver(folder, config.train.async_save, ranks)
        self.changes: list[dict[str, Any]] = []
        self.began_at = config.train.learning_rate  # what a comparison asked for
        self.forms = self._forms()
        if config.train.compile:
            if isinstance(self.engine.spread, Sharded):
                raise InputError("sharded blocks are not compiled: leave compile out, or fsdp")
            require_compiler(device.type)
            compile_blocks(self.model.blocks)

    def start(self) -> None:
        """Claim the folder and write what is known before the first update."""
        self.folder.begin(self.config, self._environment(), self.data.tokenizer)

    def resume(self) -> None:
        """Go back to the last state, or to the start if there is none yet.

        Raises:
            InputError: the state is damaged or of other data, or the config cannot go on from it.
        """
        changes = self.folder.config().changes_to(self.config)
        self.began_at = self.folder.began_as().train.learning_rate
        state = self.folder.state(mend=True, like=self.engine.shards())
        if state is None:
            self.folder.begin_again(self._environment(), self.data.tokenizer)
        else:
            self.folder.require(self.data.digest)
            if self.config.train.steps < state["step"]:
                raise InputError(
                    f"{self.folder} has made {state['step']} updates already: --steps must be at "
                    "least that"
                )
            self._load(state)
        self.ranks.meet()  # before anything that others read is deleted
        if changes and not self.complete:  # else they change no update
            self.changes.append({"from_step": self.engine.step, **changes})
            self.folder.go_on()

    def _load(self, state: dict[str, Any]) -> None:
        self.engine.load_state_dict(state)
        self.saver.saved_step = state["step"]
        self.best_loss, self.best_step = state["best_loss"] or float("inf"), state["best_step"]
        self.first_loss, self.changes = state["first_loss"], state["changes"]
        self.started_from = state.get("started_from")  # earlier states do not say
        if state["evaluation"] is not None:
            self.evaluation = Evaluation(**state["evaluation"])
            self.evaluated_step = state["evaluated_step"]
        self.folder.log.keep(state["metrics"])
        self.folder.keep_tokenizer(self.data.tokenizer)

    def save(self) -> None:
        """Keep the state."""
        if bad := nonfinite_groups(self.model):
            raise DivergenceError(
                f"training diverged at step {self.engine.step}: the {' and the '.join(bad)} are "
                "not finite"
            )
        state = self.engine.state_dict() | {
            "best_loss": self.best_loss if self.best_step else None,
            "best_step": self.best_step,
            "first_loss": self.first_loss,
            "evaluation": self.evaluation and asdict(self.evaluation),
            "evaluated_step": self.evaluated_step,
            "changes": self.changes,
            "started_from": self.started_from,
            "corpus": self.data.digest,
            "tokenizer": self.data.tokenizer and self.data.tokenizer.digest,
        }
        self.saver.save(self.model, state)

    def update(self) -> dict[str, Any]:
        """Make one optimizer update; return what it measured."""
        made = self.engine.update()
        if "loss" not in made:
            return self._record("skip", made)
        row = self._record("train", made)
        if self.first_loss is None:
            self.first_loss = row["loss"]
        return row

    @property
    def complete(self) -> bool:
        """Whether all updates are made, and the model is measured after the last."""
        return self.engine.step >= self.config.train.steps and self._evaluated

    @property
    def evaluation_is_due(self) -> bool:
        """Whether this is a step at which the model is measured and saved, and is not yet."""
        t, step = self.config.train, self.engine.step
        return (step % t.eval_every == 0 or step >= t.steps) and not self._evaluated

    def evaluate(self) -> dict[str, Any]:
        """Measure the loss on what is kept for validation, and sample a text if there is one.

        Raises:
            DivergenceError: the loss is not finite, or far above the best; it is not recorded.
        """
        with self.engine.precision:
            evaluation = self.data.evaluate(self.model, self.ranks)
        self._refuse_divergence(evaluation.loss)
        self.evaluation, self.evaluated_step = evaluation, self.engine.step
        if evaluation.loss < self.best_loss:
            self.best_loss, self.best_step = evaluation.loss, self.engine.step
        # Compiled blocks are for the shape of a batch: every length would be compiled anew.
        compiled = self.config.train.compile
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            sample = self.data.sample(self.model)
        accuracy = {} if evaluation.accuracy is None else {"accuracy": evaluation.accuracy}
        measured = {"valid_loss": evaluation.loss, **accuracy, **sample}
        return self._record("eval", {**measured, "scalars": learned_scalars(self.model)})

    def record_divergence(self, why: str) -> None:
        """Say in the metrics that this is the end; who resumes drops it, with what is not saved."""
        self._record("diverged", {"why": why})

    def _refuse_divergence(self, loss: float) -> None:
        # Before there is a best: a guess among all tokens, or the loss of the initial weights;
        # it may well rise at first where these are large.
        guess = max(math.log(self.config.model.vocab_size), self.first_loss or 0.0)
        if loss <= (self.best_loss + FAR if self.best_step else 2 * guess):
            return
        bad = nonfinite_groups(self.model)
        whose = f" (the {' and the '.join(bad)} are not finite)" if bad else ""
        what = "the best so far" if self.best_step else "more than twice that of a guess"
        reference = self.best_loss if self.best_step else guess
        raise DivergenceError(
            f"training diverged at step {self.engine.step}: the validation loss is {loss:.4g}"
            f"{whose}, {what} {reference:.4f}"
        )

    def summarise(self) -> dict[str, Any]:
        """Audit the trained model and write the summary."""
        assert self.evaluation is not None
        engine = self.engine
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
            "accuracy": self.evaluation.accuracy,
            "ceiling": self.evaluation.ceiling,
            "tests": self._tests(),
            "learning_rate": self.began_at,
            "started_from": self.started_from,
            "skipped": engine.finite.skipped,
            "seconds": engine.seconds,
            "processes": self.ranks.size,
            "tokens_per_second": engine.tokens / engine.seconds,
            "causality": self.config.model.causality,
            "audit": self.ranks.told(self._audit),
            "corpus": self.data.name,
            "attention": self.forms,
            "changes": self.changes,
            "imports": imported(),  # at the end; the config has those of the beginning
            **machine.environment(self.device),
        }
        self.folder.finish(summary)
        return self.ranks.told(lambda: summary)

    def _tests(self) -> list[dict[str, Any]]:
        """What the task asks a trained model; of a text nothing. Its lengths are not compiled."""
        compiled = self.config.train.compile
        with (
            self.engine.precision,
            torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
        ):
            return self.data.tests(self.model, self.ranks)

    def _audit(self) -> dict[str, Any]:
        """Audit the trained model where it ran, in the forms that it ran in.

        Its blocks run uncompiled here: compiling them for every length of the audit would take
        longer than many a run. The report says so; `sympformer audit RUN --compile` does it.
        """
        t, device, model = self.config.train, self.device, self.model
        if isinstance(self.engine.spread, Sharded):  # one process alone has a share of it only
            model = self.folder.model().to(device)
        report = audited(model, min(48, self.config.model.block_size))
        if "where" not in report:
            return report
        report["where"] += f" on the {device.type}" if device.type not in report["where"] else ""
        report["where"] += f", attention form {t.form}"
        if t.compile:
            report["where"] += ", not compiled, as it was in training"
        return report

    @property
    def _evaluated(self) -> bool:
        return self.evaluation is not None and self.evaluated_step == self.engine.step

    def _environment(self) -> dict[str, Any]:
        where = machine.environment(self.device)
        return {**where, "processes": self.ranks.size, "attention": self.forms}

    def _forms(self) -> list[str]:
        """In which forms attention will be computed, tried on one block."""
        block = torch.zeros(1, self.data.length, dtype=torch.int64, device=self.device)
        compiled = self.config.train.compile
        with torch.no_grad(), self.engine.precision, forms.recorded(compiled) as used:
            self.model(block, block)
        return sorted(used)

    def _record(self, event: str, values: dict[str, Any]) -> dict[str, Any]:
        engine = self.engine
        counters = {"step": engine.step, "tokens": engine.tokens, "seconds": engine.seconds}
        row = {"event": event, **counters, **values}
        self.folder.log.record(row)
        return row

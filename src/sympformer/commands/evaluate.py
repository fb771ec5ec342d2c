"""Measure a trained model: on its own validation, any text, pairs of sentences, last words."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from tyro.conf import Positional

from sympformer.commands.data import prepare
from sympformer.commands.options import Set, overrides
from sympformer.data import Corpus, Tokenizer, valid_blocks
from sympformer.data.text import SEPARATOR, Text
from sympformer.errors import InputError
from sympformer.evaluation import (
    TextScores,
    compare_texts,
    last_words,
    minimal_pairs,
    read_pairs,
    read_passages,
    score_text,
    token_classes,
)
from sympformer.model import CustomModel, LanguageModel
from sympformer.pretrained import ModelFolder
from sympformer.tasks import Setting, Task, make_task
from sympformer.train import TrainConfig, evaluate
from sympformer.train.examples import run_tests
from sympformer.train.folder import RunFolder
from sympformer.train.runs import trained
from sympformer.train.sizes import require_loops

Model = LanguageModel | CustomModel


@dataclass(frozen=True)
class Eval:
    """Measure a trained model; without further options, its loss on its own validation text, or
    its answers to its task's tests.
    """

    run_folder: Positional[Path]
    """Run folder, a .safetensors in it, or a model folder (docs/huggingface.md)."""
    text: Path | None = None
    """Another text, a file or a folder: nats, perplexity, bits per byte, by position, with 95 %
    intervals over its documents."""
    separator: str = SEPARATOR
    """The line that ends a document of --text."""
    documents: int | None = None
    """Documents of --text, from its start; all if not given."""
    against: Path | None = None
    """Another run or model folder, compared on the same documents of --text."""
    pairs: Path | None = None
    """Minimal pairs: lines of JSON with sentence_good, sentence_bad and UID (the format of
    BLiMP)."""
    last_word: Path | None = None
    """Passages whose last word is to be named: lines of JSON with text, or of plain text."""
    context: int | None = None
    """Tokens of a window on --text; as in training if not given. A model without positions takes
    any."""
    stride: int | None = None
    """Tokens from window to window on --text; half of a window if not given."""
    task: str | None = None
    """A generated task (docs/tasks.md): accuracy and loss beside the best that is possible; of the
    task that a run was trained on, with its options."""
    task_set: Set = ()
    """Options of --task, e.g. --task-set vocab_size=256 "test=[[64,8]]"."""
    blocks: int | None = None
    """Validation blocks, all if not given; of a task sequences at each length, as many as in
    training if not given."""
    task_length: tuple[str, ...] = ()
    """Of a task: other lengths than its tests, LENGTH or LENGTHxLOAD, e.g. 512x128. A model without
    positions takes any."""
    loops: int | None = None
    """Apply the model's blocks this many times over, instead of as often as in training."""

    def run(self) -> int:
        """Evaluate."""
        self._require_effects()
        held = trained(self.run_folder)
        model = held.model()
        if self.loops is not None:
            require_loops(model.config, self.loops)
            model = model.with_loops(self.loops)
        if self.task is not None:
            shown = self._on_task(self._task(held), model, _settings(held))
        elif self.text or self.pairs or self.last_word:
            shown = self._elsewhere(held, model)
        elif isinstance(held, ModelFolder):
            raise InputError(
                f"{held} holds a model without a run, so no validation text is its own: give "
                "--text, --task, --pairs or --last-word"
            )
        else:
            shown = self._on_its_own(held, model)
        print(json.dumps(_without_nan(shown), indent=2, allow_nan=False))
        return 0

    def _require_effects(self) -> None:
        """Refuse what would change nothing."""
        for name in ("blocks", "documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, not {value}")
        elsewhere = [n for n in ("text", "pairs", "last_word") if getattr(self, n) is not None]
        if self.task is not None and elsewhere:
            raise InputError(
                f"--task is generated, and --{_dashed(elsewhere[0])} another text: leave one of "
                "the two out"
            )
        if self.task_set and self.task is None:
            raise InputError("--task-set is about a --task: give one, or leave it out")
        for name in ("documents", "against", "context", "stride"):
            if getattr(self, name) is not None and self.text is None:
                raise InputError(f"--{name} is about a --text: give one, or leave it out")
        if self.separator != SEPARATOR and self.text is None:
            raise InputError("--separator is about a --text: give one, or leave it out")
        if elsewhere and (self.blocks is not None or self.task_length):
            name = "blocks" if self.blocks is not None else "task-length"
            raise InputError(
                f"--{name} is about the run's own validation, and --{_dashed(elsewhere[0])} about "
                "another text: leave one of the two out"
            )

    def _on_its_own(self, run: RunFolder, model: Model) -> dict[str, Any]:
        """On what was kept for validation when the model was trained."""
        config = run.config()
        corpus = prepare(config.data)
        if self.task_length and isinstance(corpus, Corpus):
            raise InputError("--task-length is for runs on a task, and this one is on text")
        run.require(corpus.digest)
        t = config.train
        if isinstance(corpus, Task):
            return self._on_task(corpus, model, t)
        eos = corpus.tokenizer.eos if config.data.document_mask else None
        sizes = config.model.block_size, t.batch_size, self.blocks, eos
        found = evaluate(model, valid_blocks(corpus.valid, *sizes), corpus.floor)
        shown: dict[str, Any] = {
            "loss": found.loss,
            "floor": found.floor,
            "tokens": found.tokens,
        }
        if corpus.floor is not None:
            blocks = valid_blocks(corpus.valid, *sizes)
            try:
                shown["classes"] = token_classes(model, blocks, corpus.floor)
            except InputError as error:
                if isinstance(model, LanguageModel):
                    raise
                # One of the user's own may show a loss and no logits.
                print(f"sympformer: no losses by token class: {error}", file=sys.stderr)
        return shown

    def _task(self, held: RunFolder | ModelFolder) -> Task:
        """The task that is asked for."""
        assert self.task is not None
        given = overrides(self.task_set, "--task-set")
        if isinstance(held, RunFolder) and (data := held.config().data).task == self.task:
            given = {**data.options, **given}
        return make_task(self.task, given)

    def _on_task(self, task: Task, model: Model, t: TrainConfig) -> dict[str, Any]:
        """On the tests of a task, or at other lengths."""
        if task.vocabulary > model.config.vocab_size:
            raise InputError(
                f"{task} has {task.vocabulary} ids, and the model {model.config.vocab_size}: it "
                "was trained on something else"
            )
        settings = tuple(map(_setting, self.task_length)) or task.testing
        longest = max(setting.length for setting in settings)
        if longest > model.config.block_size:
            model = model.with_block_size(longest)
        tests = run_tests(model, task, self.blocks or t.eval_blocks, t.batch_size, settings)
        return {"task": str(task), "tests": tests}

    def _elsewhere(self, held: RunFolder | ModelFolder, model: Model) -> dict[str, Any]:
        """On what is given on the command line."""
        tokenizer = held.tokenizer()
        batch = _settings(held).batch_size
        shown: dict[str, Any] = {}
        if self.text is not None:
            scores = self._score(model, tokenizer, batch, str(self.run_folder))
            shown["text"] = {"name": str(self.text), **scores.summary()}
            if self.against is not None:
                other = trained(self.against)
                rival = self._score(other.model(), other.tokenizer(), batch, str(self.against))
                shown["against"] = {
                    "name": str(self.against),
                    "text": rival.summary(),
                    "difference": compare_texts(scores, rival).summary(),
                }
        if self.pairs is not None:
            found = minimal_pairs(model, tokenizer, read_pairs(self.pairs), batch_size=batch)
            shown["pairs"] = {"name": str(self.pairs), **found.summary()}
        if self.last_word is not None:
            passages = read_passages(self.last_word)
            words = last_words(model, tokenizer, passages, batch_size=batch)
            shown["last_word"] = {"name": str(self.last_word), **words.summary()}
        return shown

    def _score(self, model: Model, tokenizer: Tokenizer, batch: int, label: str) -> TextScores:
        assert self.text is not None
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
            task = shown.add_task(f"scoring, {label}", total=self.documents)
            return score_text(
                model,
                tokenizer,
                self._documents(),
                context=self.context,
                stride=self.stride,
                batch_size=batch,
                progress=lambda count: shown.advance(task, count),
            )

    def _documents(self) -> Iterator[str]:
        assert self.text is not None
        for number, document in enumerate(Text(self.text, self.separator).documents()):
            if number == self.documents:
                return
            yield document


def _settings(held: RunFolder | ModelFolder) -> TrainConfig:
    """How many sequences are taken at a time, and in all: as in training, if that is known."""
    return held.config().train if isinstance(held, RunFolder) else TrainConfig()


def _without_nan(shown: Any) -> Any:
    """The same, with null where there is no number: JSON has no NaN."""
    if isinstance(shown, dict):
        return {name: _without_nan(value) for name, value in shown.items()}
    if isinstance(shown, list):
        return list(map(_without_nan, shown))
    return None if isinstance(shown, float) and not math.isfinite(shown) else shown


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _setting(text: str) -> Setting:
    """What LENGTH or LENGTHxLOAD says."""
    length, times, load = text.partition("x")
    if not (length.isdecimal() and (load.isdecimal() if times else True)):
        raise InputError(f"--task-length takes LENGTH or LENGTHxLOAD, not {text!r}")
    return Setting(int(length), int(load or 0))

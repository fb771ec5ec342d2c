"""Model cards: what a model is, its data, what it reached, whether it leaks."""

from pathlib import Path
from typing import Any

from sympformer.data import Tokenizer
from sympformer.model import PRESETS, CustomModel, LanguageModel, ModelConfig
from sympformer.shown import visible
from sympformer.train.folder import RunFolder

USE = """```python
# pip install 'sympformer[hf]'
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
ids = tokenizer(tokenizer.bos_token + "Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```"""
ALONE = """```python
# pip install 'sympformer[hf]'
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
```

Its tokenizer, if it has one, is none that `transformers` can express: `sympformer generate` reads
it."""


MEASURED = """
Losses are nats a token on its own validation text. The audit asks whether any output depends on a
later token.
"""

Rows = tuple[str, list[tuple[str, Any]]]
"""A title, and what is said of the model line by line."""


def about_run(run: RunFolder, tokenizer: Tokenizer | None) -> Rows:
    """What is known of the model of a run."""
    config = run.config()
    summary = run.summary() if run.finished else {}
    data, t, m = config.data, config.train, config.model
    text = "fables" if data.text is None else visible(Path(data.text).name)
    source = f"task `{data.task}`" if data.task else f"text `{text}`"
    rows: list[tuple[str, Any]] = [
        *_architecture(config.preset, m),
        ("parameters", f"{summary['parameters']:,}" if "parameters" in summary else None),
        ("trained on", source),
        ("tokenizer", _tokenizer(tokenizer)),
        ("started from", _base_name(t.start_from)),
        ("updates", f"{t.steps}, AdamW, peak rate {t.learning_rate:g}, seed {t.seed}"),
        ("training tokens", f"{summary['tokens']:,}" if "tokens" in summary else None),
        ("final validation loss", _loss(summary.get("final_loss"))),
        ("best validation loss", _loss(summary.get("best_loss"))),
        ("causality audit", _audit(summary)),
    ]
    return visible(run.path.resolve().name), rows


def about_import(
    source: Path, model: LanguageModel | CustomModel, preset: str, tokenizer: Tokenizer | None
) -> Rows:
    """What is known of a model that was trained elsewhere."""
    start = "; as the same function, and momentum begins to act in training"
    rows: list[tuple[str, Any]] = [
        *_architecture(preset, model.config),
        ("parameters", f"{model.num_parameters():,}"),
        ("tokenizer", _tokenizer(tokenizer)),
        ("weights of", f"{_base_name(str(source))}{start if model.config.gradual else ''}"),
    ]
    return f"{preset} of {_base_name(str(source))}", rows


def model_card(about: Rows, preset: str, *, usable: bool) -> str:
    """Markdown with the header that the hub reads.

    Args:
        about: what is said of the model.
        preset: of its architecture.
        usable: whether `transformers` can load its tokenizer.
    """
    title, rows = about
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value is not None)
    use = (USE if usable else ALONE).format(name="PATH")
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [sympformer, {preset}]
---

# {title}

A transformer whose layers are steps of a flow, trained with SympFormer.

| | |
|---|---|
{table}
{MEASURED if any(name == "causality audit" for name, _ in rows) else ""}
## Use

{use}

The code in this folder is two lines that import the package `sympformer`, the one requirement.
"""


def _architecture(preset: str, config: ModelConfig) -> list[tuple[str, Any]]:
    about = PRESETS[preset].summary if preset in PRESETS else "a composition without a preset"
    return [
        ("architecture", f"`{preset}`: {about}"),
        ("sizes", f"{config.n_layer} layers, {config.n_head} heads, width {config.n_embd}"),
        ("context", config.block_size),
    ]


def _tokenizer(tokenizer: Tokenizer | None) -> str | None:
    return None if tokenizer is None else f"`{tokenizer.name}`, {tokenizer.vocab_size}"


def _base_name(path: str | None) -> str | None:
    """What a folder is called: where it lies is nobody's business."""
    return None if path is None else f"`{visible(Path(path).resolve().name)}`"


def _loss(value: Any) -> str | None:
    return f"{value:.4f}" if isinstance(value, float) else None


def _audit(summary: dict[str, Any]) -> str:
    found = summary.get("audit")
    verdict = found.get("verdict") if isinstance(found, dict) else found
    return str(verdict) if verdict is not None else "not made: the run is not finished"

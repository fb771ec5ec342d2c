"""The model card of a run: what it is, its data, what it reached, whether it leaks."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sympformer.data import Tokenizer
from sympformer.model import PRESETS
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

Its tokenizer is none that `transformers` can express: `sympformer.data.load_tokenizer`."""


def model_card(
    run: RunFolder, tokenizer: Tokenizer | None, written: PreTrainedTokenizerFast | None
) -> str:
    """Markdown with the header that the hub reads."""
    config = run.config()
    summary = run.summary() if run.finished else {}
    preset = config.preset
    about = PRESETS[preset].summary if preset in PRESETS else "a preset of the user's own"
    data, t, m = config.data, config.train, config.model
    text = "fables" if data.text is None else visible(Path(data.text).name)
    source = f"task `{data.task}`" if data.task else f"text `{text}`"
    rows: list[tuple[str, Any]] = [
        ("architecture", f"`{preset}`: {about}"),
        ("parameters", f"{summary['parameters']:,}" if "parameters" in summary else None),
        ("sizes", f"{m.n_layer} layers, {m.n_head} heads, width {m.n_embd}"),
        ("context", m.block_size),
        ("trained on", source),
        ("tokenizer", None if tokenizer is None else f"`{tokenizer.name}`, {tokenizer.vocab_size}"),
        ("updates", f"{t.steps}, AdamW, peak rate {t.learning_rate:g}, seed {t.seed}"),
        ("training tokens", f"{summary['tokens']:,}" if "tokens" in summary else None),
        ("final validation loss", _loss(summary.get("final_loss"))),
        ("best validation loss", _loss(summary.get("best_loss"))),
        ("causality audit", _audit(summary)),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value is not None)
    use = (USE if written is not None else ALONE).format(name="PATH")
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [sympformer, {preset}]
---

# {visible(run.path.resolve().name)}

A transformer whose layers are steps of a flow, trained with SympFormer.

| | |
|---|---|
{table}

Losses are nats a token on its own validation text. The audit asks whether any output depends on a
later token.

## Use

{use}

The code in this folder is two lines that import the package `sympformer`, the one requirement.
"""


def _loss(value: Any) -> str | None:
    return f"{value:.4f}" if isinstance(value, float) else None


def _audit(summary: dict[str, Any]) -> str:
    found = summary.get("audit")
    verdict = found.get("verdict") if isinstance(found, dict) else found
    return str(verdict) if verdict is not None else "not made: the run is not finished"

"""Commands about architectures: which there are, and whether they are causal."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sympformer.commands.options import Set, Size, overrides
from sympformer.model import PRESETS, ModelConfig, build
from sympformer.train import load_model


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
    compile: bool = False
    """Audit the model as it runs compiled, in training and in decoding."""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def run(self) -> int:
        """Audit."""
        from sympformer.attention import forms
        from sympformer.causality import audit
        from sympformer.machine import resolve_device

        if Path(self.target).exists():
            model = load_model(self.target)
        else:
            size = {**Size().fields(), "block_size": max(128, self.length), "vocab_size": 256}
            model = build(ModelConfig.preset(self.target, **{**size, **overrides(self.set)}))
        with forms.using(self.form):
            model = model.to(resolve_device(self.device))
            report = audit(model, length=self.length, compile=self.compile)
        print(json.dumps(report.to_dict(), indent=2) if self.json else report)
        return 0 if report.passed else 1

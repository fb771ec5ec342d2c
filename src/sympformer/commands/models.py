"""Commands about architectures: which there are, and whether they are causal."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tyro.conf import Positional

from sympformer.commands.objects import load_object, names_object
from sympformer.commands.options import Set, Size, overrides
from sympformer.errors import InputError, lookup
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
    """Does any output depend on a later token? Exit code 1 if so.

    What FILE.py:NAME makes is a module, another function from ids to logits, or a dictionary of the
    arguments of sympformer.audit (model, call, logits, vocab_size).
    """

    target: Positional[str]
    """A preset, a trained model (run folder, .safetensors in it, model folder), or FILE.py:NAME."""
    length: int | None = None
    """Tokens in the audited sequences; 64, or as many as the model takes if that is less."""
    vocab_size: int | None = None
    """Token ids of what FILE.py:NAME makes, if its config does not say."""
    json: bool = False
    """Print JSON."""
    set: Set = ()
    """Other options of a preset, e.g. --set causality=joint."""
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

        with forms.using(self.form):
            arguments = self._subject()
            model, device = arguments.pop("model"), resolve_device(self.device)
            if isinstance(model, nn.Module):
                model = model.to(device)
            elif device.type != "cpu":
                raise InputError(f"--device {self.device}: a function stays where its weights are")
            report = audit(model, self.length, compile=self.compile, **arguments)
        print(json.dumps(report.to_dict(), indent=2) if self.json else report)
        return 0 if report.passed else 1

    def _subject(self) -> dict[str, Any]:
        """The arguments of `audit`: the model, and what else says how to call it."""
        foreign = names_object(self.target)
        preset = self.target in PRESETS
        if self.set and not preset:
            raise InputError(f"--set has no effect on {self.target}: only a preset has options")
        if self.vocab_size is not None and not foreign:
            raise InputError("--vocab-size is for FILE.py:NAME; of a preset, --set vocab_size=N")
        if foreign:
            made = load_object(self.target)
            arguments = dict(made) if isinstance(made, Mapping) else {"model": made}
            known = ("model", "call", "logits", "vocab_size")
            for name in arguments:
                lookup(dict.fromkeys(known), name, f"argument in what {self.target} makes")
            if "model" not in arguments:
                raise InputError(f"{self.target} makes a dictionary without a model")
            if self.vocab_size is not None:
                arguments["vocab_size"] = self.vocab_size
            return arguments
        if Path(self.target).suffix == ".py":
            raise InputError(f"say what to audit in {self.target}: {self.target}:NAME")
        if not preset and Path(self.target).exists():
            return {"model": load_model(self.target)}
        file, colon, name = self.target.rpartition(":")
        if colon and Path(f"{file}.py").is_file():
            raise InputError(f"write the file with its ending: {file}.py:{name}")
        if Path(self.target).name != self.target:
            raise InputError(f"{self.target} does not exist")
        if preset and Path(self.target).exists():
            print(
                f"{self.target} is a preset; for the run of that name write ./{self.target}",
                file=sys.stderr,
            )
        size = {**Size().fields(), "block_size": max(128, self.length or 0), "vocab_size": 256}
        return {"model": build(ModelConfig.preset(self.target, **size | overrides(self.set)))}

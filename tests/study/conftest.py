import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sympformer.train.folder import signed

CAUSAL = {"passed": True, "causal": True, "verdict": "CAUSAL: no output depends on a later token"}
LEAK = {"passed": False, "causal": False, "verdict": "LEAK: output 3 moves"}
WRONG_CACHE = {"passed": False, "causal": True, "verdict": "WRONG CACHE: output 3"}

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write a finished run whose loss falls linearly from 5 to `final` in ten evaluations."""

    def write(preset: str, seed: int = 0, final: float = 2.0, **changes: Any) -> Path:
        folder = tmp_path / f"{preset}-s{seed}"
        folder.mkdir()
        (folder / "config.toml").write_text(f'preset = "{preset}"\n')
        rows = [{"event": "train", "step": 1, "loss": 6.0}]
        rows += [
            {
                "event": "eval",
                "step": 10 * i,
                "seconds": 2.0 * i,
                "valid_loss": 5 - (5 - final) * i / 10,
            }
            for i in range(1, 11)
        ]
        metrics = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / "metrics.jsonl").write_bytes(metrics)
        summary = {
            "preset": preset,
            "seed": seed,
            "parameters": 1_234_567,
            "steps": 100,
            "tokens": 100 * 2048,
            "final_loss": final,
            "best_loss": final,
            "tokens_per_second": 10_240.0,
            "seconds": 20.0,
            "floor": 1.5,
            "audit": CAUSAL,
            "causality": "prefix",
            "corpus": "fables",
            "device": "a CPU",
            "threads": 1,
            "commit": "abc1234",
            "command": "/opt/bin/sympformer compare --seeds 0 1",
            "metrics": {"bytes": len(metrics), "sha256": hashlib.sha256(metrics).hexdigest()},
            **changes,
        }
        (folder / "summary.json").write_text(json.dumps(signed(summary)))
        return folder

    return write


@pytest.fixture
def audits() -> dict[str, dict[str, Any]]:
    return {"causal": CAUSAL, "leak": LEAK, "wrong cache": WRONG_CACHE}

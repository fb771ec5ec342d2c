"""The lm-evaluation-harness on an exported folder: its numbers are ours."""

import json
import math

import numpy as np
import pytest

from sympformer.cli import main
from sympformer.evaluation import Pair, minimal_pairs, score
from sympformer.evaluation.text import encoded
from sympformer.train.folder import RunFolder

lm_eval = pytest.importorskip("lm_eval")
FAST = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "64"]
FAST += ["--steps", "8", "--eval-every", "8", "--batch-size", "4", "--eval-blocks", "2"]
TASKS = {
    "pairs": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{sentence_good}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


def test_a_local_task(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    text = tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"the fox saw {i} hens" for i in range(300)))
    given = ["--text", text, "--tokenizer", "bpe:280", "--out", tmp_path / "run", *FAST]
    assert main(["train", "symp-r2", *map(str, given)]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "folder")]) == 0
    rows = [
        {"sentence_good": f"the fox saw {i} hens", "sentence_bad": f"fox the {i} saw hens"}
        for i in range(0, 90, 7)
    ]
    rows += [{"sentence_good": r["sentence_bad"], "sentence_bad": r["sentence_good"]} for r in rows]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": str(file)}}
        about = {"task": name, **source, "test_split": "train", **task}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(about))  # which is YAML too
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "folder"), "trust_remote_code": True},
        tasks=list(TASKS),
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path)),
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
    )["results"]
    run = RunFolder(tmp_path / "run")
    model, tokenizer = run.model(), run.tokenizer()
    pairs = [Pair(row["sentence_good"], row["sentence_bad"]) for row in rows]
    right = minimal_pairs(model, tokenizer, pairs).right
    assert found["pairs"]["acc,none"] == pytest.approx(np.mean(right))
    texts = [pair.good for pair in pairs]
    nats = sum(s.nats.sum() for s in score(model, [encoded(tokenizer, t) for t in texts]))
    bits = nats / math.log(2) / sum(len(t.encode()) for t in texts)
    assert found["text"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)

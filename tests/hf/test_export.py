"""From a run to a folder that transformers loads, fine-tunes and adapts."""

import subprocess
import sys

import pytest
import torch

from sympformer.cli import main
from sympformer.data import load_tokenizer

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from sympformer.train.folder import RunFolder

FAST = ["--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "32"]
FAST += ["--steps", "4", "--eval-every", "2", "--batch-size", "2", "--eval-blocks", "2"]
WORDS = ["once upon a time", "there was a cat", "who saw the moon", "and slept"]


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = [" ".join(WORDS[(i + j) % 4] for j in range(i % 7 + 2)) for i in range(80)]
    file.write_text("\n<|endoftext|>\n".join(stories))
    return file


@pytest.fixture(scope="module")
def made(text, tmp_path_factory):
    """A run on text with a learned tokenizer, and its folder."""
    home = tmp_path_factory.mktemp("made")
    given = ["--text", text, "--tokenizer", "bpe:300", *FAST]
    assert run("train", "symp-r2", "--out", home / "run", *given) == 0
    assert run("export", home / "run", home / "folder") == 0
    return home / "run", home / "folder"


def test_the_folder(made, text):
    source, folder = made
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = load_tokenizer(source)
    for words in [*WORDS, "An unknown Wörd\n\n, <|endoftext|> 12"]:
        if "<|" not in words:
            assert tokenizer(words)["input_ids"] == own.encode(words)
        assert tokenizer.decode(own.encode(words)) == words
    ids = torch.tensor([[own.eos, *own.encode("once upon")]])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    options["attention_mask"] = torch.ones_like(ids)
    ours = RunFolder(source).model().eval().generate(ids, 8)
    assert torch.equal(model.generate(ids, **options), ours)
    batch = tokenizer(["once", "once upon a time"], padding=True, return_tensors="pt")
    assert batch["attention_mask"][0, 0] == 0  # padded on the left
    card = (folder / "README.md").read_text()
    for part in ("`symp-r2`", "stories.txt", "CAUSAL", "`bpe:", "library_name: transformers"):
        assert part in card
    assert str(text.parent) not in card  # whose folders are nobody's business


def test_without_importing_us_first(made, tmp_path):
    """The two lines of code in the folder do it; a model that is saved again takes them along."""
    code = (
        "from transformers import AutoModelForCausalLM; import sys;"
        f"m = AutoModelForCausalLM.from_pretrained({str(made[1])!r}, trust_remote_code=True);"
        f"m.save_pretrained({str(tmp_path)!r}); print(type(m).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "SympFormerForCausalLM"
    for name in ("modeling_sympformer.py", "config.json"):
        assert (tmp_path / name).read_text() == (made[1] / name).read_text()
    assert not list(tmp_path.glob("config.py"))


@pytest.mark.parametrize("tokenizer", ["byte", "fables"])
def test_other_tokenizers(tokenizer, text, tmp_path):
    given = [] if tokenizer == "fables" else ["--text", text, "--tokenizer", "byte"]
    assert run("train", "gpt", "--out", tmp_path / "run", *given, *FAST) == 0
    assert run("export", tmp_path / "run", tmp_path / "folder") == 0
    card = (tmp_path / "folder" / "README.md").read_text()
    if tokenizer == "fables":
        assert "none that `transformers` can express" in card
        assert not (tmp_path / "folder" / "tokenizer.json").exists()
    else:
        made, own = AutoTokenizer.from_pretrained(tmp_path / "folder"), load_tokenizer("byte")
        words = "ä b\n\x00~"
        assert made(words)["input_ids"] == own.encode(words)
        assert made.decode(own.encode(words)) == words
        assert made.eos_token_id == own.eos


def test_what_is_refused(made, tmp_path, capsys):
    assert run("export", made[0], made[1]) == 2
    assert "is not empty: give a new folder" in capsys.readouterr().err
    assert run("export", tmp_path, tmp_path / "new") == 2
    assert not (tmp_path / "new").exists()


def test_trainer_fine_tunes_it(made, tmp_path):
    """Fifty steps of `Trainer`, accumulated; the loss falls, and what is saved loads."""
    model = AutoModelForCausalLM.from_pretrained(made[1])
    tokenizer = AutoTokenizer.from_pretrained(made[1])
    rows = [tokenizer(" ".join(WORDS))["input_ids"][:20] for _ in range(16)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    options = {"report_to": [], "save_strategy": "no", "use_cpu": True, "logging_steps": 10}
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        max_steps=50,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        disable_tqdm=True,
        **options,
    )
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.3 * losses[0]
    trainer.save_model(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor(rows[:1])
    assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_peft_adapts_it(made):
    """LoRA on maps that every product goes through; where one is passed by, it is refused."""
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(made[1])
    ids = torch.randint(300, (2, 9))
    before = model(ids).logits.detach()
    config = peft.LoraConfig(r=2, target_modules=["expand", "contract"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    torch.testing.assert_close(adapted(input_ids=ids).logits, before)  # starts with zero
    adapted.train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = adapted(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    merged = adapted.merge_and_unload().eval()
    assert (merged(ids).logits - before).abs().max() > 1e-3

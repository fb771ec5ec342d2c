"""Models behind transformers' interface: the same predictions, losses and texts as ours."""

import pytest
import torch

import sympformer as sf
from sympformer.errors import InputError

pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM

from sympformer.hf import SympFormerCache, SympFormerConfig, SympFormerForCausalLM

PRESETS = [
    "gpt",
    "gpt-shift",
    "yurii",
    "symp-r2",
    "symp-exp-euler",
    "symp-difference",
    "linear-symp-h1",
    "gated-delta-symp",
    "mesanet",
    "momentum-deltanet",
]
CONSTANT = ("linear-symp-h1", "gated-delta-symp", "mesanet", "momentum-deltanet")


def both(tiny, preset, **options):
    torch.manual_seed(0)
    model = sf.build(tiny(preset, block_size=48, **options)).eval()
    return model, SympFormerForCausalLM.of(model).eval()


def prompt(rows=2, n=9):
    return torch.randint(1, 37, (rows, n), generator=torch.Generator().manual_seed(1))


def padded(ids):
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return mask


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_and_loaded(tiny, preset, tmp_path):
    model, made = both(tiny, preset)
    made.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, SympFormerForCausalLM)
    assert loaded.model.config == model.config
    assert torch.equal(loaded(prompt()).logits, model(prompt()).logits)
    names = set(loaded.state_dict())
    assert len(names) == len(list(model.parameters()))  # one table for both ends, once


@pytest.mark.parametrize("preset", PRESETS)
def test_generation(tiny, preset):
    """Greedy, of one prompt, of padded ones, and beams with and without a cache."""
    model, made = both(tiny, preset)
    ids = prompt()
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(made.generate(ids, **options), model.generate(ids, 12))
    mask = padded(ids)
    ours = model.generate(ids, 12, attention_mask=mask)
    assert torch.equal(made.generate(ids, attention_mask=mask, **options), ours)
    assert torch.equal(ours[0, 4:], model.generate(ids[:1, 4:], 12)[0])
    beams = {**options, "num_beams": 3, "attention_mask": mask}
    with_cache, without = (made.generate(ids, use_cache=use, **beams) for use in (True, False))
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("options", [{"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.3}])
def test_sampling(tiny, options):
    """Transformers draws from our probabilities: the same with a cache and without."""
    _, made = both(tiny, "symp-r2")
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        given = {"max_new_tokens": 10, "do_sample": True, "pad_token_id": 0, **options}
        drawn.append(made.generate(prompt(), use_cache=use_cache, **given))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cache(tiny, preset):
    _, made = both(tiny, preset)
    ids = prompt(2, 12)
    whole = made(ids).logits
    first = made(ids[:, :7], use_cache=True)
    assert isinstance(first.cache, SympFormerCache)
    assert first.past_key_values is first.cache
    assert first.cache.get_seq_length() == 7
    assert first.cache.batch_size == 2
    rest = made(ids[:, 7:], cache=first.cache)
    torch.testing.assert_close(rest.logits, whole[:, 7:], rtol=1e-4, atol=1e-5)
    assert rest.cache is first.cache
    cache = rest.cache
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 4
    cache.reorder_cache(torch.tensor([3, 0]))
    more = made(ids[[1, 0], :1], cache=cache).logits
    expected = made(torch.cat([ids[[1, 0]], ids[[1, 0], :1]], dim=1)).logits[:, -1:]
    torch.testing.assert_close(more, expected, rtol=1e-4, atol=1e-5)
    if preset in CONSTANT:
        with pytest.raises(InputError, match="cannot be cropped"):
            cache.crop(-2)
    elif preset not in ("gpt-shift", "symp-difference"):
        cache.crop(-1)
        assert cache.get_seq_length() == 12
    with pytest.raises(InputError, match="-n removes the last n"):
        cache.crop(1)
    cache.reset()
    assert not cache.is_initialized
    with pytest.raises(InputError, match="cache of its own kind"):
        made(ids, cache=object())


@pytest.mark.parametrize("preset", ["symp-r2", "gated-delta-symp"])
def test_a_cache_that_the_library_goes_on_with(tiny, preset):
    """From call to call, and where drafts of another model are taken back."""
    model, made = both(tiny, preset)
    ids = prompt(1, 6)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    first = made.generate(ids, return_dict_in_generate=True, **options)
    ours = model.generate(ids, 12)
    assert torch.equal(made.generate(first.sequences, cache=first.cache, **options), ours)
    for drafts in ({"assistant_model": both(tiny, "gpt")[1]}, {"prompt_lookup_num_tokens": 3}):
        if preset in CONSTANT:
            with pytest.raises(ValueError, match="can be cropped"):
                made.generate(ids, **drafts, **options)
        else:
            assert torch.equal(made.generate(ids, **drafts, **options), ours[:, :12])


@pytest.mark.parametrize("preset", ["gpt", "gated-delta-symp"])
def test_losses(tiny, preset):
    """Labels are shifted; padding on either side counts for nothing."""
    model, made = both(tiny, preset)
    ids = prompt(3, 10)
    expected = model(ids[:, :-1], targets=ids[:, 1:]).loss
    out = made(ids, labels=ids)
    torch.testing.assert_close(out.loss, expected)
    assert out.logits is not None
    short = made(ids[:, :6], labels=ids[:, :6])
    right = torch.ones_like(ids)
    right[:, 6:] = 0
    torch.testing.assert_close(made(ids, attention_mask=right, labels=ids).loss, short.loss)
    left = torch.cat([torch.zeros_like(ids), ids], dim=1)
    mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
    torch.testing.assert_close(made(left, attention_mask=mask, labels=left).loss, out.loss)
    halved = made(ids, labels=ids, num_items_in_batch=2 * 27).loss
    torch.testing.assert_close(halved, out.loss / 2)
    none = torch.full_like(ids, -100)  # of a part of a batch, whose share of the mean is nothing
    assert made(ids, labels=none, num_items_in_batch=27).loss == 0
    with pytest.raises(InputError, match="cannot be replaced or resized"):
        made.resize_token_embeddings(40)
    assert made.resize_token_embeddings(37) is not None
    made.train()
    assert made(ids, labels=ids).logits is None


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_are_made_again_backwards(tiny, preset):
    _, made = both(tiny, preset)
    ids, gradients = prompt(), []
    for recompute in (False, True):
        made.gradient_checkpointing = recompute
        made.train().zero_grad()
        made(ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in made.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_layers_hold(tiny):
    model, made = both(tiny, "symp-r2")
    out = made(prompt(), output_hidden_states=True)
    assert len(out.hidden_states) == len(out.momenta) == model.config.n_layer + 1
    torch.testing.assert_close(model.norm(out.hidden_states[-1]), model(prompt()).hidden)
    assert out.momenta[1].abs().max() > 0
    assert not any(b._forward_hooks for b in model.blocks)
    assert made(prompt()).hidden_states is None
    looped = both(tiny, "symp-r2", n_layer=4, unique_layers=2)[1]
    assert len(looped(prompt(), output_hidden_states=True).hidden_states) == 5


@pytest.mark.parametrize("keep", [3, torch.tensor([1, 5])])
def test_some_logits(tiny, keep):
    _, made = both(tiny, "gpt")
    whole = made(prompt()).logits
    expected = whole[:, -3:] if isinstance(keep, int) else whole[:, keep]
    torch.testing.assert_close(made(prompt(), logits_to_keep=keep).logits, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs_embeds": torch.zeros(2, 9, 16)}, "either input_ids or inputs_embeds"),
        ({"input_ids": None}, "either input_ids or inputs_embeds"),
        (
            {"input_ids": None, "inputs_embeds": torch.zeros(2, 9, 9)},
            r"must be \(batch, time, 16\)",
        ),
        ({"head_mask": torch.ones(2, 2)}, "head_mask has no effect"),
        ({"position_ids": torch.zeros(2, 9, dtype=torch.int64)}, "position_ids must count"),
        ({"attention_mask": torch.ones(2, 1, 9, 9)}, "masks of pairs"),
        ({"attention_mask": torch.tensor([[1, 0, 1] * 3] * 2)}, "padding between tokens"),
    ],
)
def test_what_is_refused(tiny, options, message):
    _, made = both(tiny, "gpt")
    with pytest.raises(InputError, match=message):
        made(**{"input_ids": prompt(), **options})


@pytest.mark.parametrize("preset", [*PRESETS, "gpt-untied"])
def test_vectors_in_the_place_of_ids(tiny, preset):
    """Equal to ids: predictions, losses, a cache, padding, gradients, generation."""
    _, made = both(tiny, preset)
    ids, embed = prompt(), made.get_input_embeddings()
    vectors = embed(ids)
    assert vectors.shape[-1] == embed.embedding_dim
    assert torch.equal(vectors[1], embed.weight[ids[1]])
    assert torch.equal(made(inputs_embeds=vectors).logits, made(ids).logits)
    mask = padded(ids)
    given = {"attention_mask": mask, "labels": ids, "use_cache": True}
    by_vectors, by_ids = made(inputs_embeds=vectors, **given), made(ids, **given)
    assert torch.equal(by_vectors.loss, by_ids.loss)
    more = torch.cat([mask, mask[:, -1:]], dim=1)
    new = {"attention_mask": more, "position_ids": (more.cumsum(1) - 1)[:, -1:]}
    rest = made(ids[:, :1], cache=by_vectors.cache, **new).logits
    again = made(inputs_embeds=embed(ids[:, :1]), cache=by_ids.cache, **new).logits
    assert torch.equal(rest, again)
    (slope,) = torch.autograd.grad(by_vectors.loss, vectors)
    assert slope[0, :4].abs().max() < 1e-6 * slope[0, 4:].abs().max()  # sums of decays are rounded
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    by_ids = made.generate(ids, **options)[:, ids.shape[1] :]
    assert torch.equal(made.generate(inputs_embeds=vectors.detach(), **options), by_ids)


@pytest.mark.parametrize("preset", ["gpt-untied", "symp-r2"])
def test_a_soft_prompt(tiny, preset):
    """PEFT puts learned vectors before the text, and finds the right tables for it."""
    peft = pytest.importorskip("peft")
    _, made = both(tiny, preset)
    ids, width = prompt(), made.get_input_embeddings().embedding_dim
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=width, num_layers=3
    )
    tuned = peft.get_peft_model(made, config)
    vectors = torch.cat([tuned.get_prompt(2), made.get_input_embeddings()(ids)], dim=1)
    expected = made(inputs_embeds=vectors).logits
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.testing.assert_close(tuned(**given).logits, expected)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.1)
    losses = []
    for _ in range(10):
        losses.append(tuned(**given, labels=ids).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert sum(p.numel() for p in trained) == 3 * width
    greedy = {"max_new_tokens": 4, "do_sample": False}
    new = tuned.generate(**given, **greedy)[:, ids.shape[1] :]
    vectors = torch.cat([tuned.get_prompt(2), made.get_input_embeddings()(ids)], dim=1)
    assert torch.equal(new, made.generate(inputs_embeds=vectors, **greedy))


def test_positions_that_fit(tiny):
    _, made = both(tiny, "gpt")
    ids, mask = prompt(), padded(prompt())
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = made(ids, attention_mask=mask, position_ids=positions)
    assert torch.equal(out.logits, made(ids, attention_mask=mask).logits)


def test_configs_that_make_no_sense():
    with pytest.raises(InputError, match="n_head"):
        SympFormerConfig(composition={"n_head": 3, "n_embd": 16})
    assert SympFormerConfig().vocab_size == sf.ModelConfig().vocab_size
    written = SympFormerConfig(composition={"vocab_size": 7}, vocab_size=9)
    assert written.vocab_size == 7  # the composition counts

"""The next token: greedy, drawn, among the likeliest, and never one that does not exist."""

import pytest
import torch

import sympformer as sf
from sympformer import InputError
from sympformer.model.generation import require_sampling, sample


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40, 1e-6])
def test_small_temperatures_are_greedy(dtype, temperature, random):
    logits = (torch.arange(61.0) % 17 * 3 - 20).to(dtype).repeat(5, 1)
    logits[:, 40] = 100
    assert sample(logits, temperature, None, random).tolist() == [[40]] * 5
    assert sample(logits, temperature, 7, random).tolist() == [[40]] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_models_of_any_precision_at_small_temperatures(dtype, tiny):
    model = sf.build(tiny("gpt")).to(dtype)
    tokens = torch.zeros(1, 1, dtype=torch.long)
    greedy = model.generate(tokens, 3).tolist()
    for temperature in (1e-300, 1e-40):
        assert model.generate(tokens, 3, temperature=temperature).tolist() == greedy


def test_low_precision_draws_as_float32_does(random):
    """Of many tokens of nearly one probability, which float16 and bfloat16 round to another."""
    logits = torch.linspace(-1, 1, 50_000).repeat(200, 1)
    likelihood = logits[0].softmax(-1)
    expected = (likelihood * torch.arange(50_000)).sum().item()
    for dtype in (torch.float16, torch.bfloat16):
        drawn = sample(logits.to(dtype), 1.0, None, random).float()
        assert drawn.mean().item() == pytest.approx(expected, rel=0.1)


def test_logits_far_from_zero_are_drawn_from_as_well(random):
    logits = torch.tensor([[3e38, 3e38, -3e38]])
    drawn = {sample(logits, 1e-5, None, random).item() for _ in range(50)}
    assert drawn == {0, 1}


@pytest.mark.parametrize("k", [1, 2, 9])
def test_top_k_draws_exactly_k_of_equal_logits(k, random):
    logits = torch.zeros(1, 10)
    assert len({sample(logits, 1.0, k, random).item() for _ in range(300)}) == k


def test_top_k_draws_the_likeliest_by_their_likelihood(random):
    logits = torch.tensor([[0.0, 2.0, -1.0, 1.0, 1.5]]).repeat(20_000, 1)
    drawn = torch.bincount(sample(logits, 1.0, 3, random).flatten(), minlength=5) / 20_000
    expected = logits[0].exp() * torch.tensor([0, 1, 0, 1, 1])
    assert (drawn - expected / expected.sum()).abs().max() < 0.02
    assert drawn[0] == drawn[2] == 0


def test_ids_beyond_the_vocabulary_are_never_drawn(random, tiny):
    logits = torch.arange(10.0).repeat(500, 1)
    for temperature in (0.0, 5.0):
        for top_k in (None, 3):
            assert sample(logits, temperature, top_k, random, vocab_size=4).max() == 3
    model = sf.build(tiny("gpt"))
    ids = model.generate(torch.zeros(64, 1, dtype=torch.long), 20, 5.0, seed=0, vocab_size=3)
    assert ids.max() == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_predictions_that_are_no_numbers(bad, temperature, random):
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    with pytest.raises(InputError, match="not finite"):
        sample(logits, temperature, None, random)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
    ],
)
def test_options_out_of_range(options, says, tiny):
    good = {"temperature": 1.0, "top_k": None, "seed": None, "vocab_size": None}
    with pytest.raises(InputError, match=says):
        require_sampling(**{**good, **options})
    with pytest.raises(InputError, match=says):
        sf.build(tiny("gpt")).stream(torch.zeros(1, 1, dtype=torch.long), 2, **options)


@pytest.mark.parametrize("seed", [0, 2**64 - 1, -(2**63)])
def test_every_other_seed_is_repeatable(seed, tiny):
    model, tokens = sf.build(tiny("gpt")), torch.zeros(1, 1, dtype=torch.long)
    one, two = (model.generate(tokens, 8, 1.0, seed=seed).tolist() for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    "options", [{"top_k": 2.5}, {"top_k": True}, {"seed": 0.5}, {"vocab_size": 3.0}]
)
def test_numbers_that_must_be_whole(options, tiny):
    model, (name,) = sf.build(tiny("gpt")), options
    with pytest.raises(InputError, match=f"{name} must be a whole number"):
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 2, **options)
    with pytest.raises(InputError, match="max_new_tokens must be a whole number"):
        model.generate(torch.zeros(1, 1, dtype=torch.int64), 2.0)


def test_ids_that_are_no_whole_numbers_are_refused(tiny):
    model, ids = sf.build(tiny("gpt")), torch.zeros(1, 3, dtype=torch.int64)
    for call in (model, model.generate, lambda wrong: model(ids, wrong)):
        with pytest.raises(InputError, match=r"ids must be int64, not torch\.float32"):
            call(ids.float())

"""The audit of models that are not ours: sound ones pass, each fault in them is found."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sympformer.causality import audit
from sympformer.errors import InputError

V, LENGTH = 61, 24


class Growing:
    """A cache that the model changes in place, as those of most libraries do."""

    def __init__(self):
        self.keys = self.values = None

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys is not None:
            keys, values = torch.cat([self.keys, keys], 1), torch.cat([self.values, values], 1)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """One layer with positions; asks for contiguous ids. A leak is 1e-5 of the next token."""

    def __init__(self, leaks: bool = False):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(V, 16), nn.Embedding(64, 16)
        self.qkv, self.head = nn.Linear(16, 48, bias=False), nn.Linear(16, V, bias=False)
        self.leaks = leaks

    def logits(self, ids: Tensor, cache: Growing) -> Tensor:
        start = 0 if cache.keys is None else cache.keys.shape[1]
        n = ids.view(-1).shape[0] // ids.shape[0]
        x = self.embedding(ids) + self.positions(torch.arange(start, start + n))
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = cache.update(k, v)
        mask = torch.ones(n, start + n, dtype=torch.bool).tril(start)
        x = x + (q @ k.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1) @ v
        if self.leaks:
            x = x + 1e-5 * F.pad(x[:, 1:], (0, 0, 0, 1))
        return self.head(x)


class InPlace(Attention):
    """Takes and gives `past_key_values`, and keeps one only if asked."""

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        cache = past_key_values or Growing()
        logits = self.logits(input_ids, cache)
        return SimpleNamespace(logits=logits, past_key_values=cache if use_cache else None)


class InPlaceForgets(InPlace):
    """Loses the cache when several tokens follow it."""

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        several = input_ids.shape[1] > 1
        return super().forward(input_ids, None if several else past_key_values, use_cache)


class InPlaceStale(InPlace):
    """Its cache keeps no more than the last ten tokens."""

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        out = super().forward(input_ids, past_key_values, use_cache)
        if (cache := out.past_key_values) is not None:
            cache.keys, cache.values = cache.keys[:, -10:], cache.values[:, -10:]
        return out


class Tuple(Attention):
    def forward(self, ids):
        return None, self.logits(ids, Growing())


class Dictionary(Attention):
    def forward(self, ids):
        return {"loss": None, "logits": self.logits(ids, Growing())}


class Plain(Attention):
    def forward(self, ids):
        return self.logits(ids, Growing())


class LastOnly(Attention):
    """Logits of the last position only, unless there are targets; and a loss."""

    def forward(self, idx, targets=None):
        logits = self.logits(idx, Growing())
        return (logits[:, [-1]], None) if targets is None else (logits, logits.mean())


class Doubtful(Attention):
    """Two tensors that may be logits."""

    def forward(self, ids):
        logits = self.logits(ids, Growing())
        return logits.roll(-1, 1), logits


class Encoded(Attention):
    """A decoder that also reads a source, whole."""

    def forward(self, input_ids, decoder_input_ids):
        return self.logits(decoder_input_ids, Growing()) + self.embedding(input_ids).mean() * 9


def bound(leaks: bool):
    return Plain(leaks).forward


def free(leaks: bool):
    model = Tuple(leaks)
    return lambda ids: model(ids)[1]


def applied(leaks: bool):
    return partial(LastOnly(leaks), targets=torch.zeros(8, LENGTH, dtype=torch.int64))


def a_compiled_function(leaks: bool):
    return torch.compile(Plain(leaks).forward, backend="eager")


def a_compiled_module(leaks: bool):
    return torch.compile(Plain(leaks), backend="eager")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    "kind",
    [
        *(InPlace, Tuple, Dictionary, Plain),
        *(bound, free, applied, a_compiled_function, a_compiled_module),
    ],
)
def test_every_form_of_model_and_its_leaking_twin(kind):
    report = audit(kind(leaks=False), LENGTH, vocab_size=V)
    assert report.passed
    assert report.max_future_influence == 0
    assert report.max_future_gradient == 0
    leak = audit(kind(leaks=True), LENGTH, vocab_size=V)
    assert not leak.causal
    assert leak.max_future_influence > 1e-6
    assert leak.gradient
    assert leak.gradient.value > 1e-8


def test_a_cache_that_is_changed_in_place():
    report = audit(InPlace(), LENGTH, vocab_size=V)
    assert report.cache_consistent
    assert report.chunk
    assert not report.not_made


def test_a_cache_that_fails_when_several_tokens_follow():
    report = audit(InPlaceForgets(), LENGTH, vocab_size=V)
    assert report.cache
    assert not report.cache.failed
    assert report.cache_consistent is False
    assert report.verdict.startswith("WRONG CACHE: when several tokens follow at once")


def test_a_cache_that_forgets():
    report = audit(InPlaceStale(), LENGTH, vocab_size=V)
    assert report.cache_consistent is False
    assert report.verdict.startswith("WRONG CACHE: output")


def test_a_cache_that_cannot_be_used_is_not_held_against_the_model():
    class Demanding(InPlace):
        def forward(self, input_ids, past_key_values=None, use_cache=None, where=None):
            if past_key_values is not None and where is None:
                raise ValueError("say where")
            return super().forward(input_ids, past_key_values, use_cache)

    report = audit(Demanding(), LENGTH, vocab_size=V)
    assert report.passed
    assert report.not_made == {"cache": "the model fails (ValueError: say where)"}


@pytest.mark.parametrize("leaks", [False, True])
def test_call_keeps_the_weights_in_reach(leaks):
    report = audit(LastOnly(leaks), LENGTH, vocab_size=V, call=lambda m, ids: m(ids, targets=ids))
    assert report.passed is not leaks
    assert list(report.not_made) == ["cache"]
    assert report.where == "in float64"


def test_a_cache_goes_through_call():
    def call(model, ids, past_key_values=None):
        return model(ids, past_key_values, use_cache=True)

    assert audit(InPlace(), LENGTH, vocab_size=V, call=call).cache_consistent
    assert audit(InPlaceStale(), LENGTH, vocab_size=V, call=call).cache_consistent is False


def test_call_that_uses_another_model_is_told():
    model = Plain()
    report = audit(model, LENGTH, vocab_size=V, call=lambda _, ids: model(ids))
    assert report.passed
    assert "call= must use the model it is given" in report.not_made["redrawn weights"]
    assert report.where == "in float64, float32 inside"


def test_logits_says_which():
    with pytest.raises(InputError, match=r"tuple of tensor \(8, 24, 61\), tensor .*: say which"):
        audit(Doubtful(), LENGTH, vocab_size=V)
    assert audit(Doubtful(), LENGTH, vocab_size=V, logits=lambda out: out[1]).passed
    assert not audit(Doubtful(), LENGTH, vocab_size=V, logits=lambda out: out[0]).passed


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LastOnly, r"gave a tuple of tensor \(8, 1, 61\), NoneType"),
        (Encoded, r"fails on ids \(8, 24\) below 61 \(TypeError.*give call="),
        (lambda: lambda ids: None, "gave a NoneType"),
        (lambda: lambda ids: {"scores": ids}, "gave a dict with scores"),
        (lambda: lambda ids: ids[..., None], "real numbers"),
        (lambda: 3, "not 3"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(kind, message):
    with pytest.raises(InputError, match=message) as refused:
        audit(kind(), LENGTH, vocab_size=V)
    assert len(str(refused.value).splitlines()) == 1


def test_an_encoder_decoder_is_audited_in_its_decoder():
    model, source = Encoded(), torch.randint(V, (1, 7))

    def call(model, ids):
        return model(source.expand(len(ids), -1), ids)

    report = audit(model, LENGTH, vocab_size=V, call=call)
    assert report.passed
    assert report.max_future_gradient == 0
    as_function = audit(lambda ids: call(model, ids), LENGTH, vocab_size=V)
    assert as_function.passed
    assert as_function.not_made["redrawn weights"] == "the function shows none"


def test_a_function_is_left_as_it_is():
    model = Plain().train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    audit(lambda ids: model(ids), LENGTH, vocab_size=V)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for name, p in model.named_parameters():
        assert p.grad is None
        assert torch.equal(p, before[name])


def test_ids_are_the_models_own():
    """A model that writes into its ids spoils nothing."""

    class Writes(Plain):
        def forward(self, ids):
            assert ids.is_contiguous()
            logits = super().forward(ids)
            ids.zero_()
            return logits

    assert audit(Writes(), LENGTH, vocab_size=V).passed


def test_a_failure_of_some_lengths_ends_a_check_only():
    class Long(Plain):
        def forward(self, ids):
            if ids.shape[1] < 9:
                raise RuntimeError("too short\nby far")
            return super().forward(ids)

    report = audit(Long(), LENGTH, vocab_size=V)
    assert report.causal
    assert report.not_made["prefix"] == "the model fails (RuntimeError: too short by far)"


def test_a_model_that_cannot_be_copied_is_sent_through_the_other_door():
    class Guarded(Plain):
        def __deepcopy__(self, memo):
            raise TypeError("not me")

    with pytest.raises(InputError, match=r"cannot be copied \(TypeError: not me\): .*lambda ids"):
        audit(Guarded(), LENGTH, vocab_size=V)


@pytest.mark.parametrize("name", ["block_size", "max_position_embeddings", "n_positions"])
def test_the_config_gives_the_length_and_the_vocabulary(name):
    model = Plain()
    model.config = SimpleNamespace(vocab_size=V, **{name: 17})
    assert audit(model).length == 17
    with pytest.raises(InputError, match="use up to 17"):
        audit(model, 18)


# Models of transformers, where it is installed


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    return module


def small(transformers, name: str, leaks: bool = False) -> nn.Module:
    torch.manual_seed(0)
    size = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    t = transformers
    if name == "gpt2":
        config = t.GPT2Config(vocab_size=V, n_positions=64, n_embd=32, n_layer=2, n_head=2)
        model = t.GPT2LMHeadModel(config)
    elif name == "llama":
        heads["num_key_value_heads"] = 2
        model = t.LlamaForCausalLM(t.LlamaConfig(**size, **heads))
    elif name == "mamba":
        model = t.MambaForCausalLM(t.MambaConfig(**size, state_size=4))
    else:
        model = t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=V, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=2)
        )
    if leaks:

        def leak(_module, _args, out: Tensor) -> Tensor:
            return out + 1e-5 * F.pad(out[:, 1:], (0, 0, 0, 1))

        head = model.get_input_embeddings() if name != "t5" else model.lm_head
        head.register_forward_hook(leak)
    return model


@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
def test_decoders_of_transformers(transformers, name):
    report = audit(small(transformers, name), LENGTH)
    assert report.causal
    assert report.max_future_gradient == 0
    assert report.prefix_consistent
    if name == "mamba":
        # Right token by token, if a cache can be given without more; several tokens at once are
        # answered as if the text began with them.
        assert report.cache is None or not report.cache.failed
    else:
        assert report.passed
        assert not report.not_made
    leak = audit(small(transformers, name, leaks=True), LENGTH)
    assert leak.verdict.startswith("LEAK")
    assert leak.gradient.failed


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_function_of_a_decoder(transformers, name):
    model = small(transformers, name).eval()
    report = audit(lambda ids: model(ids), LENGTH, vocab_size=V)
    assert report.passed
    assert report.max_future_gradient == 0


def test_the_decoder_of_an_encoder_decoder(transformers):
    source = torch.randint(V, (1, 7))

    def call(model, ids):
        return model(input_ids=source.expand(len(ids), -1), decoder_input_ids=ids)

    with pytest.raises(InputError, match="give call="):
        audit(small(transformers, "t5"), LENGTH)
    model = small(transformers, "t5").eval()
    assert audit(model, LENGTH, call=call).passed
    assert audit(lambda ids: call(model, ids).logits, LENGTH, vocab_size=V).passed
    leak = audit(small(transformers, "t5", leaks=True), LENGTH, call=call)
    assert leak.verdict.startswith("LEAK")


def test_what_draws_anew_is_said_to(tmp_path):
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(V, V)

    def noisy(ids):
        return table[ids] + torch.randn(V, generator=draw)

    report = audit(noisy, LENGTH, vocab_size=V)
    assert not report.passed
    assert "the same ids give other outputs the second time" in report.verdict


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"logits": "scores"}, "logits must be a function, not 'scores'"),
        ({"call": 3}, "call must be a function"),
        ({"length": 2.5}, "length must be a whole number"),
        ({"vocab_size": "61"}, "vocab_size must be a whole number"),
    ],
)
def test_arguments_of_another_type_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        audit(lambda ids: torch.zeros(*ids.shape, V), **{"vocab_size": V, **options})


def test_a_function_of_few_tokens_asks_for_a_length():
    positions = torch.randn(32, V)
    with pytest.raises(InputError, match=r"or length= \(--length\)"):
        audit(lambda ids: positions[: ids.shape[1]] + torch.zeros(*ids.shape, V), vocab_size=V)


def test_a_module_of_torch_jit_is_refused():
    with pytest.warns(DeprecationWarning, match="deprecated"):
        scripted = torch.jit.trace(torch.nn.Embedding(V, V), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(InputError, match=r"torch\.jit cannot be watched"):
        audit(scripted, vocab_size=V)

"""A language model of ours as a `PreTrainedModel`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils.generic import ModelOutput

from sympformer.errors import InputError
from sympformer.hf.arguments import left_only, require_known, require_positions
from sympformer.hf.cache import SympFormerCache
from sympformer.hf.config import SympFormerConfig
from sympformer.hf.embeddings import TokenEmbeddings
from sympformer.model import CustomModel, LanguageModel, build
from sympformer.model.block import Block
from sympformer.model.layers import Stream
from sympformer.model.loss import IGNORED


@dataclass
class SympFormerOutput(ModelOutput):
    """What a pass gives; `logits` `(B, T, V)` are left out where a loss is trained."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: SympFormerCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    """Positions before each layer and behind the last, `(B, T, d)`; the final norm is not in."""
    momenta: tuple[Tensor, ...] | None = None
    """Momenta at the same places; zero in models without."""

    @property
    def past_key_values(self) -> SympFormerCache | None:
        """The cache by its older name."""
        return self.cache


class SympFormerForCausalLM(PreTrainedModel, GenerationMixin):
    """Any composition of ours behind `transformers`' interface; `model` is the `LanguageModel`."""

    config_class = SympFormerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - as the library declares it
    _supports_attention_backend = False

    def __init__(self, config: SympFormerConfig):
        super().__init__(config)
        made = config.model_config()
        if made.model:
            raise InputError("a whole model of the user's own has no place in this class")
        model = build(made)
        assert isinstance(model, LanguageModel)
        self.model = model
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def of(cls, model: LanguageModel | CustomModel) -> "SympFormerForCausalLM":
        """The same model, its weights shared.

        Raises:
            InputError: it is a whole model of the user's own.
        """
        if not isinstance(model, LanguageModel):
            raise InputError("only models of this package can be handed on, not registered ones")
        with torch.device("meta"):
            made = cls(SympFormerConfig(composition=model.config.to_dict()))
        made.model = model
        return made

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do: what is saved names the classes (`SympFormerConfig`)."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # its own is another

    def _prepare_cache_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, generation_config: Any, model_kwargs: dict[str, Any], *sizes: Any
    ) -> None:
        base: Any = super()
        base._prepare_cache_for_generation(generation_config, model_kwargs, *sizes)
        if generation_config.use_cache is not False and model_kwargs.get("cache") is None:
            model_kwargs["cache"] = SympFormerCache()

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As the library's, the cache by its older name: only by that does PEFT know it, and would
        else put a learned prompt before every token.
        """
        kwargs["inputs_embeds"] = inputs_embeds
        base: Any = super()
        inputs = base.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if "cache" in inputs:
            inputs["past_key_values"] = inputs.pop("cache")
        return inputs

    def _init_weights(self, module: nn.Module) -> None:
        """Our parts draw themselves, all of them at once."""
        if isinstance(module, LanguageModel):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """What makes `inputs_embeds` of ids: the table of tokens, or all of them as one."""
        inputs = self.model.inputs
        tables = inputs.tables
        return tables[0].tokens if len(tables) == 1 else TokenEmbeddings(inputs)

    def get_submodule(self, target: str) -> nn.Module:
        """As torch's. PEFT asks for this name, or else takes the first table of the vocabulary."""
        asked = target == "embeddings.word_embeddings"
        return self.get_input_embeddings() if asked else super().get_submodule(target)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Any:
        """The table of tokens, if it is asked for at the size that it has.

        Raises:
            InputError: another size.
        """
        wanted = new_num_tokens or self.config.vocab_size
        wanted += -wanted % (pad_to_multiple_of or 1)
        if wanted != self.config.vocab_size:
            raise InputError(_FIXED)
        return self.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Refuse: other tables of the model are of the same tokens.

        Raises:
            InputError: always.
        """
        raise InputError(_FIXED)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: SympFormerCache | None = None,
        past_key_values: SympFormerCache | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **other: Any,
    ) -> SympFormerOutput | tuple:
        """Predict the next token at every position.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`, with a cache `(B, past + T)` too: 0 for padding on the left,
                which changes nothing for the tokens behind it, or on the right, which nothing sees.
            cache: what an earlier pass returned; it is changed.
            past_key_values: the same by its older name.
            inputs_embeds: in the place of ids, `(B, T, embedding_dim)`, such as
                `get_input_embeddings()` makes of them.
            position_ids: must be what the mask says, counted behind the padding.
            labels: `(B, T)`, shifted in here; -100 does not count.
            use_cache: whether to return a cache; outside of training the config's `use_cache`.
            output_hidden_states: whether to return positions and momenta of every layer.
            logits_to_keep: of the last so many positions only; 0 is all. Or their indices.
            num_items_in_batch: of the whole batch of an accumulated update, for the mean.
            return_dict: False for a tuple.
            other: refused, but for what the library hands to every model.

        Raises:
            InputError: what is refused, padding between tokens, or what `LanguageModel` refuses.
        """
        require_known(other)
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("a pass needs either input_ids or inputs_embeds")
        tokens = inputs_embeds if input_ids is None else input_ids
        assert tokens is not None
        given = cache if cache is not None else past_key_values
        if given is not None and not isinstance(given, SympFormerCache):
            raise InputError(
                f"this model has a cache of its own kind, not a {type(given).__name__}: leave it "
                "out, and take the one that a pass returns"
            )
        training = self.training and torch.is_grad_enabled()
        keeps = (getattr(self.config, "use_cache", True) if use_cache is None else use_cache) and (
            given is not None or not training
        )
        past = None if given is None else given.state
        mask = None if attention_mask is None else left_only(attention_mask)
        require_positions(position_ids, mask, tokens, 0 if past is None else past.length)
        targets = None
        if labels is not None:
            if attention_mask is not None:
                real = attention_mask[:, -tokens.shape[1] :].bool()
                labels = labels.masked_fill(~real, IGNORED)
            end = torch.full_like(labels[:, :1], IGNORED)
            targets = torch.cat([labels[:, 1:], end], dim=1).to(torch.int64)
        self.model.recomputes = self.gradient_checkpointing
        with _Layers(self.model, bool(output_hidden_states)) as layers:
            out = self.model(tokens, targets, past, attention_mask=mask, use_cache=keeps)
        loss = out.loss
        if loss is not None and num_items_in_batch is not None:
            assert targets is not None
            counted = (targets != IGNORED).sum()
            # Of a part without a label the mean is nan, and its share of the whole 0.
            loss = torch.where(counted > 0, loss, 0.0) * counted / num_items_in_batch
        if keeps:
            given = SympFormerCache() if given is None else given
            assert out.cache is not None
            given.state = out.cache
        found = SympFormerOutput(
            loss=loss,
            logits=None if training and loss is not None else _logits(out, logits_to_keep),
            cache=given if keeps else None,
            hidden_states=layers.positions,
            momenta=layers.momenta,
        )
        whole = self.config.return_dict if return_dict is None else return_dict
        return found if whole else found.to_tuple()


_FIXED = (
    "the table of tokens cannot be replaced or resized, as other tables and the head go with it: "
    "train with a larger vocab_size"
)


class _Layers:
    """Inside, collects what goes into every layer and comes out of the last."""

    def __init__(self, model: LanguageModel, wanted: bool):
        self.model, self.wanted = model, wanted
        self.streams: list[Stream] = []
        self.hooks: list[Any] = []

    def __enter__(self) -> "_Layers":
        if self.wanted:
            for block in self.model.blocks:
                assert isinstance(block, Block)
                self.hooks.append(block.register_forward_hook(self._seen))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _seen(self, block: nn.Module, arguments: tuple, out: Stream) -> None:
        if not self.streams:
            self.streams.append(arguments[0])
        self.streams.append(out)

    @property
    def positions(self) -> tuple[Tensor, ...] | None:
        return tuple(s.x for s in self.streams) if self.wanted else None

    @property
    def momenta(self) -> tuple[Tensor, ...] | None:
        return tuple(s.p for s in self.streams) if self.wanted else None


def _logits(out: Any, keep: int | Tensor) -> Tensor:
    if isinstance(keep, int):
        if not keep:
            return out.logits
        places = torch.arange(max(0, out.hidden.shape[1] - keep), out.hidden.shape[1])
    else:
        places = keep.cpu()
    rows = torch.arange(len(out.hidden))[:, None].expand(-1, len(places))
    chosen = rows.flatten(), places.expand_as(rows).flatten()
    return out.logits_at(chosen).unflatten(0, rows.shape)

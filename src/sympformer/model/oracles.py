"""The oracles of a language model: which one a config asks for."""

from torch import Tensor, nn

from sympformer.attention.softmax import Past
from sympformer.model.attention import Attention
from sympformer.model.config import ModelConfig
from sympformer.model.heads import Heads
from sympformer.model.layers import MLP
from sympformer.model.linear_attention import LinearAttention
from sympformer.model.tied import TiedAttention, TiedLinearAttention

ATTENTIONS: dict[tuple[str, str], type[Heads]] = {
    ("softmax", "free"): Attention,
    ("softmax", "tied"): TiedAttention,
    ("linear", "free"): LinearAttention,
    ("linear", "tied"): TiedLinearAttention,
}


def attention_oracle(config: ModelConfig) -> nn.Module:
    """What is asked for the field at a point: attention, or its sum with the MLP."""
    attention = ATTENTIONS[config.attention, config.geometry](config)
    return Sum(attention, mlp_oracle(config)) if config.splitting == "euler" else attention


def mlp_oracle(config: ModelConfig) -> MLP:
    """The oracle without interaction."""
    return MLP(config.n_embd, config.mlp_width or 4 * config.n_embd)


class Sum(nn.Module):
    """Attention and MLP at the same point: Euler instead of Lie-Trotter splitting."""

    def __init__(self, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor, past: Past) -> "SumField":
        """The field at positions `x` `(B, T, d)`."""
        return SumField(self.attention(x, past).attention() + self.mlp(x))


class SumField:
    """A field of gradient flow."""

    def __init__(self, value: Tensor):
        self.value = value

    def attention(self) -> Tensor:
        """The sum of both oracles."""
        return self.value

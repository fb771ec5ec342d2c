"""The yardstick: a plain GPT on torch's fused attention, sharing no code with what it measures."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainOutput(NamedTuple):
    """Logits (without targets, of the last token alone), loss, and cache: keys and values of each
    layer `(2, B, H, block, d/H)`, filled in place, and their number of tokens.
    """

    logits: Tensor
    loss: Tensor | None
    cache: tuple[list[Tensor | None], int] | None


class PlainBlock(nn.Module):
    """Pre-norm attention and a GELU perceptron, four times as wide inside; no biases."""

    def __init__(self, n_head: int, d: int):
        super().__init__()
        self.n_head = n_head
        self.norm_1, self.norm_2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Tensor, start: int, room: int, kept: Tensor | None):
        """`(B, T, d)` to the same, and the layer's keys and values where there is room for them."""
        parts = self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in parts)
        if room:
            new = k.new_empty(2, *k.shape[:2], room, k.shape[3]) if kept is None else kept
            new[:, :, :, start : start + x.shape[1]] = torch.stack([k, v])
            k, v = (kept := new)[:, :, :, : start + x.shape[1]]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm_2(x)))), kept


class PlainGPT(nn.Module):
    """Learned positions, a stack of blocks, a tied head: the parameters of preset `gpt`."""

    def __init__(self, vocab_size: int, block_size: int, n_layer: int, n_head: int, d: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d), nn.Embedding(block_size, d)
        self.blocks = nn.ModuleList(PlainBlock(n_head, d) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, cache=None) -> PlainOutput:
        """Predict the next of `tokens` `(B, T)`; with a cache they continue it, one at a time."""
        layers, start = cache or ([None] * len(self.blocks), 0)
        room = 0 if targets is not None else self.positions.num_embeddings
        where = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x, kept = self.tokens(tokens) + self.positions(where), []
        for block, layer in zip(self.blocks, layers, strict=True):
            x, layer = block(x, start, room, layer)
            kept.append(layer)
        logits = F.linear(self.norm(x[:, -1:] if room else x), self.tokens.weight)
        if targets is None:
            return PlainOutput(logits, None, (kept, start + tokens.shape[1]))
        return PlainOutput(logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten()), None)

    @torch.no_grad()
    def stream(self, tokens: Tensor, n_new: int, *, compile: bool = False) -> Iterator[Tensor]:
        """Yield the most likely tokens after `(B, T)`, one `(B, 1)` at a time."""
        options = {"dynamic": True, "fullgraph": True, "recompile_limit": 256}
        step, cache = torch.compile(self, **options) if compile else self, None
        for _ in range(n_new):
            logits, _, cache = (step if cache else self)(tokens, cache=cache)
            tokens = logits[:, -1].argmax(-1, keepdim=True)
            yield tokens

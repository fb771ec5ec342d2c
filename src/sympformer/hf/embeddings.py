"""The tables of tokens as one, for who works with vectors in the place of ids."""

import torch
from torch import Tensor, nn

from sympformer.model.inputs import Inputs


class TokenEmbeddings(nn.Module):
    """Ids `(B, T)` to `inputs_embeds` `(B, T, embedding_dim)`.

    A momentum model has a table of positions and one of momenta, side by side here. The weights
    stay those of the model: this module has none of its own.
    """

    def __init__(self, inputs: Inputs):
        super().__init__()
        self._embed = inputs.embed
        self.num_embeddings = inputs.vocab_size
        self.embedding_dim = len(inputs.tables) * inputs.d

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look them up."""
        return self._embed(input_ids)

    @property
    def weight(self) -> Tensor:
        """All rows, `(V, embedding_dim)`."""
        device = next(iter(self._embed.__self__.parameters())).device
        return self._embed(torch.arange(self.num_embeddings, device=device))

"""Documents of a packed row, taken apart: no model carries anything from one to another."""

import pytest
import torch

import sympformer as sf
from sympformer.data.documents import apart, taken

EOS = 0
ROW = torch.tensor([[5, 6, 7, 8, EOS, 9, 10, 11, 12, 13, EOS, 14, 15, 16]])
DOCUMENTS = [ROW[:, :4], ROW[:, 4:10], ROW[:, 10:]]


def separately(model, ids):
    """The logits of a packed batch `(B, T)` whose documents are taken apart."""
    logits = torch.empty(ids.numel(), model.config.vocab_size, dtype=torch.float64)
    for places in apart(ids, EOS):
        made = model(taken(ids, places, EOS)).logits
        logits[places[places >= 0]] = made[places >= 0]
    return logits.unflatten(0, ids.shape)


@pytest.mark.parametrize("preset", sf.presets())
@torch.no_grad()
def test_a_token_of_one_document_changes_no_output_in_another(preset, redrawn):
    """And each document is what it is alone; packed, they do see one another."""
    model = redrawn(preset)
    logits = separately(model, ROW)
    alone = torch.cat([model(document).logits for document in DOCUMENTS], dim=1)
    torch.testing.assert_close(logits, alone, rtol=1e-9, atol=1e-9)
    ids, begin = torch.arange(ROW.shape[1]), 0
    for document in DOCUMENTS:
        end = begin + document.shape[1]
        for place in range(begin + (begin > 0), end):  # a separator stays one
            other = ROW.clone()
            other[0, place] = 30
            changed = (separately(model, other) != logits).any(-1)[0]
            assert not changed[(ids < place) | (ids >= end)].any()
            assert changed[place]
        begin = end
    other = ROW.clone()
    other[0, 1] = 30
    assert (model(other).logits != model(ROW).logits)[0, 5:].any()

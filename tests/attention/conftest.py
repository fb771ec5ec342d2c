"""Shared by the tests of attention."""

import pytest

from sympformer import products
from sympformer.attention import tiled


@pytest.fixture(params=[0, 5000], ids=["all", "large"])
def each_by_itself(request, monkeypatch):
    """Products of float32 are made a head at a time; all or the large ones go through oneDNN."""
    monkeypatch.setattr(products, "WORTHWHILE", request.param)
    monkeypatch.setattr(products, "_better", lambda: True)
    monkeypatch.setattr(tiled, "ROWS", 15)
    monkeypatch.setattr(tiled, "MOST_ROWS", 15)

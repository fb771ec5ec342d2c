import numpy as np
import pytest

from sympformer.data import Corpus, load_tokenizer
from sympformer.train import RunConfig, TrainConfig


@pytest.fixture
def corpus():
    """Noisy counting: next = this + 1 or + 2, so that there is something to learn."""
    steps = np.random.default_rng(0).integers(1, 3, size=4000)
    stream = (np.cumsum(steps) % 200).astype(np.uint16)
    floor = np.full(1000, np.log(2), dtype=np.float32)
    return Corpus(
        name="counting",
        train=stream[:3000],
        valid=stream[3000:],
        tokenizer=load_tokenizer("byte"),
        floor=floor,
        digest="counting-1",
        bytes_per_token=1.0,
    )


@pytest.fixture
def config(tiny):
    return RunConfig(
        preset="symp-h0",
        model=tiny("symp-h0", vocab_size=257),
        train=TrainConfig(
            steps=6, batch_size=4, warmup=2, eval_every=3, eval_blocks=8, dtype="float32"
        ),
    )

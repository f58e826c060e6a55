"""The whole of it at work: models of characters, trained on the language reference that Python ships."""

from pydoc_data.topics import topics

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import labnet as ln
from labnet import nn

TEXT = "\n".join(topics[name] for name in ("assignment", "calls", "class", "compound", "exceptions", "function", "if"))
CONTEXT = 48


@pytest.fixture(autouse=True, scope="module")
def _one_thread_of_blas():
    """Compute small products in one thread: two spin while they wait for each other, and take ten times as long."""
    with threadpool_limits(1, user_api="blas"):
        yield


class Transformer(nn.Module):
    def __init__(self, characters, width=48):
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.positions = nn.PositionalEncoding(width, dropout=0.0, max_len=CONTEXT, batch_first=True)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width))
        self.head = nn.Linear(width, characters)

    def forward(self, x):
        return self.head(self.encoder(self.positions(self.embedding(x) * 0.3), is_causal=True))


class Recurrent(nn.Module):
    def __init__(self, characters, width=96):
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0])


def corpus():
    alphabet = sorted(set(TEXT))
    numbers = np.array([alphabet.index(character) for character in TEXT])
    cut = len(numbers) * 9 // 10
    return len(alphabet), numbers[:cut], numbers[cut:]


def windows(numbers, starts):
    rows = np.stack([numbers[start : start + CONTEXT + 1] for start in starts])
    return ln.asarray(rows[:, :-1]), ln.asarray(rows[:, 1:])


def loss_of(model, numbers, starts):
    x, y = windows(numbers, starts)
    return ln.loss.cross_entropy(ln.permute_dims(model(x), (0, 2, 1)), y)


@pytest.mark.parametrize(("make", "lr"), [(Transformer, 5e-3), (Recurrent, 1e-2)])
def test_a_model_of_characters_learns_far_more_than_their_frequencies(make, lr):
    characters, seen, unseen = corpus()
    frequencies = np.bincount(seen) / len(seen)
    entropy = -sum(f * np.log(f) for f in frequencies if f)
    ln.manual_seed(0)
    rng = np.random.default_rng(0)
    model, optimizer = make(characters), ln.optim.AdamW(lr=lr)
    for _ in range(300):
        loss = loss_of(model, seen, rng.integers(0, len(seen) - CONTEXT, 16))
        optimizer(ln.optim.clip_norm(loss.backward(), 1.0))
    with ln.no_grad():
        loss = loss_of(model.eval(), unseen, range(0, len(unseen) - CONTEXT, CONTEXT)).item()
    assert loss < 0.7 * entropy

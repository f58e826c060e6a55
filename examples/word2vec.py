"""word2vec with negative samples finds similar words in a text: the program of a torch user.

The imports from labnet are all that differs from torch. It prints the nearest words of a few.
"""

import numpy as np

from labnet import asarray, einsum, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

WIDTH, NEGATIVES = 8, 5
PEOPLE = "ana ben carla david"
PHRASES = {
    "eats": "bread soup cheese rice",
    "drinks": "water tea milk coffee",
    "visits": "berlin paris rome madrid",
    "plays": "chess cards tennis golf",
}
WORDS = sorted({*PEOPLE.split(), *PHRASES, *" ".join(PHRASES.values()).split()})


class SkipGram(nn.Module):
    """A vector for each word, and another for each word around it."""

    def __init__(self):
        super().__init__()
        self.centres, self.contexts = nn.Embedding(len(WORDS), WIDTH), nn.Embedding(len(WORDS), WIDTH)

    def forward(self, centre, others):
        """Return scores (N, K) of words (N, K) around others (N,)."""
        return einsum("nw,nkw->nk", self.centres(centre), self.contexts(others))


def batches(steps=600, size=128):
    """Return words, and next to each a neighbour and random words."""
    draws = np.random.default_rng(0)
    text = []
    for _ in range(500):
        verb = draws.choice(list(PHRASES))
        text += [draws.choice(PEOPLE.split()), verb, draws.choice(PHRASES[verb].split())]
    codes = np.array([WORDS.index(word) for word in text])
    at = draws.integers(1, len(codes) - 1, (steps, size))
    near = at + draws.choice([-1, 1], at.shape)
    random = draws.integers(0, len(WORDS), (steps, size, NEGATIVES))
    return list(zip(codes[at], np.concatenate([codes[near][..., None], random], axis=-1), strict=True))


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.Adam(model.parameters(), lr=2e-2)


def loss_of(model, centre, others):
    """Return the loss of telling a neighbour, which stands first, from random words."""
    scores = model(centre=centre, others=others)
    return -(F.logsigmoid(scores[:, 0]) + F.logsigmoid(-scores[:, 1:]).sum(dim=1)).mean()


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(centre, others):
        optimizer.zero_grad()
        loss = loss_of(model, centre, others)
        loss.backward()
        optimizer.step()
        return loss

    return [step(asarray(centre), asarray(others)).item() for centre, others in data]


@no_grad()
def alike(model, word, count=3):
    """Return the words whose vectors point in the direction of a word's."""
    vectors = F.normalize(model.centres.weight, dim=1)
    likeness = vectors @ vectors[WORDS.index(word)]
    return [WORDS[at] for at in (-likeness).argsort()[1 : count + 1].tolist()]


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    model = SkipGram()
    found = train(model, batches(), compiled=ln.jit)
    print(f"loss: {found[0]:.2f} at first, {found[-1]:.2f} at last")
    for word in ("ana", "drinks", "tea", "rome", "chess"):
        print(f"{word:>8}: {', '.join(alike(model, word))}")

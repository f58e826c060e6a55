"""A bigram table, a perceptron and a WaveNet-like tree learn to spell names: the program of a torch user.

The imports from labnet are all that differs from torch. Each model sees the last eight characters; it prints names that
the best one makes up.
"""

import numpy as np

from labnet import asarray, multinomial, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

TEXT = """
mercury venus earth mars jupiter saturn uranus neptune pluto ceres pallas juno vesta hebe iris flora metis hygiea
parthenope victoria egeria irene eunomia psyche thetis melpomene fortuna massalia lutetia kalliope thalia phocaea
proserpina euterpe bellona amphitrite urania euphrosyne pomona circe leukothea atalante fides leda laetitia harmonia
daphne isis ariadne rhea dione tethys mimas enceladus hyperion phoebe iapetus janus triton nereid proteus larissa
galatea despina callisto europa ganymede amalthea himalia elara pasiphae sinope lysithea carme ananke thebe adrastea
miranda ariel umbriel titania oberon cordelia ophelia bianca cressida desdemona juliet portia rosalind belinda charon
nix hydra kerberos styx
"""
NAMES = TEXT.split()
LETTERS = [".", *sorted(set("".join(NAMES)))]
BLOCK, WIDTH, HIDDEN = 8, 10, 64


class Bigram(nn.Module):
    """A table of what follows a character."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(len(LETTERS), len(LETTERS))

    def forward(self, x):
        """Map contexts (N, 8) to logits (N, letters)."""
        return self.table(x[:, -1])


def perceptron():
    """Return a network that sees all characters at once."""
    return nn.Sequential(
        nn.Embedding(len(LETTERS), WIDTH),
        nn.Flatten(),
        nn.Linear(BLOCK * WIDTH, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.Tanh(),
        nn.Linear(HIDDEN, len(LETTERS)),
    )


class Pair(nn.Module):
    """Join neighbours: (N, T, C) to (N, HIDDEN, T / 2), normalised."""

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(2 * channels, HIDDEN, bias=False)
        self.norm = nn.BatchNorm1d(HIDDEN)

    def forward(self, x):
        """Map (N, T, C) to (N, T / 2, HIDDEN)."""
        samples, length, channels = x.shape
        x = self.linear(x.reshape(samples, length // 2, 2 * channels))
        return self.norm(x.transpose(1, 2)).transpose(1, 2).tanh()


def wavenet():
    """Return a network that joins two neighbours at a time."""
    pairs = [Pair(WIDTH), Pair(HIDDEN), Pair(HIDDEN)]
    return nn.Sequential(nn.Embedding(len(LETTERS), WIDTH), *pairs, nn.Flatten(), nn.Linear(HIDDEN, len(LETTERS)))


def batches(steps=200, size=64):
    """Return contexts of eight characters, and those that follow."""
    contexts, following = [], []
    for name in NAMES:
        codes = [0] * BLOCK + [LETTERS.index(letter) for letter in name] + [0]
        for end in range(BLOCK, len(codes)):
            contexts.append(codes[end - BLOCK : end])
            following.append(codes[end])
    contexts, following = np.array(contexts), np.array(following)
    rows = np.random.default_rng(0).integers(0, len(contexts), (steps, size))
    return [(contexts[row], following[row]) for row in rows]


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)


def loss_of(model, contexts, following):
    """Return the loss per character."""
    return F.cross_entropy(model(contexts), following)


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(contexts, following):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, contexts, following)
        loss.backward()
        optimizer.step()
        return loss

    return [step(asarray(contexts), asarray(following)).item() for contexts, following in data]


@no_grad()
def name_from(model):
    """Return a name that the model makes up."""
    codes = [0] * BLOCK
    while len(codes) == BLOCK or (codes[-1] and len(codes) < 24):
        probabilities = F.softmax(model.eval()(asarray([codes[-BLOCK:]])), dim=-1)
        codes.append(multinomial(probabilities, num_samples=1).item())
    return "".join(LETTERS[code] for code in codes[BLOCK:] if code)


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    for make in (Bigram, perceptron, wavenet):
        model = make()
        found = train(model, batches(), compiled=ln.jit)
        print(f"{make.__name__:>10}: loss {found[0]:.2f} at first, {sum(found[-20:]) / 20:.2f} at last")
    print("made up:", *(name_from(model) for _ in range(8)))

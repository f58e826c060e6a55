"""A graph network finds the groups of a club from two members whose group is known: the program of a torch user.

The imports from labnet are all that differs from torch. Messages along edges are added up with `index_add` and
`scatter_add`. The club is that of Zachary (1977): 34 people and the 78 friendships among them, before it split in two.
"""

import numpy as np

from labnet import asarray, nn, no_grad, ones, optim, zeros
from labnet.nn import functional as F  # noqa: N812 the usual name

FRIENDS = """
1-2 1-3 2-3 1-4 2-4 3-4 1-5 1-6 1-7 5-7 6-7 1-8 2-8 3-8 4-8 1-9 3-9 3-10 1-11 5-11 6-11 1-12 1-13 4-13 1-14 2-14 3-14
4-14 6-17 7-17 1-18 2-18 1-20 2-20 1-22 2-22 24-26 25-26 3-28 24-28 25-28 3-29 24-30 27-30 2-31 9-31 1-32 25-32 26-32
29-32 3-33 9-33 15-33 16-33 19-33 21-33 23-33 24-33 30-33 31-33 32-33 9-34 10-34 14-34 15-34 16-34 19-34 20-34 21-34
23-34 24-34 27-34 28-34 29-34 30-34 31-34 32-34 33-34
"""
SECOND_GROUP = {10, 15, 16, 19, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34}
PEOPLE, HIDDEN = 34, 8
KNOWN = [0, 33]


class GraphConvolution(nn.Module):
    """Add up the features of neighbours, weighted by their degrees (Kipf and Welling, 2017)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x, edges):
        """Map features (N, inputs) and edges (2, E) to features (N, outputs)."""
        source, target = edges
        degree = zeros(x.shape[0]).scatter_add(0, target, ones(target.shape[0]))
        weight = degree[source].rsqrt() * degree[target].rsqrt()
        messages = self.linear(x)[source] * weight.unsqueeze(1)
        return zeros(x.shape[0], messages.shape[1]).index_add(0, target, messages)


class GCN(nn.Module):
    """Two graph convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = GraphConvolution(PEOPLE, HIDDEN), GraphConvolution(HIDDEN, 2)

    def forward(self, x, edges):
        """Map features (N, N) and edges (2, E) to logits (N, 2)."""
        return self.second(F.relu(self.first(x, edges)), edges)


def batches(steps=100):
    """Return features, edges in both directions and from each to itself, and groups; once for each step."""
    pairs = np.array([[int(person) - 1 for person in pair.split("-")] for pair in FRIENDS.split()]).T
    edges = np.concatenate([pairs, pairs[::-1], np.tile(np.arange(PEOPLE), (2, 1))], axis=1)
    groups = np.array([int(person + 1 in SECOND_GROUP) for person in range(PEOPLE)])
    return [(np.eye(PEOPLE, dtype="float32"), edges, groups)] * steps


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.Adam(model.parameters(), lr=2e-2, weight_decay=5e-4)


def loss_of(model, x, edges, groups):
    """Return the loss of the two whose group is known."""
    return F.cross_entropy(model(x=x, edges=edges)[KNOWN], groups[KNOWN])


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    optimizer = optimizer_of(model)

    @compiled
    def step(x, edges, groups):
        optimizer.zero_grad()
        loss = loss_of(model, x, edges, groups)
        loss.backward()
        optimizer.step()
        return loss

    return [step(*map(asarray, batch)).item() for batch in data]


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    model, data = GCN(), batches()
    found = train(model, data, compiled=ln.jit)
    x, edges, groups = data[0]
    with no_grad():
        guessed = model(asarray(x), asarray(edges)).argmax(1).numpy()
    print(f"loss: {found[0]:.2f} at first, {found[-1]:.3f} at last")
    for group in (0, 1):
        members = np.flatnonzero(guessed == group)
        print(f"group {group + 1}:", *(f"{at + 1}{'' if groups[at] == group else '?'}" for at in members))
    print(f"{(guessed == groups).sum()} of {PEOPLE} went where the network says; ? marks the others")

"""A network learns by Q-learning to walk through a small world with pits: the program of a torch user.

The imports from labnet are all that differs from torch. Updates are those of DQN: samples from a replay memory,
and a target network that follows the trained one. It prints the way through the world.
"""

import numpy as np

from labnet import asarray, nn, no_grad, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

WORLD = ["S..#....", ".#.#.##.", ".#...#..", "...#...#", "##.#.#..", "....##.G"]
HEIGHT, WIDTH = len(WORLD), len(WORLD[0])
MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
DISCOUNT = 0.95


def network():
    """Return a network from a position, one-hot, to the values of four moves."""
    return nn.Sequential(nn.Linear(HEIGHT * WIDTH, 64), nn.ReLU(), nn.Linear(64, len(MOVES)))


def moved(position, move):
    """Return where a move leads, its reward, and whether it ends the walk."""
    row, column = (int(at) for at in np.clip(np.add(position, move), 0, (HEIGHT - 1, WIDTH - 1)))
    place = WORLD[row][column]
    return (row, column), {"G": 1.0, "#": -1.0}.get(place, -0.01), place in "G#"


def seen(position):
    """Return the position as the network sees it."""
    x = np.zeros(HEIGHT * WIDTH, "float32")
    x[position[0] * WIDTH + position[1]] = 1
    return x


def batches(steps=600, size=64):
    """Return samples from a memory of random steps: positions, moves, rewards, positions after, ends."""
    draws = np.random.default_rng(0)
    free = [(row, column) for row in range(HEIGHT) for column in range(WIDTH) if WORLD[row][column] in "S."]
    memory = []
    for _ in range(2000):
        position, move = free[draws.integers(len(free))], int(draws.integers(len(MOVES)))
        after, reward, ends = moved(position, MOVES[move])
        memory.append((seen(position), move, np.float32(reward), seen(after), np.float32(ends)))
    columns = [np.array(column) for column in zip(*memory, strict=True)]
    return [[column[rows] for column in columns] for rows in draws.integers(0, len(memory), (steps, size))]


def optimizer_of(model):
    """Return the optimizer of a model."""
    return optim.RMSprop(model.parameters(), lr=1e-3)


def loss_of(online, target, states, moves, rewards, after, ends):
    """Return the Huber loss of the values of the moves."""
    values = online(states).gather(1, moves.unsqueeze(1)).squeeze(1)
    with no_grad():
        best = online(after).argmax(dim=1, keepdim=True)
        wanted = rewards + DISCOUNT * (1 - ends) * target(after).gather(1, best).squeeze(1)
    return F.smooth_l1_loss(values, wanted)


@no_grad()
def follow(target, online):
    """Move weights a step towards others."""
    for old, new in zip(target, online, strict=True):
        old.lerp_(new, 0.05)


def train(online, target, data, compiled=lambda step: step):
    """Return the loss of each update."""
    optimizer = optimizer_of(online)
    target.load_state_dict(online.state_dict())

    @compiled
    def update(*batch):
        optimizer.zero_grad()
        loss = loss_of(online, target, *batch)
        loss.backward()
        optimizer.step()
        follow(target.parameters(), online.parameters())
        return loss

    return [update(*map(asarray, batch)).item() for batch in data]


def walk(model):
    """Return the positions of a greedy walk."""
    positions, ends = [(0, 0)], False
    while not ends and len(positions) < HEIGHT * WIDTH:
        with no_grad():
            move = model(asarray(seen(positions[-1]))).argmax().item()
        after, _, ends = moved(positions[-1], MOVES[move])
        positions.append(after)
    return positions


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    model = network()
    found = train(model, network(), batches(), compiled=ln.jit)
    way = walk(model)
    for row, line in enumerate(WORLD):
        print("".join("o" if (row, column) in way[:-1] else place for column, place in enumerate(line)))
    there = WORLD[way[-1][0]][way[-1][1]] == "G"
    print(f"{'arrived' if there else 'did not arrive'} after {len(way) - 1} steps; last loss {found[-1]:.5f}")

"""A small GPT learns a text, character by character: the program of a torch user with other imports.

The first three imports from labnet are all that differs from torch; a test runs the same text with both. The step is
compiled in the end.
"""

import numpy as np

from labnet import arange, asarray, moveaxis, nn, optim
from labnet.nn import functional as F  # noqa: N812 the usual name

TEXT = """
Now is better than never, although never is often better than right now. If the implementation is hard to explain,
it is a bad idea. If the implementation is easy to explain, it may be a good idea. Simple is better than complex,
complex is better than complicated, flat is better than nested, sparse is better than dense, and readability counts.
"""
VOCABULARY = sorted(set(TEXT))
BLOCK, WIDTH, HEADS, LAYERS, STEPS = 32, 32, 4, 2, 120


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        """Attend to earlier positions."""
        samples, length, _ = x.shape
        parts = self.qkv(x).reshape((samples, length, 3, HEADS, WIDTH // HEADS))
        q, k, v = (moveaxis(parts[:, :, i], 1, 2) for i in range(3))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(moveaxis(y, 1, 2).reshape((samples, length, WIDTH)))


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.0))

    def forward(self, x):
        """Map a sequence to one of the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """A decoder-only transformer whose output layer shares the weight of the embedding."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(len(VOCABULARY), WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(VOCABULARY), bias=False)
        self.head.weight = self.tokens.weight
        self.apply(self.initialise)

    def initialise(self, module):
        """Draw small weights."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens, targets):
        """Return the loss of the next characters."""
        x = self.tokens(tokens) + self.positions(arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.reshape((-1, len(VOCABULARY))), targets.reshape((-1,)), ignore_index=-1)


def batches():
    """Return arrays of characters and of their successors."""
    codes = np.array([VOCABULARY.index(character) for character in TEXT])
    starts = np.random.default_rng(0).integers(0, len(codes) - BLOCK - 1, (STEPS, 16))
    windows = np.lib.stride_tricks.sliding_window_view(codes, BLOCK)
    return [(windows[row], windows[row + 1]) for row in starts]


def train(model, data, compiled=lambda step: step):
    """Return the loss of each step."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    warm_up = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    decay = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 10, eta_min=1e-3)
    schedule = optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[10])

    @compiled
    def step(tokens, targets):
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    losses = []
    for tokens, targets in data:
        losses.append(step(asarray(tokens), asarray(targets)).item())
        schedule.step()
    return losses


if __name__ == "__main__":
    import labnet as ln

    ln.manual_seed(0)
    found = train(GPT(), batches(), compiled=ln.jit)
    print(f"loss per character: {found[0]:.2f} at first")
    print("learned" if found[-1] < 1.0 else "not learned", f"{found[-1]:.2f}")

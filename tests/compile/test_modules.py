"""Every module and loss: forward, backward and update compiled do what they do eagerly, over several steps."""

import numpy as np
import pytest

import labnet as ln

pytestmark = pytest.mark.usefixtures("plain_steps")
rng = np.random.default_rng(5)


def normal(*shape):
    return ln.asarray(rng.standard_normal(shape).astype("float32"))


def whole(*shape, below=5):
    return ln.asarray(rng.integers(0, below, shape))


class Attention(ln.nn.Module):
    """Attention of one sequence to another one, with all masks."""

    def __init__(self):
        super().__init__()
        self.inner = ln.nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

    def forward(self, x, key, value, padding):
        out, weights = self.inner(x, key, value, padding)
        return ln.concat([out.reshape((-1,)), weights.reshape((-1,))])


class Translator(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = ln.nn.TransformerEncoder(ln.nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1), 2)
        self.decoder = ln.nn.TransformerDecoder(ln.nn.TransformerDecoderLayer(8, 2, 12, dropout=0.1), 1)
        self.places = ln.nn.PositionalEncoding(8, 0.1)

    def forward(self, source, target):
        return self.decoder(self.places(target), self.encoder(self.places(source)))


class Sequences(ln.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embedding = ln.nn.Embedding(5, 6, padding_idx=1)
        self.recurrent = ln.nn.LSTM(6, 4, **options)

    def forward(self, x):
        output, (hidden, cell) = self.recurrent(self.embedding(x))
        return ln.concat([output.reshape((-1,)), hidden.reshape((-1,)), cell.reshape((-1,))])


class Recurrent(ln.nn.Module):
    """Both recurrent layers with one state."""

    def __init__(self):
        super().__init__()
        self.first, self.second = ln.nn.GRU(4, 3, bidirectional=True), ln.nn.RNN(6, 3)
        self.cells = ln.nn.ModuleList([ln.nn.GRUCell(6, 6), ln.nn.LSTMCell(6, 6), ln.nn.RNNCell(6, 6)])

    def forward(self, x):
        x, _ = self.first(x)
        x = ln.stack([self.cells[2](self.cells[1](self.cells[0](step))[0]) for step in x])
        output, hidden = self.second(x)
        return ln.concat([output.reshape((-1,)), hidden.reshape((-1,))])


class Collected(ln.nn.Module):
    """Modules and parameters in dictionaries and lists."""

    def __init__(self):
        super().__init__()
        self.layers = ln.nn.ModuleDict({"a": ln.nn.Linear(4, 4), "b": ln.nn.Identity()})
        self.scales = ln.nn.ParameterList([ln.ones(4), ln.zeros(4)])
        self.shifts = ln.nn.ParameterDict({"a": ln.zeros(4)})

    def forward(self, x):
        return self.layers["b"](self.layers["a"](x)) * self.scales[0] + self.scales[1] + self.shifts["a"]


class WithLosses(ln.nn.Module):
    """A linear layer and all losses, with weights where they have some."""

    def __init__(self):
        super().__init__()
        self.linear, weight = ln.nn.Linear(4, 3), ln.asarray([1.0, 2.0, 0.5])
        self.regressions = ln.nn.ModuleList(
            [ln.nn.MSELoss(), ln.nn.L1Loss(), ln.nn.HuberLoss(delta=0.5), ln.nn.SmoothL1Loss(), ln.nn.KLDivLoss()]
        )
        self.shares = ln.nn.ModuleList([ln.nn.BCEWithLogitsLoss(pos_weight=weight), ln.nn.CosineSimilarity()])
        self.labels = ln.nn.ModuleList(
            [ln.nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1), ln.nn.NLLLoss(weight)]
        )
        self.of_probabilities = ln.nn.BCELoss()
        self.pairs = ln.nn.ModuleList([ln.nn.CosineEmbeddingLoss(margin=0.1), ln.nn.MarginRankingLoss(0.3)])

    def forward(self, x, target, labels):
        out = self.linear(x)
        found = [loss(out, target) for loss in (*self.regressions, *self.shares)]
        found += [loss(out, labels) for loss in self.labels]
        found += [self.of_probabilities(ln.nn.sigmoid(out), target)]
        found += [loss(out, out * 2 - 1, target[:, 0] * 0 + 1) for loss in self.pairs[:1]]
        found += [self.pairs[1](out[:, 0], out[:, 1], target[:, 0] * 0 - 1)]
        return ln.stack([one.mean() for one in found])


class MoreLosses(ln.nn.Module):
    """A linear layer and the losses of other inputs."""

    def __init__(self):
        super().__init__()
        self.linear = ln.nn.Linear(4, 3)
        self.signs = ln.nn.ModuleList([ln.nn.HingeEmbeddingLoss(), ln.nn.SoftMarginLoss()])
        self.counts = ln.nn.ModuleList([ln.nn.PoissonNLLLoss(full=True), ln.nn.PairwiseDistance()])
        self.labels = ln.nn.ModuleList([ln.nn.MultiMarginLoss()])
        self.several = ln.nn.ModuleList([ln.nn.MultiLabelMarginLoss()])
        self.triplets = ln.nn.ModuleList([ln.nn.TripletMarginLoss(swap=True), ln.nn.TripletMarginWithDistanceLoss()])
        self.normal, self.shares = ln.nn.GaussianNLLLoss(), ln.nn.MultiLabelSoftMarginLoss()
        self.alignments = ln.nn.CTCLoss()

    def forward(self, x, target, labels):
        out = self.linear(x)
        found = [loss(out, ln.where(target > 0.5, 1, -1)) for loss in self.signs]
        found += [loss(out, target * 3) for loss in self.counts] + [loss(out, labels) for loss in self.labels]
        several = ln.stack([labels, labels * 0 - 1, labels], axis=1)
        found += [loss(out, several) for loss in self.several]
        found += [loss(out, out * 2, target) for loss in self.triplets]
        found += [self.normal(out, target, ln.exp(out)), self.shares(out, target)]
        scores = ln.nn.log_softmax(out)[:, None]
        found += [self.alignments(scores, np.array([[1, 2]]), [5], [2])]
        return ln.stack([one.mean() for one in found])


class Unpooled(ln.nn.Module):
    """Pooling and its inverse in one to three dimensions."""

    def __init__(self):
        super().__init__()
        self.linear = ln.nn.Linear(4, 4)
        kinds = (ln.nn.MaxPool1d, ln.nn.MaxPool2d, ln.nn.MaxPool3d)
        self.pools = ln.nn.ModuleList([kind(2, return_indices=True) for kind in kinds])
        self.inverses = ln.nn.ModuleList([ln.nn.MaxUnpool1d(2), ln.nn.MaxUnpool2d(2), ln.nn.MaxUnpool3d(2)])

    def forward(self, x):
        x = self.linear(x)
        for pool, inverse in zip(self.pools, self.inverses, strict=True):
            x = x + inverse(*pool(x))
        return x


class Several(ln.nn.Module):
    """Layers of several inputs."""

    def __init__(self):
        super().__init__()
        self.bag, self.bilinear = ln.nn.EmbeddingBag(5, 4, mode="mean"), ln.nn.Bilinear(4, 8, 3)
        self.model = ln.nn.Transformer(8, 2, 1, 1, 12, dropout=0.1)

    def forward(self, indices, source, target):
        return self.bilinear(self.bag(indices), self.model(source, target)[0])


def sequential(*layers):
    return lambda: ln.nn.Sequential(*[layer() if isinstance(layer, type) else layer for layer in layers])


ACTIVATIONS = (
    "ReLU",
    "ReLU6",
    "GELU",
    "SiLU",
    "ELU",
    "LeakyReLU",
    "Hardtanh",
    "Sigmoid",
    "Tanh",
    "Softmax",
    "LogSoftmax",
    "Softmin",
    "CELU",
    "GLU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "SELU",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanhshrink",
)
MODULES = {
    "Linear": (lambda: ln.nn.Linear(4, 3), lambda: [normal(5, 4)]),
    "Linear without bias": (lambda: ln.nn.Linear(4, 3, bias=False), lambda: [normal(2, 5, 4)]),
    "Conv2d": (lambda: ln.nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), lambda: [normal(2, 2, 7, 6)]),
    "Conv2d same": (lambda: ln.nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2), lambda: [normal(2, 2, 6, 6)]),
    "pooling": (
        lambda: ln.nn.Sequential(
            ln.nn.Conv2d(1, 3, 3), ln.nn.ReLU(), ln.nn.MaxPool2d(2), ln.nn.AvgPool2d(3, 2, 1), ln.nn.Flatten()
        ),
        lambda: [normal(2, 1, 12, 10)],
    ),
    "Dropout": (lambda: ln.nn.Sequential(ln.nn.Linear(4, 8), ln.nn.Dropout(0.3)), lambda: [normal(5, 4)]),
    "LayerNorm": (lambda: ln.nn.LayerNorm((3, 4)), lambda: [normal(2, 3, 4)]),
    "BatchNorm1d by each batch": (
        lambda: ln.nn.Sequential(ln.nn.Linear(4, 3), ln.nn.BatchNorm1d(3, track_running_stats=False)),
        lambda: [normal(5, 4)],
    ),
    "BatchNorm2d by fixed statistics": (
        lambda: ln.nn.Sequential(ln.nn.Conv2d(1, 3, 3), ln.nn.BatchNorm2d(3)).eval(),
        lambda: [normal(2, 1, 6, 5)],
    ),
    "Embedding": (lambda: ln.nn.Embedding(5, 3), lambda: [whole(2, 4)]),
    "LSTM": (lambda: Sequences(), lambda: [whole(3, 2)]),
    "LSTM in two layers and directions": (
        lambda: Sequences(num_layers=2, bidirectional=True, batch_first=True, dropout=0.2, bias=False),
        lambda: [whole(3, 2)],
    ),
    "MultiheadAttention": (
        Attention,
        lambda: [normal(2, 3, 8), normal(2, 4, 6), normal(2, 4, 4), ln.asarray([[False, True, False, False]] * 2)],
    ),
    "transformer": (Translator, lambda: [normal(3, 2, 8), normal(4, 2, 8)]),
    "Threshold": (lambda: ln.nn.Sequential(ln.nn.Linear(4, 4), ln.nn.Threshold(0.1, 2.0)), lambda: [normal(5, 4)]),
    "ModuleList": (lambda: Layers(), lambda: [normal(5, 4)]),
    "collections": (Collected, lambda: [normal(5, 4)]),
    "losses": (WithLosses, lambda: [normal(5, 4), ln.abs(ln.tanh(normal(5, 3))), ln.asarray([0, 2, 1, 1, 0])]),
    "GRU and RNN": (Recurrent, lambda: [normal(4, 2, 4)]),
    "signals": (
        lambda: ln.nn.Sequential(
            *(ln.nn.Conv1d(2, 4, 3, stride=2, padding=1), ln.nn.GroupNorm(2, 4), ln.nn.MaxPool1d(3, 2, ceil_mode=True)),
            *(ln.nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1), ln.nn.AvgPool1d(2, ceil_mode=True)),
            *(
                ln.nn.InstanceNorm1d(2),
                ln.nn.Dropout1d(0.2),
                ln.nn.AdaptiveMaxPool1d(5),
                ln.nn.AdaptiveAvgPool1d(4),
                ln.nn.RMSNorm(4),
            ),
        ),
        lambda: [normal(2, 2, 19)],
    ),
    "images": (
        lambda: ln.nn.Sequential(
            *(ln.nn.ReflectionPad2d(1), ln.nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")),
            *(
                ln.nn.InstanceNorm2d(4, affine=True),
                ln.nn.ConvTranspose2d(4, 8, 2, stride=2),
                ln.nn.ReplicationPad2d(1),
            ),
            *(ln.nn.PixelShuffle(2), ln.nn.ZeroPad2d((1, 0, 0, 1)), ln.nn.Upsample(scale_factor=0.7, mode="bilinear")),
            *(ln.nn.AdaptiveAvgPool2d((7, 5)), ln.nn.AdaptiveMaxPool2d(3), ln.nn.Upsample(scale_factor=2)),
            *(ln.nn.Dropout2d(0.3), ln.nn.Flatten(), ln.nn.Unflatten(1, (2, -1))),
        ),
        lambda: [normal(2, 2, 6, 5)],
    ),
}
MODULES |= {
    "volumes": (
        lambda: ln.nn.Sequential(
            *(ln.nn.Conv3d(2, 4, 2), ln.nn.BatchNorm3d(4, track_running_stats=False)),
            *(ln.nn.InstanceNorm3d(4, affine=True), ln.nn.MaxPool3d(2, 1), ln.nn.AvgPool3d(2, 1)),
            *(ln.nn.ConvTranspose3d(4, 2, 2), ln.nn.AdaptiveAvgPool3d((3, 2, 3)), ln.nn.AdaptiveMaxPool3d((2, 2, 2))),
            *(ln.nn.Dropout3d(0.2), ln.nn.ZeroPad3d(1), ln.nn.ReflectionPad3d(1), ln.nn.ReplicationPad3d((1, 0) * 3)),
            *(ln.nn.CircularPad3d((0, 1) * 3), ln.nn.ConstantPad3d((0, 0, 1, 0, 0, 0), 0.5)),
        ),
        lambda: [normal(2, 2, 4, 5, 4)],
    ),
    "padded signals": (
        lambda: ln.nn.Sequential(
            *(ln.nn.Conv1d(2, 4, 3), ln.nn.ZeroPad1d(1), ln.nn.ReflectionPad1d(2), ln.nn.ReplicationPad1d((1, 0))),
            *(ln.nn.CircularPad1d(1), ln.nn.ConstantPad1d(1, 0.5), ln.nn.LPPool1d(2, 3, stride=2)),
        ),
        lambda: [normal(2, 2, 7)],
    ),
    "rearranged images": (
        lambda: ln.nn.Sequential(
            *(ln.nn.Conv2d(2, 4, 3), ln.nn.LocalResponseNorm(3, 0.5), ln.nn.ChannelShuffle(2), ln.nn.RReLU().eval()),
            *(ln.nn.CircularPad2d(1), ln.nn.ConstantPad2d((0, 2, 0, 2), 0.5), ln.nn.LPPool2d(2, 2, 1)),
            *(ln.nn.PixelUnshuffle(2), ln.nn.UpsamplingNearest2d(scale_factor=2), ln.nn.UpsamplingBilinear2d((4, 4))),
            *(ln.nn.Unfold(2), ln.nn.Fold((4, 4), 2), ln.nn.Softmax2d(), ln.nn.AlphaDropout(0.1).eval()),
        ),
        lambda: [normal(2, 2, 7, 7)],
    ),
    "more losses": (MoreLosses, lambda: [normal(5, 4), ln.abs(ln.tanh(normal(5, 3))), ln.asarray([0, 2, 1, 1, 0])]),
    "unpooling": (Unpooled, lambda: [normal(1, 2, 4, 4, 4)]),
    "several inputs": (Several, lambda: [whole(2, 3), normal(3, 2, 8), normal(4, 2, 8)]),
}
for name in ACTIVATIONS:
    MODULES[name] = (
        lambda name=name: ln.nn.Sequential(ln.nn.Linear(4, 4), getattr(ln.nn, name)(*([-1] if "oftm" in name else []))),
        lambda: [normal(5, 4)],
    )


class Layers(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = ln.nn.ModuleList([ln.nn.Linear(4, 4) for _ in range(2)])

    def forward(self, x):
        for layer in self.layers:
            x = ln.tanh(layer(x)) + self.layers[0](x)
        return x


def pair(make):
    """Return two models with the same parameters."""
    ln.manual_seed(3)
    first, second = make(), make()
    second.load_state_dict(first.state_dict())
    return first, second


def run_both(make, inputs, loss, optimizers, steps=4):
    """Train eagerly and compiled; compare losses and, at the end, all parameters."""
    models, losses = pair(make), []
    for model, optimizer, compiled in zip(models, optimizers, (False, True), strict=True):

        def step(*given, model=model, optimizer=optimizer):
            value = loss(model(*given))
            optimizer(value.backward())
            return value

        run = ln.jit(step) if compiled else step
        ln.manual_seed(7)
        losses.append([run(*inputs).item() for _ in range(steps)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=3e-5, atol=1e-6)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), rtol=3e-4, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_trains_as_eagerly(name):
    make, draw = MODULES[name]
    run_both(make, draw(), lambda out: ln.mean(out * out), [ln.optim.SGD(lr=0.1, momentum=0.9) for _ in range(2)])


def test_every_module_is_trained_above():
    covered = set()
    for make, _ in MODULES.values():
        covered |= {type(part).__name__ for part in make().modules()}
    public = {
        n for n in ln.nn.__all__ if isinstance(getattr(ln.nn, n), type) and issubclass(getattr(ln.nn, n), ln.nn.Module)
    }
    lazy = {name for name in public if name.startswith("Lazy")}  # which the first call makes one of the others
    assert public - covered - lazy - {"Module"} == set()


LOSSES = {
    "mse": (lambda out: ln.loss.mse(out, ln.ones((5, 3)))),
    "mae": (lambda out: ln.loss.mae(out, ln.ones((5, 3)))),
    "cross entropy": (lambda out: ln.loss.cross_entropy(out, ln.asarray([0, 2, 1, 1, 0]))),
    "cross entropy of shares": (lambda out: ln.loss.cross_entropy(out, ln.full((5, 3), 1 / 3))),
    "binary": (lambda out: ln.loss.binary_cross_entropy(out, ln.asarray([[1, 0, 1]] * 5))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_trains_as_eagerly(name):
    run_both(lambda: ln.nn.Linear(4, 3), [normal(5, 4)], LOSSES[name], [ln.optim.Adam(lr=0.01), ln.optim.Adam(lr=0.01)])


OPTIMIZERS = {
    "SGD": lambda: ln.optim.SGD(lr=0.1),
    "momentum": lambda: ln.optim.SGD(lr=0.1, momentum=0.9),
    "Adam": lambda: ln.optim.Adam(lr=0.01),
    "AdamW": lambda: ln.optim.AdamW(lr=0.01, weight_decay=0.1),
    "RMSprop": lambda: ln.optim.RMSprop(lr=0.01, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_changes_what_it_changes_eagerly(name):
    make = OPTIMIZERS[name]
    run_both(lambda: ln.nn.Linear(4, 3), [normal(5, 4)], lambda out: ln.mean(out**2), [make(), make()], steps=8)


def test_indices_out_of_range_are_refused_before_anything_changes():
    model = ln.nn.Embedding(4, 2)

    def train(x):
        loss = ln.sum(model(x))
        optimizer(loss.backward())
        return loss

    optimizer, before = ln.optim.SGD(), model.weight.tolist()
    step = ln.jit(train)
    with pytest.raises(IndexError, match=r"embedding: indices must lie in \[0, 4\)"):
        step(ln.asarray([1, 4]))
    assert model.weight.tolist() == before

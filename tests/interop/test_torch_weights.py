"""Layers and weights go from labnet to torch and back, and through files that others have written."""

import inspect
from functools import partial

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from tests.helpers.libraries import torch_or_skip
from tests.helpers.network.client_calls import blocking

torch = torch_or_skip()
to_torch, from_torch = ln.interop.torch.to_torch, ln.interop.torch.from_torch
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype("float32")


def called(layer, *inputs):
    """Call a lazy layer once, so that it has parameters."""
    layer(*map(ln.asarray, inputs))
    return layer


ROWS, IMAGES, SIGNALS, VOLUMES = normal(3, 4), normal(2, 4, 9, 9), normal(2, 4, 9), normal(2, 4, 5, 5, 5)
BY_DIMENSIONS = {1: SIGNALS, 2: IMAGES, 3: VOLUMES}
PADDINGS = ("CircularPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "ZeroPad")
LOG_PROBABILITIES = np.log(rng.dirichlet(np.ones(4), (6, 2))).astype("float32")
SEQUENCE, MEMORY, TOKENS = normal(5, 2, 8), normal(4, 2, 8), np.array([[1, 2], [0, 4]])
TARGETS, SIGNS = np.array([0, 1, 3]), np.float32([1, -1, 1])
ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign"),
    *("Tanh", "Tanhshrink", "Dropout", "AlphaDropout", "RReLU"),
)
#: Makes a layer, and its inputs.
CASES = {
    **{name: (getattr(nn, name), ROWS) for name in ACTIVATIONS},
    "GELU tanh": (lambda: nn.GELU(approximate="tanh"), ROWS),
    "LeakyReLU 0.3": (lambda: nn.LeakyReLU(0.3), ROWS),
    "PReLU 4": (lambda: nn.PReLU(4, init=0.1), ROWS),
    "Softmax": (lambda: nn.Softmax(0), ROWS),
    "Softmin": (lambda: nn.Softmin(-1), ROWS),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), ROWS),
    "Threshold": (lambda: nn.Threshold(0.1, 0.2), ROWS),
    "Linear": (lambda: nn.Linear(4, 2), ROWS),
    "Linear without bias": (lambda: nn.Linear(4, 2, bias=False), ROWS),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 2), (ROWS, ROWS + 1)),
    "Bilinear without bias": (lambda: nn.Bilinear(4, 4, 2, bias=False), (ROWS, ROWS + 1)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), TOKENS),
    "EmbeddingBag of sums": (
        lambda: nn.EmbeddingBag(5, 3, mode="sum", include_last_offset=True, padding_idx=2),
        (TOKENS.reshape(-1), np.array([0, 3, 4])),
    ),
    "Embedding": (lambda: nn.Embedding(5, 3), TOKENS),
    "Flatten": (nn.Flatten, IMAGES),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), ROWS),
    "Dropout1d": (nn.Dropout1d, SIGNALS),
    "Dropout2d": (nn.Dropout2d, IMAGES),
    "Dropout3d": (nn.Dropout3d, VOLUMES),
    "Softmax2d": (nn.Softmax2d, IMAGES),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4, eps=1e-3, momentum=0.3), ROWS),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4, affine=False), IMAGES),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(4, track_running_stats=False), VOLUMES),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, alpha=0.1, beta=0.5, k=2.0), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "GroupNorm bare": (lambda: nn.GroupNorm(2, 4, affine=False), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), SIGNALS),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4), IMAGES),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4, affine=True), VOLUMES),
    "LayerNorm": (lambda: nn.LayerNorm((9, 9)), IMAGES),
    "LayerNorm bare": (lambda: nn.LayerNorm(9, elementwise_affine=False), IMAGES),
    "LayerNorm without bias": (lambda: nn.LayerNorm(9, bias=False), IMAGES),
    "RMSNorm": (lambda: nn.RMSNorm(9), IMAGES),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), SIGNALS),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), padding=1, dilation=2, groups=2, bias=False), IMAGES),
    "Conv3d": (lambda: nn.Conv3d(4, 6, (3, 2, 1), stride=2, padding=(1, 0, 2)), VOLUMES),
    "Conv3d same": (lambda: nn.Conv3d(4, 2, 3, padding="same"), VOLUMES),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 2, 3, stride=2, output_padding=(1, 0, 1), groups=2), VOLUMES),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1), SIGNALS),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 2, 3, padding=1), IMAGES),
    "AvgPool1d": (lambda: nn.AvgPool1d(2, padding=1), SIGNALS),
    "AvgPool2d": (lambda: nn.AvgPool2d((2, 3), stride=2, count_include_pad=False), IMAGES),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, stride=1), SIGNALS),
    "MaxPool2d": (lambda: nn.MaxPool2d(2, ceil_mode=True), IMAGES),
    "AvgPool3d": (lambda: nn.AvgPool3d((2, 3, 2), divisor_override=5), VOLUMES),
    "MaxPool3d": (lambda: nn.MaxPool3d(3, stride=1, padding=1, dilation=2), VOLUMES),
    "MaxPool3d with indices": (lambda: nn.MaxPool3d(2, return_indices=True), VOLUMES),
    "LPPool1d": (lambda: nn.LPPool1d(2, 3, stride=2), np.abs(SIGNALS)),
    "LPPool2d": (lambda: nn.LPPool2d(1.5, (3, 2), ceil_mode=True), np.abs(IMAGES)),
    **{
        f"MaxUnpool{n}d": (
            partial(getattr(nn, f"MaxUnpool{n}d"), 2),
            tuple(
                one.numpy()
                for one in getattr(nn, f"MaxPool{n}d")(2, return_indices=True)(ln.asarray(x[(..., *(slice(4),) * n)]))
            ),
        )
        for n, x in BY_DIMENSIONS.items()
    },
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d((2, None, 3)), VOLUMES),
    "AdaptiveMaxPool3d": (lambda: nn.AdaptiveMaxPool3d(2), VOLUMES),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), SIGNALS),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), IMAGES),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(3), SIGNALS),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), IMAGES),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGES),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(3), IMAGES),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGES),
    "Unfold": (lambda: nn.Unfold((3, 2), dilation=2, padding=(1, 0), stride=2), IMAGES),
    "Fold": (lambda: nn.Fold((4, 5), 2, padding=(1, 0)), normal(2, 8, 20)),
    **{
        f"{kind}{n}d": (
            partial(getattr(nn, f"{kind}{n}d"), (1, 2, 0, 3, 2, 1)[: 2 * n], *(5.0,) * (kind == "ConstantPad")),
            x,
        )
        for kind in PADDINGS
        for n, x in BY_DIMENSIONS.items()
    },
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=(2, 3)), IMAGES),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(size=(7, 12)), IMAGES),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGES),
    "RNN": (lambda: nn.RNN(8, 3, nonlinearity="relu", bidirectional=True), SEQUENCE),
    "LSTM": (lambda: nn.LSTM(8, 3, num_layers=2, batch_first=True), SEQUENCE),
    "GRU": (lambda: nn.GRU(8, 3, bias=False), SEQUENCE),
    "RNNCell": (lambda: nn.RNNCell(4, 3), ROWS),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3, bias=False), ROWS),
    "GRUCell": (lambda: nn.GRUCell(4, 3), ROWS),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2, bias=False), (SEQUENCE, MEMORY, MEMORY)),
    "PositionalEncoding": (lambda: nn.PositionalEncoding(8, max_len=7), SEQUENCE),
    "PositionalEncoding of batches": (lambda: nn.PositionalEncoding(8, max_len=7, batch_first=True), SEQUENCE),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu"), SEQUENCE),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, norm_first=True), 2, nn.LayerNorm(8)),
        SEQUENCE,
    ),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(8, 2, 16), (SEQUENCE, MEMORY)),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2), (SEQUENCE, MEMORY)),
    "Transformer": (lambda: nn.Transformer(8, 2, 2, 1, 16, activation="gelu", norm_first=True), (SEQUENCE, MEMORY)),
    "Transformer of an encoder": (
        lambda: nn.Transformer(
            8,
            2,
            custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 1, 4, activation=nn.PReLU()), 1),
            num_decoder_layers=1,
            bias=False,
        ),
        (SEQUENCE, MEMORY),
    ),
    "LazyLinear": (lambda: called(nn.LazyLinear(2, bias=False), ROWS), ROWS),
    **{
        f"Lazy{kind}{n}d": (lambda kind=kind, n=n, x=x, more=more: called(getattr(nn, f"Lazy{kind}{n}d")(*more), x), x)
        for kind, more in {"Conv": (6, 3, 2), "ConvTranspose": (6, 3, 2), "BatchNorm": ()}.items()
        for n, x in BY_DIMENSIONS.items()
    },
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 3), ln.tanh, nn.Sequential(nn.Linear(3, 2), ln.exp)), ROWS),
    "Sequential of functions": (lambda: nn.Sequential(nn.softmax, nn.log_softmax, ln.std), ROWS),
    "Sequential by name": (lambda: nn.Sequential({"first": nn.Linear(4, 3), "last": nn.Tanh()}), ROWS),
    "BCELoss": (nn.BCELoss, (np.abs(np.tanh(ROWS)), (ROWS > 0).astype("float32"))),
    "BCEWithLogitsLoss": (lambda: nn.BCEWithLogitsLoss(reduction="sum"), (ROWS, (ROWS > 0).astype("float32"))),
    "CosineEmbeddingLoss": (lambda: nn.CosineEmbeddingLoss(margin=0.1), (ROWS, ROWS + 1, SIGNS)),
    "CosineSimilarity": (nn.CosineSimilarity, (ROWS, ROWS + 1)),
    "CrossEntropyLoss": (
        lambda: nn.CrossEntropyLoss(ln.asarray([1.0, 2.0, 3.0, 4.0]), label_smoothing=0.1),
        (ROWS, TARGETS),
    ),
    "HuberLoss": (lambda: nn.HuberLoss(delta=0.5), (ROWS, ROWS * 2)),
    "KLDivLoss": (lambda: nn.KLDivLoss(reduction="batchmean"), (ROWS, np.abs(ROWS))),
    "L1Loss": (nn.L1Loss, (ROWS, ROWS * 2)),
    "MSELoss": (nn.MSELoss, (ROWS, ROWS * 2)),
    "MarginRankingLoss": (nn.MarginRankingLoss, (ROWS[:, 0], ROWS[:, 1], SIGNS)),
    "NLLLoss": (nn.NLLLoss, (ROWS, TARGETS)),
    "SmoothL1Loss": (lambda: nn.SmoothL1Loss(beta=0.3), (ROWS, ROWS * 2)),
    "CTCLoss": (
        lambda: nn.CTCLoss(blank=3, zero_infinity=True),
        (LOG_PROBABILITIES, np.array([[0, 1], [2, 2]]), np.array([6, 5]), np.array([2, 2])),
    ),
    "GaussianNLLLoss": (lambda: nn.GaussianNLLLoss(full=True), (ROWS, ROWS * 2, np.abs(ROWS))),
    "HingeEmbeddingLoss": (lambda: nn.HingeEmbeddingLoss(margin=2.0), (ROWS[:, 0], SIGNS)),
    "MultiLabelMarginLoss": (nn.MultiLabelMarginLoss, (ROWS, np.array([[0, 2, -1, 1]] * 3))),
    "MultiLabelSoftMarginLoss": (
        lambda: nn.MultiLabelSoftMarginLoss(ln.asarray([1.0, 2.0, 3.0, 4.0])),
        (ROWS, (ROWS > 0).astype("float32")),
    ),
    "MultiMarginLoss": (
        lambda: nn.MultiMarginLoss(2, 0.5, ln.asarray([1.0, 2.0, 3.0, 4.0]), reduction="none"),
        (ROWS, TARGETS),
    ),
    "PairwiseDistance": (lambda: nn.PairwiseDistance(3.0, keepdim=True), (ROWS, ROWS + 1)),
    "PoissonNLLLoss": (lambda: nn.PoissonNLLLoss(log_input=False, full=True), (np.abs(ROWS), np.abs(ROWS * 3))),
    "SoftMarginLoss": (nn.SoftMarginLoss, (ROWS, np.sign(ROWS))),
    "TripletMarginLoss": (lambda: nn.TripletMarginLoss(p=1.0, swap=True), (ROWS, ROWS * 2, ROWS + 1)),
    "TripletMarginWithDistanceLoss": (
        lambda: nn.TripletMarginWithDistanceLoss(margin=0.5, swap=True),
        (ROWS, ROWS * 2, ROWS + 1),
    ),
    "TripletMarginWithDistanceLoss of a layer": (
        lambda: nn.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(1.0), reduction="sum"),
        (ROWS, ROWS * 2, ROWS + 1),
    ),
}
#: Containers whose parts are called by the module around them.
CONTAINERS = {
    "ModuleList": lambda: nn.ModuleList([nn.Linear(2, 3), nn.ReLU()]),
    "ModuleDict": lambda: nn.ModuleDict({"a": nn.Linear(2, 3)}),
    "ParameterList": lambda: nn.ParameterList([ln.ones(2), ln.ones(3)]),
    "ParameterDict": lambda: nn.ParameterDict({"a": ln.ones(2)}),
}


def first(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


def test_every_layer_of_labnet_is_among_the_cases():
    layers = {name for name in nn.__all__ if inspect.isclass(kind := getattr(nn, name)) and issubclass(kind, nn.Module)}
    assert layers - {"Module"} <= {name.partition(" ")[0] for name in CASES} | CONTAINERS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_the_same_in_torch_and_back(name):
    make, inputs = CASES[name]
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    layer = make().eval()
    theirs = to_torch(layer)
    back = from_torch(theirs)
    wanted = first(layer(*map(ln.asarray, inputs))).numpy()
    found = first(theirs(*map(torch.tensor, inputs))).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first(back(*map(ln.asarray, inputs))).numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert not theirs.training
    assert not back.training


def test_a_lazy_layer_of_torch_is_converted_as_the_layer_it_became():
    theirs = torch.nn.Sequential(torch.nn.LazyConv2d(3, 2), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    wanted = theirs(torch.tensor(IMAGES)).detach().numpy()
    np.testing.assert_allclose(from_torch(theirs)(ln.asarray(IMAGES)).numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_keeps_its_parts_and_their_names(name):
    container = CONTAINERS[name]()
    theirs = to_torch(container)
    assert type(theirs).__name__ == name
    wanted = {key: tensor.numpy() for key, tensor in container.state_dict().items()}
    for state in (theirs.state_dict(), from_torch(theirs).state_dict()):
        assert state.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_array_equal(state[key].detach().numpy(), value)


def test_the_copies_share_no_memory_and_keep_their_dtype():
    layer = nn.Linear(4, 2).double()
    theirs = to_torch(layer)
    assert theirs.weight.dtype == torch.float64
    with torch.no_grad():
        theirs.weight.zero_()
    assert ln.any(layer.weight != 0)
    assert from_torch(theirs).weight.dtype == ln.float64


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


def relu(x):
    """The user's own function of a known name."""
    return x


class Theirs(torch.nn.Linear):
    pass


@pytest.mark.parametrize(
    ("convert", "model", "told"),
    [
        (to_torch, Own(), "Own is no layer of both libraries"),
        (to_torch, nn.Sequential(nn.ReLU(), Own()), "Own is no layer of both libraries"),
        (to_torch, nn.Sequential(lambda x: x), "<lambda> is no function of both libraries"),
        (to_torch, torch.nn.ReLU(), "expected a module of labnet"),
        (from_torch, Theirs(2, 2), "Theirs is no layer of both libraries"),
        (from_torch, torch.nn.CrossMapLRN2d(2), "CrossMapLRN2d is no layer of both libraries"),
        (to_torch, nn.Sequential(nn.LazyLinear(2)), "LazyLinear has no parameters before its first call"),
        (from_torch, torch.nn.LazyConv3d(2, 3), "LazyConv3d has no parameters before its first call"),
        (from_torch, torch.nn.LazyInstanceNorm1d(), "LazyInstanceNorm1d has no parameters before its first call"),
        (to_torch, nn.TransformerEncoderLayer(8, 2, activation=relu), "no function of both libraries"),
        (from_torch, torch.nn.TransformerEncoderLayer(8, 2, activation=relu), "no function of both libraries"),
        (to_torch, nn.Sequential(relu), "no function of both libraries"),
        (from_torch, torch.nn.EmbeddingBag(5, 3, max_norm=1.0), "max_norm=1.0"),
        (from_torch, torch.nn.Embedding(5, 3, scale_grad_by_freq=True), "scale_grad_by_freq=True"),
        (from_torch, torch.nn.GroupNorm(2, 4, bias=False), "bias=False"),
        (from_torch, torch.nn.MultiheadAttention(4, 2, add_bias_kv=True), "add_bias_kv=True"),
        (from_torch, nn.ReLU(), r"expected a torch\.nn\.Module"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_what_the_other_library_lacks_is_named(convert, model, told):
    with pytest.raises(TypeError, match=told):
        convert(model)


class Block:
    """A block of GPT-2, for both libraries."""

    def __init__(self, library, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = library.LayerNorm(width), library.LayerNorm(width)
        self.attn = library.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = library.Sequential(
            library.Linear(width, 4 * width), library.GELU(), library.Linear(4 * width, width)
        )

    def forward(self, x, mask):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class GPT:
    """GPT-2 as published (Radford et al., 2019): token and position embeddings, blocks with the norm first, a norm."""

    VOCABULARY, LENGTH, WIDTH, HEADS, DEPTH = 50, 12, 32, 4, 3

    def __init__(self, library, block):
        super().__init__()
        self.wte = library.Embedding(self.VOCABULARY, self.WIDTH)
        self.wpe = library.Embedding(self.LENGTH, self.WIDTH)
        self.h = library.ModuleList([block(library, self.WIDTH, self.HEADS) for _ in range(self.DEPTH)])
        self.ln_f = library.LayerNorm(self.WIDTH)
        self.lm_head = library.Linear(self.WIDTH, self.VOCABULARY, bias=False)

    def positions(self, length):
        raise NotImplementedError

    def forward(self, tokens):
        mask, positions = self.positions(tokens.shape[1])
        x = self.wte(tokens) + self.wpe(positions)
        for block in self.h:
            x = block(x, mask)
        return self.lm_head(self.ln_f(x))


class TorchBlock(Block, torch.nn.Module):
    pass


class LabnetBlock(Block, nn.Module):
    pass


class TorchGPT(GPT, torch.nn.Module):
    def __init__(self):
        super().__init__(torch.nn, TorchBlock)

    def positions(self, length):
        return torch.triu(torch.ones(length, length), 1).bool(), torch.arange(length)


class LabnetGPT(GPT, nn.Module):
    def __init__(self):
        super().__init__(nn, LabnetBlock)

    def positions(self, length):
        return ln.triu(ln.ones((length, length)), 1).astype("bool"), ln.arange(length)


def test_a_gpt_of_torch_is_served_and_trained_by_labnet_and_returns_to_torch(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors: pip install safetensors")
    torch.manual_seed(0)
    theirs, file = TorchGPT(), tmp_path / "gpt.safetensors"
    safetensors.save_file(theirs.state_dict(), file)
    ours = LabnetGPT()
    ours.load_state_dict(ln.io.load(file))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1)
    losses = []
    with ln.network.serve_model(ours, ln.optim.AdamW(lr=1e-3, weight_decay=0.1), port=0) as server:
        remote = blocking(server)
        for _ in range(4):
            tokens = rng.integers(0, GPT.VOCABULARY, (3, GPT.LENGTH + 1))
            logits = remote(ln.asarray(tokens[:, :-1]))
            loss = ln.loss.cross_entropy(logits.reshape((-1, GPT.VOCABULARY)), ln.asarray(tokens[:, 1:].reshape(-1)))
            loss.backward()
            optimizer.zero_grad()
            wanted = torch.nn.functional.cross_entropy(
                theirs(torch.tensor(tokens[:, :-1])).reshape(-1, GPT.VOCABULARY),
                torch.tensor(tokens[:, 1:].reshape(-1)),
            )
            wanted.backward()
            optimizer.step()
            losses.append((loss.item(), wanted.item()))
    assert [one for one, _ in losses] == pytest.approx([other for _, other in losses], rel=1e-5)
    returned = TorchGPT()
    returned.load_state_dict(ln.interop.torch.state_dict(ours))
    tokens = torch.tensor(rng.integers(0, GPT.VOCABULARY, (2, GPT.LENGTH)))
    torch.testing.assert_close(returned(tokens), theirs(tokens), rtol=1e-3, atol=1e-3)


def test_the_same_gpt_is_served_as_a_module_of_torch():
    torch.manual_seed(0)
    served, here = TorchGPT(), TorchGPT()
    here.load_state_dict(served.state_dict())
    tokens = torch.tensor(rng.integers(0, GPT.VOCABULARY, (2, GPT.LENGTH)))
    with ln.network.serve_model(served, torch.optim.SGD(served.parameters(), lr=0.1), port=0) as server:
        ln.interop.torch.remote_module(server.url)(tokens).square().mean().backward()
    here(tokens).square().mean().backward()
    torch.optim.SGD(here.parameters(), lr=0.1).step()
    torch.testing.assert_close(served.state_dict(), here.state_dict())

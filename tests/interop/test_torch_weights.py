"""Layers and weights go from labnet to torch and back, and through files that others have written."""

import inspect

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


ROWS, IMAGES, SIGNALS = normal(3, 4), normal(2, 4, 9, 9), normal(2, 4, 9)
SEQUENCE, MEMORY, TOKENS = normal(5, 2, 8), normal(4, 2, 8), np.array([[1, 2], [0, 4]])
TARGETS, SIGNS = np.array([0, 1, 3]), np.float32([1, -1, 1])
ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign"),
    *("Tanh", "Tanhshrink", "Dropout"),
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
    "Embedding": (lambda: nn.Embedding(5, 3), TOKENS),
    "Flatten": (nn.Flatten, IMAGES),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), ROWS),
    "Dropout1d": (nn.Dropout1d, SIGNALS),
    "Dropout2d": (nn.Dropout2d, IMAGES),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4, eps=1e-3, momentum=0.3), ROWS),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4, affine=False), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "GroupNorm bare": (lambda: nn.GroupNorm(2, 4, affine=False), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), SIGNALS),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm((9, 9)), IMAGES),
    "LayerNorm bare": (lambda: nn.LayerNorm(9, elementwise_affine=False), IMAGES),
    "LayerNorm without bias": (lambda: nn.LayerNorm(9, bias=False), IMAGES),
    "RMSNorm": (lambda: nn.RMSNorm(9), IMAGES),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), SIGNALS),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), padding=1, dilation=2, groups=2, bias=False), IMAGES),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1), SIGNALS),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 2, 3, padding=1), IMAGES),
    "AvgPool1d": (lambda: nn.AvgPool1d(2, padding=1), SIGNALS),
    "AvgPool2d": (lambda: nn.AvgPool2d((2, 3), stride=2, count_include_pad=False), IMAGES),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, stride=1), SIGNALS),
    "MaxPool2d": (lambda: nn.MaxPool2d(2, ceil_mode=True), IMAGES),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), SIGNALS),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), IMAGES),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(3), SIGNALS),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), IMAGES),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGES),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(2), IMAGES),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d((1, 2, 0, 3)), IMAGES),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), IMAGES),
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
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 3), ln.tanh, nn.Sequential(nn.Linear(3, 2), ln.exp)), ROWS),
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


class Theirs(torch.nn.Linear):
    pass


@pytest.mark.parametrize(
    ("convert", "model", "told"),
    [
        (to_torch, Own(), "Own is no layer of both libraries"),
        (to_torch, nn.Sequential(nn.ReLU(), Own()), "Own is no layer of both libraries"),
        (to_torch, nn.Sequential(lambda x: x), "torch has no function of the name '<lambda>'"),
        (to_torch, torch.nn.ReLU(), "expected a module of labnet"),
        (from_torch, Theirs(2, 2), "Theirs is no layer of both libraries"),
        (from_torch, torch.nn.Conv3d(1, 1, 1), "Conv3d is no layer of both libraries"),
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

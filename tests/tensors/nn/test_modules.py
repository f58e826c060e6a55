"""Modules against torch's: same names, same weights, same outputs, same gradients."""

import copy

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import DTypeError, ShapeError
from tests.helpers.tensors.torch_comparison import assert_modules_agree, normal, torch_or_skip

LAYERS = {
    "Linear": ((5, 3), {}, (4, 5)),
    "Conv2d": ((3, 4, 3), {"padding": 1}, (2, 3, 6, 6)),
    "Conv2d-groups": ((4, 6, (3, 2), 2), {"groups": 2, "bias": False}, (2, 4, 7, 8)),
    "Conv2d-same": ((1, 2, (5, 3)), {"padding": "same", "dilation": (1, 2)}, (2, 1, 5, 5)),
    "MaxPool2d": ((3, 2, 1), {}, (2, 3, 7, 7)),
    "AvgPool2d": ((2,), {}, (2, 3, 7, 7)),
    "LayerNorm": (((4, 5),), {}, (3, 4, 5)),
    "LayerNorm-plain": ((5, 1e-2), {"elementwise_affine": False}, (3, 4, 5)),
    "LayerNorm-without-bias": ((5,), {"bias": False}, (3, 4, 5)),
    "Flatten": ((1, 2), {}, (2, 3, 4, 5)),
    "ReLU": ((), {}, (3, 4)),
    "ReLU6": ((), {}, (3, 4)),
    "GELU": ((), {"approximate": "tanh"}, (3, 4)),
    "SiLU": ((), {}, (3, 4)),
    "ELU": ((0.5,), {}, (3, 4)),
    "LeakyReLU": ((0.1,), {}, (3, 4)),
    "Hardtanh": ((-0.5, 0.5), {}, (3, 4)),
    "Threshold": ((0.2, 5.0), {}, (3, 4)),
    "Sigmoid": ((), {}, (3, 4)),
    "Tanh": ((), {}, (3, 4)),
    "Softmax": ((-1,), {}, (3, 4)),
    "LogSoftmax": ((-1,), {}, (3, 4)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_agree_with_torch(case):
    torch = torch_or_skip()
    name = case.partition("-")[0]
    positional, named, shape = LAYERS[case]
    theirs = getattr(torch.nn, name)(*positional, **named)
    assert_modules_agree(getattr(nn, name)(*positional, **named), theirs, normal(*shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding_agrees_with_torch(padding_idx):
    torch = torch_or_skip()
    ours = nn.Embedding(6, 4, padding_idx)
    assert_modules_agree(ours, torch.nn.Embedding(6, 4, padding_idx), np.array([[1, 2, 2], [0, 5, 1]]))
    if padding_idx is not None:
        assert not ours.weight.numpy()[padding_idx].any()


RECURRENT = [
    {},
    {"bias": False},
    {"num_layers": 2, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "dropout": 0.0, "bidirectional": True, "batch_first": True},
]


@pytest.mark.parametrize("named", RECURRENT)
@pytest.mark.parametrize("given_states", [False, True])
def test_lstm_agrees_with_torch(named, given_states):
    torch = torch_or_skip()
    ours, theirs = nn.LSTM(3, 4, **named), torch.nn.LSTM(3, 4, **named)
    arrays = [normal(2, 5, 3) if named.get("batch_first") else normal(5, 2, 3)]
    if given_states:
        shape = (named.get("num_layers", 1) * (1 + named.get("bidirectional", False)), 2, 4)
        arrays += [normal(*shape, seed=1), normal(*shape, seed=2)]
    assert_modules_agree(StateArguments(ours), ModuleArguments(torch, theirs), *arrays)


class StateArguments(nn.Module):
    """Hands the states over as a pair."""

    def __init__(self, lstm):
        super().__init__()
        self.inner = lstm

    def forward(self, x, *states):
        return self.inner(x, states or None)


def ModuleArguments(torch, lstm):  # noqa: N802 - a class in disguise
    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = lstm

        def forward(self, x, *states):
            return self.inner(x, states or None)

    return Peer()


def test_lstm_takes_a_single_sequence():
    torch = torch_or_skip()
    assert_modules_agree(nn.LSTM(3, 4, 2), torch.nn.LSTM(3, 4, 2), normal(5, 3))


def test_lstm_gradients_match_differences_in_both_orders():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in [(4, 2, 12), (12, 3), (2, 3), (2, 3)]]
    directions = [rng.standard_normal(a.shape) for a in arrays]
    weights = rng.standard_normal((4, 2, 6))
    from labnet.nn.layers.recurrence import recur

    def leaves(step):
        return [ln.asarray(a + step * d, requires_grad=True) for a, d in zip(arrays, directions, strict=True)]

    def value(step):
        return (recur(*leaves(step)) * weights).sum().item()

    def slope(step, create_graph):
        inputs = leaves(step)
        out = recur(*inputs)
        gradients = ln.grad((out * out * weights).sum(), inputs, create_graph=create_graph)
        return inputs, sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    inputs = leaves(0)
    gradients = ln.grad((recur(*inputs) * weights).sum(), inputs)
    got = sum(float((g.numpy() * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert got == pytest.approx((value(1e-6) - value(-1e-6)) / 2e-6, rel=1e-7)

    inputs, first = slope(0, True)
    assert first.item() == pytest.approx(slope(0, False)[1].item(), rel=1e-12)
    second = ln.grad(first, inputs)
    got = sum(float((g.numpy() * d).sum()) for g, d in zip(second, directions, strict=True))
    expected = (slope(1e-5, False)[1].item() - slope(-1e-5, False)[1].item()) / 2e-5
    assert got == pytest.approx(expected, rel=1e-6)


def test_lstm_frees_its_steps_after_a_backward():
    lstm = nn.LSTM(2, 3)
    output, _ = lstm(ln.ones((4, 1, 2)))
    output.sum().backward()
    with pytest.raises(ln.errors.GradientError, match="freed"):
        output.sum().backward()


ATTENTION = [
    {},
    {"bias": False, "batch_first": True},
    {"kdim": 5, "vdim": 7, "batch_first": True},
]


@pytest.mark.parametrize("named", ATTENTION)
def test_attention_to_another_sequence_agrees_with_torch(named):
    torch = torch_or_skip()
    first = named.get("batch_first", False)
    query, key, value = [
        normal(*((2, n, e) if first else (n, 2, e)), seed=n + e)
        for n, e in [(4, 8), (6, named.get("kdim", 8)), (6, named.get("vdim", 8))]
    ]
    ours, theirs = nn.MultiheadAttention(8, 2, **named), torch.nn.MultiheadAttention(8, 2, **named)
    assert_modules_agree(ours, theirs, query, key, value)


class SelfAttention(nn.Module):
    def __init__(self, attention, **named):
        super().__init__()
        self.inner = attention
        self.named = named

    def forward(self, x):
        return self.inner(x, x, x, **{name: ln.asarray(v) if is_array(v) else v for name, v in self.named.items()})


def is_array(value):
    return isinstance(value, np.ndarray)


def torch_self_attention(torch, attention, **named):
    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = attention

        def forward(self, x):
            arguments = {name: torch.from_numpy(v) if is_array(v) else v for name, v in named.items()}
            return self.inner(x, x, x, **arguments)

    return Peer()


CAUSAL = np.triu(np.ones((5, 5), bool), 1)
PADDING = np.array([[False] * 5, [False] * 3 + [True] * 2])
MASKS = [
    {"attn_mask": CAUSAL},
    {"attn_mask": normal(5, 5), "need_weights": False},
    {"attn_mask": normal(8, 5, 5), "average_attn_weights": False},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
    {"key_padding_mask": normal(2, 5)},
]


@pytest.mark.parametrize("named", MASKS)
def test_attention_with_masks_agrees_with_torch(named):
    torch = torch_or_skip()
    ours = SelfAttention(nn.MultiheadAttention(12, 4, batch_first=True), **named)
    theirs = torch_self_attention(torch, torch.nn.MultiheadAttention(12, 4, batch_first=True), **named)
    assert_modules_agree(ours, theirs, normal(2, 5, 12))


def test_attention_of_a_single_sequence_agrees_with_torch():
    torch = torch_or_skip()
    named = {"key_padding_mask": PADDING[1]}
    ours = SelfAttention(nn.MultiheadAttention(8, 2), **named)
    assert_modules_agree(ours, torch_self_attention(torch, torch.nn.MultiheadAttention(8, 2), **named), normal(5, 8))


def test_causal_attention_sees_no_later_element():
    ln.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = normal(1, 5, 4)
    changed = x.copy()
    changed[:, 3:] += 1
    results = []
    for values in (x, changed):
        tensor = ln.asarray(values)
        results.append(attention(tensor, tensor, tensor, is_causal=True)[0].numpy())
    np.testing.assert_array_equal(results[0][:, :3], results[1][:, :3])
    assert not np.array_equal(results[0][:, 3:], results[1][:, 3:])


@pytest.mark.parametrize(
    "named", [{}, {"norm_first": True, "activation": "gelu", "batch_first": True}, {"bias": False}]
)
def test_transformer_layers_agree_with_torch(named):
    torch = torch_or_skip()
    size = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0}
    src, tgt = (2, 5, 8), (2, 4, 8)
    if not named.get("batch_first"):
        src, tgt = (5, 2, 8), (4, 2, 8)
    ours = nn.TransformerEncoderLayer(**size, **named)
    theirs = torch.nn.TransformerEncoderLayer(**size, **named)
    assert_modules_agree(ours, theirs, normal(*src))
    stack = nn.TransformerEncoder(ours, 2, nn.LayerNorm(8))
    peer = torch.nn.TransformerEncoder(theirs, 2, torch.nn.LayerNorm(8), enable_nested_tensor=False)
    assert_modules_agree(stack, peer, normal(*src))
    ours = nn.TransformerDecoderLayer(**size, **named)
    theirs = torch.nn.TransformerDecoderLayer(**size, **named)
    assert_modules_agree(ours, theirs, normal(*tgt), normal(*src, seed=1))
    stack, peer = nn.TransformerDecoder(ours, 2), torch.nn.TransformerDecoder(theirs, 2)
    assert_modules_agree(stack, peer, normal(*tgt), normal(*src, seed=1))


def test_copies_in_a_transformer_start_equal_and_train_apart():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1, 8, 0.0), 2)
    first, second = (dict(layer.named_parameters()) for layer in encoder.layers)
    assert list(first) == list(second)
    for name, parameter in first.items():
        assert parameter is not second[name]
        np.testing.assert_array_equal(parameter.numpy(), second[name].numpy())
    ln.optim.SGD(lr=0.1)((encoder(ln.asarray(normal(3, 2, 4))) * normal(3, 2, 4, seed=1)).sum().backward())
    assert not np.array_equal(first["linear1.weight"].numpy(), second["linear1.weight"].numpy())


def test_positional_encoding_is_a_buffer_of_sines_and_cosines():
    encoding = nn.PositionalEncoding(6, dropout=0.0, max_len=10)
    assert list(encoding.state_dict()) == ["pe"]
    assert list(encoding.parameters()) == []
    x = ln.zeros((7, 2, 6))
    time, k = 5, 2
    angle = time / 10000 ** (2 * k / 6)
    assert encoding(x)[time, 1, 2 * k].item() == pytest.approx(np.sin(angle), rel=1e-5)
    assert encoding(x)[time, 0, 2 * k + 1].item() == pytest.approx(np.cos(angle), rel=1e-5)
    first = nn.PositionalEncoding(6, dropout=0.0, batch_first=True)(ln.zeros((2, 7, 6)))
    np.testing.assert_array_equal(first.numpy().transpose(1, 0, 2), encoding(x).numpy())
    assert nn.PositionalEncoding(5, dropout=0.0)(ln.zeros((3, 5))).shape == (3, 5)


def test_dropout_follows_the_mode_of_its_parent():
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))
    x = ln.ones((1, 4))
    assert (model(x).numpy() == 0).any()
    assert not (model.eval()(x).numpy() == 0).any()
    ln.manual_seed(1)
    first = model.train()(x).numpy()
    ln.manual_seed(1)
    np.testing.assert_array_equal(model(x).numpy(), first)


def test_buffers_follow_state_dict_and_attribute_semantics():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = ln.zeros(())
            self.weight = ln.ones(2, requires_grad=True)

    model = nn.Sequential(Counter(), nn.LayerNorm(2))
    assert set(model.state_dict()) == {"0.seen", "0.weight", "1.weight", "1.bias"}
    assert {name for name, _ in model.named_parameters()} == {"0.weight", "1.weight", "1.bias"}
    model[0].seen = model[0].seen + 1
    twin = copy.deepcopy(model)
    model.load_state_dict({**twin.state_dict(), "0.seen": ln.asarray(5.0)})
    assert (model[0].seen.item(), twin[0].seen.item()) == (5.0, 1.0)
    model[0].weight = None
    del model[0].seen
    assert set(model.state_dict()) == {"1.weight", "1.bias"}
    with pytest.raises(AttributeError, match="seen"):
        del model[0].seen


def test_a_slice_of_layers_shares_their_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.relu, nn.Linear(4, 2))
    head = model[:-1]
    assert isinstance(head, nn.Sequential)
    assert [type(layer) for layer in head] == [nn.Linear, type(nn.relu)]
    assert head[0] is model[0]
    assert head(ln.ones((2, 3))).tolist() == nn.relu(model[0](ln.ones((2, 3)))).tolist()
    layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    assert isinstance(layers[1:], nn.ModuleList)
    assert list(layers[1:]) == list(layers)[1:]


def test_module_list_registers_what_it_holds():
    layers = nn.ModuleList([nn.Linear(2, 3)])
    layers.append(nn.Linear(3, 1))
    assert [name for name, _ in layers.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert layers[-1] is list(layers)[1]
    with pytest.raises(TypeError, match="position 2"):
        layers.append(nn.relu)


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"])
def test_initialisers_have_torchs_spread(name):
    torch = torch_or_skip()
    named = {"nonlinearity": "relu", "mode": "fan_out"} if name.startswith("kaiming") else {"gain": 2.0}
    shape = (40, 30, 3, 3)
    ln.manual_seed(0)
    ours = getattr(nn.init, name)(shape, **named)
    theirs = getattr(torch.nn.init, name + "_")(torch.empty(shape), **named)
    assert ours.requires_grad
    assert ours.numpy().std() == pytest.approx(float(theirs.std()), rel=0.03)
    if name.endswith("uniform"):
        assert abs(ours.numpy()).max() == pytest.approx(float(theirs.abs().max()), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.Conv2d(3, 4, 3)(ln.ones((1, 2, 8, 8))), ShapeError, r"\(N, 3, H, W\).*\(1, 2, 8, 8\)"),
        (lambda: nn.Conv2d(1, 4, 3)(ln.ones((1, 1, 8, 8), dtype="float64")), DTypeError, "float32.*float64"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "groups=2.*3"),
        (lambda: nn.LayerNorm(3)(ln.ones((2, 4))), ShapeError, r"3.*\(2, 4\)"),
        (lambda: nn.Flatten(2)(ln.ones((2, 4))), ShapeError, r"2, -1.*\(2, 4\)"),
        (lambda: nn.LSTM(3, 4)(ln.ones((5, 2, 2))), ShapeError, r"3.*\(5, 2, 2\)"),
        (lambda: nn.LSTM(3, 4)(ln.ones((5, 2, 3)), (ln.ones((1, 1, 4)),) * 2), ShapeError, r"\(1, 2, 4\).*\(1, 1, 4\)"),
        (lambda: nn.LSTM(3, 0), ValueError, "hidden_size=0"),
        (lambda: nn.MultiheadAttention(8, 3), ValueError, "num_heads=3.*8"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ln.ones((5, 2, 6))] * 3), ShapeError, r"\(8, 8, 8\).*\(5, 2, 6\)"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="selu"), ValueError, "selu"),
        (lambda: nn.PositionalEncoding(4, max_len=3)(ln.ones((5, 1, 4))), ShapeError, r"3.*\(5, 1, 4\)"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), IndexError, "3"),
        (lambda: nn.init.xavier_uniform((3,)), ShapeError, r"\(3,\)"),
        (lambda: nn.init.kaiming_normal((3, 3), mode="fan"), ValueError, "'fan'"),
        (lambda: nn.init.kaiming_normal((3, 3), nonlinearity="cubic"), ValueError, "cubic"),
    ],
)
def test_misuse_names_both_values(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_layer_that_is_replaced_in_a_sequential_is_the_one_that_is_called():
    model = nn.Sequential(nn.Linear(2, 2), nn.relu)
    setattr(model, "0", nn.Linear(2, 3))
    assert model(ln.ones((1, 2))).shape == (1, 3)
    assert model[0].out_features == 3
    assert {p.shape for p in model.parameters()} == {(3, 2), (3,)}


def test_the_mode_of_a_call_is_not_seen_by_other_threads():
    import threading

    from labnet.nn.modules import calling_mode

    layer, seen = nn.Dropout(), []
    with calling_mode(False):
        thread = threading.Thread(target=lambda: seen.append(layer.training))
        thread.start()
        thread.join()
        assert layer.training is False
    assert seen == [True]
    assert layer.training is True

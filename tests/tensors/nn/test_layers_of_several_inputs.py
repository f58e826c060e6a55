"""Layers and losses of several tensors, and layers that the first call makes, beside torch's."""

import copy

import numpy as np
import pytest

import labnet as ln
import labnet.nn.functional as F  # noqa: N812 the usual name
from labnet import nn
from labnet.errors import ShapeError
from tests.helpers.tensors.torch_comparison import (
    assert_functions_agree,
    assert_modules_agree,
    normal,
    same_weights,
    to_torch,
    torch_or_skip,
)


def integers(*shape, below, seed=0):
    return np.random.default_rng((seed, *shape)).integers(0, below, shape)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("form", ["rows", "offsets", "last offset"])
def test_bags_of_embeddings_are_torchs(mode, padding_idx, form):
    torch = torch_or_skip()
    named = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": form == "last offset"}
    ours, theirs = nn.EmbeddingBag(7, 3, **named), torch.nn.EmbeddingBag(7, 3, **named)
    if form == "rows":
        arrays = (integers(4, 5, below=7),)
    else:
        arrays = integers(9, below=7), np.array([0, 4, 4, 7] + [9] * (form == "last offset"))
    assert_modules_agree(ours, theirs, *arrays)


def test_bags_have_weights():
    torch, weights, indices = torch_or_skip(), normal(6), integers(2, 3, below=4)
    assert_functions_agree(
        lambda table, w: F.embedding_bag(ln.asarray(indices), table, mode="sum", per_sample_weights=w.reshape((2, 3))),
        lambda table, w: torch.nn.functional.embedding_bag(
            to_torch(indices), table, mode="sum", per_sample_weights=w.reshape(2, 3)
        ),
        normal(4, 2),
        weights,
    )
    with pytest.raises(ValueError, match="need offsets"):
        F.embedding_bag(ln.asarray([1]), ln.ones((2, 2)))
    with pytest.raises(ValueError, match="expected mode"):
        nn.EmbeddingBag(3, 2, mode="min")(ln.asarray([[1]]))


def test_a_compiled_bag_learns_the_same():
    eager = nn.EmbeddingBag(7, 3, mode="sum")
    compiled, indices, offsets = copy.deepcopy(eager), ln.asarray(integers(9, below=7)), ln.asarray([0, 4, 7])

    def step(layer):
        return lambda: ln.grad((layer(indices, offsets) ** 2).sum(), layer.weight)

    np.testing.assert_allclose(ln.jit(step(compiled))().numpy(), step(eager)().numpy(), rtol=1e-5)


def test_a_bilinear_map_is_torchs():
    torch = torch_or_skip()
    for bias in (True, False):
        ours, theirs = nn.Bilinear(3, 4, 5, bias), torch.nn.Bilinear(3, 4, 5, bias)
        assert_modules_agree(ours, theirs, normal(2, 6, 3), normal(2, 6, 4))


TRANSFORMERS = [
    {"batch_first": True},
    {"norm_first": True, "activation": "gelu"},
    {"bias": False, "batch_first": True},
]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("named", TRANSFORMERS, ids=str)
def test_a_transformer_is_torchs(named):
    torch = torch_or_skip()
    given = {"dim_feedforward": 12, "dropout": 0.0, **named}
    ours, theirs = nn.Transformer(8, 2, 2, 1, **given), torch.nn.Transformer(8, 2, 2, 1, **given)
    same_weights(ours, theirs)
    source, target = normal(3, 3, 8), normal(3, 3, 8, seed=1)
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    np.testing.assert_array_equal(mask.numpy(), torch.nn.Transformer.generate_square_subsequent_mask(3).numpy())
    assert_functions_agree(
        lambda x, y: ours(x, y, tgt_mask=mask),
        lambda x, y: theirs(x, y, tgt_mask=to_torch(mask.numpy())),
        source,
        target,
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_loss_of_alignments_is_torchs(reduction):
    torch = torch_or_skip()
    labels, lengths, sizes = integers(3, 4, below=5) + 1, [7, 5, 4], [4, 2, 3]
    flat = np.concatenate([row[:size] for row, size in zip(labels, sizes, strict=True)])
    for targets in (labels, flat):
        assert_functions_agree(
            lambda x, targets=targets: F.ctc_loss(
                ln.nn.log_softmax(x), ln.asarray(targets), lengths, sizes, reduction=reduction
            ),
            lambda x, targets=targets: torch.nn.functional.ctc_loss(
                x.log_softmax(-1), to_torch(targets), torch.tensor(lengths), torch.tensor(sizes), reduction=reduction
            ),
            normal(7, 3, 6),
        )


def test_labels_that_fit_no_alignment_have_an_infinite_loss_or_none():
    x = ln.asarray(normal(2, 1, 3), requires_grad=True)
    given = (ln.nn.log_softmax(x), ln.asarray([[1, 1]]), [2], [2])
    assert F.ctc_loss(*given).item() == np.inf
    loss = nn.CTCLoss(zero_infinity=True)(*given)
    assert loss.item() == 0.0
    assert not ln.grad(loss, x).numpy().any()


def test_triplets_have_any_distance():
    torch, arrays = torch_or_skip(), (normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2))
    named = {"margin": 2.0, "swap": True, "reduction": "sum"}
    assert_functions_agree(
        nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: ((x - y) ** 2).sum(-1), **named),
        torch.nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: ((x - y) ** 2).sum(-1), **named),
        *arrays,
    )
    assert_functions_agree(nn.TripletMarginLoss(**named), torch.nn.TripletMarginLoss(**named), *arrays)
    assert_functions_agree(
        lambda x, y, v: nn.GaussianNLLLoss(full=True)(x, y, ln.exp(v)),
        lambda x, y, v: torch.nn.GaussianNLLLoss(full=True)(x, y, v.exp()),
        *arrays,
    )


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("LazyLinear(4)", (2, 3)),
        ("LazyConv1d(4, 3, padding=1)", (2, 3, 5)),
        ("LazyConv2d(4, 3, bias=False)", (2, 3, 5, 6)),
        ("LazyConv3d(4, 2)", (2, 3, 4, 5, 4)),
        ("LazyConvTranspose1d(4, 3)", (2, 3, 5)),
        ("LazyConvTranspose2d(4, 3, 2)", (2, 3, 4, 5)),
        ("LazyConvTranspose3d(4, 2)", (1, 3, 2, 3, 2)),
        ("LazyBatchNorm1d()", (4, 3)),
        ("LazyBatchNorm2d(eps=0.1)", (2, 3, 4, 5)),
        ("LazyBatchNorm3d()", (2, 3, 2, 3, 4)),
    ],
)
def test_the_first_call_decides_the_number_of_inputs(text, shape):
    torch = torch_or_skip()
    ours, theirs = eval(f"nn.{text}", {"nn": nn}), eval(f"nn.{text}", {"nn": torch.nn})
    model = nn.Sequential(ours).eval()
    model(ln.asarray(normal(*shape)))
    theirs.eval()(to_torch(normal(*shape)))
    assert type(ours).__name__ == text.split("(")[0].removeprefix("Lazy") == type(theirs).__name__
    assert not ours.training
    assert [name for name, _ in model.named_parameters()] == [f"0.{name}" for name, _ in ours.named_parameters()]
    assert_modules_agree(ours, theirs, normal(*shape))


def test_a_first_call_that_fails_leaves_a_lazy_layer_lazy():
    layer, seen = nn.LazyConv1d(4, 1, groups=2), []
    layer.register_forward_hook(lambda *given: seen.append(given))
    for _ in range(2):
        with pytest.raises(ValueError, match="groups=2 must divide 3 and 4 channels"):
            layer(ln.ones((1, 3, 5)))
    assert layer(ln.ones((1, 2, 5))).shape == (1, 4, 5)
    assert layer.in_channels == 2
    assert len(seen) == 1


def test_samples_of_classes_are_one_hot_with_a_soft_gradient():
    ln.manual_seed(0)
    logits = ln.asarray(normal(500, 3), requires_grad=True)
    found = F.gumbel_softmax(logits, tau=0.7, hard=True)
    assert sorted(set(found.numpy().round(5).ravel().tolist())) == [0.0, 1.0]
    assert ln.grad((found * ln.asarray([1.0, 2.0, 3.0])).sum(), logits).numpy().any()
    assert F.gumbel_softmax(logits, dim=0).sum(axis=0).tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    shares = F.gumbel_softmax(ln.zeros((4000, 2)) + ln.asarray([0.0, float(np.log(3.0))]), hard=True).mean(axis=0)
    assert shares.tolist() == pytest.approx([0.25, 0.75], abs=0.03)


def test_random_slopes_and_dropout_keep_their_statistics():
    ln.manual_seed(0)
    slopes = -F.rrelu(-ln.ones(1000), 0.2, 0.4, training=True).numpy()
    assert 0.2 <= slopes.min() < slopes.max() <= 0.4
    x = F.alpha_dropout(ln.randn(100_000), 0.3, training=True).numpy()
    assert (x.mean(), x.std()) == pytest.approx((0, 1), abs=0.02)


def test_running_statistics_are_updated_by_the_function():
    torch, x = torch_or_skip(), normal(4, 3, 5)
    ours, theirs = (ln.zeros(3), ln.ones(3)), (torch.zeros(3), torch.ones(3))
    F.batch_norm(ln.asarray(x), *ours, training=True, momentum=0.3)
    torch.nn.functional.batch_norm(to_torch(x), *theirs, training=True, momentum=0.3)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.Conv3d(2, 2, 3)(ln.ones((1, 2, 2, 5, 5))), "covers a depth of 3"),
        (lambda: nn.Conv3d(2, 2, 3)(ln.ones((1, 3, 5, 5, 5))), r"\(N, 2, D, H, W\)"),
        (lambda: F.conv3d(ln.ones((2, 2)), ln.ones((1, 1, 1, 1, 1))), r"got \(2, 2\)"),
        (lambda: F.fold(ln.ones((1, 4, 3)), (2, 2), 2), r"\(N, C \* 4, 1\), got \(1, 4, 3\)"),
        (lambda: F.pixel_unshuffle(ln.ones((1, 1, 3, 4)), 2), "multiples of 2"),
        (lambda: F.channel_shuffle(ln.ones((1, 3, 1)), 2), "multiples of 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, words):
    with pytest.raises(ShapeError, match=words):
        call()


def test_windows_of_volumes_have_three_sizes():
    for make in (nn.Conv3d, nn.ConvTranspose3d):
        with pytest.raises(ValueError, match="one size or three"):
            make(1, 1, (2, 2))
    with pytest.raises(ValueError, match="at most half"):
        nn.MaxPool3d(2, padding=(1, 1, 2))

"""What tensors, modules and servers look like in a notebook, the progress bar, and the plots."""

import asyncio
import io
import re
import threading
import time

import numpy as np
import pytest

import labnet as ln
from labnet.stats import losses


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (ln.asarray(3.5), ["Tensor</b> ()", "float32", "cpu", "3.5"]),
        (ln.zeros((0, 4)), ["(0, 4)"]),
        (ln.arange(5), ["[0, 1, 2, 3, 4]", "int64"]),
        (ln.ones(3, requires_grad=True), ["requires_grad"]),
        (ln.linspace(-1, 1, 100), ["<svg", "histogram from -1 to 1", "-1 to 1"]),
        (ln.eye(20), ["<img", "map of 20 by 20 values", "0 to 1"]),
        (ln.randn((3, 8, 8)), ["(3, 8, 8)", "<img"]),
        (ln.randn((100, 5, 5)), ["92 more"]),
        (ln.full((5, 5), float("nan")), ["25 not finite"]),
        (ln.full(50, float("inf")), ["50 not finite"]),
        (ln.asarray(np.array([3e38, -3e38] * 20, "float32")), ["<svg", "-3e+38 to 3e+38"]),
        (ln.eye(6) > 0, ["bool", "<img"]),
        (ln.ones((40, 1)), ["<svg"]),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, ln.Tensor) else "",
)
def test_a_tensor_is_shown_by_what_it_is_and_a_small_picture(tensor, words):
    html = tensor._repr_html_()
    for word in words:
        assert word in html
    assert len(html) < 20_000


def test_a_huge_tensor_is_sampled_and_costs_no_more_than_a_large_one():
    huge = ln.asarray(np.broadcast_to(np.float32(1), (1 << 20, 1 << 20)))  # four terabytes, were they read
    html = huge._repr_html_()
    assert "(1048576, 1048576)" in html
    assert "about 1 to 1" in html
    assert len(html) < 20_000


def test_a_module_shows_its_layers_with_their_parameters():
    inner = ln.nn.Sequential(ln.nn.Linear(4, 4, bias=False), ln.nn.Dropout(0.5))
    html = ln.nn.Sequential(ln.nn.Linear(64, 10), ln.nn.relu, inner)._repr_html_()
    for word in ("666 parameters", "Linear(64, 10)", "10×64, 10", "650", "  0", "Dropout", "2.6 KiB"):
        assert word in html


class Doubling:
    def __call__(self, x):
        return x + x


def test_plain_functions_among_the_layers_have_a_row_at_their_place():
    def half(x):
        return x / 2

    model = ln.nn.Sequential(ln.nn.Linear(4, 4), ln.nn.relu, half, Doubling(), lambda x: x, ln.nn.Linear(4, 1))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", model._repr_html_())
    rows = [tuple(cells[start : start + 4]) for start in range(0, len(cells), 4)]
    assert [row[:2] for row in rows] == [
        ("0", "Linear(4, 4)"),
        ("1", "relu"),
        ("2", "half"),
        ("3", "Doubling"),
        ("4", "&lt;lambda&gt;"),
        ("5", "Linear(4, 1)"),
    ]
    assert [row[3] for row in rows] == ["20", "–", "–", "–", "–", "5"]
    model.extra = ln.nn.Linear(4, 2)
    assert "extra" in model._repr_html_()


def test_names_in_a_module_are_escaped_and_its_table_is_bounded():
    class Wide(ln.nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, "<script>", ln.nn.Linear(1, 1))
            for number in range(100):
                setattr(self, f"layer{number}", ln.nn.Linear(1, 1))

    html = Wide()._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "61 more" in html
    assert html.count("<tr>") == 42


def test_a_server_shows_its_routes_and_address_and_no_token():
    with ln.network.serve({"double": lambda x: 2 * x}, port=0, name="<i>calculator</i>") as server:
        for _ in range(3):
            ln.network.tfetch(server.url + "/double", ln.ones(1), blocking=True)
        html = server._repr_html_()
        assert "/double" in html
        assert ">3<" in html
        assert server.url in html
        assert "&lt;i&gt;calculator" in html
        assert "<i>" not in html
        assert server.token not in html
    assert "stopped" in server._repr_html_()


def test_a_replaced_server_keeps_its_last_figures_and_lets_go_of_its_model():
    first = ln.network.serve_model(ln.nn.Linear(3, 1), port=0, name="line")
    ln.network.remote_model(first.url, blocking=True)(ln.ones((1, 3)))
    with ln.network.serve_model(ln.nn.Linear(3, 1), port=first.port, name="line") as second:
        ln.network.remote_model(second.url, blocking=True)(ln.ones((1, 3)))
        assert (first.statistics()["forward"]["hits"], second.statistics()["forward"]["hits"]) == (1, 2)
        assert not first.snapshot()["running"]
        assert "replaced" in first._repr_html_()
        assert first._model is None


# Progress


def shown(**options):
    """Return options that make the bar write every state to a file, and the file."""
    file = io.StringIO()
    return {"file": file, "mininterval": 0, "ascii": True, **options}, file


def test_progress_shows_the_loss_of_the_last_backward():
    options, file = shown(description="train")
    weight = ln.ones(2, requires_grad=True)
    seen = []
    for step in ln.progress(range(3), **options):
        (weight * float(step + 1)).sum().backward()
        seen.append(step)
    assert seen == [0, 1, 2]
    text = file.getvalue()
    assert "train: 100%" in text
    assert "3/3" in text
    assert text.index("loss=2") < text.index("loss=4") < text.index("loss=6")


def test_progress_shows_the_loss_of_a_remote_backward_that_is_awaited():
    options, file = shown()

    async def train(url):
        model = ln.network.remote_model(url)
        for _ in ln.progress(range(2), **options):
            await ln.loss.mse(await model(ln.ones((1, 2))), ln.asarray([[3.0]])).backward()

    with ln.network.serve_model(lambda x: x.sum(axis=1, keepdims=True), port=0) as server:
        asyncio.run(train(server.url))
    assert "loss=1" in file.getvalue()


def test_progress_leaves_the_losses_of_other_threads_out_and_ends_with_its_loop():
    options, file = shown()
    weight = ln.ones(1, requires_grad=True)
    for _ in ln.progress(range(2), **options):
        thread = threading.Thread(target=lambda: (weight * 7).sum().backward())
        thread.start()
        thread.join()
    assert "loss" not in file.getvalue()
    for _ in ln.progress(range(2), **shown()[0]):
        break
    assert losses.watches == []


def test_progress_shows_a_loss_that_others_know():
    options, file = shown()
    for _ in ln.progress(range(2), loss=lambda: 0.25, **options):
        pass
    assert "loss=0.25" in file.getvalue()


def test_progress_knows_its_length_and_says_what_it_cannot_iterate_over():
    assert len(ln.progress([1, 2])) == 2
    assert len(ln.progress(iter([1]), total=1)) == 1
    with pytest.raises(TypeError, match="got int"):
        ln.progress(3)


# Plots


@pytest.fixture
def pyplot():
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_the_loss_of_a_server_is_plotted_from_its_handle_its_address_and_a_snapshot(pyplot):
    with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for _ in ln.progress(range(4), disable=True):
            ln.loss.mse(remote(ln.ones((4, 2))), ln.zeros((4, 1))).backward()
        sources = (server, remote, ln.network.remote_model(server.url), server.url, server.snapshot())
        curves = [ln.jupyter.plot_loss(source).lines[0] for source in sources]
    for curve in curves:
        assert list(curve.get_xdata()) == [1, 2, 3, 4]
        assert list(curve.get_ydata()) == list(curves[0].get_ydata())


def test_a_smoothed_loss_is_drawn_over_the_values(pyplot):
    axes = ln.jupyter.plot_loss([1.0, 3.0, 5.0], smooth=2, label="mine")
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 3, 5], [2, 4]]
    losses = list(range(10, 0, -1))
    values, means = ln.jupyter.plot_loss(losses, smooth=5).lines
    assert list(means.get_xdata()) == [3, 4, 5, 6, 7, 8]  # in the middle of what they are the mean of
    assert list(means.get_ydata()) == list(values.get_ydata())[2:-2]
    assert axes.get_legend().get_texts()[0].get_text() == "mine"
    assert ln.jupyter.plot_loss([100.0, 1.0], axes=axes).get_yscale() == "log"
    with pytest.raises(ValueError, match="smooth must be 1 or more"):
        ln.jupyter.plot_loss([1.0], smooth=0)


def test_the_latency_of_every_route_that_was_called_is_plotted(pyplot):
    with ln.network.serve({"quick": lambda: 1, "slow": lambda: time.sleep(0.01), "idle": lambda: 1}, port=0) as server:
        for route in ("quick", "slow"):
            ln.network.tfetch(f"{server.url}/{route}", blocking=True)
        axes = ln.jupyter.plot_latency(server)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["quick", "slow"]
    assert max(axes.lines[1].get_xdata()) >= 10


def test_a_server_without_requests_gives_empty_plots(pyplot):
    with ln.network.serve_model(ln.nn.Linear(2, 1), port=0) as server:
        axes = ln.jupyter.plot_latency(server)
        assert axes.get_yticklabels() == []
        assert [text.get_text() for text in axes.texts] == ["no requests yet"]
        assert len(ln.jupyter.plot_loss(server).lines) == 1


def contrast(one, other):
    """Return the contrast ratio of two colours as WCAG 2 defines it."""
    from matplotlib.colors import to_rgb

    def luminance(colour):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_plots_bring_a_ground_that_their_text_and_curves_stand_out_from(pyplot):
    with pyplot.style.context("labnet.jupyter.neutral"):
        settings = dict(pyplot.rcParams)
    ground = settings["figure.facecolor"]
    assert settings["savefig.facecolor"] == ground
    for name in ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"):
        assert contrast(settings[name], ground) > 7
    assert contrast(settings["legend.labelcolor"], ground) > 7
    for colour in (*settings["axes.prop_cycle"].by_key()["color"], settings["axes.edgecolor"]):
        assert contrast(colour, ground) > 3


def test_plots_have_their_ground_and_leave_the_settings_and_figures_of_the_user_alone(pyplot):
    before = dict(pyplot.rcParams)
    axes = ln.jupyter.plot_loss([3.0, 2.0, 1.0], label="mine")
    assert dict(pyplot.rcParams) == before
    file = io.BytesIO()
    axes.figure.savefig(file, format="png", facecolor=axes.figure.get_facecolor())  # as notebooks do
    file.seek(0)
    ground = np.array([0xF5, 0xF6, 0xF8, 0xFF]) / 255
    assert np.mean(np.isclose(pyplot.imread(file), ground, atol=1e-3).all(axis=-1)) > 0.8
    _, own = pyplot.subplots()
    ln.jupyter.plot_loss([3.0, 2.0, 1.0], axes=own)
    assert own.get_facecolor() == (1.0, 1.0, 1.0, 1.0)

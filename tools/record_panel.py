"""Record ``docs/panel.gif`` and ``docs/quickstart.png``: JupyterLab while one cell trains the model of another.

Run it after a change of the panel: ``python -m tools.record_panel``. It needs Chromium.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.helpers.jupyter.jupyterlab import browser_page, jupyterlab
from tests.helpers.jupyter.lab_notebooks import open_notebook, run_all, write_notebook

DOCS = Path(__file__).parent.parent / "docs"
WIDTH, HEIGHT, FRAMES, MILLISECONDS = 900, 960, 32, 250
#: The notebook, without menus and bars.
CLIP = {"x": 64, "y": 90, "width": 796, "height": 830}
CELLS = (
    """import labnet as ln
from sklearn.datasets import load_digits

%load_ext labnet
x, y = (ln.asarray(part) for part in load_digits(return_X_y=True))
x = x.astype("float32") / 16""",
    """%%serve_model model --optimizer adam --lr 3e-3 --port 3000
model = ln.nn.Sequential(ln.nn.Linear(64, 64), ln.nn.relu, ln.nn.Linear(64, 10))""",
    """remote = ln.network.remote_model("localhost:3000")
for epoch in range(200):
    for images, labels in ln.batches(x, y, 32, shuffle=True, seed=epoch):
        loss = ln.loss.cross_entropy(await remote(images), labels)
        await loss.backward()""",
)
_SETTLE = """() => {
    const hits = document.querySelector('.labnet-panel [data-route=forward] [data-column=hits]');
    return hits && Number(hits.textContent.replaceAll(',', '')) > 0;
}"""


def frames(page: Any) -> list[Image.Image]:
    """Return pictures of a page, one after the other."""
    taken = []
    for _ in range(FRAMES):
        taken.append(Image.open(io.BytesIO(page.screenshot(clip=CLIP))).convert("RGB"))
        page.wait_for_timeout(MILLISECONDS)
    return taken


def main() -> None:
    """Record both pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_notebook(folder, "training.ipynb", *CELLS, port=3000)
        with (
            jupyterlab(folder, view="doc/tree") as address,
            browser_page(width=WIDTH, height=HEIGHT) as page,
        ):
            open_notebook(page, address("training.ipynb"))
            run_all(page)
            page.wait_for_function(_SETTLE)
            taken = frames(page)
    taken[len(taken) // 2].quantize(128).save(DOCS / "quickstart.png", optimize=True)
    palette = taken[-1].quantize(48)
    reduced = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in taken]
    reduced[0].save(
        DOCS / "panel.gif", save_all=True, append_images=reduced[1:], duration=MILLISECONDS, loop=0, optimize=False
    )


if __name__ == "__main__":
    main()

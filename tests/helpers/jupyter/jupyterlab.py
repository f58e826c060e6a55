"""A real JupyterLab in a process of its own, and a real Chromium to look at it."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.ports import free_port

SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Contrast ratios, as WCAG 2 defines them, of all texts of the panel that can be seen: the least one and its text.
LEAST_CONTRAST = """() => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
    const context = canvas.getContext('2d', { willReadFrequently: true });
    const read = (color) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((part, i) => part * a + below[i] * (1 - a));
    const ground = (element) => {
        const around = element ? ground(element.parentElement) : read('Canvas');
        return element ? over(read(getComputedStyle(element).backgroundColor), around) : around;
    };
    const luminance = (rgb) => {
        const [r, g, b] = rgb.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const opacity = (element) =>
        element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1;
    const ratios = [...document.querySelectorAll('.labnet-panel *')]
        .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .filter((element) => element.checkVisibility() && !element.closest('.hidden, style'))
        .map((element) => {
            const below = ground(element);
            const [r, g, b, a] = read(getComputedStyle(element).color);
            const pair = [over([r, g, b, a * opacity(element)], below), below].map(luminance).sort((x, y) => y - x);
            return [(pair[0] + 0.05) / (pair[1] + 0.05), element.textContent];
        });
    return ratios.sort((one, other) => one[0] - other[0])[0];
}"""


def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("browser tests need Chromium: apt-get install chromium (or your system's package)")
    return None


@contextlib.contextmanager
def browser_page(*, color_scheme="light", width=1280, height=1400):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=color_scheme)
        page.context.set_default_timeout(120_000)
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        yield page
        browser.close()


@contextlib.contextmanager
def jupyterlab(folder, *, application=("jupyter", "lab"), view="lab/tree", prefix=""):
    """Run JupyterLab, or another application of its kind, on a folder; yields the address of a notebook by its name.

    With a prefix such as /user/ana everything is below that path.
    """
    config = folder / ".config" / "labconfig"
    config.mkdir(parents=True)
    no_news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "page_config.json").write_text(json.dumps(no_news))
    token, port = secrets.token_hex(16), free_port()
    command = [
        *(sys.executable, "-m", *application, "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        f"--ServerApp.base_url={prefix}/",
    ]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / ".config"),
        "JUPYTER_RUNTIME_DIR": str(folder / ".runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    log = folder / "jupyter.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    base = f"http://127.0.0.1:{port}{prefix}"
    try:
        deadline = time.monotonic() + 280
        while True:
            try:
                urllib.request.urlopen(f"{base}/api/status?token={token}").close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield lambda name: f"{base}/{view}/{name}?token={token}&reset"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

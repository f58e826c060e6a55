"""What Binder makes of this repository, and servers behind jupyter-server-proxy, as they are reached there."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import labnet as ln
from tests.helpers.jupyter.jupyterlab import browser_page, jupyterlab
from tests.helpers.jupyter.kernels import IGNORED, kernel

ROOT = Path(__file__).parent.parent.parent
PREFIX = "/user/ana"

pytestmark = pytest.mark.filterwarnings(*IGNORED)


@pytest.fixture(scope="module")
def dockerfile():
    """What repo2docker would build, without Docker."""
    pytest.importorskip("repo2docker", reason="needs repo2docker: pip install jupyter-repo2docker")
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout, result.stderr


def test_binder_builds_the_conda_environment_of_its_folder_with_a_pinned_python(dockerfile):
    text, log = dockerfile
    assert "Building conda environment for python=3.11" in log + text
    assert "COPY --chown=0:0 src/binder/environment.yml" in text
    assert '--file "binder/environment.yml"' in text
    assert "requirements.txt" not in text


def test_binder_runs_post_build_as_the_user_after_the_sources_are_there(dockerfile):
    text, _ = dockerfile
    copied, user, run = (
        text.index(line) for line in ("COPY --chown=0:0 src/ ", "LABEL repo2docker", "RUN ./binder/postBuild")
    )
    assert copied < user < run
    assert "USER ${NB_USER}" in text[user:run]


def test_post_build_installs_the_package_and_warms_what_a_first_cell_needs(tmp_path):
    calls = tmp_path / "calls"
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {calls}\n')
    stand_in.chmod(0o755)
    subprocess.run([ROOT / "binder" / "postBuild"], cwd=ROOT, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    install, *warm = calls.read_text().splitlines()
    assert install == "-m pip install --no-deps --editable ."
    for line in warm:
        option, _, rest = line.partition(" ")
        arguments = [rest] if option == "-c" else rest.split()
        subprocess.run([sys.executable, "-W", "error", option, *arguments], cwd=ROOT, check=True)
    assert "-m labnet cache --warm" in warm


def test_the_badge_opens_a_notebook_that_exists():
    (target,) = re.findall(
        r"https://mybinder\.org/v2/\S+?\?urlpath=lab/tree/([^)\s]+)", (ROOT / "README.md").read_text()
    )
    assert (ROOT / target).is_file()


def test_the_environment_has_the_proxy():
    assert "jupyter-server-proxy" in (ROOT / "binder" / "environment.yml").read_text()


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory):
    """A model served in a kernel, seen from outside through a Jupyter Server below a prefix."""
    folder = tmp_path_factory.mktemp("hub")
    shutil.copy(ROOT / "notebooks" / "quickstart.ipynb", folder)
    with kernel() as running, jupyterlab(folder, prefix=PREFIX) as address:
        running.run("%%serve_model model --port 0 --no-panel --optimizer sgd --name remote\nmodel = ln.nn.Linear(2, 1)")
        described = running.run(
            "(server,) = ln.network.servers().values()\nprint(server.port, server.token)"
        ).text.split()
        parts = urlsplit(address("quickstart.ipynb"))
        jupyter_token = parse_qs(parts.query)["token"][0]
        yield f"{parts.scheme}://{parts.netloc}{PREFIX}/proxy/{described[0]}/", jupyter_token, described[1]


def test_statistics_are_read_through_the_proxy(behind_proxy):
    url, jupyter_token, _ = behind_proxy
    request = urllib.request.Request(url + "statistics", headers={"Authorization": f"token {jupyter_token}"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        assert json.load(reply)["server"]["name"] == "remote"


def test_a_model_is_trained_through_the_proxy_with_the_headers_of_jupyter(behind_proxy):
    url, jupyter_token, token = behind_proxy
    headers = {"Authorization": f"token {jupyter_token}"}
    remote = ln.network.remote_model(url, token=token, headers=headers, blocking=True)
    before = remote.statistics()["optimize"]["hits"]
    losses = []
    for _ in range(5):
        loss = ln.loss.mse(remote(ln.ones((4, 2))), ln.full((4, 1), 3.0))
        loss.backward()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert remote.statistics()["optimize"]["hits"] == before + 5
    plot = ln.jupyter.plot_loss(remote)
    assert len(plot.lines[0].get_xdata()) >= 5


def test_without_the_headers_of_jupyter_the_error_says_that_this_is_another_server(behind_proxy):
    url, _, token = behind_proxy
    with pytest.raises(ln.errors.RemoteError) as caught:
        ln.network.remote_model(url, token=token, blocking=True, timeout=5)(ln.ones((1, 2)))
    assert url.rstrip("/") in str(caught.value)
    assert token not in str(caught.value)


@pytest.mark.browser
def test_the_page_of_a_server_works_below_the_prefix_of_a_proxy(behind_proxy):
    url, jupyter_token, token = behind_proxy
    headers = {"Authorization": f"token {jupyter_token}"}
    remote = ln.network.remote_model(url, token=token, headers=headers, blocking=True)
    with browser_page(width=920, height=400) as page:
        page.goto(f"{url}?token={jupyter_token}")
        hits = page.locator("[data-route=forward] [data-column=hits]")
        hits.wait_for()
        before = int(hits.inner_text().replace(",", ""))
        remote(ln.ones((1, 2)))
        hits.get_by_text(str(before + 1), exact=True).wait_for()
        assert page.failures == []

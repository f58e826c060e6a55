"""Every script of the gallery runs as a user would run it, and the documentation lists it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HELPERS = {"processes.py"}
#: What a script prints when its servers did what it is about.
LAST_LINES = {
    "demo.py": "optimize",
    "serve_functions.py": "learned: [2.0, -1.0] wanted: [2.0, -1.0]",
    "train_remote.py": "the server answered 300 forwards, 300 backwards",
    "composition.py": "  C           100",
    "relay.py": "weight of the innermost server: [1.0, -2.0, 0.5]",
    "server_statistics.py": "      images = 100",
    "remote_runner.py": "the runner's shell: hello",
    "small_gpt.py": "learned",
    "digits_convnet.py": "recognised",
    "moons_mlp.py": "100% of the points are on their side",
    "character_models.py": "made up: ",
    "variational_autoencoder.py": "| ",
    "adversarial_networks.py": "spots reached: 8 of 8",
    "sine_gru.py": "learned",
    "deep_q_learning.py": "arrived after ",
    "physics_informed.py": "solved",
    "residual_network.py": "recognised",
    "word2vec.py": "   chess: ",
    "graph_convolution.py": "33 of 34 went where the network says",
    "over_the_network.py": "graph_convolution: loss 0.740 at first",
    "op_statistics.py": "99.8% of the arithmetic was done elsewhere",
}
ARGUMENTS = {"demo.py": ["--epochs", "1"]}


def test_the_gallery_is_complete():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == LAST_LINES.keys() | HELPERS


@pytest.mark.parametrize("name", LAST_LINES)
def test_an_example_runs_and_says_what_came_out(name, tmp_path):
    command = [sys.executable, ROOT / "examples" / name, *ARGUMENTS.get(name, [])]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.rstrip().splitlines()[-1].startswith(LAST_LINES[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LAST_LINES)
def test_the_documentation_lists_an_example(name):
    assert f"](../examples/{name})" in (ROOT / "docs" / "examples.md").read_text()

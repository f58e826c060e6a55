"""The files around the package agree with each other."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import labnet as ln

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_binder_uses_the_same_environment():
    assert (ROOT / "binder" / "environment.yml").read_bytes() == (ROOT / "environment.yml").read_bytes()


def test_the_environment_lists_exactly_what_the_package_and_its_notebooks_need():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (listed,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(listed) == sorted(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebooks"])
    (python,) = [entry for entry in environment["dependencies"] if str(entry).startswith("python=")]
    assert python == "python=" + PROJECT["requires-python"].removeprefix(">=")


def test_every_dependency_has_a_lower_bound():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    unbounded = [entry for group in groups for entry in group if ">=" not in entry and not entry.startswith("labnet[")]
    assert unbounded == []


@pytest.mark.parametrize("script", ["binder/postBuild", ".ci/run"])
def test_scripts_are_executable_and_parse(script):
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("target", ["lab", "demo", "test"])
def test_make_targets_exist_and_readme_names_them(target):
    result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"make {target}" in (ROOT / "README.md").read_text()


def test_make_refuses_an_old_python_with_one_clear_line(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1;; *-V*) echo Python 3.8.1;; esac\n')
    old.chmod(0o755)
    command = ["make", "lab", f"PYTHON={old}", f"VENV={tmp_path}/venv"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "needs Python 3.11 or later" in result.stdout
    assert "Python 3.8.1" in result.stdout


def test_files_that_the_readme_shows_exist():
    text = (ROOT / "README.md").read_text()
    shown = [part.split(")")[0] for part in text.split("](")[1:]]
    missing = [path for path in shown if not path.startswith(("http", "#")) and not (ROOT / path).exists()]
    assert missing == []


class TestCommandLine:
    def run(self, *arguments):
        return subprocess.run([sys.executable, "-m", "labnet", *arguments], capture_output=True, text=True, check=False)

    def test_token_prints_the_token_of_a_running_server(self):
        with ln.network.serve({"hello": lambda: "hi"}, port=0) as server:
            result = self.run("token", str(server.port))
            assert (result.returncode, result.stdout.strip()) == (0, server.token)

    def test_token_of_a_server_that_was_killed_is_an_error(self):
        code = (
            "import labnet as ln; s = ln.network.serve({'a': lambda: 1}, port=0); print(s.port, flush=True); s.wait()"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            port = process.stdout.readline().strip()
            assert self.run("token", port).returncode == 0
            process.kill()
        result = self.run("token", port)
        assert (result.returncode, result.stdout) == (1, "")

    def test_token_of_a_port_without_a_server_is_an_error(self):
        result = self.run("token", "1")
        assert (result.returncode, result.stdout) == (1, "")
        assert "port 1" in result.stderr

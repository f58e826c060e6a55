"""The wheel and the source distribution install in a clean environment, and the files around the package are valid."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import labnet as ln

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Runs the magics in a shell, without the repository.
SESSION = """
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
import labnet as ln

assert Path(ln.__file__).is_relative_to({folder!r}), ln.__file__
shell = InteractiveShell.instance()
for line in ("%load_ext labnet", "import labnet as ln", "model = ln.nn.Linear(2, 1)"):
    shell.run_cell(line).raise_error()
server = shell.run_cell("%serve_model model --port 0 --no-panel").result
shell.run_cell(f"%remote_model {{server.url}} net --blocking").raise_error()
print(shell.run_cell("net(ln.ones((3, 2))).shape").result)
server.stop()
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build both, the wheel from the source distribution, with the tools that are installed."""
    for needed in ("build", "hatchling"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install build hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=folder)
    return {path.suffix: path for path in folder.iterdir()}


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[".whl"]) as wheel:
        names = wheel.namelist()
    assert {name.partition("/")[0] for name in names} == {"labnet", f"labnet-{ln.__version__}.dist-info"}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "labnet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= set(names)
    assert "labnet/py.typed" in names


def test_the_source_distribution_has_what_a_reader_needs(distributions):
    with tarfile.open(distributions[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "docs/index.md", "Makefile"}
    assert needed <= names
    assert not [name for name in names if name.startswith((".venv", "build/", "docs/notebooks/"))]


def test_the_wheel_runs_the_magics_without_the_repository(distributions, tmp_path):
    folder = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(list(map(str, [*install, distributions[".whl"]])), check=True, cwd=tmp_path)
    # Dependencies come from this environment: a path that is added in this way brings no editable installation along.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    script = tmp_path / "session.py"
    script.write_text(SESSION.format(folder=str(folder)))
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    session = subprocess.run([python, script], **run)
    assert session.returncode == 0, session.stderr
    assert session.stdout.splitlines()[-1] == "(3, 1)"
    command = subprocess.run([folder / "bin" / "labnet", "--version"], **run)
    assert ln.__version__ in command.stdout, command.stderr


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ln.__version__
    assert recipe()["package"]["version"] == ln.__version__
    assert f"## [{ln.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_addresses_of_the_project_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    assert citation["url"] == PROJECT["urls"]["Documentation"] == recipe()["about"]["doc_url"]
    assert f'REPOSITORY = "{PROJECT["urls"]["Source"]}"' in (ROOT / "docs" / "conf.py").read_text()


def recipe():
    """Return the recipe of conda as conda-build would read it, with its one template language filled in."""
    jinja = pytest.importorskip("jinja2", reason="needs Jinja: pip install jinja2")
    text = jinja.Environment(undefined=jinja.StrictUndefined).from_string((ROOT / "conda" / "meta.yaml").read_text())
    return yaml.safe_load(text.render(PYTHON="python"))


def test_the_conda_recipe_installs_what_the_package_depends_on():
    renamed = {"python-xxhash": "xxhash"}  # conda-forge's name of it
    listed = dict(entry.split(" ", 1) for entry in recipe()["requirements"]["run"])
    listed = {renamed.get(name, name): bounds for name, bounds in listed.items()}
    python = listed.pop("python")
    assert python == PROJECT["requires-python"]
    wanted = dict(re.fullmatch(r"([\w-]+)(.*)", entry).groups() for entry in PROJECT["dependencies"])
    assert listed == wanted
    scripts = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe()["build"]["entry_points"] == scripts
    assert (ROOT / "conda" / recipe()["source"]["path"]).resolve() == ROOT


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.readthedocs", ".readthedocs.yaml"),
        ("vendor.github-workflows", ".github/workflows/docs.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_a_configuration_is_one_that_its_host_takes(schema, path):
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema: pip install check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, ROOT / path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_hosts_of_the_site_run_what_the_repository_has():
    hosted = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert (ROOT / hosted["sphinx"]["configuration"]).is_file()
    (install,) = hosted["python"]["install"]
    assert set(install["extra_requirements"]) <= PROJECT["optional-dependencies"].keys()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["build"]["steps"] if "run" in step]
    made = [command for command in commands if command.startswith("make ")]
    assert "make docs" in made
    for command in made:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, check=True)


def test_the_classifiers_are_known():
    classifiers = pytest.importorskip("trove_classifiers", reason="needs hatchling: pip install hatchling").classifiers
    assert [each for each in PROJECT["classifiers"] if each not in classifiers] == []

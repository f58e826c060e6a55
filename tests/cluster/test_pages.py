"""The configurations on the pages about SSH, SLURM and Kubernetes are read by the tools they are for."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    """Return the blocks of code of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def arguments_of(code, name):
    """Return the arguments of a call in a block of code, which are literals."""
    (call,) = [
        node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]
    positional = [ast.literal_eval(node) for node in call.args]
    return positional, {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def test_every_block_of_python_is_python():
    for page in DOCS.glob("cluster*.md"):
        for block in blocks(page.name, "python"):
            compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_ssh_cluster_is_one_that_dask_takes():
    from distributed import SSHCluster
    from distributed.deploy.ssh import Scheduler, Worker

    positional, named = arguments_of(blocks("cluster-ssh.md", "python")[0], "SSHCluster")
    inspect.signature(SSHCluster).bind(*positional, **named)
    for class_, options in ((Worker, "worker_options"), (Scheduler, "scheduler_options")):
        assert "kwargs" in inspect.signature(class_.__init__).parameters
        assert set(named[options]) <= {"nthreads", "n_workers", "port", "dashboard_address"}


def test_the_commands_of_the_ssh_page_are_options_that_dask_knows():
    for line in blocks("cluster-ssh.md", "sh")[0].splitlines():
        program, *rest = line.partition("$ dask ")[2].split()
        options = {word for word in rest if word.startswith("--")}
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--help"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not [option for option in options if option not in text]


def check_settings(settings, path=()):
    """Look every setting up in what Dask has by default."""
    import dask
    import distributed  # noqa: F401  # its settings

    for key, value in settings.items():
        if isinstance(value, dict):
            check_settings(value, (*path, key))
        else:
            assert dask.config.get(".".join((*path, key))) is not None


def test_the_settings_are_ones_that_dask_has():
    import dask

    (text,) = blocks("cluster-ssh.md", "yaml")
    check_settings(yaml.safe_load(text))
    (cluster,) = blocks("cluster-kubernetes.md", "yaml")
    (worker,) = yaml.safe_load(cluster)["spec"]["worker"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in worker["env"]}
    check_settings(dask.config.collect_env(environment))


def test_the_slurm_cluster_makes_a_script_for_sbatch(tmp_path, monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    import asyncio

    _, named = arguments_of(blocks("cluster-slurm.md", "python")[0], "SLURMCluster")
    named.pop("interface")  # of a machine that has one
    named["log_directory"] = str(tmp_path)

    async def script():
        async with jobqueue.SLURMCluster(
            asynchronous=True, scheduler_options={"dashboard_address": ":0"}, **named
        ) as c:
            return c.job_script()

    text = asyncio.run(script())
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "#SBATCH -p gpu" in text
    assert "#SBATCH --gres=gpu:1" in text
    assert "--resources GPU=1 --lifetime 3h50m" in text


def own(schema):
    """Return a schema with references into itself only; what it leaves to Kubernetes is not looked at."""
    if isinstance(schema, list):
        return [own(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref", "#")
    if not reference.startswith(("#", "python://dask_kubernetes")):
        return {}
    return {key: "#" + value.partition("#")[2] if key == "$ref" else own(value) for key, value in schema.items()}


def check_kubernetes(value, kind, models):
    """Check that a value has only fields that a type of Kubernetes has, down to the last one."""
    listed = re.fullmatch(r"list\[(.+)\]", kind)
    if listed:
        for item in value:
            check_kubernetes(item, listed[1], models)
    elif hasattr(models, kind):
        model = getattr(models, kind)
        fields = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        assert not value.keys() - fields.keys(), f"{kind} has no {value.keys() - fields.keys()}"
        for name, item in value.items():
            check_kubernetes(item, fields[name], models)
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{value!r} is no {kind}"


def test_the_kubernetes_resource_is_one_that_the_operator_takes():
    (text,) = blocks("cluster-kubernetes.md", "yaml")
    document = yaml.safe_load(text)
    assert document["kind"] == "DaskCluster"
    dask_kubernetes = pytest.importorskip("dask_kubernetes", reason="dask-kubernetes is not installed")
    schemas = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    folder = Path(dask_kubernetes.__file__).parent / "operator" / "customresources"
    definitions = own(yaml.safe_load((folder / "templates.yaml").read_text())["definitions"])
    schema = {"$ref": "#/definitions/dask.k8s.api.v1.DaskCluster", "definitions": definitions}
    schemas.Draft7Validator(schema).validate(document)
    models = pytest.importorskip("kubernetes_asyncio.client.models", reason="the client of Kubernetes is not installed")
    spec = document["spec"]
    check_kubernetes(spec["worker"]["spec"], "V1PodSpec", models)
    check_kubernetes(spec["scheduler"]["spec"], "V1PodSpec", models)
    check_kubernetes(spec["scheduler"]["service"], "V1ServiceSpec", models)

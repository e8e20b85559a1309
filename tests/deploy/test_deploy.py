"""The files of deploy/: valid for their schemas, commands and settings that exist, secrets in files, no rights."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pytest
import yaml

import bindings
from bindings.cli.root import root
from bindings.settings import FROM_FILE, PREFIX, Settings
from bindings.web.server import DRAIN_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGES = ROOT / "docs" / "how-to"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/bindings/bin/bindings"
USER = 10001


def schema(name: str) -> Any:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text())


def load(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


MANIFESTS = [manifest for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for manifest in load(path)]
PODS = [manifest["spec"]["template"]["spec"] for manifest in MANIFESTS if "template" in manifest.get("spec", {})]
COMPOSE = load(DEPLOY / "compose.yaml")[0]
SERVICES = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "bindings"}


def errors(document: Any, schema: Any) -> list[str]:
    return [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.iter_errors(schema, document)]


def schema_of(manifest: dict[str, Any]) -> Any:
    whole = schema("kubernetes")
    kind = whole.pop("kinds")[f"{manifest['apiVersion']}/{manifest['kind']}"]
    return whole | kind


# Schemas.


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}"
)
def test_manifest_is_valid_for_kubernetes(manifest: dict[str, Any]) -> None:
    assert errors(manifest, schema_of(manifest)) == []
    misspelt = copy.deepcopy(manifest)
    (misspelt.get("spec") or misspelt)["replica"] = 2
    assert errors(misspelt, schema_of(manifest)) != []


def test_manifests_are_those_of_a_deployment_that_survives_a_drain() -> None:
    kinds = sorted(manifest["kind"] for manifest in MANIFESTS)
    assert kinds == [
        *("ConfigMap", "Deployment", "Deployment", "Job", "NetworkPolicy", "NetworkPolicy"),
        *("PodDisruptionBudget", "PodDisruptionBudget", "Service"),
    ]
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            [budget] = [
                other
                for other in MANIFESTS
                if other["kind"] == "PodDisruptionBudget" and other["spec"]["selector"]["matchLabels"] == labels
            ]
            assert manifest["spec"]["selector"]["matchLabels"] == labels
            assert manifest["spec"]["replicas"] > budget["spec"]["minAvailable"]


def test_compose_file_is_valid() -> None:
    assert errors(COMPOSE, schema("compose")) == []
    misspelt = copy.deepcopy(COMPOSE)
    misspelt["services"]["serve"]["replicas"] = 2
    assert errors(misspelt, schema("compose")) != []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_valid_for_systemd(unit: Path, tmp_path: Path) -> None:
    """The program is replaced by one that exists: it is not installed here."""
    copied = tmp_path / unit.name
    copied.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(copied)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", ["serve", "scheduler"])
def test_unit_that_ends_bindings_by_time_starts_after_the_clock_is_set(name: str) -> None:
    unit = DEPLOY / "systemd" / f"bindings-{name}.service"
    for key in ("After", "Wants"):
        assert "time-sync.target" in " ".join(unit_values(unit, key)).split()


# Commands.


def unit_values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def containerfile(instruction: str) -> list[str]:
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)


COMMANDS = [
    *(pod["containers"][0]["args"] for pod in PODS),
    *(service["command"] for service in SERVICES.values()),
    *(start.removeprefix(PROGRAM).split() for unit in UNITS for start in unit_values(unit, "ExecStart")),
    *(json.loads(command) for command in containerfile("CMD")),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command_and_its_options_exist(arguments: list[str]) -> None:
    context, rest = click.Context(root), list(arguments)
    command: click.Command = root
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, name
        context, command = click.Context(found, info_name=name, parent=context), found
    command.make_context(None, rest)


def test_image_starts_the_command_line() -> None:
    assert containerfile("ENTRYPOINT") == ['["bindings"]']
    assert not [pod for pod in PODS if "command" in pod["containers"][0]]
    assert not [service for service in SERVICES.values() if "entrypoint" in service]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_of_the_image_fails_unless_the_process_is_alive(status: int, code: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name of the base class
            pass

    [check] = containerfile("HEALTHCHECK")
    python, *arguments = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        arguments = [argument.replace("8000", str(server.server_port)) for argument in arguments]
        result = subprocess.run([sys.executable, *arguments], check=False, timeout=60)
    assert result.returncode == code


# Settings and secrets.

SECRETS = {f"{PREFIX}{name}" for name in FROM_FILE}
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields} - SECRETS | {
    f"{name}_FILE" for name in SECRETS
}
SECRET_FILES = {f"{name}_FILE" for name in SECRETS} | {"BINDINGS_BOOTSTRAP_KEY_FILE"}
CONFIG: dict[str, str] = next(manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap")


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    variables = {variable["name"]: variable["value"] for variable in container.get("env", ())}
    return variables | (CONFIG if container.get("envFrom") == [{"configMapRef": {"name": "bindings"}}] else {})


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["containers"][0]["name"])
def test_pod_reads_its_secrets_from_a_volume_and_may_do_nothing_else(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    variables = environment_of(container)
    assert variables.keys() <= SETTINGS
    secrets = {name: variables[name] for name in SECRET_FILES & variables.keys()}
    assert secrets
    assert {str(Path(file).parent) for file in secrets.values()} == {"/etc/bindings"}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts["/etc/bindings"]["readOnly"]
    volume = volumes[mounts["/etc/bindings"]["name"]]["secret"]
    assert volume["defaultMode"] == 0o440
    assert _created_secrets()[volume["secretName"]] == {Path(file).name for file in secrets.values()}
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, USER, USER)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert container["image"] == f"registry.example.com/bindings:{bindings.__version__}"


def _created_secrets() -> dict[str, set[str]]:
    """Return the files of each secret that the page tells to create."""
    page = (PAGES / "containers.md").read_text().replace("\\\n", " ")
    creations = re.findall(r"^ *kubectl create secret generic (\S+) (.*)$", page, re.MULTILINE)
    return {name: set(re.findall(r"--from-file=(\w+)=", files)) for name, files in creations}


@pytest.mark.parametrize("name", SERVICES)
def test_service_of_the_compose_file_reads_its_secrets_from_files_and_may_do_nothing_else(name: str) -> None:
    service = SERVICES[name]
    assert service["environment"].keys() <= SETTINGS
    secrets = {service["environment"][name] for name in SECRET_FILES & service["environment"].keys()}
    assert secrets == {f"/run/secrets/{secret}" for secret in service["secrets"]}
    assert service["pull_policy"] == "never", "an image of this name in a registry is another project's"
    assert (service["user"], service["read_only"], service["cap_drop"]) == (f"{USER}:{USER}", True, ["ALL"])
    assert containerfile("USER") == [f"{USER}:{USER}"]
    made = set(re.findall(r"> (\w+)", (PAGES / "containers.md").read_text()))
    assert set(COMPOSE["secrets"]) <= made, "the page makes every file"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_reads_its_secrets_from_credentials(unit: Path) -> None:
    credentials = {value.partition(":")[0] for value in unit_values(unit, "LoadCredential")}
    variables = dict(value.split("=") for value in unit_values(unit, "Environment"))
    assert variables.keys() <= SECRET_FILES
    assert set(variables.values()) == {f"%d/{name}" for name in credentials}
    assert unit_values(unit, "DynamicUser") == ["yes"]
    assert f"/etc/bindings/{credentials.pop()}" in (PAGES / "systemd.md").read_text()


# Shutdown.


def test_processes_have_the_time_to_settle_what_was_sent() -> None:
    for pod in PODS:
        if pod.get("restartPolicy") != "Never":
            container = pod["containers"][0]
            wait = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
            assert pod["terminationGracePeriodSeconds"] > DRAIN_S + int(wait[1])
    for name, service in SERVICES.items():
        assert name == "migrate" or int(service["stop_grace_period"].removesuffix("s")) > DRAIN_S
    for unit in UNITS:
        [kind], stop = unit_values(unit, "Type"), unit_values(unit, "TimeoutStopSec")
        assert kind == "oneshot" or int(stop[0]) > DRAIN_S


# The image.


def test_pages_name_the_version_of_this_code() -> None:
    for page, pattern in (("containers.md", r"bindings:(\d[\d.]*\d)"), ("systemd.md", r"bindings-(\d[\d.]*\d)")):
        assert set(re.findall(pattern, (PAGES / page).read_text())) == {bindings.__version__}


def test_image_is_built_from_files_that_exist_and_from_locked_packages() -> None:
    sources = [source for copied in containerfile("COPY") for source in copied.split()[:-1]]
    assert [
        source for source in sources if not source.startswith(("--from", "/")) and not (ROOT / source).exists()
    ] == []
    installs = [step for run in containerfile("RUN") for step in run.split("&&") if "pip install" in step]
    assert [step for step in installs if "--require-hashes" not in step and "--no-index" not in step] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]

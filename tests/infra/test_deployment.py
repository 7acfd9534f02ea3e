"""The ways to run it, as far as they can be checked here: compose, image, manifests.

Files are held to the schemas of Compose and of Kubernetes; names of settings, ports and commands to
the code. KEDA's and Prometheus' own kinds have no schema here: their shape alone is looked at.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from pydantic import BaseModel

from infra import ready
from infra.cli import app
from infra.settings import Settings
from infra.stack import grace_s
from tests.apache_kafka import REPOSITORY

SCHEMA = Path(__file__).parent / "schemas" / "compose_spec.json"
MANIFESTS = REPOSITORY / "infra" / "kubernetes"
DOCKERFILE = REPOSITORY / "infra" / "docker" / "Dockerfile"
# Kinds of extensions, with what their `spec` must have.
EXTENSIONS = {
    "ScaledObject": ("scaleTargetRef", "triggers"),
    "ScaledJob": ("jobTargetRef", "triggers"),
    "PodMonitor": ("selector", "podMetricsEndpoints"),
}
OURS = re.compile(r"headrace-(streams|serving|ops|training):")


def loaded(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.load_all(path.read_text(), yaml.CSafeLoader))


@cache
def compose() -> dict[str, Any]:
    return loaded(REPOSITORY / "docker-compose.yml")[0]


@cache
def documents() -> list[tuple[Path, dict[str, Any]]]:
    """Every manifest with the file it is from, kustomizations left out."""
    return [
        (path.relative_to(MANIFESTS), document)
        for path in sorted(MANIFESTS.rglob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in loaded(path)
    ]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for _, document in documents() if document["kind"] in kinds]


@dataclass(frozen=True)
class Unit:
    """A container of ours, wherever it is written down."""

    name: str
    image: str
    arguments: list[str] | None  # None: it runs something else than `headrace`
    environment: dict[str, str]
    ports: frozenset[int]


def composed() -> list[Unit]:
    return [
        Unit(
            f"compose/{name}", service["image"],
            None if "entrypoint" in service else service["command"],
            {key: str(value) for key, value in service.get("environment", {}).items()},
            frozenset(int(port.split(":")[-1]) for port in service.get("ports", ())),
        )
        for name, service in compose()["services"].items()
        if OURS.match(service["image"])
    ]  # fmt: skip


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that a manifest describes, and who describes it."""
    for path, document in documents():
        spec = document.get("spec", {})
        template = spec.get("jobTargetRef", spec).get("template")
        if template is not None:
            yield f"{path}/{document['metadata']['name']}", template["spec"]


def shared_environment() -> dict[str, str]:
    """What every container in Kubernetes has from the ConfigMap and the Secret."""
    (settings,) = of_kind("ConfigMap")
    (secret,) = of_kind("Secret")
    return {**settings["data"], **secret["stringData"]}


def orchestrated() -> list[Unit]:
    return [
        Unit(
            f"{where}/{container['name']}", container["image"],
            None if "command" in container else container["args"],
            shared_environment()
            | {one["name"]: one.get("value", "0") for one in container.get("env", ())},
            frozenset(port["containerPort"] for port in container.get("ports", ())),
        )
        for where, pod in pods()
        for container in pod["containers"]
        if OURS.match(container["image"])
    ]  # fmt: skip


def units() -> list[Unit]:
    return composed() + orchestrated()


def named_in_settings(model: type[BaseModel], prefix: str) -> set[str]:
    """The variables of every setting, those of sections within sections too."""
    found = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= named_in_settings(kind, f"{prefix}{name.upper()}__")
        else:
            found.add(f"{prefix}{name.upper()}")
    return found


def settings_of(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the process in a container makes of its environment."""
    with monkeypatch.context() as patch:
        for name, value in unit.environment.items():
            patch.setenv(name, value)
        return Settings()


def test_compose_is_what_the_specification_allows():
    found = dict(compose())
    assert found.pop("name") == "headrace"  # the schema is of 1.29.2, before there were names
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(found)


def test_compose_publishes_on_loopback_alone():
    ports = [p for service in compose()["services"].values() for p in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_mounts_files_that_are_there():
    mounted = [
        volume.split(":")[0]
        for service in compose()["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert len(mounted) > 3
    assert [path for path in mounted if not (REPOSITORY / path).exists()] == []


def test_manifests_are_what_kubernetes_takes():
    checked = 0
    for path, document in documents():
        if document["kind"] in EXTENSIONS:
            assert set(EXTENSIONS[document["kind"]]) <= set(document["spec"]), path
        else:
            version = kubernetes_validate.latest_version()
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked > 20


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to build manifests with")
@pytest.mark.parametrize("folder", ["base", "workers", "keda", "monitoring"])
def test_kustomizations_can_be_built(folder):
    command = ["kubectl", "kustomize", str(MANIFESTS / folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    kinds = [(d["kind"], d["metadata"]["name"]) for d in yaml.safe_load_all(built.stdout)]
    assert len(set(kinds)) == len(kinds)
    assert (("Deployment", "headrace-features") in kinds) == (folder in ("base", "keda"))
    scalers = [kind for kind, name in kinds if name == "headrace-serve" and "cal" in kind]
    assert len([kind for kind in scalers if kind != "PodDisruptionBudget"]) == (
        folder != "monitoring"
    )


def test_every_variable_is_a_setting():
    known = named_in_settings(Settings, "HEADRACE_")
    assert {"HEADRACE_KAFKA__BOOTSTRAP", "HEADRACE_HOME"} <= known
    for unit in units():
        named = {name for name in unit.environment if name.startswith("HEADRACE_")}
        assert named - known == set(), unit.name


def test_every_process_takes_its_settings(monkeypatch):
    for unit in units():
        found = settings_of(unit, monkeypatch)
        if unit.arguments is None:
            continue
        assert found.kafka.bootstrap, unit.name
        if unit.arguments[:2] == ["stream", "features"]:
            assert found.stream.epoch_s > found.redis.may_lose_s > 0, unit.name


def test_every_command_is_one_of_the_command_line():
    for unit in units():
        if unit.arguments is not None:
            parse([word.replace("$(PROCESS)", "1").strip() for word in unit.arguments])
    with pytest.raises(Exception, match="No such command"):
        parse(["stream", "featuers"])


@pytest.mark.parametrize("page", ["running", "sizing", "upgrades"])
def test_commands_on_the_pages_are_commands(page):
    found = commands_in((REPOSITORY / "docs" / f"{page}.md").read_text())
    assert len(found) > 2
    for words in found:
        parse(words)


def commands_in(text: str) -> list[list[str]]:
    """What pages tell readers to type: `headrace ...` in indented lines and between backquotes."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    calls = [
        call[1]
        for place in [*lines, *re.findall(r"`([^`]+ [^`]+)`", text)]
        for part in place.split("    ")[0].split("; ")
        if (call := re.fullmatch(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?headrace ([a-z].*)", part.strip()))
    ]
    return [typed(call) for call in calls if call != "size"]  # its name alone, in a sentence


def typed(words: str) -> list[str]:
    """The words as a shell hands them on; placeholders of numbers are numbers."""
    return ["1" if word == "SEQUENCE" else word for word in shlex.split(words)]


def parse(arguments: list[str]) -> None:
    """Has the command line read the arguments, without calling what they name."""
    command = typer.main.get_command(app)
    context = command.make_context("headrace", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def test_metrics_are_where_prometheus_and_the_console_look():
    services = compose()["services"]
    ports = {unit.name.removeprefix("compose/"): ports_of_metrics(unit) for unit in composed()}
    assert services["agents"]["network_mode"] == "service:ops"
    assert services["ops"]["networks"]["default"]["aliases"] == ["agents"]
    (config,) = loaded(REPOSITORY / "infra/prometheus/prometheus.yml")
    (job,) = config["scrape_configs"]
    targets = [one["targets"][0].split(":") for one in job["static_configs"]]
    assert {name for name, _ in targets} == {name for name, found in ports.items() if found}
    assert all(int(port) in ports[name] for name, port in targets)
    seen = console_targets(next(unit for unit in composed() if unit.name == "compose/ops"))
    assert {name for name, *_ in seen} == set(dict(targets)) - {"ops"}
    for name, host, port in seen:
        assert (host in (name, "127.0.0.1"), port in ports[name]) == (True, True)


def ports_of_metrics(unit: Unit) -> set[int]:
    """Where a process tells its metrics."""
    named = {name: value for name, value in unit.environment.items() if name.endswith("_PORT")}
    return {int(v) for k, v in named.items() if "METRICS__" in k or "OPS__" in k}


def console_targets(unit: Unit) -> list[tuple[str, str, int]]:
    found = [one.partition("=") for one in unit.environment["HEADRACE_OPS__TARGETS"].split(",")]
    urls = [(name, re.fullmatch(r"http://([^:]+):(\d+)/metrics", url)) for name, _, url in found]
    return [(name, url[1], int(url[2])) for name, url in urls]


def test_services_and_probes_name_ports_that_are_listened_on():
    listening = {}
    for where, pod in pods():
        component = where.rsplit("headrace-", 1)[-1]
        for container in pod["containers"]:
            listening.setdefault(component, {}).update(
                {port["name"]: port["containerPort"] for port in container.get("ports", ())}
            )
            probed = container.get("livenessProbe", {}).get("httpGet", {}).get("port")
            assert probed is None or probed in listening[component], where
    for service in of_kind("Service"):
        component = service["spec"]["selector"]["app.kubernetes.io/component"]
        for port in service["spec"]["ports"]:
            assert listening[component][port["targetPort"]] == port["port"], service["metadata"]
    ops = next(unit for unit in orchestrated() if unit.arguments == ["ops"])
    names = {service["metadata"]["name"]: service for service in of_kind("Service")}
    for name, host, port in console_targets(ops):
        known = host == "127.0.0.1" or names[host]["spec"]["ports"][0]["port"] == port
        assert known, name
    for unit in units():
        assert ports_of_metrics(unit) <= unit.ports or unit.name == "compose/agents", unit.name


def test_a_policy_guards_every_pod_and_workers_speak_to_workers_alone():
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    nothing = policies["headrace-nothing-in"]
    assert "ingress" not in nothing
    assert nothing["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "headrace"}}
    for _, document in documents():
        template = document.get("spec", {}).get("template")
        if template is not None:
            assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "headrace"
    doors = {
        (name, port["port"]): [peer.get("podSelector") for peer in rule["from"]]
        for name, spec in policies.items()
        for rule in spec.get("ingress", ())
        for port in rule["ports"]
    }
    workers = policies["headrace-features-workers"]["podSelector"]
    assert [door for door in doors if door[1] == 2101] == [("headrace-features-workers", 2101)]
    assert doors["headrace-features-workers", 2101] == [workers]


def test_pods_have_no_rights_that_they_do_not_need():
    for where, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert "memory" in container["resources"]["limits"], where
    for name, service in compose()["services"].items():
        if OURS.match(service["image"]):
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name


def test_processes_are_given_the_time_that_their_ends_take(monkeypatch):
    serve = {unit.name: unit for unit in units() if unit.arguments == ["serve"]}
    (pod,) = [pod for where, pod in pods() if where.endswith("headrace-serve")]
    orchestrated_s = pod["terminationGracePeriodSeconds"]
    composed_s = int(compose()["services"]["serve"]["stop_grace_period"].removesuffix("s"))
    assert len(serve) == 2
    for name, unit in serve.items():
        needed_s = grace_s(settings_of(unit, monkeypatch))
        assert needed_s < (composed_s if name.startswith("compose") else orchestrated_s), name


def test_the_image_has_a_target_for_each_role_without_root():
    stages: dict[str, list[str]] = {}
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("FROM "):
            stages[line.split()[-1]] = []
        elif stages:
            stages[list(stages)[-1]].append(line)
    wanted = {OURS.match(unit.image)[1] for unit in units()}
    assert wanted == {"streams", "serving", "ops"}
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for role in wanted | {"training"}:
        users = [line.split()[1] for line in stages[role] if line.startswith("USER ")]
        assert users == ["headrace"], role
        extras = next(
            re.findall(r"install-headrace '\[(.+)\]'", "\n".join(stages[role])).__iter__()
        )
        assert set(extras.split(",")) <= set(known["optional-dependencies"]), role
    assert "HEALTHCHECK" in "\n".join(stages["base"])
    assert not re.search(r"^torch\b", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    for service in compose()["services"].values():
        if "build" in service:
            assert service["build"]["target"] == OURS.match(service["image"])[1]


def test_what_is_copied_into_the_image_is_let_into_its_context():
    rules = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [
        word
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--" not in line
        for word in line.split()[1:-1]
    ]
    assert rules[0] == "*"
    assert len(copied) > 8
    assert [path for path in copied if path not in let_in] == []
    assert [path for path in copied if not (REPOSITORY / path).exists()] == []


@pytest.fixture(scope="module")
def telling_process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with metrics like any of ours, which is ready when it is told a line."""
    program = (
        "from infra.telemetry import READY, serve_metrics\n"
        "print(serve_metrics('127.0.0.1', 0), flush=True)\n"
        "input(); READY.set(1); print('told', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        yield process, int(process.stdout.readline())
        process.kill()


def test_the_health_check_tells_a_process_that_is_ready(telling_process):
    process, port = telling_process
    check = [*compose()["services"]["serve"]["healthcheck"]["test"][1:]]
    assert check == ["python", "-m", "infra.ready"]

    def checked() -> subprocess.CompletedProcess[str]:
        environment = {"HEADRACE_METRICS__SERVE_PORT": str(port), "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, *check[1:]], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    early = checked()
    assert (early.returncode, "is not ready" in early.stderr) == (1, True)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "told\n"
    assert checked().returncode == 0
    assert ready.main([], {}) == 1

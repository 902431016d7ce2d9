"""What stands in deploy/ names things that exist: settings, commands, metrics, and keys that each format knows."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.cli import _COMMANDS
from millrace.supervisor import parse_procfile
from tests.platform import ROOT

DEPLOY = ROOT / "deploy"
PROCESSES = {tuple(line.command[1:]) for line in parse_procfile((ROOT / "Procfile").read_text())}
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").iterdir())
OF_OTHERS = {"PYTHONUNBUFFERED", "PROMETHEUS_MULTIPROC_DIR"}


def _settings() -> set[str]:
    """Every name that the two readers of settings ask the environment for."""
    sources = [ROOT / "millrace" / "settings.py", ROOT / "sandbox" / "config.py"]
    names = {name for source in sources for name in re.findall(r'read\.\w+\(\s*"([A-Z0-9_]+)"', source.read_text())}
    # The four of single sign-on are read together, by what they begin with.
    return names | {f"MILLRACE_OIDC_{name}" for name in ("ISSUER", "CLIENT_ID", "CLIENT_SECRET", "NAME")}


def _metrics() -> set[str]:
    """Every name under which a number appears at /metrics."""
    names = set()
    source = (ROOT / "millrace" / "metrics.py").read_text()
    for kind, name in re.findall(r'(Counter|Gauge|Histogram)\("(millrace_\w+)"', source):
        endings = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}[kind]
        names |= {name + ending for ending in endings}
    return names | set(re.findall(r'_gauge\("(millrace_\w+)"', (ROOT / "web" / "metrics.py").read_text()))


def _objects() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from (each for each in yaml.safe_load_all(path.read_text()) if each["kind"] != "Kustomization")


def _pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for each in _objects():
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"], each["spec"]["template"]


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def _environment(unit: Path) -> dict[str, str]:
    """What a unit of systemd sets itself."""
    lines = re.findall(r"^Environment=(.*)$", unit.read_text(), re.M)
    return dict(word.split("=", 1) for line in lines for word in line.split())


def _check_command(command: list[str]) -> None:
    if command[0] == "python":
        assert tuple(command[1:]) in PROCESSES, command
    elif command[0] == "millrace":
        assert command[1] in _COMMANDS, command
    else:
        assert command == ["/opt/millrace/deploy/worker"]


def test_every_command_is_a_line_of_the_procfile_or_of_the_command_line() -> None:
    ours = [each["command"] for each in _compose()["services"].values() if each["image"] == "millrace"]
    for _, _, template in _pods():
        ours += [each["command"] for each in template["spec"]["containers"]]
    for unit in UNITS:
        started = re.findall(r"^ExecStart=\S+python (.*)$", unit.read_text(), re.M)
        ours += [["python", *words.split()] for words in started]
    assert len(ours) > 10
    for command in ours:
        _check_command(command)
    both = re.findall(r"^python (.+?) &", (DEPLOY / "worker").read_text(), re.M)
    assert {tuple(words.split()) for words in both} == {("-m", "sandbox.launcher"), ("-m", "worker")}


def test_every_variable_is_a_setting() -> None:
    named = set(_compose()["x-millrace"]["environment"])
    for each in _compose()["services"].values():
        if each["image"] == "millrace":
            named |= set(each["environment"])
    for each in _objects():
        named |= set(each.get("stringData", {}))
    for _, _, template in _pods():
        named |= {variable["name"] for each in template["spec"]["containers"] for variable in each.get("env", [])}
    for unit in UNITS:
        named |= set(_environment(unit))
    named |= set(re.findall(r"\b([A-Z0-9_]+)=", (DEPLOY / "Dockerfile").read_text())) - {"PYTHON", "PATH"}
    assert named - OF_OTHERS <= _settings()
    assert {"DATABASE_URL", "REDIS_URL", "S3_ENDPOINT", "MILLRACE_SECRET_KEYS"} <= named


def test_every_metric_exists() -> None:
    files = [*(DEPLOY / "monitoring").iterdir(), DEPLOY / "kubernetes" / "scaling.yaml"]
    for path in files:
        named = set(re.findall(r"\bmillrace_\w+", path.read_text()))
        assert named, path
        assert named <= _metrics(), path


def test_the_dashboard_and_the_alerts_have_what_their_readers_want() -> None:
    panels = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())["panels"]
    assert len({each["id"] for each in panels}) == len(panels) > 5
    assert all(target["expr"] for each in panels for target in each["targets"])
    for group in yaml.safe_load((DEPLOY / "monitoring" / "alerts.yaml").read_text())["groups"]:
        assert all({"alert", "expr", "annotations"} <= set(rule) for rule in group["rules"])


def test_what_compose_depends_on_is_a_service_and_its_volumes_are_declared() -> None:
    composed = _compose()
    for name, each in composed["services"].items():
        assert set(each.get("depends_on", {})) <= set(composed["services"]), name
        assert {mount.partition(":")[0] for mount in each.get("volumes", [])} <= set(composed["volumes"]), name
        for other, condition in each.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in composed["services"][other], other
    example = set(re.findall(r"^(\w+)=", (DEPLOY / "example.env").read_text(), re.M))
    assert set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())) == example


def test_the_numbers_of_every_process_are_served_where_prometheus_looks() -> None:
    looked_at = set()
    for name, _, template in _pods():
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container.get("ports", [])}
        told = template["metadata"].get("annotations", {}).get("prometheus.io/port")
        if told is not None:
            looked_at.add(name)
            variables = {each["name"]: each["value"] for each in container.get("env", [])}
            assert told == (ports["http"] if name == "web" else ports["metrics"])
            assert variables.get("MILLRACE_METRICS_PORT") == ports.get("metrics")
    assert looked_at == {"web", "worker", "scheduler"}
    policies = {each["metadata"]["name"]: each["spec"] for each in _objects() if each["kind"] == "NetworkPolicy"}
    assert policies["prometheus-looks"]["ingress"][0]["ports"] == [{"port": "metrics"}]
    assert "MILLRACE_METRICS_HOST=0.0.0.0" in (DEPLOY / "Dockerfile").read_text()
    composed = {name: "MILLRACE_METRICS_PORT" in each.get("environment", {})
                for name, each in _compose()["services"].items() if each["image"] == "millrace"}  # fmt: skip
    assert composed == {"migrate": False, "web": False, "scheduler": True, "worker": True}
    ports_of_a_host = [port for unit in UNITS if (port := _environment(unit).get("MILLRACE_METRICS_PORT"))]
    assert len(set(ports_of_a_host)) == len(ports_of_a_host) == 2
    # Emptied at each start: by the script in a container, by systemd's own rule for such folders on a host.
    unit = DEPLOY / "systemd" / "millrace-worker.service"
    assert _environment(unit)["PROMETHEUS_MULTIPROC_DIR"] == "/run/millrace-worker"
    assert "RuntimeDirectory=millrace-worker\n" in unit.read_text() and "Preserve" not in unit.read_text()
    assert 'rm -rf "$PROMETHEUS_MULTIPROC_DIR"; mkdir -p "$PROMETHEUS_MULTIPROC_DIR"' in (DEPLOY / "worker").read_text()


def test_no_container_is_privileged_and_only_workers_have_a_capability() -> None:
    everything = "".join(path.read_text() for path in [*MANIFESTS, DEPLOY / "compose.yaml"])
    assert "privileged: true" not in everything
    assert [name for name, each in _compose()["services"].items() if "cap_add" in each] == ["worker"]
    for name, _, template in _pods():
        added = template["spec"]["containers"][0].get("securityContext", {}).get("capabilities", {}).get("add")
        assert added == (["SYS_ADMIN"] if name == "worker" else None)


def test_selectors_of_kubernetes_find_the_pods_that_they_mean() -> None:
    labels = [template["metadata"]["labels"] for _, _, template in _pods()]
    for name, spec, template in _pods():
        wanted = spec.get("selector", {}).get("matchLabels", {})
        assert wanted.items() <= template["metadata"]["labels"].items(), name
    for each in _objects():
        assert {"apiVersion", "kind", "metadata"} <= set(each)
        if each["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selector = each["spec"].get("podSelector") or each["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), each
        if each["kind"] == "ScaledObject":
            assert each["spec"]["scaleTargetRef"]["name"] in {name for name, _, _ in _pods()}


def test_the_kustomization_names_every_manifest_and_probes_ask_for_routes_that_exist() -> None:
    chosen = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in MANIFESTS} - {"kustomization.yaml"} == set(chosen)
    routes = set(re.findall(r'route\("(/health/\w+)"', (ROOT / "web" / "health.py").read_text()))
    assert set(re.findall(r"/health/\w+", (DEPLOY / "kubernetes" / "web.yaml").read_text())) == routes


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_knows_every_key(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        assert re.match(r"(#.*\n|\n)*\[Unit\]", unit.read_text())
        return
    for each in UNITS:  # the programs are not at their place here
        text = each.read_text().replace("/opt/millrace/.venv/bin/python", "/bin/true")
        (tmp_path / each.name).write_text(text.replace("User=millrace\n", ""))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or unit.name in line]
    assert [line for line in complaints if "DelegateSubgroup" not in line] == []


def test_the_unit_of_the_launcher_takes_nothing_away_that_jails_need() -> None:
    keys = re.findall(r"^(\w+)=", (DEPLOY / "systemd" / "millrace-launcher.service").read_text(), re.M)
    breaking = {"ProtectControlGroups", "ProtectKernelTunables", "RestrictNamespaces", "NoNewPrivileges",
                "PrivateDevices", "SystemCallFilter", "CapabilityBoundingSet", "User"}  # fmt: skip
    assert not breaking & set(keys)
    assert {"Delegate", "DelegateSubgroup"} <= set(keys)


def test_a_stop_of_the_launcher_signals_it_alone() -> None:
    # Its jails and its proxy are in the unit as well, and running jobs have their grace.
    assert "KillMode=mixed" in (DEPLOY / "systemd" / "millrace-launcher.service").read_text().splitlines()

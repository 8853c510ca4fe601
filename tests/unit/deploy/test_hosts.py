"""The configurations for Fly, Railway, Render, Kubernetes and Docker match what the worker does."""

from __future__ import annotations

import io
import json
import re
import tomllib
from itertools import pairwise
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from tests.support import ROOT
from tests.support.blocks import BLOCKS
from tests.support.source import DEFAULTS, MODEL, PAGE, PATHS, READ, is_command, loaded, required
from tests.unit.deploy.test_image import sent

FLY: dict[str, Any] = tomllib.loads((ROOT / "fly.toml").read_text())
RAILWAY: dict[str, Any] = json.loads((ROOT / "railway.json").read_text())
RENDER: dict[str, Any] = yaml.safe_load((ROOT / "render.yaml").read_text())
DOCS = (ROOT / "docs" / "deploy.md").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
LONGEST_KILL_TIMEOUT = 300  # seconds, at Fly and Render
SECRETS = required() - {"SUPABASE_URL"}
# set for a deployment, and read by other programs
ELSEWHERE = {"SUPABASE_PUBLISHABLE_KEY", "SUPABASE_DB_URL", "NODE_VERSION", "SKIP_DEPENDENCY_INSTALL", "PORT"}


# the documentation's blocks that this module checks
CHECKED = [block for block in BLOCKS if block.language == "yaml" and block.not_run is None]


def yaml_of(page: str) -> dict[str, Any]:
    """The one YAML block of a page."""
    [text] = [block.text for block in CHECKED if block.page.name == page]
    read: dict[str, Any] = yaml.safe_load(text)
    return read


# -- Fly ------------------------------------------------------------------------------------------------


def test_fly_kill_timeout_exceeds_the_drain() -> None:
    assert loaded(FLY["env"]).drain_seconds < FLY["kill_timeout"] <= LONGEST_KILL_TIMEOUT
    assert FLY["kill_signal"] == "SIGTERM"  # its own default is SIGINT


def test_fly_runs_existing_commands() -> None:
    assert FLY["processes"]
    for command in FLY["processes"].values():
        assert is_command(command)
    named = [*FLY["restart"], *FLY["checks"].values(), *FLY["metrics"], *FLY["vm"]]
    assert named
    for section in named:
        assert section["processes"] == list(FLY["processes"]), section
    assert [section["policy"] for section in FLY["restart"]] == ["always"]  # a stuck worker exits 1


def test_fly_checks_the_health_port() -> None:
    settings = loaded(FLY["env"])
    assert settings.health_host == "0.0.0.0"
    for section, path in ((FLY["checks"]["ready"], "/readyz"), (FLY["metrics"][0], "/metrics")):
        assert section["port"] == settings.health_port
        assert section["path"] == path
        assert path in PATHS


def test_fly_exposes_no_service_and_no_secret() -> None:
    assert not {"http_service", "services"} & set(FLY)
    assert not SECRETS & set(FLY["env"])


# -- Railway --------------------------------------------------------------------------------------------


def test_railway_kill_timeout_exceeds_the_drain() -> None:
    deploy = RAILWAY["deploy"]
    assert DEFAULTS.drain_seconds < deploy["drainingSeconds"] <= LONGEST_KILL_TIMEOUT
    assert isinstance(deploy["drainingSeconds"], int)  # a string fails the deployment
    assert deploy["restartPolicyType"] == "ALWAYS"


def test_railway_checks_the_health_port() -> None:
    assert RAILWAY["deploy"]["healthcheckPath"] == "/readyz"
    assert "/readyz" in PATHS
    # its check uses PORT, while the worker reads BRIDGE_HEALTH_PORT
    assert re.search(rf"^railway variable set .*\bPORT={DEFAULTS.health_port}\b", DOCS, re.MULTILINE)


def test_railway_rebuilds_when_the_image_would_change() -> None:
    build = RAILWAY["build"]
    assert (ROOT / build["dockerfilePath"]).is_file()
    watched = {pattern.strip("/").removesuffix("/**") for pattern in build["watchPatterns"]}
    locks = {name for name in sent() if name.startswith("requirements")}
    assert watched == (sent() - locks - {"LICENSE", "README.md"}) | {
        "requirements*.lock",
        "Dockerfile",
        ".dockerignore",
    }


# -- Render ---------------------------------------------------------------------------------------------


def test_render_has_one_private_worker() -> None:
    assert set(RENDER) == {"services"}
    [service] = RENDER["services"]
    assert service["type"] == "worker"
    assert (ROOT / service["dockerfilePath"]).is_file()
    assert service["numInstances"] >= 2


def test_render_kill_timeout_exceeds_the_drain_and_required_variables_are_prompted() -> None:
    [service] = RENDER["services"]
    variables = {variable["key"]: variable for variable in service["envVars"]}
    settings = loaded({key: variable["value"] for key, variable in variables.items() if "value" in variable})
    assert settings.drain_seconds < service["maxShutdownDelaySeconds"] <= LONGEST_KILL_TIMEOUT
    asked = {key for key, variable in variables.items() if variable.get("sync") is False}
    assert asked == required()
    assert all("value" not in variables[key] for key in asked)


# -- any host -------------------------------------------------------------------------------------------


def test_uncommented_example_file_has_the_defaults() -> None:
    """python-dotenv reads it as `docker run --env-file` and `fly secrets import` do: a name, =, the rest."""
    text = re.sub(r"^# ([A-Z_]+=)", r"\1", EXAMPLE, flags=re.MULTILINE).replace("…", "x")
    plain = {
        name: value
        for name, _, value in (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    }
    assert plain == {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}
    assert set(plain) - {"SUPABASE_PUBLISHABLE_KEY"} == (READ | MODEL) - {"SUPABASE_SERVICE_ROLE_KEY"}
    del plain["SUPABASE_PUBLISHABLE_KEY"]
    assert loaded(plain) == loaded({name: plain[name] for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY")})


def test_kubernetes_kill_timeout_exceeds_the_drain_and_probes_the_health_port() -> None:
    manifest = yaml_of("deploy.md")
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > DEFAULTS.drain_seconds
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "command" not in container  # the image's own entry point
    assert container["ports"] == [{"name": "health", "containerPort": DEFAULTS.health_port}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    # alive: a worker that waits for its project, and one that drains
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert {"/readyz", "/healthz"} <= PATHS
    assert manifest["spec"]["replicas"] >= 2


def test_prometheus_configuration_names_the_rules_and_the_port() -> None:
    configuration = yaml_of("operations.md")
    for name in configuration["rule_files"]:
        assert (ROOT / "deploy" / "prometheus" / name).is_file()
    [job] = configuration["scrape_configs"]
    assert "metrics_path" not in job  # Prometheus's own default is the worker's
    assert "/metrics" in PATHS
    for section in job["static_configs"]:
        assert all(target.endswith(f":{DEFAULTS.health_port}") for target in section["targets"])


def test_docker_stop_timeout_exceeds_the_drain() -> None:
    stops = re.findall(r"--stop-timeout[= ](\d+)", DOCS)
    assert stops
    assert all(int(seconds) > DEFAULTS.drain_seconds for seconds in stops)
    # published on the host's loopback address only
    assert re.findall(r"-p (\S+)", DOCS) == [f"127.0.0.1:{DEFAULTS.health_port}:{DEFAULTS.health_port}"]


# -- the documentation ----------------------------------------------------------------------------------


def test_deploying_takes_ten_commands_at_most_and_readme_has_them() -> None:
    path = next(block.text for block in BLOCKS if block.page.name == "deploy.md" and block.language == "sh")
    commands = [line for line in path.splitlines() if line and not line.startswith("#")]
    assert len(commands) <= 10
    assert path in (ROOT / "README.md").read_text()
    # without it, a first deploy makes a second, stopped machine, which scaling counts
    deploy = next(line for line in commands if line.startswith("fly deploy"))
    assert "--ha=false" in deploy
    order = [next(n for n, line in enumerate(commands) if word in line) for word in ("db push", "fly deploy", "scale")]
    assert all(before < after for before, after in pairwise(order))


def test_documented_variables_are_read() -> None:
    named = set(re.findall(r"\b(?:BRIDGE|SUPABASE|LLM|VITE)_[A-Z_]+[A-Z]\b", DOCS))
    assert required() <= named
    assert named <= READ | MODEL | PAGE | ELSEWHERE, named - READ - MODEL - PAGE - ELSEWHERE


@pytest.mark.parametrize("name", sorted(PAGE))
def test_variables_of_the_page_are_documented(name: str) -> None:
    assert f"`{name}`" in DOCS

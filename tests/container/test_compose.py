"""Promises of compose.yaml and compose.gpu.yaml that need no container: what Compose makes of them."""

from __future__ import annotations

import configparser
import json
import os
import re
from typing import Any

import pytest

from gateway.settings import SETTINGS
from healthcheck.programs import gateway_stop_seconds
from tests.container.stack import ROOT, run

pytestmark = pytest.mark.container
FIXED_BY_THE_IMAGE = {"GATEWAY_HOST", "GATEWAY_PORT", "UPSTREAM_BASE"}
# Not the gateway's own: what OpenTelemetry's SDK, Ollama, its libraries and its downloads read.
FOR_OTHERS = [
    "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OLLAMA_CONTEXT_LENGTH", "OLLAMA_DEBUG", "OLLAMA_FLASH_ATTENTION", "OLLAMA_GPU_OVERHEAD",
    "OLLAMA_IGPU_ENABLE", "OLLAMA_KEEP_ALIVE", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_LLM_LIBRARY",
    "OLLAMA_LOAD_TIMEOUT", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE", "OLLAMA_MAX_TRANSFER_STREAMS",
    "OLLAMA_NOPRUNE", "OLLAMA_NUM_PARALLEL", "OLLAMA_SCHED_SPREAD", "OLLAMA_VULKAN", "LLAMA_ARG_FIT",
    "LLAMA_ARG_FIT_TARGET", "CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "JETSON_JETPACK", "HTTPS_PROXY",
    "NO_PROXY",
]  # fmt: skip
DIGEST = "sha256:" + "0123456789abcdef" * 4
HARDENING = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "restart": "unless-stopped",
    "tmpfs": ["/tmp"],
}


def config(*files: str, **environment: str) -> dict[str, Any]:
    """What Compose makes of these files with just these variables set."""
    chosen = [word for file in files or ("compose.yaml",) for word in ("-f", file)]
    command = ("docker", "compose", "--env-file", os.devnull, *chosen, "config", "--format", "json")
    return dict(json.loads(run(*command, environment=environment)))


@pytest.fixture(autouse=True)
def _engine(engine: None) -> None:
    """Compose is there."""


def test_gpus_are_asked_for_by_their_own_file_alone() -> None:
    """compose.yaml is safe on a machine without a GPU; compose.gpu.yaml adds all NVIDIA ones, and no more."""
    plain = config()
    with_gpus = config("compose.yaml", "compose.gpu.yaml")
    [device] = with_gpus["services"]["gateway"].pop("deploy")["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"], device["count"]) == ("nvidia", ["gpu"], -1)
    assert with_gpus == plain


def test_an_unset_setting_stays_unset() -> None:
    """Compose invents no value: of all settings only REDIS_HOST has one, the name of the service."""
    environment = config()["services"]["gateway"]["environment"]
    assert {name: value for name, value in environment.items() if value is not None} == {"REDIS_HOST": "redis"}


@pytest.mark.parametrize("name", [row.name for row in SETTINGS if row.name not in FIXED_BY_THE_IMAGE])
def test_a_setting_of_the_shell_reaches_the_gateway(name: str) -> None:
    """Each setting is handed through under its own name, but for those that fit each other in the image."""
    assert config(**{name: "chosen"})["services"]["gateway"]["environment"][name] == "chosen"


@pytest.mark.parametrize("name", FOR_OTHERS)
def test_a_variable_of_ollamas_reaches_it(name: str) -> None:
    """What Ollama reads for itself, for its GPUs and for downloads is handed through under its own name."""
    assert config(**{name: "chosen"})["services"]["gateway"]["environment"][name] == "chosen"


def test_a_range_of_ports_is_published_for_several_gateways() -> None:
    """With a range each container of `--scale` takes a free port of it."""
    [port] = config(GATEWAY_PUBLISH_PORT="11535-11536")["services"]["gateway"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "11535-11536", 11535)


def test_images_may_be_named_by_digest() -> None:
    """A tag with its digest goes through to the build and to the store's service as it is."""
    ollama, redis = f"ollama/ollama:0.32.15@{DIGEST}", f"redis:8-alpine@{DIGEST}"
    services = config(OLLAMA_IMAGE=ollama, REDIS_IMAGE=redis)["services"]
    assert services["gateway"]["build"]["args"]["OLLAMA_IMAGE"] == ollama
    assert services["redis"]["image"] == redis


@pytest.mark.parametrize(("service", "user"), [("gateway", "10001:10001"), ("redis", "999:1000")])
def test_both_services_are_hardened(service: str, user: str) -> None:
    """A plain user, read-only root, no capabilities, no new privileges, a tmpfs for /tmp, a healthcheck of its own."""
    seen = config()["services"][service]
    assert {name: seen[name] for name in HARDENING} == HARDENING
    assert seen["user"] == user
    assert not {"privileged", "cap_add", "pid", "ipc", "devices", "network_mode"} & seen.keys()
    assert seen["healthcheck"]["test"]


def test_a_frozen_program_is_noticed_within_a_minute() -> None:
    """The check of compose.yaml is the image's own, three times at ten seconds' distance, six seconds each."""
    check = config()["services"]["gateway"]["healthcheck"]
    [in_image] = re.findall(r'^    CMD (\[".*check\.py"\])$', (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert check["test"] == ["CMD", *json.loads(in_image)]
    assert (check["interval"], check["timeout"], check["retries"]) == ("10s", "6s", 3)


def test_the_port_is_published_on_loopback_unless_told_otherwise() -> None:
    """127.0.0.1:11535 by default; GATEWAY_BIND opens it; Redis is never published."""
    [port] = config()["services"]["gateway"]["ports"]
    [opened] = config(GATEWAY_BIND="0.0.0.0")["services"]["gateway"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "11535", 11535)
    assert opened["host_ip"] == "0.0.0.0"
    assert "ports" not in config()["services"]["redis"]


def test_redis_is_reached_over_an_internal_network_only() -> None:
    """Redis has no password by default, so its one network leads nowhere but to the gateway."""
    seen = config()
    assert list(seen["services"]["redis"]["networks"]) == ["store"]
    assert seen["networks"]["store"]["internal"] is True
    assert [name for name, service in seen["services"].items() if "store" in service["networks"]] == [
        "gateway",
        "redis",
    ]


def test_the_stop_limits_nest() -> None:
    """Notice and drain < the gateway's stop wait; all stop waits together < compose's grace period."""
    programs = configparser.RawConfigParser(strict=False)
    programs.read(ROOT / "supervisord.conf")
    gateway_seconds = gateway_stop_seconds({})
    others_seconds = [
        programs.getint(section, "stopwaitsecs")
        for section in programs
        if section.endswith((":ollama", ":pull", ":listener"))
    ]
    grace = re.fullmatch(r"(?:(\d+)m)?(\d+)s", config()["services"]["gateway"]["stop_grace_period"])
    assert grace
    assert len(others_seconds) == 3
    assert 30 < gateway_seconds < gateway_seconds + sum(others_seconds) < int(grace[1] or 0) * 60 + int(grace[2])

"""Which variables are settings: Kubernetes' links are not, misspelled names are found, other programs' are ignored."""

from __future__ import annotations

import re

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import SETTINGS
from gateway.settings.environment import resembled, values_of, warnings_of
from tests.support.process import ROOT

NAMES = [setting.name for setting in SETTINGS]

MISSPELLED = {
    "REDIS_HOTS": "REDIS_HOST", "REDSI_HOST": "REDIS_HOST", "REDIS_HOSTS": "REDIS_HOST", "redis_host": "REDIS_HOST",
    "REDIS_PASSWD": "REDIS_PASSWORD", "REDIS_PASS": "REDIS_PASSWORD", "REDIS_URI": "REDIS_URL",
    "REDIS_USERNAME": "REDIS_USER", "GATEWAY_API_KEY": "GATEWAY_API_KEYS", "GATEWAY_KEYS": "GATEWAY_API_KEYS",
    "GATEWAY_API_KEY_FILE": "GATEWAY_API_KEYS_FILE", "GATEWY_PORT": "GATEWAY_PORT", "GATEWAYPORT": "GATEWAY_PORT",
    "HEARTBEAT_SECONDS": "HEARTBEAT_SEC", "DRAIN_SECS": "DRAIN_SEC", "TTL_RUNING": "TTL_RUNNING",
    "TLL_DONE": "TTL_DONE", "LOG_LEVELS": "LOG_LEVEL", "CORS_ALLOWED_ORIGINS": "CORS_ALLOW_ORIGINS",
    "ALLOWED_HOST": "ALLOWED_HOSTS", "MAX_CONNECTION": "MAX_CONNECTIONS", "UPSTREAM_BASE_URL": "UPSTREAM_BASE",
    "OTEL_EXPORTER_OTLP_ENDPOINTS": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_ENDPOINT": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OLLAMA_PULL_MODEL": "OLLAMA_PULL_MODELS", "READY_REQUIRE_MODELS": "READY_REQUIRES_MODELS",
}  # fmt: skip
OTHERS = [
    "PATH", "HOME", "HOSTNAME", "LANG", "PORT", "HOST", "LOG", "LOGLEVEL", "RUST_LOG", "LOG_FILE", "APP_LOG_LEVEL",
    "UVICORN_LOG_LEVEL", "DB_MAX_CONNECTIONS", "REDIS_VERSION", "REDIS_DOWNLOAD_URL", "REDIS_DOWNLOAD_SHA",
    "REDIS_TLS_URL", "REDIS_PORT_NUMBER", "REDIS_MASTER_HOST", "GATEWAY_TIMEOUT", "MAX_BODY_SIZE", "HTTPS_PROXY",
    "NO_PROXY", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OLLAMA_HOST", "OLLAMA_MODELS",
    "OLLAMA_ORIGINS", "OLLAMA_DEBUG", "OLLAMA_KEEP_ALIVE", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE",
    "OLLAMA_NUM_PARALLEL", "OLLAMA_LOAD_TIMEOUT", "OLLAMA_FLASH_ATTENTION", "OLLAMA_NOPRUNE", "OLLAMA_NO_CLOUD",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_LLM_LIBRARY", "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_GPU_OVERHEAD", "OLLAMA_MULTIUSER_CACHE", "OLLAMA_GATEWAY_URL", "OLLAMA_GATEWAY_KEY",
    "LAUNCHER_DIRECTORY", "LAUNCHER_GATEWAY_STOP_SECONDS", "READY", "TTL", "DRAIN", "CORS", "MAX", "ALLOWED",
    "UPSTREAM",
]  # fmt: skip


def of_service(name: str) -> dict[str, str]:
    """The variables that the kubelet sets in every container for a Service with one named port."""
    link, port = "tcp://10.43.7.9:6379", "6379"
    return {
        f"{name}_SERVICE_HOST": "10.43.7.9", f"{name}_SERVICE_PORT": port, f"{name}_SERVICE_PORT_HTTP": port,
        f"{name}_PORT": link, f"{name}_PORT_6379_TCP": link, f"{name}_PORT_6379_TCP_PROTO": "tcp",
        f"{name}_PORT_6379_TCP_PORT": port, f"{name}_PORT_6379_TCP_ADDR": "10.43.7.9",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "meant"), MISSPELLED.items())
def test_a_misspelled_name_is_told_with_the_right_one(name: str, meant: str) -> None:
    """One warning names the variable and the setting that it resembles, and shows no value."""
    (line,) = warnings_of({name: "hunter2"}, NAMES)
    assert line == f"{name} is no setting and has no effect: is {meant} meant?"


@pytest.mark.parametrize("name", OTHERS)
def test_other_variables_are_not_told(name: str) -> None:
    """Variables of other programs, or of other parts of this one, cause no warning."""
    assert warnings_of({name: "x"}, NAMES) == []


def test_the_variables_of_opentelemetry_are_not_told() -> None:
    """All that its SDK reads, whatever a later version adds to them."""
    modules = (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables)
    known = {text for module in modules for name, text in vars(module).items() if name.startswith("OTEL_")}
    assert len(known) > 60
    assert warnings_of(dict.fromkeys(known, "x"), NAMES) == []


@pytest.mark.parametrize("number", ["2", "8", "10", "64", "007"])
def test_former_workers_are_told(number: str) -> None:
    """More than one worker is no longer possible: one warning says so."""
    (line,) = warnings_of({"GATEWAY_WORKERS": number}, NAMES)
    assert line == "GATEWAY_WORKERS is no longer a setting and has no effect: one process serves"


@pytest.mark.parametrize("number", ["", "1", "01", "0", "x", "tcp://10.0.0.1:80"])
def test_a_single_worker_is_not_told(number: str) -> None:
    """One worker is what the gateway does anyway; a text that is no number had no meaning."""
    assert warnings_of({"GATEWAY_WORKERS": number}, NAMES) == []


def test_no_variable_of_the_compose_file_is_told() -> None:
    """A file of settings for compose may be handed to the container as it is."""
    read = re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text())
    assert "GATEWAY_PUBLISH_PORT" in read
    assert warnings_of(dict.fromkeys(read, "x"), NAMES) == []


@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp"])
def test_what_kubernetes_sets_for_services_is_no_value(scheme: str) -> None:
    """Services named `gateway` and `redis` cost one warning for each setting they hit, and no other."""
    environ = of_service("GATEWAY") | of_service("REDIS") | of_service("OLLAMA_GATEWAY") | of_service("REDIS_HOSTS")
    environ = {name: text.replace("tcp:", f"{scheme}:") for name, text in environ.items()}
    environ |= {"REDIS_HOST": "real"}
    assert values_of(environ, NAMES) == {"REDIS_HOST": "real"}
    lines = warnings_of(environ, NAMES)
    assert [line.partition(" ")[0] for line in lines] == ["GATEWAY_PORT", "REDIS_PORT"]
    assert not any("10.43.7.9" in line or "://" in line for line in lines)


@given(st.from_regex(r"[A-Z][A-Z0-9-]{0,20}", fullmatch=True))
def test_no_service_brings_a_warning_but_by_a_settings_name(service: str) -> None:
    """Whatever a Service is called, the names that Kubernetes makes of it are never taken for misspelled settings."""
    environ = of_service(service.replace("-", "_"))
    links = [name for name in environ if name in NAMES]
    assert [line.partition(" ")[0] for line in warnings_of(environ, NAMES)] == links


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_resembles_nothing_else(name: str) -> None:
    """A correct name causes no warning, however close it is to another setting; two swapped letters do."""
    assert resembled(name, NAMES) is None
    swapped = name[:-2] + name[-1] + name[-2]
    if swapped != name:
        assert resembled(swapped, NAMES) == name


def test_an_empty_variable_is_no_mistake() -> None:
    """Compose files set empty variables; they cause no warning."""
    assert warnings_of({"REDIS_HOTS": "", "GATEWAY_PORT": ""}, NAMES) == []

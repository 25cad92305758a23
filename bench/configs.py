"""The configuration of each peer that needs one, as text. Starts nothing and writes no file.

Every peer listens on loopback only, writes no access log, and asks nothing outside: no updates, no telemetry.
"""

import os

MODEL = "smollm2:135m"

_NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  scgi_temp_path {folder}/scgi;
  uwsgi_temp_path {folder}/uwsgi;
  keepalive_requests 100000000;
  client_max_body_size 0;
  {http}
}}
"""

# The connections to the upstream are kept: HTTP/1.1, and a pool that holds those of 1,000 streams.
_NGINX_PROXY = """
  upstream ollama {{
    server 127.0.0.1:{upstream_port};
    keepalive 2048;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://ollama;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
"""

# The files of `folder`: tasks/<id> has the document of a task, list.json the list.
_NGINX_STATIC = """
  default_type application/json;
  sendfile on;
  open_file_cache max=4096;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /tasks/status/ {{ alias {folder}/tasks/; }}
    location = /tasks/status {{ alias {folder}/list.json; }}
  }}
"""

_HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen ollama
  bind 127.0.0.1:{port} backlog 4096
  server ollama 127.0.0.1:{upstream_port}
"""

_LITELLM = f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: http://127.0.0.1:{{upstream_port}}/v1
      api_key: ollama
"""

# The limits of rates are off, because the load comes from one address. Its path is /olla/openai/v1/…
_OLLA = """
server:
  host: 127.0.0.1
  port: {port}
  read_timeout: 600s
  write_timeout: 0s
  request_logging: false
  rate_limits:
    global_requests_per_minute: 0
    per_ip_requests_per_minute: 0
    health_requests_per_minute: 0
    burst_size: 0
proxy:
  engine: olla
  profile: streaming
  load_balancer: least-connections
  response_timeout: 600s
  read_timeout: 600s
discovery:
  type: static
  static:
    endpoints:
      - url: http://127.0.0.1:{upstream_port}
        name: upstream
        type: openai-compatible
        priority: 100
        model_url: /v1/models
        health_check_url: /
        check_interval: 60s
        check_timeout: 5s
  model_discovery:
    enabled: true
    interval: 60m
    timeout: 5s
translators:
  anthropic:
    enabled: false
logging:
  level: error
  format: json
  output: stdout
dashboard:
  enabled: false
"""
OLLA_PREFIX = "/olla/openai"
OLLA_ENV = {"OLLA_FILE_OUTPUT": "false", "OLLA_LOG_LEVEL": "error", "OLLA_PRETTY_LOGS": "false"}

_LLAMA_SWAP = f"""
logLevel: error
logToStdout: none
metricsMaxInMemory: 1
captureBuffer: 0
performance:
  disabled: true
peers:
  upstream:
    proxy: http://127.0.0.1:{{upstream_port}}
    models: ["{MODEL}"]
    timeouts:
      responseHeader: 600
"""


def nginx_proxy(folder: str, port: int, upstream_port: int) -> str:
    """A reverse proxy that keeps its connections to the upstream."""
    return _nginx(folder, _NGINX_PROXY.format(port=port, upstream_port=upstream_port))


def nginx_static(folder: str, port: int) -> str:
    """A server of the files in `folder`, under the paths of the gateway's status documents."""
    return _nginx(folder, _NGINX_STATIC.format(folder=folder, port=port))


def _nginx(folder: str, http: str) -> str:
    user = "user root;" if os.geteuid() == 0 else ""  # as root the worker would become `www-data`
    return _NGINX.format(user=user, folder=folder, http=http)


def haproxy(port: int, upstream_port: int) -> str:
    return _HAPROXY.format(port=port, upstream_port=upstream_port)


def litellm(upstream_port: int) -> str:
    """LiteLLM gets its port as an argument."""
    return _LITELLM.format(upstream_port=upstream_port)


def olla(port: int, upstream_port: int) -> str:
    return _OLLA.format(port=port, upstream_port=upstream_port)


def llama_swap(upstream_port: int) -> str:
    """llama-swap gets its address as an argument. The upstream is a peer of it: it starts no model itself."""
    return _LLAMA_SWAP.format(upstream_port=upstream_port)

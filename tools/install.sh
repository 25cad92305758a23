#!/usr/bin/env bash
# Owns the virtual environment: makes it if there is none, installs the pip of requirements/installer.txt into it, and
# uses that pip to install the arguments, with the hash of each package checked. Reports an error in one line if one
# line is enough. Usage:
#
#   tools/install.sh PYTHON VENV [pip's options] -r requirements/….txt …
set -euo pipefail

python=$1
venv=$2
shift 2
installer=$(dirname "$0")/../requirements/installer.txt

fail() { echo "install: $*" >&2; exit 1; }

make_venv() {
  command -v "$python" >/dev/null || fail "no $python here; install Python 3.11 or newer, or name one: make PYTHON=…"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; Python 3.11 or newer is needed: make PYTHON=python3.12 …"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python lacks the module venv; on Debian and Ubuntu: apt install python3-venv"
  "$python" -m venv "$venv" || fail "could not make $venv with $python"
}

# Some tools make environments without a pip.
find_pip() {
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null 2>&1 ||
    fail "$venv has no pip, and its Python cannot bring one; remove $venv, and on Debian and Ubuntu: apt install python3-venv"
}

install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --retries 2 --require-hashes "$@" >"$log" 2>&1 && return
  grep -qE 'Retrying|NewConnectionError|ConnectTimeout|Name or service|name resolution|ProxyError' "$log" &&
    fail "no package could be fetched: is there a network, and a proxy if one is needed (HTTPS_PROXY)?"
  tail -20 "$log" >&2
  fail "pip could not install the packages; see above"
}

[ -x "$venv/bin/python" ] || make_venv
find_pip
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "install: $*"
# Resolving and hash checks differ between versions of pip, so the machine's own pip only installs the pinned one.
install --only-binary :all: -r "$installer"
install "$@"

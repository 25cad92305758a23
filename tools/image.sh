#!/usr/bin/env bash
# Owns the labels of the image: which version it is and from which commit it was built. `make image` and the release
# workflow use the same ones. Usage:
#
#   tools/image.sh labels     print the build arguments, NAME=value
#   tools/image.sh build      build the image with them; GATEWAY_IMAGE names it, OLLAMA_IMAGE is the base
#
# The time is that of the commit, so that two builds of one commit have the same labels. IMAGE_SOURCE is the address of the
# repository; it is not taken from git, because an address there can hold a password.
set -euo pipefail
cd "$(dirname "$0")/.."

labels() {
  local revision=unknown created=unknown
  # Without git, or in a tree without a commit, the build still works.
  if revision=$(git rev-parse --verify --quiet HEAD 2>/dev/null); then
    created=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)
    [ -z "$(git status --porcelain)" ] || revision+=-dirty
  else
    revision=unknown
  fi
  echo "VERSION=$(tools/release.sh version)"
  echo "REVISION=$revision"
  echo "CREATED=$created"
  echo "SOURCE=${IMAGE_SOURCE:-unknown}"
}

build() {
  local arguments=() label
  while read -r label; do arguments+=(--build-arg "$label"); done < <(labels)
  [ -z "${OLLAMA_IMAGE:-}" ] || arguments+=(--build-arg "OLLAMA_IMAGE=$OLLAMA_IMAGE")
  docker build -f Containerfile -t "${GATEWAY_IMAGE:-ollama-gateway:latest}" "${arguments[@]}" .
}

case ${1:-} in
  labels | build) "$1" ;;
  *) echo "usage: tools/image.sh labels | build" >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# Owns what a release is: a tag vX.Y.Z that is the version in pyproject.toml and has a section in CHANGELOG.md. Usage:
#
#   tools/release.sh check TAG           fail in one line if the tag cannot be released; else print version=X.Y.Z
#   tools/release.sh notes TAG           print the section of CHANGELOG.md
#   tools/release.sh names IMAGE TAG     print the names of the image: name=…, tags=NAME,NAME,… and version=X.Y.Z
#   tools/release.sh publish TAG         make the release on GitHub, or write its text again; needs gh and GH_TOKEN
#
# `check` and `names` print lines for $GITHUB_OUTPUT. The tags of all versions must be in the clone.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "release: $*" >&2; exit 1; }

version_of() {
  [[ $1 =~ ^v((0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*))$ ]] || fail "the tag $1 is not vX.Y.Z"
  echo "${BASH_REMATCH[1]}"
}

notes() {
  local version
  version=$(version_of "$1")
  awk -v heading="## [$version]" '
    /^## / || /^\[[^]]*\]: / { is_here = 0 }
    is_here
    index($0, heading) == 1 { is_here = 1 }
  ' CHANGELOG.md | sed '/./,$!d' # no empty lines before the text
}

check() {
  local version ours
  version=$(version_of "$1")
  ours=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -1)
  [ "$version" = "$ours" ] || fail "the tag is $1, but pyproject.toml says $ours"
  grep -qF "## [$version]" CHANGELOG.md || fail "CHANGELOG.md has no section [$version]"
  [ -n "$(notes "$1")" ] || fail "the section [$version] of CHANGELOG.md is empty"
  echo "version=$version"
}

# The newest version among all tags that begin like this. `check` refuses tags of another form, so they do not count.
newest() {
  git tag --list "v$1*" --sort=-version:refname | grep -E -m 1 '^v[0-9]+\.[0-9]+\.[0-9]+$' || true
}

# A correction of an older version must not take the names X.Y and latest from a newer one.
names() {
  local image version minor tags
  image=${1,,} # a registry takes no capital letters, but the name of a repository can have some
  version=$(version_of "$2")
  minor=${version%.*}
  tags=$image:$version
  [ "$(newest "$minor.")" != "$2" ] || tags+=,$image:$minor
  [ "$(newest "")" != "$2" ] || tags+=,$image:latest
  echo "name=$image"
  echo "tags=$tags"
  echo "version=$version"
}

publish() {
  local mark=--latest
  [ "$(newest "")" = "$1" ] || mark=--latest=false
  if gh release view "$1" >/dev/null 2>&1; then
    notes "$1" | gh release edit "$1" --verify-tag --title "$1" "$mark" --notes-file -
  else
    notes "$1" | gh release create "$1" --verify-tag --title "$1" "$mark" --notes-file -
  fi
}

usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }

case ${1:-}/$# in
  check/2 | notes/2 | publish/2 | names/3) "$@" ;;
  *) usage ;;
esac

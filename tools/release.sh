#!/usr/bin/env bash
# Owns what a release is: a tag vX.Y.Z that is the version in pyproject.toml and has a section in CHANGELOG.md. Usage:
#
#   tools/release.sh version             print the version in pyproject.toml
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

# A file as it is here, or at a tag.
content() {
  if [ -n "${2:-}" ]; then git show "$2:$1"; else cat "$1"; fi
}

# What pyproject.toml says, here or at a tag.
version() {
  content pyproject.toml "${1:-}" | awk -F'"' '/^version = "/ && !found++ { print $2 }'
}

notes() { # TAG [AT]
  local version
  version=$(version_of "$1")
  content CHANGELOG.md "${2:-}" | awk -v heading="## [$version]" '
    /^## / || /^\[[^]]*\]: / { is_here = 0 }
    is_here
    index($0, heading) == 1 { is_here = 1 }
  ' | sed '/./,$!d' # no empty lines before the text
}

check() { # TAG [AT]
  local version ours
  version=$(version_of "$1") || exit
  ours=$(version "${2:-}")
  [ "$version" = "$ours" ] || fail "the tag is $1, but pyproject.toml says $ours"
  content CHANGELOG.md "${2:-}" | grep -F "## [$version]" >/dev/null || fail "CHANGELOG.md has no section [$version]"
  [ -n "$(notes "$1" "${2:-}")" ] || fail "the section [$version] of CHANGELOG.md is empty"
  echo "version=$version"
}

# The newest version among all tags that begin like this. A tag that `check` refuses for its own files is no release, so
# it does not count.
newest() {
  local tag
  while read -r tag; do
    if (check "$tag" "$tag") >/dev/null 2>&1; then
      echo "$tag"
      break
    fi
  done < <(git tag --list "v$1*" --sort=-version:refname)
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
  version/1 | check/2 | notes/2 | publish/2 | names/3) "$@" ;;
  *) usage ;;
esac

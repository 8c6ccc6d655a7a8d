#!/usr/bin/env bash
# Installs what tools/dependencies.txt lists and this machine lacks; says what, and does nothing when all is there.
# Usage: tools/install_deps.sh build|training|test
#   build      what configuring and compiling everything needs
#   training   what training/ needs: PyTorch and its own Python packages
#   test       both, and what the tests and checks need
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
list="$root/tools/dependencies.txt"
case "${1:-build}" in
  build) groups=" build " ;;
  training) groups=" training " ;;
  test) groups=" build training test " ;;
  *)
    echo "usage: tools/install_deps.sh build|training|test" >&2
    exit 2
    ;;
esac

installed_version() { dpkg-query -W -f='${db:Status-Abbrev} ${Version}' "$1" 2>/dev/null | sed -n 's/^ii *//p'; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "install_deps: root or sudo is needed to install Debian packages: ${*: -1}" >&2
    exit 1
  fi
}

missing=()
while read -r kind group name _; do
  [ "$kind" = debian ] || continue
  [[ $groups == *" $group "* ]] || continue
  [ -n "$(installed_version "$name")" ] || missing+=("$name")
done < <(grep -v '^#' "$list")
if [ "${#missing[@]}" -gt 0 ]; then
  echo "install_deps: installing Debian packages: ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if ! { as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
    --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install_deps: apt-get failed; the full log is $log" >&2
    exit 1
  fi
  rm -f "$log"
fi
while read -r kind group name major; do
  [ "$kind" = debian ] || continue
  [[ $groups == *" $group "* ]] || continue
  version=$(installed_version "$name")
  version=${version#*:}
  if [[ $version != "$major" && $version != "$major"[.-]* && $version != "$major"~* && $version != "$major"+* ]]; then
    echo "install_deps: $name is version ${version:-(not installed)}, expected $major.x; this project is built and" \
      "tested on Debian 12" >&2
    exit 1
  fi
done < <(grep -v '^#' "$list")

# Libraries for the cross compiler, from the machine's own package sources read as arm64: apt keeps its lists and state in
# a folder of ours, and the packages are unpacked, never installed. A stamp holds the list that was unpacked.
sysroot_arm64() {
  local folder="$root/build/sysroot-arm64" wanted names apt log name major version
  wanted=$(awk -v groups="$groups" '$1 == "arm64" && index(groups, " " $2 " ") { print $3, $4 }' "$list")
  if [ -z "$wanted" ] || { [ -f "$folder/.installed" ] && [ "$(cat "$folder/.installed")" = "$wanted" ]; }; then
    return
  fi
  names=$(cut -d ' ' -f 1 <<<"$wanted")
  echo "install_deps: unpacking Debian packages for arm64 into build/sysroot-arm64: ${names//$'\n'/ }" >&2
  rm -rf "$folder"
  mkdir -p "$folder/.apt/lists/partial" "$folder/.apt/cache/archives/partial" "$folder/.apt/packages"
  : >"$folder/.apt/status"
  log=$(mktemp)
  apt=(-q -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oAcquire::Languages=none -oAPT::Sandbox::User=
    "-oDir::State::Lists=$folder/.apt/lists" "-oDir::State::status=$folder/.apt/status"
    "-oDir::Cache=$folder/.apt/cache")
  # shellcheck disable=SC2086  # one word a package
  if ! { apt-get "${apt[@]}" update && cd "$folder/.apt/packages" && apt-get "${apt[@]}" download $names; } \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install_deps: apt-get could not fetch arm64 packages; the full log is $log" >&2
    exit 1
  fi
  cd "$root"
  rm -f "$log"
  while read -r name major; do
    version=$(dpkg-deb --field "$folder/.apt/packages/${name}"_*.deb Version)
    version=${version#*:}
    if [[ $version != "$major"[.-]* ]]; then
      echo "install_deps: $name for arm64 is version $version, expected $major.x; this project is tested on Debian 12" >&2
      exit 1
    fi
    dpkg-deb --extract "$folder/.apt/packages/${name}"_*.deb "$folder"
  done <<<"$wanted"
  rm -rf "$folder/.apt"
  printf '%s\n' "$wanted" >"$folder/.installed"
}
sysroot_arm64

# venv FOLDER GROUPS OPTION...: an environment with the PyPI packages of the groups. A stamp holds the list they were
# installed from; one that has more than is wanted now will do. Without a stamp, as after an interruption, it is made anew.
venv() {
  local folder="$root/$1" groups=$2 wanted
  shift 2
  wanted=$(awk -v groups="$groups" '$1 == "pypi" && index(groups, " " $2 " ") { print $3 "==" $4 }' "$list")
  if [ -x "$folder/bin/python" ] && [ -f "$folder/.installed" ] &&
    ! grep -qvxFf "$folder/.installed" <<<"$wanted"; then
    return
  fi
  echo "install_deps: installing Python packages into ${folder##*/}: ${wanted//$'\n'/ }" >&2
  rm -f "$folder/.installed"
  /usr/bin/python3 -m venv --clear "$@" "$folder"
  # shellcheck disable=SC2086  # one word a package
  "$folder/bin/python" -m pip install -q --disable-pip-version-check --no-deps $wanted
  printf '%s\n' "$wanted" >"$folder/.installed"
}
if [[ $groups == *" build "* ]]; then
  venv .venv "${groups/ training / }"
fi
if [[ $groups == *" training "* ]]; then
  venv .venv-training " training " --system-site-packages # Debian's PyTorch
fi

# shellcheck shell=bash
# What the scripts share: where things are, progress lines, packages, .venv.
# Sourced, never run. Everything said goes to stderr: stdout is the command's.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# run_logged WHAT REMEDY COMMAND...: run quietly; upon failure show the log's
# end, say where the whole of it is, and die. Never call it where a status is
# tested (if, ||): that would switch off set -e within COMMAND.
run_logged() {
    local what=$1 remedy=$2 log status
    shift 2
    log=$(mktemp "${TMPDIR:-/tmp}/vmm-setup.XXXXXX.log")
    set +e
    (
        set -e
        "$@"
    ) </dev/null >"$log" 2>&1
    status=$?
    set -e
    if [ "$status" != 0 ]; then
        tail -n 15 "$log" >&2
        die "$what failed: $remedy; the whole log: $log"
    fi
    rm -f "$log"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@" # asks on /dev/tty for a password if it needs one
    fi
}

missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            printf '%s\n' "$package"
    done
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q \
        -o DPkg::Lock::Timeout=600 install --no-install-recommends "$@"
}

apt_update() { as_root apt-get -q -o DPkg::Lock::Timeout=600 update; }

# The lists of a fresh machine are absent and those of an old one are stale;
# both show up as a failed install, and only then is an update worth its time.
apt_install_updating() {
    apt_install "$@" || { apt_update && apt_install "$@"; }
}

# need_packages PACKAGE...: install those that are missing; quick if none is.
need_packages() {
    local missing
    command -v dpkg-query >/dev/null ||
        die "this is no Debian: install what these packages hold, and dpkg: $*"
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "missing packages: ${missing[*]}; as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]} (about 1 min)"
    run_logged "apt-get install" "${missing[*]} missing (no network, or no right?)" \
        apt_install_updating "${missing[@]}"
}

# find_python: print the path of a Python >= 3.11.
find_python() {
    local name path
    for name in "${PYTHON:-python3}" /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        path=$(command -v "$name") || continue
        "$path" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 11)); ' 2>/dev/null || continue
        "$path" -I -S -c 'import os, sys; print(os.path.realpath(sys.executable))'
        return 0
    done
    die "no Python 3.11 or newer found; on Debian 12: apt-get install python3"
}

# What the environment is made of, the compiled run loop included.
venv_stamp() {
    (cd "$root" && cat pyproject.toml setup.py scripts/lib.sh vmm/vcpu/run_loop.c \
        vmm/vcpu/run_loop_build.py) | sha256sum | cut -c1-64
}

venv_is_current() {
    [ -x "$root/.venv/bin/python" ] && [ -f "$root/.venv/stamp" ] &&
        [ "$(venv_stamp)" = "$(cat "$root/.venv/stamp")" ]
}

dev_requirements() {
    "$root/.venv/bin/python" -I - "$root/pyproject.toml" <<'EOF'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["dependency-groups"]["dev"], sep="\n")
EOF
}

fill_venv() {
    local python=$1 requirements
    if ! [ -x "$root/.venv/bin/pip" ]; then
        "$python" -I -m venv --clear "$root/.venv"
    fi
    # Debian 12's pip knows no --group, so the group is read here.
    mapfile -t requirements < <(dev_requirements)
    "$root/.venv/bin/python" -I -m pip install --disable-pip-version-check \
        --editable "$root" --config-settings editable_mode=compat "${requirements[@]}"
}

# need_compiler PYTHON: what the compiled run loop is built with. A Python that isn't
# Debian's brings its headers, or the package goes without that loop.
need_compiler() {
    command -v cc >/dev/null || need_packages gcc libc6-dev
    [[ $1 != /usr/bin/* ]] || need_packages python3-dev
}

# ensure_venv: .venv/ holds this package, editable, and the tools that the
# tests need. The stamp is written last, so an interrupted run is taken up again.
ensure_venv() {
    local python lock
    venv_is_current && return 0
    exec {lock}<"$root/scripts/lib.sh"
    flock -n "$lock" || { say "waiting for another set-up of .venv" && flock "$lock"; }
    if ! venv_is_current; then
        python=$(find_python)
        "$python" -I -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv
        need_compiler "$python"
        say "setting up .venv with $python (about 1 min)"
        run_logged "setting up .venv" "pyproject.toml's dependencies missing (no network?)" \
            fill_venv "$python"
        venv_stamp >"$root/.venv/stamp.new"
        mv -f "$root/.venv/stamp.new" "$root/.venv/stamp"
    fi
    exec {lock}<&-
}

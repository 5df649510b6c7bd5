#!/usr/bin/env bash
# Makes .venv with autoprune (editable) and its test tools. The stamp is written last: without it, or when the
# environment is broken, everything is made anew; with it, only what changed is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.installed

fail() {
    printf 'autoprune: %s\n' "$@" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found." \
        "Install one (apt-get install python3) or name it: make ... PYTHON=/path/to/python3.12"
}

# Debian keeps what `python -m venv` needs in a package of its own.
require_venv() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        echo "autoprune: installing Debian's $package"
        apt-get update -qq || true # one broken source need not hinder the others
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" || true
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments." "As root: apt-get install $package; then run this again."
}

if [[ ! -e $stamp || "$(.venv/bin/python -I scripts/check_venv.py 2>/dev/null)" != healthy ]]; then
    python="$(find_python)"
    require_venv "$python"
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f $stamp
.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
touch $stamp

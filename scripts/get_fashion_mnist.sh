#!/usr/bin/env bash
# Puts Fashion-MNIST where autoprune finds it, unless it is there: as root from Debian's package; as anyone else the
# package is unpacked into the cache. If neither works the library downloads it, or says what to do, so this never fails.
set -euo pipefail

package=dataset-fashion-mnist
installed=/usr/share/datasets/fashion-mnist
cache="${XDG_CACHE_HOME:-$HOME/.cache}/autoprune/fashion-mnist"
archives=(
    train-images-idx3-ubyte.gz
    train-labels-idx1-ubyte.gz
    t10k-images-idx3-ubyte.gz
    t10k-labels-idx1-ubyte.gz
)

holds_all() {
    local archive
    for archive in "${archives[@]}"; do
        [[ -f "$1/$archive" ]] || return 1
    done
}

install_package() {
    [[ $EUID -eq 0 ]] || return 1
    apt-get update -qq || true # one broken source need not hinder the others
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $package && holds_all $installed
}

# Without root apt-get can still fetch: package lists and archive go to a folder of our own.
unpack_package() {
    local work archive
    local -a ours
    work="$(mktemp -d)"
    # shellcheck disable=SC2064  # the folder's name must be fixed now
    trap "rm -rf '$work'" EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$cache" || return 1
    ours=(-qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work")
    apt-get "${ours[@]}" update || true
    (cd "$work" && apt-get "${ours[@]}" download $package) || return 1
    dpkg-deb -x "$work"/$package*.deb "$work" || return 1
    for archive in "${archives[@]}"; do
        cp "$work$installed/$archive" "$cache/.$archive.part" || return 1
        mv "$cache/.$archive.part" "$cache/$archive" || return 1
    done
}

[[ -n "${AUTOPRUNE_DATA:-}" ]] && exit # the user's folder: the library takes it, or says what it lacks
for folder in "$cache" "$installed"; do
    holds_all "$folder" && exit
done
echo "autoprune: getting Fashion-MNIST (30 MB)"
if command -v apt-get >/dev/null && { install_package || unpack_package; }; then
    exit
fi
echo "autoprune: Debian's $package could not be had; autoprune will try the public download itself" >&2

#!/usr/bin/env bash
# Runs a command after installing the Debian packages that tests ask for, where that may be done: as root, with apt-get.
#
#     deploy/with-test-packages.sh .venv/bin/pytest ...
#
# git-lfs reads the store from outside, strace injects faults, ip makes a network that counts packets, Slurm runs one
# training job, PostgreSQL keeps Dagster's history. A test without its package is skipped with the package's name; where
# all could be installed, such a skip is a failure (tests/skips.py).
set -uo pipefail

missing=()
needs() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
needs git git
needs git-lfs git-lfs
needs strace strace
needs docker-compose docker-compose
needs ip iproute2
needs sbatch slurm-wlm
needs munged munge
compgen -G '/usr/lib/postgresql/*/bin/pg_ctl' >/dev/null || missing+=(postgresql) # Debian keeps it off the PATH

install() {
    apt-get -qq update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

if [ ${#missing[@]} -eq 0 ]; then
    export HEADWATER_TEST_PACKAGES=installed
elif ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "Not root, or no apt-get: tests that need ${missing[*]} are skipped."
elif echo "Installing what tests need: ${missing[*]}" && install; then
    export HEADWATER_TEST_PACKAGES=installed
else
    echo "apt-get could not install ${missing[*]}: the tests that need them are skipped."
fi
exec "$@"

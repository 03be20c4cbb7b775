#!/usr/bin/env bash
# Creates or updates the virtual environment: deploy/install.sh PYTHON VENV. Called by `make venv`.
# Done means: $VENV/.headwater-installed holds the hash of everything that decides the outcome. It is
# written last, so an interrupted installation is continued, and a mere checkout (new times, same
# content) installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2
pip_version=26.3 # the pip of Python 3.11 (23.2) does not see that lxml[html_clean] and lxml[html-clean] are one extra
marker=$venv/.headwater-installed
log=$venv/install.log

fail() { printf 'make venv: %s\n' "$@" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no '$python' on PATH." "Install Python 3.11 or newer, or name it: make venv PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || fail "'$python' does not run."
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    others=$(compgen -c python3. | grep -xE 'python3\.(1[1-9]|[2-9][0-9])' | sort -uV | tr '\n' ' ' || true)
    fail "Headwater needs Python 3.11 or newer; '$python' is $version." \
        "Name another one: make venv PYTHON=python3.11${others:+   (on PATH here: $others)}"
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "'$python' has no venv module. On Debian and Ubuntu: apt-get install python3-venv"

mkdir -p "$venv"
exec 9>"$venv/.lock" # a second make waits here for the first
flock 9

want=$({ cat pyproject.toml deploy/constraints.txt; echo "$version pip $pip_version"; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$marker" 2>/dev/null || true)" = "$want" ] && [ -x "$venv/bin/python" ]; then
    touch "$marker" # so that make does not ask again
    exit 0
fi

free_gb=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
[ -x "$venv/bin/python" ] || [ "$free_gb" -ge 5 ] ||
    fail "the packages need 5 GB, this disk has $free_gb GB free." "Free some, or install elsewhere: make venv VENV=/path/to/folder"

packages=$(grep -c '^[A-Za-z]' deploy/constraints.txt)
echo "Installing $packages pinned packages into $venv (3 GB; some minutes; log: $log)"
rm -f "$marker"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
started=$SECONDS
set -m # the job gets its own process group, so that an interrupt ends pip and what pip started
(
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$venv/bin/python" -m pip install --quiet "pip==$pip_version"
    "$venv/bin/python" -m pip install --progress-bar off --no-input -c deploy/constraints.txt -e '.[dev]'
) >"$log" 2>&1 9>&- &
job=$!
set +m
trap 'kill -- -$job 2>/dev/null || true; echo; fail "stopped; run make venv again to continue"' INT TERM

# One line that moves in a terminal; in a log, a line every half minute.
[ -t 1 ] && every=1 || every=30
while kill -0 $job 2>/dev/null; do
    if [ $(((SECONDS - started) % every)) -eq 0 ]; then
        fetched=$(grep -cE '^(Collecting|Requirement already)' "$log" 2>/dev/null || true)
        installed=$(find "$venv" -maxdepth 5 -name '*.dist-info' 2>/dev/null | wc -l)
        line="  ${fetched:-0} packages found, $installed installed, $((SECONDS - started)) s"
        if [ -t 1 ]; then printf '\r%s\033[K' "$line"; else echo "$line"; fi
    fi
    sleep 1
done
[ -t 1 ] && printf '\r\033[K'
if ! wait $job; then
    tail -n 15 "$log" >&2
    fail "the installation failed; the last lines of $log are above." \
        "No network or no package index: set up pip (pip config, PIP_INDEX_URL). No space: see df. Then run make venv again."
fi
printf '%s\n' "$want" >"$marker"
echo "Installed in $((SECONDS - started)) s. To have headwater on PATH in your shell: source $venv/bin/activate"

#!/usr/bin/env bash
# Run the quick tests on each of the given interpreters, each version once, in a virtual environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A done=()
for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { echo "$python: does not run here"; continue; }
    [ -z "${done[$version]:-}" ] || continue
    done[$version]=yes
    venv=".venv-$version"
    if [ ! -e "$venv/.installed" ] || [ pyproject.toml -nt "$venv/.installed" ]; then
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable '.[cli,fake]' --group test
        touch "$venv/.installed"
    fi
    echo "Python $version:"
    KIE_TESTS=quick "$venv/bin/python" -m pytest --quiet --numprocesses 2 tests/core tests/requests tests/versions
done
[ "${#done[@]}" -gt 0 ]

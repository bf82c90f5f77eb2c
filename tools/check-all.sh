#!/usr/bin/env bash
# Run the quick tests on each of the given interpreters, each version of Python once, with the lowest declared and with
# the newest versions of all dependencies, in a virtual environment each. The simulations of 20 seeds must be the same.
set -euo pipefail
cd "$(dirname "$0")/.."

install() { # python venv "pip's options"
    [ -e "$2/bin/python" ] || "$1" -m venv "$2"
    "$2/bin/python" -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
    # shellcheck disable=SC2086  # several options
    "$2/bin/python" -m pip install -qq --disable-pip-version-check $3 --editable '.[cli,fake,postgres]' --group test
}

check() { # python version kind
    local venv=".venv-$2-$3"
    case $3 in
        lowest)
            if [ ! -e "$venv/.installed" ] || [ pyproject.toml -nt "$venv/.installed" ]; then
                rm -rf "$venv" && mkdir "$venv"
                "$1" tools/lowest.py test >"$venv/constraints.txt"
                install "$1" "$venv" "--constraint $venv/constraints.txt"
            fi ;;
        newest) install "$1" "$venv" "--upgrade --upgrade-strategy eager" ;;
    esac
    touch "$venv/.installed"
    echo "Python $2, $3 versions:"
    KIE_TESTS=quick "$venv/bin/python" -m pytest --quiet --numprocesses 2 --dist loadgroup \
        tests/core tests/requests tests/versions tests/contract tests/postgres tests/test_events.py tests/test_exports.py \
        tests/test_postgres_journal.py \
        tests/client/test_results.py tests/cli/test_generate.py tests/real_time/examples
    traces["$("$venv/bin/python" -m tests.simulation --seeds 20 --trace)"]="$2, $3 versions"
}

declare -A done=() traces=()
for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    [ -z "${done[$version]:-}" ] || continue
    done[$version]=yes
    # Some of the lowest versions are older than Python 3.14, and cannot be installed there.
    [ "$version" = 3.14 ] || check "$python" "$version" lowest
    check "$python" "$version" newest
done
for version in 3.11 3.12 3.13 3.14; do
    [ -n "${done[$version]:-}" ] || echo "Python $version was not checked, because none of these runs it: $*"
done
[ "${#done[@]}" -gt 0 ]
if [ "${#traces[@]}" -gt 1 ]; then
    echo "The same simulations differ:"
    for trace in "${!traces[@]}"; do echo "$trace in Python ${traces[$trace]}"; done
    exit 1
fi

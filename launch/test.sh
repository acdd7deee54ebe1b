#!/usr/bin/env bash
# Install what the tests need, then run all checks: lint, types, import contracts, tests (ranks included).
# Arguments go to pytest in place of the whole suite, for example: bash launch/test.sh tests/test_tiny.py
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
source launch/env.sh

owt_environment cpu,mpich,test
step() { echo "== $1" && shift && "$@"; }
step lint ruff check --quiet
step format ruff format --check --quiet
if python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    step types mypy
else
    echo "== types: left out, the NumPy for this Python has no usable type stubs (checked from Python 3.11 on)"
fi
step "import contracts" lint-imports --no-logo --no-cache
step tests python -m pytest "$@"

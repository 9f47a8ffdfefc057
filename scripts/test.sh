#!/usr/bin/env bash
# Lint, types, imports and tests, in the project's own virtual environment, which is made if need be.
#
#     bash scripts/test.sh                       everything
#     bash scripts/test.sh --quick               an answer in under three minutes: of the tests, those marked `quick`
#     bash scripts/test.sh tests/model -k rcda   these tests only: the arguments go to pytest
#
# Types are checked beside the other stages. The last line says how long each stage took, and names those that failed.
#
# WITHOUT_TORCH=1 leaves PyTorch out (where pip knows no CPU build it is large); tests that compare with it are skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"

requirements=(requirements.txt requirements-dev.txt requirements-onnx.txt)
[[ ${WITHOUT_TORCH:-} ]] || requirements+=(requirements-torch.txt)
prepare_environment "${requirements[@]}"

# Where nothing may keep bytecode, every process compiles two thousand modules when it starts. So it has its own place.
if [[ ${PYTHONDONTWRITEBYTECODE:-} ]]; then
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX=$VENV/bytecode
fi

marker=""
if [[ ${1:-} == --quick && $# == 1 ]]; then
    marker=quick
elif (($#)); then
    echo "== pytest $*"
    exec "$VENV_PYTHON" -m pytest "$@"
fi

times=() failed=()

# stage NAME COMMAND…: runs the command, and notes how long it took and whether it failed.
stage() {
    local name=$1 started=$SECONDS
    shift
    echo "== $name"
    "$@" || failed+=("$name")
    times+=("$name $((SECONDS - started)) s")
}

lint() {
    "$VENV_PYTHON" -m ruff format --check . && "$VENV_PYTHON" -m ruff check .
}

# Two processes on two cores; more than four would wait for memory. tests/conftest.py puts the slowest files first.
tests() {
    "$VENV_PYTHON" -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "$marker"
}

end_of_types() {
    local status=0
    wait "$types" || status=$?
    cat "$beside/types"
    return "$status"
}

beside=$(mktemp -d)
trap 'kill "$types" 2>/dev/null || true; rm -r "$beside"' EXIT
"$VENV_PYTHON" -m mypy >"$beside/types" 2>&1 &
types=$!

stage lint lint
stage imports "$VENV/bin/lint-imports" --no-cache --no-logo
stage tests tests
stage "types (after the tests)" end_of_types
((!${#failed[@]})) || echo "== FAILED: ${failed[*]}"
echo "== $(printf '%s, ' "${times[@]}")$SECONDS s in all"
((!${#failed[@]}))

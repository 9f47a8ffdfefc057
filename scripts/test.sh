#!/usr/bin/env bash
# Lint, types, imports and tests, in the project's own virtual environment, which is made if need be.
#
#     bash scripts/test.sh                       everything
#     bash scripts/test.sh tests/model -k rcda   these tests only: the arguments go to pytest
#
# WITHOUT_TORCH=1 leaves PyTorch out (where pip knows no CPU build it is large); tests that compare with it are skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"

requirements=(requirements.txt requirements-dev.txt requirements-onnx.txt)
[[ ${WITHOUT_TORCH:-} ]] || requirements+=(requirements-torch.txt)
prepare_environment "${requirements[@]}"

run() {
    echo "== $*"
    "$VENV_PYTHON" -m "$@"
}

if (($#)); then
    run pytest "$@"
else
    run ruff format --check .
    run ruff check .
    run mypy
    echo "== lint-imports"
    "$VENV/bin/lint-imports" --no-cache --no-logo
    run pytest -n logical --maxprocesses 4 --dist loadfile # Two processes on two cores; more would wait for memory.
fi

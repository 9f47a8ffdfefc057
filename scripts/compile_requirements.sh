#!/usr/bin/env bash
# Renews the pinned requirement files from pyproject.toml: the newest releases in its ranges, for every Python and
# platform at once. It needs uv (pip install uv). Then run scripts/test.sh with the oldest and the newest Python.
set -euo pipefail
cd "$(dirname "$0")/.."

JAX2ONNX='jax2onnx>=0.17.1,<0.18'

all=$(mktemp -d)
trap 'rm -r "$all"' EXIT
compile() { uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 pyproject.toml "$@"; }
compile --output-file "$all/run.txt"
compile --extra dev --constraint "$all/run.txt" --output-file "$all/dev.txt"
compile --extra onnx --constraint "$all/dev.txt" --output-file "$all/onnx.txt"

{
    echo "# What the package runs on, exactly as tested. Made by scripts/compile_requirements.sh from pyproject.toml."
    cat "$all/run.txt"
} >requirements.txt
{
    echo "# What linting, type checks and tests need besides. Made by scripts/compile_requirements.sh from pyproject.toml."
    echo "-r requirements.txt"
    grep -vxFf "$all/run.txt" "$all/dev.txt"
} >requirements-dev.txt
{
    echo "# What the test of the export to ONNX needs besides: complete, to be installed with --no-deps, because jax2onnx asks for"
    echo "# an older orbax-checkpoint than training does. Made by scripts/compile_requirements.sh from pyproject.toml."
    grep -vxFf "$all/run.txt" "$all/onnx.txt"
    echo "$JAX2ONNX" | uv pip compile --quiet --no-deps --no-header --no-annotate --python-version 3.11 -
} >requirements-onnx.txt

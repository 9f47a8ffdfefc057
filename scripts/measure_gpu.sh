#!/usr/bin/env bash
# Measures everything about an NVIDIA GPU in one command, in about ten minutes.
#
#     bash scripts/measure_gpu.sh OUT [--official REPO] [--data COCO] [--minutes 9] [--only b] [--rehearse]
#                                     [--wheels DIR]
#     bash scripts/measure_gpu.sh --list-wheels
#
# OUT gets report.md (tables for a person), report.json, log.txt and pictures. They are written after each measurement,
# so if the command is cut off, only what it had not begun is lost. The parts, in the order of worth:
#
#     a  correctness: golden cases, padding, one training step on the GPU and on the CPU, both ways of matching
#     b  forward pass: latency, images per second, share of the measured peak, XLA flags
#     c  training step: the official batch and the largest that fits, memory, what matching costs, XLA flags
#     d  kernels on and off (this project has no kernel for GPUs)
#     e  evaluation from files to numbers, and what it waits for
#     f  a real training from nothing, AP over time
#
#     --official REPO  a checkout of the official code: parts b and c run it too, eager, under AMP and torch.compile
#     --data COCO      a COCO folder for parts e and f; otherwise they draw shapes
#     --minutes N      time for everything (9); each part gets its share, and is stopped when it has used it
#     --only X [Y]     only these parts
#     --rehearse       the whole command with tiny sizes, on a CPU too: no figure means anything
#     --wheels DIR     installs the missing packages from this folder; no network is needed
#     --list-wheels    prints the packages that a machine with JAX, CUDA, PyTorch, Flax, Optax and Orbax lacks. Fetch
#                      them where there is a network (Python 3.12, Linux x86-64):
#                      bash scripts/measure_gpu.sh --list-wheels > list.txt
#                      pip download --no-deps --only-binary=:all: --python-version 3.12 -d DIR -r list.txt \
#                          --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64
#
# It takes the first Python that has JAX with CUDA: $PYTHON, .venv/bin/python, python3. Without one, it makes .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

# Python code that fails and names the packages that are not installed. It does not import them: that takes seconds.
has() {
    echo "import importlib.util, sys; lacks = [name for name in '$*'.split() if importlib.util.find_spec(name) is None]"
    echo "sys.exit('It lacks the packages ' + ', '.join(lacks) if lacks else 0)"
}

# Prints the first Python in which this Python code succeeds.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} "$VENV_PYTHON" python3 python3.13 python3.12 python3.11; do
        "$candidate" -c "$1" >/dev/null 2>&1 && echo "$candidate" && return
    done
    return 1
}

list_wheels() {
    local python
    python=$(find_python "$(has packaging grain orbax flax optax)") ||
        fail "The list is made in the project's environment: run 'bash scripts/test.sh --collect-only' once."
    "$python" -m anchordetr_jax.benchmark.gpu.wheels
}

# JAX with CUDA in the project's own environment. CUDA 13 needs driver 580, CUDA 12 driver 525.
make_environment() {
    local driver=0 cuda=cuda12
    if ! ((rehearse)); then
        driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1) ||
            fail "This machine has no NVIDIA GPU that nvidia-smi can see. --rehearse tries the command on a CPU."
    fi
    prepare_environment requirements.txt
    ((rehearse)) && return
    ((${driver%%.*} >= 580)) && cuda=cuda13
    echo "Installing JAX with CUDA (${cuda}) …"
    install -c "$ROOT/requirements.txt" "jax[$cuda]" || fail "Installing jax[$cuda] failed; the lines above say why."
}

rehearse=0 wheels='' arguments=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit ;;
        --list-wheels) list_wheels; exit ;;
        --wheels)
            [[ -d ${2:-} ]] || fail "--wheels needs a folder with wheels, and '${2:-}' is none."
            wheels=$(cd "$2" && pwd)
            shift
            ;;
        --rehearse) rehearse=1; arguments+=("$1") ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
((${#arguments[@]})) || { usage; exit 2; }

has_jax='import jax; assert any(device.platform == "gpu" for device in jax.devices())'
((rehearse)) && has_jax=$(has jax)
if ! python=$(find_python "$has_jax"); then
    make_environment
    python=$VENV_PYTHON
    "$python" -c "$has_jax" || fail "JAX sees no GPU; the lines above say why. --rehearse tries the command on a CPU."
fi

if [[ $wheels ]]; then
    missing=$("$python" -m anchordetr_jax.benchmark.gpu.wheels "$wheels")
    if [[ $missing ]]; then
        packages=$(mktemp -d)
        trap 'rm -rf "$packages"' EXIT
        # shellcheck disable=SC2086
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check \
            --find-links "$wheels" --target "$packages" $missing || fail "The wheels in $wheels cannot be installed."
        export PYTHONPATH=$PYTHONPATH:$packages
    fi
fi
"$python" -c "$(has absl etils flax grain matplotlib ml_collections optax orbax PIL pycocotools safetensors tqdm)" ||
    fail "$python cannot run the measurement. Name a folder with the wheels that it lacks: --wheels DIR (--help says more)."
"$python" "$ROOT/scripts/measure_gpu.py" "${arguments[@]}"

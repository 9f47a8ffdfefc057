# The other scripts source it. It makes the project's own virtual environment, and installs what the requirement files say:
#
#     source scripts/environment.sh
#     prepare_environment requirements.txt [requirements-dev.txt …]
#     "$VENV_PYTHON" …
#
# PYTHON names the interpreter that makes it (default: python3), VENV its folder (default: .venv).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
VENV_PYTHON=$VENV/bin/python
UV=uv==0.13.9

fail() {
    echo "Error: $*" >&2
    exit 1
}

# Installs what is out of date. The environment keeps a copy of each requirement file from which it was installed.
prepare_environment() {
    wait_for_another_set_up
    # An interrupted set-up may leave half a package, and no installer notices that later. So start from an empty folder.
    if [[ -e $VENV/setting-up ]] || { [[ -e $VENV/pyvenv.cfg ]] && ! "$VENV_PYTHON" -c 'import pip' 2>/dev/null; }; then
        rm -rf "$VENV"
    fi
    is_current "$@" && return

    local started=$SECONDS file
    mkdir -p "$VENV/installed"
    echo $$ >"$VENV/setting-up"
    if [[ ! -e $VENV/pyvenv.cfg ]]; then
        make_venv
    fi
    for file in "$@"; do
        cmp -s "$ROOT/$file" "$VENV/installed/$file" && continue
        echo "Installing $file …"
        if [[ $file == requirements-torch.txt ]]; then
            install_with_pip -r "$ROOT/$file" # Only pip reads its own settings, which may name a CPU build.
        elif [[ $file == requirements-onnx.txt ]]; then
            install --no-deps -r "$ROOT/$file" # The file is complete, and jax2onnx asks for versions that do not fit.
        else
            install -r "$ROOT/$file"
        fi || fail "Installing $file failed; the lines above say why. Correct that, then run the command again."
        cp "$ROOT/$file" "$VENV/installed/$file"
    done
    if ! project_is_current; then
        install --no-deps --editable "$ROOT" || fail "Installing the package itself failed; the lines above say why."
        project_stamp >"$VENV/installed/project"
    fi
    rm "$VENV/setting-up"
    echo "The environment is ready after $((SECONDS - started)) s."
}

wait_for_another_set_up() {
    local other waited
    for ((waited = 0; waited < 900; waited++)); do
        other=$(cat "$VENV/setting-up" 2>/dev/null) || return 0
        kill -0 "$other" 2>/dev/null || return 0
        ((waited)) || echo "Process $other is setting up $VENV; waiting for it."
        sleep 1
    done
    fail "Process $other has been setting up $VENV for 15 minutes; stop it, or remove $VENV/setting-up."
}

is_current() {
    local file
    for file in "$@"; do
        cmp -s "$ROOT/$file" "$VENV/installed/$file" || return 1
    done
    project_is_current
}

# It includes the folder of the checkout, so that a checkout that was moved is installed again.
project_stamp() {
    echo "$ROOT"
    cat "$ROOT/pyproject.toml" "$ROOT/setup.py"
}

project_is_current() {
    cmp -s <(project_stamp) "$VENV/installed/project"
}

make_venv() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        echo "Making $VENV with $("$candidate" --version) …"
        "$candidate" -m venv "$VENV" >"$VENV/venv.log" 2>&1 && return
        cat "$VENV/venv.log" >&2
        rm -rf "$VENV"
        fail "$candidate could not make a virtual environment; on Debian and Ubuntu, 'apt install python3-venv' helps."
    done
    rm -rf "$VENV"
    fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is older; install it, or name it: PYTHON=/path/to/python bash …"
}

# uv takes a fifth of pip's time. Where it cannot be installed, or fails, pip does the same.
install() {
    if [[ -x $VENV/bin/uv ]] || install_with_pip "$UV" 2>/dev/null; then
        if [[ -z ${UV_DEFAULT_INDEX+set} ]]; then # uv does not read pip's settings.
            export UV_DEFAULT_INDEX=${PIP_INDEX_URL:-$("$VENV_PYTHON" -m pip config get global.index-url 2>/dev/null)}
        fi
        "$VENV/bin/uv" pip install --quiet --python "$VENV_PYTHON" "$@" && return
        echo "uv could not do it; trying pip …" >&2
    fi
    install_with_pip "$@"
}

install_with_pip() {
    "$VENV_PYTHON" -m pip install --quiet --quiet --no-compile --disable-pip-version-check "$@"
}

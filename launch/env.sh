# Sourced by the other scripts: one virtual environment with the package and the extras asked for.
#
#   OWT_MPI_VENV    where it lies (default: .venv in the repository)
#   OWT_MPI_PYTHON  which Python makes it (default: python3)

owt_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

owt_fail() {
    echo "error: $*" >&2
    exit 1
}

# owt_environment EXTRAS - make the environment if need be, install what EXTRAS name, and activate it. What is there
# already is kept: the package is installed in editable form, so only a change of pyproject.toml installs again.
owt_environment() {
    local extras=$1 venv=${OWT_MPI_VENV:-$owt_root/.venv} python=${OWT_MPI_PYTHON:-python3} stamp
    command -v "$python" >/dev/null || owt_fail "$python is missing: install Python 3.10 or newer"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        owt_fail "$("$python" --version) is too old: set OWT_MPI_PYTHON to a Python of 3.10 or newer"
    if [ ! -x "$venv/bin/python" ]; then
        echo "making the virtual environment $venv"
        "$python" -m venv "$venv" ||
            owt_fail "$python cannot make virtual environments: install its venv module (Debian: apt install python3-venv)"
    fi
    stamp=$venv/.owt_mpi-$(cat "$owt_root/pyproject.toml" - <<<"$extras $owt_root" | sha256sum | cut -c1-16)
    if [ ! -e "$stamp" ]; then
        echo "installing owt_mpi[$extras]"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$owt_root[$extras]" ||
            owt_fail "pip could not install owt_mpi[$extras]; its message is above (no network?)"
        touch "$stamp"
    fi
    PATH=$venv/bin:$PATH
    export PATH
    [ -x "$venv/bin/mpirun" ] || owt_fail "$venv/bin/mpirun is missing: remove $venv and run this again"
}

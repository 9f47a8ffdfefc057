#!/usr/bin/env bash
# The whole way in one command: draws a small data set in COCO's format, trains a detector on it, evaluates it with
# pycocotools, and draws what it finds. The last line is AP=0.xxx AP50=0.xxx; everything is in runs/demo. Training starts
# from random weights.
#
#     bash scripts/demo.sh [FOLDER]   another folder instead of runs/demo
#
# Give it again, and it does only what is not done yet. To start from the beginning, remove the folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
demo=${1:-$ROOT/runs/demo}
mkdir -p "$demo"
demo=$(cd "$demo" && pwd)
cd "$ROOT"

prepare_environment requirements.txt
anchordetr() { "$VENV_PYTHON" -m anchordetr_jax.commands "$@"; }

echo "== Drawing the data set"
anchordetr shapes "$demo/data" --train 2000 --val 200 \
    --classes hexagon frame flower hourglass halfmoon --short-side 64 96 --max-side 96 \
    --object-size 0.25 0.8 --max-objects 5 --hue-by-class 1

echo "== Training"
anchordetr train --config shapes --config.data.root="$demo/data" --workdir "$demo"

echo "== Evaluating. In $demo: metrics.jsonl, curves.png, predictions.png, results.json, results.scores.json, checkpoints"
anchordetr evaluate "$demo" --output "$demo/results.json" \
    --predictions "$demo/predictions.png"

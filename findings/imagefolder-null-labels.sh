#!/usr/bin/env bash
# datasets 5.2.0, `load_dataset("imagefolder")`: labels are decided split by split over the classes seen so far, so that
# a `train` of one class has null for every label, while `test`, read after it, has them.
#
# Expected: `train/cat/*` and `test/{cat,dog}/*` (one-class training, as in anomaly detection): every image has the label
#           of its folder in both splits, or neither split has a column of labels.
# Behaviour: both splits have a column `label` of ClassLabel(names=['cat', 'dog']); in `train` all its values are null, in
#           `test` they are right. There is no error and no warning.
# Seen with datasets 5.2.0, Pillow 12.0.0, Python 3.11.
# Exits with 0 as long as that is so, with 1 when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'datasets==5.2.0' 'pillow==12.0.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" "$work/venv/bin/python" - <<'PYTHON'
import pathlib
import sys
import datasets
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
for f in ("train/cat/0", "train/cat/1", "test/cat/2", "test/dog/3"):
    path = pathlib.Path("folder", f + ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(f) * 7, 9, 3)).save(path)
found = datasets.load_dataset("imagefolder", data_dir="folder")
for split, rows in found.items():
    print(f"{split}: {rows.features['label']}, values {rows['label'][:]}")
if found["test"]["label"][:] != [0, 1] or found["train"]["label"][:] != [None, None]:
    print("changed: `train` and `test` have other labels than these")
    sys.exit(1)
print("as found: the folder `train/cat` gives no label, the folder `test/cat` does")
sys.exit(0)
PYTHON

#!/usr/bin/env bash
# datasets 5.2.0, `load_dataset("imagefolder")`: a class folder whose name holds the word `test` (or `train`, `val`,
# `dev`, `eval` …) set off by `_`, `-`, a blank or a digit is taken for a split, and every other class is dropped.
#
# Expected: two class folders `flasks` and `test_tubes`, no folder of splits: one split `train` of eight images, with
#           the labels `flasks` and `test_tubes`. The documentation has `folder/dog/*.png`, `folder/cat/*.png` for that.
# Behaviour: one split `test` with the four images of `test_tubes`, no column of labels; the four of `flasks` are in no
#           split. There is no error and no warning. With `beakers` for `test_tubes` the same images come out as expected.
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


def read(*classes):
    root = pathlib.Path("-".join(classes))
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (c * 90, i * 50, 7)).save(root / name / f"{i}.png")
    found = datasets.load_dataset("imagefolder", data_dir=str(root))
    for split, rows in found.items():
        label = rows.features.get("label")
        print(f"{classes}: split {split!r}, {len(rows)} images, labels {label.names if label else None}")
    return {split: len(rows) for split, rows in found.items()}, any("label" in rows.features for rows in found.values())


plain, odd = read("flasks", "beakers"), read("flasks", "test_tubes")
if plain != ({"train": 8}, True) or odd != ({"test": 4}, False):
    print("changed:", plain, odd)
    sys.exit(1)
print("as found: the class `test_tubes` is the split `test`, and the class `flasks` is gone")
sys.exit(0)
PYTHON

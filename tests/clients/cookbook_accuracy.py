"""Accuracy of the recipe's last evaluation above its first, before training: cookbook_accuracy.py FOLDER"""

import glob
import json
import sys

[path] = glob.glob(sys.argv[1] + "/*/metrics.jsonl")
rows = [json.loads(line) for line in open(path)]
found = [(row.get("step"), next(row[key] for key in row if key.endswith("accuracy"))) for row in rows if any(key.endswith("accuracy") for key in row)]
print("accuracy by step:", found)
nll = [value for row in rows for key, value in row.items() if key.endswith("nll")]
print("nll:", nll)
assert all(value == value for value in nll)
assert found[-1][1] > found[0][1], found

#!/usr/bin/env python3
"""Are estimates of memory within 1.2 of what was measured?

    bench_estimates.py REPORT.json…

REPORT.json: what `kshot bench --out` wrote. Compared is the excess over what the process had before the model was loaded, in every
phase of training and answering. Exit code 1 when one is off, or there is none.
"""
import json, sys

found = []
for path in sys.argv[1:]:
    report = json.load(open(path))
    for phase in report["phases"]:
        ratio = phase["estimate_over_measured"]
        if ratio is not None:
            found.append(ratio)
            measured, estimated = phase["excess_bytes"] / 1e9, phase["estimated_bytes"] / 1e9
            off = "" if 1 / 1.2 <= ratio <= 1.2 else "  OFF"
            print(f"{report['shape']:<14} batch {report['batch']:<3} {phase['name']:<22} {measured:6.2f} GB, estimated {estimated:6.2f}: {ratio:.2f}{off}")
sys.exit(not found or any(not 1 / 1.2 <= ratio <= 1.2 for ratio in found))

"""Requests per second of `kshot serve` and, in the same run and in turns, of `transformers serve` with the same checkpoint, and images per second of
`kshot predict` on the same images.

    benches/serve.py [--model FOLDER] [--kshot BINARY] [--seconds 10] [--turns 3] [--images 4096]

Wants a quiet machine, and torch, transformers[serving] and Pillow in the interpreter that runs it. Each arm is asked by one client in turn and by 32
at once. Prints a line a measurement and the medians at the end.
"""

import argparse
import asyncio
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
from load import load, picture  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", type=pathlib.Path, default=ROOT / "datasets/mini/models/micro-qwen3-vl")
parser.add_argument("--kshot", default=ROOT / "target/release/kshot")
parser.add_argument("--seconds", type=int, default=10)
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--images", type=int, default=4096)
asked = parser.parse_args()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serving(command, url, ready, folder):
    """Starts a server and waits until it answers."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(folder / "log", "w"))
    for _ in range(600):
        try:
            urllib.request.urlopen(url + ready, timeout=5)
            return server
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None:
                sys.exit(f"{command[0]} ended: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
    sys.exit(f"{command[0]} does not answer")


def measure(arm, found, folder):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    if arm == "kshot":
        command = [asked.kshot, "serve", "--model", asked.model, "--bind", f"127.0.0.1:{port}", "--state", folder / "state"]
        server, name = serving(command, url, "/healthz", folder), asked.model.name
    else:
        transformers = pathlib.Path(sys.executable).with_name("transformers")
        command = [transformers, "serve", "--device", "cpu", "--port", str(port), asked.model]
        server, name = serving(command, url, "/health", folder), str(asked.model)
    try:
        for clients in (1, 32):
            times, errors, _, taken = asyncio.run(load(url, name, clients, asked.seconds, images=asked.images))
            if errors:
                sys.exit(f"{arm}: {errors[0][:500]}")
            rate = len(times) / taken
            found.setdefault((arm, clients), []).append(rate)
            print(f"{arm} serve, {clients} clients: {rate:.1f} requests/s, p50 {statistics.median(times) * 1e3:.1f} ms", flush=True)
    finally:
        server.terminate()
        server.wait()


def predict(found, folder):
    images = folder / "images"
    images.mkdir()
    for number in range(asked.images):
        (images / f"{number:05}.png").write_bytes(picture(number))
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in "cat dog horse cow lion tiger bear mouse rabbit fox".split()))
    command = [asked.kshot, "predict", "--model", asked.model, "--labels", folder / "names.txt", "--json", images]
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rate = asked.images / (time.monotonic() - begun)
    found.setdefault(("predict", 0), []).append(rate)
    print(f"kshot predict: {rate:.1f} images/s", flush=True)


found = {}
for _ in range(asked.turns):
    for arm in ("kshot", "transformers"):
        with tempfile.TemporaryDirectory() as folder:
            measure(arm, found, pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        predict(found, pathlib.Path(folder))
rates = {arm: statistics.median(rates) for arm, rates in found.items()}
print(f"\nmedians of {asked.turns} turns, {asked.images} images, {os.cpu_count()} cores:")
for clients in (1, 32):
    own, peer = rates["kshot", clients], rates["transformers", clients]
    print(f"{clients} clients: kshot {own:.1f} requests/s, transformers {peer:.1f} requests/s: {own / peer:.1f} times")
print(f"32 clients of kshot serve: {rates['kshot', 32] / rates['kshot', 1]:.1f} times one client, {rates['kshot', 32] / rates['predict', 0]:.2f} times kshot predict")

#!/usr/bin/env python3
"""Decode and resize beside Pillow, in one run: `python benches/images_pillow.py [--seconds 0.3] [--rounds 5]`.

Makes photo-like JPEGs in the sizes of the four datasets, then takes turns: the bench `images` of this crate, Pillow, the bench
again. Both decode to RGB and shrink to 480 pixels at most by Lanczos, on one thread each. What counts is CPU time, so that other
work on the machine disturbs little; the ratio is that of medians. Then both sides' pixels are compared: those of the decoder must be
equal, those of the resize within one level in 99 % of values and never more than two from Pillow's own resize of the same pixels
done horizontally first, as Pillow up to 12 does it (from 13 on Pillow goes vertically first for some sizes: PR 9549).
"""
import argparse
import io
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np
import PIL
from PIL import Image, features

LONGEST = 480
# (name, width, height, quality, subsampling as Pillow numbers it, progressive)
KINDS = [
    ("caltech-300x200", 300, 200, 90, 2, False),
    ("pets-500x375", 500, 375, 92, 2, False),
    ("pets-500x375-444", 500, 375, 90, 0, False),
    ("flowers-667x500", 667, 500, 85, 2, False),
    ("flowers-600x500-75", 600, 500, 75, 2, False),
    ("cars-700x483", 700, 483, 95, 2, False),
    ("cars-1024x768-422", 1024, 768, 90, 1, False),
    ("cars-1920x1280", 1920, 1280, 90, 2, False),
    ("pets-500x375-progressive", 500, 375, 88, 2, True),
]


def photograph(width, height, seed):
    """Coloured fields with hard and soft edges, a texture whose spectrum falls like a photograph's, and sensor noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.empty((height, width, 3), np.float32)
    image[:] = rng.uniform(60, 200, 3)
    image += ((y / height)[..., None] - 0.5) * rng.uniform(-80, 80, 3)
    for _ in range(14):
        cx, cy, rx, ry = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.4) * width, rng.uniform(0.05, 0.4) * height
        inside = 1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2
        mask = np.clip(inside * rng.choice([3, 12, 60]), 0, 1)[..., None]
        image = image * (1 - mask) + mask * (rng.uniform(0, 255, 3) + (x / width)[..., None] * rng.uniform(-60, 60, 3))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / max(width, height)) ** 1.1
    for share, channels in ((1.0, [0, 1, 2]), (0.25, [0]), (0.25, [2])):
        wave = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * fall, (height, width))
        image[..., channels] += (share * 16 * wave / wave.std())[..., None]
    return Image.fromarray(np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8))


def target(width, height):
    if width > height:
        return LONGEST, max(1, height * LONGEST // width)
    return max(1, width * LONGEST // height), LONGEST


def seen(data):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image.resize(target(*image.size), Image.Resampling.LANCZOS) if max(image.size) > LONGEST else image


def milliseconds(data, seconds):
    seen(data)
    start, rounds = time.process_time(), 0
    while True:
        seen(data)
        rounds += 1
        spent = time.process_time() - start
        if spent >= seconds:
            return 1e3 * spent / rounds


def executable():
    command = ["cargo", "bench", "--bench", "images", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    made = [json.loads(line) for line in lines if line.startswith("{")]
    return [m["executable"] for m in made if m.get("executable") and m["target"]["name"] == "images"][-1]


def horizontal_first(image):
    width, height = target(*image.size)
    return image.resize((width, image.height), Image.Resampling.LANCZOS).resize((width, height), Image.Resampling.LANCZOS)


def compare(bench, files, folder):
    subprocess.run([bench, "pixels", str(folder), *map(str, files)], check=True)
    for file in files:
        raw = file.with_suffix(".rgb").read_bytes()
        width, height = np.frombuffer(raw[:8], "<u4")
        ours = np.frombuffer(raw[8:], np.uint8).reshape(height, width, 3).astype(int)
        image = Image.open(file).convert("RGB")
        if max(image.size) <= LONGEST:
            assert (ours == np.asarray(image)).all(), f"{file.stem}: the decoders differ"
            print(f"{file.stem:28} decoded pixels are equal")
            continue
        off = np.abs(ours - np.asarray(horizontal_first(image)))
        installed = np.abs(ours - np.asarray(seen(file.read_bytes())))
        assert off.max() <= 2 and (off > 1).mean() <= 0.01, f"{file.stem}: the resizes differ by {off.max()} levels"
        print(
            f"{file.stem:28} horizontally first: {100 * (off == 0).mean():.2f} % equal, at most {off.max()} levels off; "
            f"as installed: {100 * (installed > 1).mean():.2f} % more than 1 off, at most {installed.max()}"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bench", help="the built bench, if it is not to be built")
    arguments = parser.parse_args()
    bench = arguments.bench or executable()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files = []
        for seed, (kind, width, height, quality, subsampling, progressive) in enumerate(KINDS):
            files.append(folder / f"{kind}.jpg")
            options = dict(quality=quality, subsampling=subsampling, progressive=progressive)
            photograph(width, height, seed).save(files[-1], **options)
        sizes = {file: file.stat().st_size for file in files}
        compare(bench, files, folder)
        ours, kept, hashes, theirs = ({file: [] for file in files} for _ in range(4))
        for _ in range(arguments.rounds):
            for file in files:
                line = subprocess.run([bench, "time", str(arguments.seconds), str(file)], check=True, stdout=subprocess.PIPE, text=True).stdout
                _, plain, is_kept, cached, hashed = line.split("\t")
                ours[file].append(float(plain))
                hashes[file].append(float(hashed))
                if is_kept == "true":
                    kept[file].append(float(cached))
                theirs[file].append(milliseconds(file.read_bytes(), arguments.seconds))
    turbo = features.version("libjpeg_turbo") or "not turbo"
    print(f"CPU ms an image on one thread, median of {arguments.rounds}; Pillow {PIL.__version__}, libjpeg-turbo {turbo}")
    print(f"{'':28} {'bytes/px':>8} {'kshot':>8} {'Pillow':>8} {'ratio':>6} {'from cache':>11} {'SHA-256':>8}")
    ratios = []
    for file, (_, width, height, *_) in zip(files, KINDS):
        mine, other = statistics.median(ours[file]), statistics.median(theirs[file])
        cached = f"{statistics.median(kept[file]):.2f}" if kept[file] else "not kept"
        ratios.append(other / mine)
        print(f"{file.stem:28} {sizes[file] / (width * height):8.3f} {mine:8.2f} {other:8.2f} {other / mine:6.2f} {cached:>11} {statistics.median(hashes[file]):8.3f}")
    print(f"{'geometric mean':28} {'':8} {'':8} {'':8} {statistics.geometric_mean(ratios):6.2f}")


if __name__ == "__main__":
    main()

"""Choose the Fashion-MNIST images that kshot embeds: seeded, per class, no exact duplicate among them.

    python embed_fashion.py --fashion FOLDER --out embedded_fashion.json
"""

import argparse
import gzip
import json
import pathlib

import numpy as np

SEED, POOL, TEST = 20, 64, 100


def read(folder, split):
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz", "rb") as file:
        images = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz", "rb") as file:
        labels = np.frombuffer(file.read()[8:], np.uint8)
    return images, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    rng, seen, chosen = np.random.default_rng(SEED), set(), {}
    for name, split, count in (("train", "train", POOL), ("test", "t10k", TEST)):
        images, labels = read(args.fashion, split)
        chosen[name] = []
        for label in range(10):
            taken = 0
            for index in rng.permutation(np.flatnonzero(labels == label)):
                pixels = images[index].tobytes()
                if taken < count and pixels not in seen:
                    seen.add(pixels)
                    chosen[name].append(int(index))
                    taken += 1
    args.out.write_text(json.dumps(chosen) + "\n")


if __name__ == "__main__":
    main()

"""The pack's images: drawings on random grounds, seeded one by one, checked against near-duplicates."""

import io
import zlib

import numpy as np
from PIL import Image

import concepts

SIDE = 48
POOL, TEST = 24, 18
TOO_NEAR = 4  # bits of dHash; two more are kept as a margin for other image resizers


def render(drawing, rng):
    """One drawing (64, 64, 4), premultiplied uint8, to a (48, 48, 3) image: mild affine, plain or two-tone ground."""
    angle, zoom = rng.uniform(-0.17, 0.17), rng.uniform(1.0, 1.2)
    flip, aspect = rng.choice([-1, 1]), rng.uniform(0.92, 1.08)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[zoom * aspect * cos * flip, -zoom * sin], [zoom * sin * flip, zoom * cos]])
    shift = rng.uniform(-0.07, 0.07, 2)
    unit = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y = np.meshgrid(unit, unit)
    source = np.stack([x, y], -1) @ matrix.T + shift
    drawn = bilinear(drawing.astype(np.float64) / 255, (source + 1) / 2 * drawing.shape[0] - 0.5)
    first = rng.uniform(0, 1, 3)
    second = first + rng.uniform(-0.4, 0.4, 3) * (rng.uniform() < 0.5)
    turn, sharp = rng.uniform(0, 2 * np.pi), rng.choice([3.0, 30.0])
    ramp = 1 / (1 + np.exp(-sharp * (np.cos(turn) * x + np.sin(turn) * y + rng.uniform(-0.5, 0.5))))[..., None]
    ground = np.clip(first * (1 - ramp) + second * ramp, 0, 1)
    colour = np.clip(drawn[..., :3] * rng.uniform(0.9, 1.1, 3), 0, 1)
    return np.round(np.clip(colour + ground * (1 - drawn[..., 3:]), 0, 1) * 255).astype(np.uint8)


def bilinear(image, at):
    """Values of (h, w, C) at positions (…, 2) as (x, y) in pixels; zero outside."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    at = np.clip(at + 1, 0, np.array(image.shape[1::-1]) + 0.999)
    low = np.floor(at).astype(int)
    fx, fy = np.moveaxis(at - low, -1, 0)[..., None]
    x, y = low[..., 0], low[..., 1]
    top = padded[y, x] * (1 - fx) + padded[y, x + 1] * fx
    bottom = padded[y + 1, x] * (1 - fx) + padded[y + 1, x + 1] * fx
    return top * (1 - fy) + bottom * fy


def jpeg(pixels, grey=False):
    """The image as JPEG, quality 88 without chroma subsampling."""
    image = Image.fromarray(pixels).convert("L" if grey else "RGB")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, subsampling=0, optimize=True)
    return out.getvalue()


def dhash(data):
    """64 bits: whether each of 8 x 8 neighbours in a row of the 9 x 8 grey image gets brighter."""
    grey = Image.open(io.BytesIO(data)).convert("RGB").convert("L").resize((9, 8), Image.Resampling.BILINEAR)
    pixels = np.asarray(grey).astype(int)
    return int("".join("1" if bit else "0" for bit in (pixels[:, 1:] > pixels[:, :-1]).ravel()), 2)


class Item:
    """One image of a set with where it comes from."""

    def __init__(self, cls, concept, family, role, data):
        self.cls, self.concept, self.family, self.role, self.data = cls, concept, family, role, data
        self.drawing = ("fluent" if family.startswith("fluent") else family) + ":" + concept
        self.id = None  # given by the layout


def emoji_set(name, drawings):
    """POOL + TEST images per class; `drawings` maps (concept, family) to pixels."""
    items = []
    for cls, concept in concepts.SETS[name].items():
        for role, families, count in (("pool", concepts.SHOT_FAMILIES, POOL), ("test", concepts.TEST_FAMILIES, TEST)):
            available = [family for family in families if (concept, family) in drawings]
            for number in range(count):
                family = available[number % len(available)]
                items.append((cls, concept, family, role, number))
    items.sort(key=lambda item: item[3] == "test")  # every pool image exists before the first test image is compared
    made, pool_hashes, redrawn = [], [], 0
    for cls, concept, family, role, number in items:
        attempt = 0
        while True:
            seed = zlib.crc32(f"{name}/{concept}/{family}/{number}/{attempt}".encode())
            data = jpeg(render(drawings[concept, family], np.random.default_rng(seed)))
            if role == "pool" or all((dhash(data) ^ other).bit_count() > TOO_NEAR + 2 for other in pool_hashes):
                break
            attempt += 1
            redrawn += 1
        made.append(Item(cls, concept, family, role, data))
        if role == "pool":
            pool_hashes.append(dhash(data))
    print(f"{name}: {len(made)} images, {redrawn} test images drawn again for nearness to a pool image")
    return made

"""Make the embedded datasets: four emoji sets and a subset of Fashion-MNIST, in the official archive layouts.

    python pack.py --drawings drawings.npz --fashion FOLDER --embedded embedded_fashion.json --out ..

OUT is `datasets/mini`; the manifests are written to its parent folder. Run twice, it writes the same bytes.
"""

import argparse
import csv
import hashlib
import io
import json
import pathlib

import numpy as np
from PIL import Image

import archives
import concepts
import images
from embed_fashion import read

FASHION_CLASSES = [
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
]
EMOJI_LICENCE = "Apache-2.0 AND MIT AND CC-BY-4.0"
EMOJI_CITATION = "Noto Emoji, FxEmojis, Twemoji, EmojiOne 2, Fluent Emoji; see mini/NOTICE.md"
SETS = {
    "mini-pets": dict(title="Animals in the layout of Oxford-IIIT Pets", layout="oxford-pets", notes=[
        "two files are PNG in spite of their name, one of them with alpha", "one image is in no list", "a stray .mat lies among the images"]),
    "mini-cars": dict(title="Vehicles of all kinds in the layout of Stanford Cars", layout="stanford-cars", notes=[
        "the boxes are nominal: the whole image but a two-pixel border"]),
    "mini-flowers": dict(title="Plants and fruit in the layout of Oxford Flowers 102", layout="oxford-flowers", notes=[
        "class names are not part of this layout, so they stand here, in the order of the labels"]),
    "mini-caltech101": dict(title="Animals and objects in the layout of Caltech-101", layout="caltech101", notes=[
        "two files are single-channel", "the background folder and its file `tmp` are left out, as by CoOp"]),
    "mini-fashion": dict(title="Photographs of clothes: a subset of Fashion-MNIST", layout="folders", notes=["28 px, grey"]),
}


def fashion_items(folder, embedded):
    items = []
    for role, split, part in (("pool", "train", "train"), ("test", "t10k", "test")):
        pixels, labels = read(folder, split)
        for index in embedded[part]:
            out = io.BytesIO()
            Image.fromarray(pixels[index]).save(out, "PNG", optimize=True)
            name = FASHION_CLASSES[labels[index]]
            item = images.Item(name, name, "fashion-mnist", role, out.getvalue())
            item.id = f"{part}/{name}/{split}_{index:05}.png"
            item.drawing = item.id
            items.append(item)
    return items


def count_near(items):
    """How many test images are within TOO_NEAR bits of some pool image."""
    hashes = {role: [images.dhash(item.data) for item in items if item.role == role] for role in ("pool", "test")}
    return sum(any((t ^ p).bit_count() <= images.TOO_NEAR for p in hashes["pool"]) for t in hashes["test"])


def toml_string(value):
    return json.dumps(value, ensure_ascii=False)


def manifest(name, files, class_names, items):
    about = SETS[name]
    fashion = name == "mini-fashion"
    lines = [
        f"name = {toml_string(name)}",
        f"title = {toml_string(about['title'])}",
        f"layout = {toml_string(about['layout'])}",
        f"licence = {toml_string('MIT' if fashion else EMOJI_LICENCE)}",
        f"citation = {toml_string('Xiao, Rasul, Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747' if fashion else EMOJI_CITATION)}",
    ]
    if name in concepts.REGIME:
        lines.append(f"regime = {toml_string(concepts.REGIME[name])}")
    lines += ["micro = true", f"provenance = \"mini/{name}/provenance.csv\"", f"notes = {json.dumps(about['notes'])}"]
    if class_names:
        lines.append(f"class_names = {json.dumps(class_names)}")
    for role, file, data in files:
        lines += [
            "", "[[file]]", f"role = {toml_string(role)}", f"name = {toml_string(file)}",
            f"path = \"mini/{name}/{file}\"", f"size = {len(data)}", f"sha256 = \"{hashlib.sha256(data).hexdigest()}\"",
        ]
    count = lambda role: sum(item.role == role for item in items)
    lines += ["", "[expect]", f"classes = {len({i.cls for i in items})}", f"pool = {count('pool')}", f"test = {count('test')}"]
    return "\n".join(lines) + "\n"


def write(out, name, files, class_names, items):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for _, file, data in files:
        (folder / file).write_bytes(data)
    with open(folder / "provenance.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "class", "concept", "family", "drawing", "role"])
        table.writerows([i.id, i.cls, i.concept, i.family, i.drawing, i.role] for i in sorted(items, key=lambda i: i.id))
    (out.parent / f"{name}.toml").write_text(manifest(name, files, class_names, items), encoding="utf-8")
    print(f"{name}: {sum(len(data) for *_, data in files)} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=pathlib.Path, required=True)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--embedded", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    stored = np.load(args.drawings)
    drawings = {(str(c), str(f)): p for c, f, p in zip(stored["concept"], stored["family"], stored["pixels"])}

    background = []
    for number, concept in enumerate(["cloud", "envelope", "gear", "hammer", "pencil", "ring", "trophy", "bell"]):
        background.append(images.jpeg(images.render(drawings[concept, "noto"], np.random.default_rng(900 + number))))
    layouts = {
        "mini-pets": archives.pets, "mini-cars": archives.cars, "mini-flowers": archives.flowers,
        "mini-caltech101": lambda items: archives.caltech(items, background),
    }
    for name, layout in layouts.items():
        items = images.emoji_set(name, drawings)
        files, class_names = layout(items)  # may store an image in another format, so nearness is checked after it
        if count_near(items):
            raise SystemExit(f"error: {name}: a test image is too near to a pool image")
        write(args.out, name, files, class_names, items)
    items = fashion_items(args.fashion, json.loads(args.embedded.read_text()))
    print(f"mini-fashion: {count_near(items)} test images within {images.TOO_NEAR} bits of a pool image")
    write(args.out, "mini-fashion", *archives.folders(items), items)


if __name__ == "__main__":
    main()

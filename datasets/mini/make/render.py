"""Rasterise the openly licensed emoji drawings once, as 64 px RGBA with premultiplied alpha.

    python render.py --icons ICONS --out drawings.npz

ICONS holds the unpacked npm packages, one folder per family: `iconify-json-noto/icons.json`, ...
`align.json.gz`, beside this script, says which icon of which family draws which concept.

The output has one row per drawing: `pixels` (N, 64, 64, 4) uint8, `concept`, `family`, `group`.
"""

import argparse
import gzip
import io
import json
import pathlib
from multiprocessing import Pool

import numpy as np
import resvg_py
from PIL import Image

SIZE = 64
FAMILIES = ["noto", "noto-v1", "twemoji", "fxemoji", "emojione", "fluent-emoji", "fluent-emoji-flat"]


def design(family):
    """Families that redraw one another count as one designer: Fluent 3D and Fluent flat share outlines."""
    return "fluent" if family.startswith("fluent-emoji") else family


def resolve(icon_set, name):
    """Follow an Iconify alias chain to its icon; overrides and transforms add up on the way."""
    flip_h = flip_v = False
    quarter_turns = 0
    overrides = {}
    entry = None
    while entry is None:
        link = icon_set["icons"].get(name) or icon_set["aliases"][name]
        flip_h ^= link.get("hFlip", False)
        flip_v ^= link.get("vFlip", False)
        quarter_turns += link.get("rotate", 0)
        for key in ("left", "top", "width", "height"):
            if key in link:
                overrides.setdefault(key, link[key])
        if "body" in link:
            entry = link
        else:
            name = link["parent"]
    default = {"left": 0, "top": 0, "width": 16, "height": 16}
    box = {key: overrides.get(key, icon_set.get(key, value)) for key, value in default.items()}
    return entry["body"], box, flip_h, flip_v, quarter_turns % 4


def to_svg(icon_set, name):
    """The icon as a stand-alone SVG, as Iconify's own `iconToSVG` builds it."""
    body, box, flip_h, flip_v, turns = resolve(icon_set, name)
    left, top, width, height = box["left"], box["top"], box["width"], box["height"]
    transforms = []
    if flip_h and flip_v:
        turns = (turns + 2) % 4
    elif flip_h:
        transforms += [f"translate({width + left} {-top})", "scale(-1 1)"]
        left = top = 0
    elif flip_v:
        transforms += [f"translate({-left} {height + top})", "scale(1 -1)"]
        left = top = 0
    if turns == 1:
        transforms.insert(0, f"rotate(90 {height / 2 + top} {height / 2 + top})")
    elif turns == 2:
        transforms.insert(0, f"rotate(180 {width / 2 + left} {height / 2 + top})")
    elif turns == 3:
        transforms.insert(0, f"rotate(-90 {width / 2 + left} {width / 2 + left})")
    if turns % 2:
        left, top, width, height = top, left, height, width
    if transforms:
        body = f'<g transform="{" ".join(transforms)}">{body}</g>'
    body = body.replace("currentColor", "#222")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
    )


def rasterise(svg):
    """SVG text to (SIZE, SIZE, 4) uint8 with premultiplied alpha, centred; None for an empty drawing."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if image.size != (SIZE, SIZE):
        canvas = Image.new("RGBA", (SIZE, SIZE))
        canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
        image = canvas
    pixels = np.asarray(image).astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    pixels = np.round(pixels).astype(np.uint8)
    covered = (pixels[..., 3] > 20).mean()
    return pixels if covered > 0.02 else None


def load_alignment(path):
    """{concept: {"group": str, "icons": {family: icon name}}}"""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=pathlib.Path, required=True, help="folder with iconify-json-*/icons.json")
    parser.add_argument("--align", type=pathlib.Path, default=pathlib.Path(__file__).with_name("align.json.gz"))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()

    sets = {}
    for family in FAMILIES:
        text = (args.icons / f"iconify-json-{family}" / "icons.json").read_text(encoding="utf-8")
        sets[family] = json.loads(text)
    alignment = load_alignment(args.align)
    todo = [
        (concept, family, alignment[concept]["group"], to_svg(sets[family], alignment[concept]["icons"][family]))
        for concept in sorted(alignment)
        for family in FAMILIES
        if family in alignment[concept]["icons"]
    ]
    with Pool(args.jobs) as pool:
        pixels = pool.map(rasterise, [svg for *_, svg in todo], chunksize=64)
    kept = [i for i, image in enumerate(pixels) if image is not None]
    np.savez(
        args.out,
        pixels=np.stack([pixels[i] for i in kept]),
        concept=np.array([todo[i][0] for i in kept]),
        family=np.array([todo[i][1] for i in kept]),
        group=np.array([todo[i][2] for i in kept]),
    )
    print(f"{len(alignment)} concepts, {len(kept)} drawings, {len(todo) - len(kept)} empty ones left out")


if __name__ == "__main__":
    main()

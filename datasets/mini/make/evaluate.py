"""Few-shot accuracy of a model folder on the packed datasets, in PyTorch: the check made when the pack was built.

    python evaluate.py --mini .. --model ../models/micro-dinov2 [--sets mini-pets,...] [--shots 1,4,16] [--seeds 3]
                       [--lora]

Reads the archives that kshot reads. Four learners: nearest neighbour on raw pixels, nearest class mean and logistic
regression on frozen features ([CLS; mean patch], unit length), and LoRA with a head. kshot's own numbers come from
its Rust code; this script is independent of it.
"""

import argparse
import csv
import io
import json
import pathlib
import tarfile
import zipfile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Dinov2Model

SETS = ["mini-pets", "mini-cars", "mini-flowers", "mini-caltech101", "mini-fashion"]
SUFFIXES = (".jpg", ".png")


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(SUFFIXES):
                yield member.name, archive.extractfile(member).read()


def archive_images(folder):
    """{image id: file bytes} over all archives of a set."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".zip":
            inner = zipfile.ZipFile(path).read("caltech-101/101_ObjectCategories.tar.gz")
            found.update((name.split("/", 1)[1], data) for name, data in members(inner))
        elif path.suffix in (".tgz", ".gz"):
            found.update(members(path.read_bytes()))
    return found


def rgb(data):
    """Decoded image as (3, h, w) floats in 0..1; transparency falls on white."""
    image = Image.open(io.BytesIO(data))
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def load(folder):
    """{role: (images (N, 3, h, w), labels (N,))} and the number of classes."""
    files = archive_images(folder)
    with open(folder / "provenance.csv", newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["id"])
    names = sorted({row["class"] for row in rows})
    parts = {}
    for role in ("pool", "test"):
        chosen = [row for row in rows if row["role"] == role]
        images = torch.stack([rgb(files[row["id"]]) for row in chosen])
        parts[role] = images, torch.tensor([names.index(row["class"]) for row in chosen])
    return parts, len(names)


def draw(labels, shots, seed, classes):
    """Indices of `shots` images per class; for one seed a prefix of the same order."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels.numpy() == c)) for c in range(classes)]
    return torch.from_numpy(np.concatenate([o[:shots] for o in order]))


def prepare(images, processor):
    side = processor["crop_size"]["height"]
    if images.shape[-1] != side:
        images = F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(processor[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    return (images - mean) / std


def features(model, images):
    tokens = model(pixel_values=images).last_hidden_state
    return F.normalize(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1), dim=-1)


def class_means(x, y, classes):
    return torch.stack([F.normalize(x[y == c].mean(0), dim=-1) for c in range(classes)])


def nearest_neighbour(x, y, test):
    return y[torch.cdist(test.flatten(1), x.flatten(1)).argmin(1)]


def logistic_regression(x, y, test, classes):
    weight = (class_means(x, y, classes) * 4).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], 0.03, weight_decay=0.01)
    for _ in range(150):
        loss = F.cross_entropy(x @ weight.T * 4 + bias, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (test @ weight.T * 4 + bias).argmax(1).detach()


def lora(folder, x, y, test, classes, seed, images_per_class=160, batch=32):
    """LoRA of rank 16 on all linear layers, head started from class means, flips and shifts, cosine to 0."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
    model = get_peft_model(Dinov2Model.from_pretrained(folder), LoraConfig(r=16, lora_alpha=16, target_modules=targets))
    with torch.no_grad():
        head = class_means(features(model, x), y, classes) * 4
    head.requires_grad_()
    adapter = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW([{"params": adapter, "lr": 1e-3}, {"params": [head], "lr": 1e-2}], weight_decay=0.01)
    steps = images_per_class * classes // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [1e-3, 1e-2], total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch,))
        views = x[chosen]
        views = torch.where((torch.rand(batch) < 0.5)[:, None, None, None], views.flip(-1), views)
        shift = torch.randint(-3, 4, (2,)).tolist()
        views = torch.roll(views, shift, (-2, -1))
        loss = F.cross_entropy(features(model, views) @ head.T * 4, y[chosen])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter, 1.0)
        optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return (features(model, test) @ head.T).argmax(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mini", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--shots", default="1,4,16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--confusion", action="store_true", help="print per-class accuracy and commonest mistake, linear, k = 16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    processor = json.loads((args.model / "preprocessor_config.json").read_text())
    model = Dinov2Model.from_pretrained(args.model).eval()
    for name in args.sets.split(","):
        parts, classes = load(args.mini / name)
        (pool, labels), (test, truth) = parts["pool"], parts["test"]
        pool_in, test_in = prepare(pool, processor), prepare(test, processor)
        with torch.no_grad():
            pool_features, test_features = features(model, pool_in), features(model, test_in)
        for shots in map(int, args.shots.split(",")):
            scores = {}
            for seed in range(args.seeds):
                chosen = draw(labels, shots, seed, classes)
                y = labels[chosen]
                answers = {
                    "pixels": nearest_neighbour(pool[chosen], y, test),
                    "class mean": (test_features @ class_means(pool_features[chosen], y, classes).T).argmax(1),
                    "logistic": logistic_regression(pool_features[chosen], y, test_features, classes),
                }
                if args.lora:
                    answers["lora"] = lora(args.model, pool_in[chosen], y, test_in, classes, seed)
                for learner, answer in answers.items():
                    scores.setdefault(learner, []).append(100 * (answer == truth).float().mean().item())
            cells = (f"{learner} {np.mean(v):5.1f} ± {np.std(v):3.1f}" for learner, v in scores.items())
            print(f"{name:16} k={shots:<2}  " + "   ".join(cells), flush=True)
        if args.confusion:
            names = sorted({row["class"] for row in csv.DictReader(open(args.mini / name / "provenance.csv"))})
            for c, label in enumerate(names):
                wrong = answers["logistic"][truth == c]
                counts = torch.bincount(wrong, minlength=classes).tolist()
                right, counts[c] = counts[c], -1
                print(f"    {label:12} {right:3} of {(truth == c).sum()}, most often taken for {names[int(np.argmax(counts))]} ({max(counts)})")


if __name__ == "__main__":
    main()

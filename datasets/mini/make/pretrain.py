"""Pre-train the micro model: DINOv2's architecture, contrastive learning on drawings and unlabelled photographs.

    python pretrain.py --drawings drawings.npz --fashion FOLDER --held-out embedded_fashion.json --work WORK
                       --steps 3000 [--cool-down-from STEP --stop STEP] [--threads 1] [--resume]

* Drawings: two drawings of one concept by different designers are a positive pair (InfoNCE over the concepts of a
  batch), plus a cosine-proxy cross-entropy over concepts. What may be seen is decided in `concepts.py`.
* Photographs: two views of one Fashion-MNIST training image are a positive pair; labels are not read, the images
  embedded in kshot and the test split are left out.
* The feature is what kshot's head sees: [CLS; mean patch] after the final layer norm, here scaled to unit length.

The learning rate warms up and follows a cosine to 0 over `--steps`. To end early, `--stop` names the last step and
`--cool-down-from` the step from which the rate is also scaled linearly down to 0 at `--stop`. Schedules count steps,
never seconds, so a run can be repeated.

Every hundred steps a checkpoint with model, optimiser and random states is written to WORK (temporary name, then
renamed); `--resume` continues from it with the same result. `export.py` turns the last one into a hub-layout folder.
"""

import argparse
import csv
import gzip
import hashlib
import json
import math
import os
import pathlib
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import concepts

SEED = 0
SIDE = 48
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
CONFIG = dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=4, patch_size=8, image_size=SIDE)
RECIPE = dict(
    concepts_per_step=96, photographs_per_step=40, peak_lr=1.5e-3, betas=[0.9, 0.98], weight_decay=0.05, warmup_steps=100,
    clip=1.0, max_scale=30.0, proxy_scale=16.0, proxy_weight=0.5, photograph_weight=0.5, photograph_scale=10.0,
)
CHECKPOINT_EVERY = 100


class Layer(nn.Module):
    """One DINOv2 block: pre-norm attention and MLP, each scaled per channel."""

    def __init__(self, width, heads, ratio):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.dense = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.scale1 * self.dense(mixed)
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Micro(nn.Module):
    def __init__(self):
        super().__init__()
        width, patch = CONFIG["hidden_size"], CONFIG["patch_size"]
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (SIDE // patch) ** 2 + 1, width) * 0.02)
        self.layers = nn.ModuleList(
            Layer(width, CONFIG["num_attention_heads"], CONFIG["mlp_ratio"]) for _ in range(CONFIG["num_hidden_layers"])
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def tokens(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, x):
        tokens = self.tokens(x)
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)


def view(pixels, rng, rotate=0.25, zoom=0.35, shift=0.12):
    """Random flip, rotation, zoom and shift of (N, C, h, w) to (N, C, SIDE, SIDE), zeros outside."""
    n = len(pixels)
    r = lambda *shape: torch.rand(*shape, generator=rng)
    theta, size = (r(n) * 2 - 1) * rotate, 1 + r(n) * zoom
    flip, aspect = (r(n) < 0.5).float() * 2 - 1, 1 + (r(n) * 2 - 1) * 0.08
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = size * aspect * torch.cos(theta) * flip
    affine[:, 0, 1] = -size * torch.sin(theta)
    affine[:, 1, 0] = size * torch.sin(theta) * flip
    affine[:, 1, 1] = size * torch.cos(theta)
    affine[:, :, 2] = (r(n, 2) * 2 - 1) * shift
    grid = F.affine_grid(affine, (n, pixels.shape[1], SIDE, SIDE), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def drawing_view(pixels, rng):
    """Drawings on a plain or two-tone ground of random colour: (N, 4, 64, 64) premultiplied to normalised RGB."""
    n = len(pixels)
    r = lambda *shape: torch.rand(*shape, generator=rng)
    drawn = view(pixels, rng)
    first = r(n, 3, 1, 1)
    second = first + (r(n, 3, 1, 1) - 0.5) * 0.8 * (r(n, 1, 1, 1) < 0.5).float()
    angle, line = r(n) * 2 * math.pi, torch.linspace(-1, 1, SIDE)
    ramp = torch.cos(angle)[:, None, None] * line[None, None, :] + torch.sin(angle)[:, None, None] * line[None, :, None]
    ramp = torch.sigmoid((ramp + (r(n) - 0.5)[:, None, None]) * torch.where(r(n) < 0.5, 30.0, 3.0)[:, None, None])[:, None]
    ground = (first * (1 - ramp) + second * ramp).clamp(0, 1)
    colour = (drawn[:, :3] * (1 + (r(n, 3, 1, 1) * 2 - 1) * 0.21)).clamp(0, 1)
    image = colour + ground * (1 - drawn[:, 3:4])
    grey = (r(n, 1, 1, 1) < 0.15).float()
    image = image * (1 - grey) + image.mean(1, keepdim=True) * grey
    image = image * (1 + (r(n, 1, 1, 1) * 2 - 1) * 0.25)
    return (image.clamp(0, 1) - MEAN) / STD


def photograph_view(pixels, rng):
    """Grey photographs (N, 1, 28, 28), moved, zoomed and dimmed, to normalised RGB."""
    n = len(pixels)
    image = view(pixels, rng, rotate=0.15, zoom=0.0, shift=0.1)
    image = image * (1 + (torch.rand(n, 1, 1, 1, generator=rng) * 2 - 1) * 0.4)
    return (image.clamp(0, 1).expand(-1, 3, -1, -1) - MEAN) / STD


def crop(pixels, rng):
    """Random zoom-in on (N, 1, 28, 28) by cropping 18 to 28 pixels, so that views differ in scale."""
    out = []
    for image in pixels:
        side = int(torch.randint(18, 29, (1,), generator=rng))
        top, left = (int(torch.randint(0, 29 - side, (1,), generator=rng)) for _ in range(2))
        out.append(F.interpolate(image[None, :, top : top + side, left : left + side], size=(28, 28), mode="bilinear"))
    return torch.cat(out)


def contrast(a, b, scale):
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T * scale
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def load_drawings(path):
    stored = np.load(path)
    keep = [
        i
        for i, (c, f, g) in enumerate(zip(stored["concept"], stored["family"], stored["group"]))
        if concepts.usable(str(c), str(f), str(g))
    ]
    by_concept = {}
    for row, i in enumerate(keep):
        by_concept.setdefault(str(stored["concept"][i]), []).append(row)
    pixels = torch.from_numpy(stored["pixels"][keep]).permute(0, 3, 1, 2).contiguous()
    names = sorted(c for c, rows in by_concept.items() if len(rows) >= 2)
    return pixels, names, [np.array(by_concept[c]) for c in names]


def load_photographs(folder, held_out):
    with gzip.open(pathlib.Path(folder) / "train-images-idx3-ubyte.gz", "rb") as file:
        pixels = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 1, 28, 28)
    keep = np.setdiff1d(np.arange(len(pixels)), json.loads(pathlib.Path(held_out).read_text())["train"])
    return torch.from_numpy(pixels[keep].copy())


def learning_rate(step, steps, cool_down_from, stop):
    """Warm-up, cosine over `steps`, and where asked a linear way down to 0 at `stop`."""
    rate = RECIPE["peak_lr"] * min(1, (step + 1) / RECIPE["warmup_steps"]) * 0.5 * (1 + math.cos(math.pi * step / steps))
    if step >= cool_down_from:
        rate *= (stop - step) / (stop - cool_down_from)
    return rate


def save(path, state):
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=pathlib.Path, required=True)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--held-out", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="length of the cosine")
    parser.add_argument("--stop", type=int, help="last step, when it is to be before --steps")
    parser.add_argument("--cool-down-from", type=int, help="first step of the linear way down to --stop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    stop = args.stop or args.steps
    cool_down_from = stop if args.cool_down_from is None else args.cool_down_from
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.pt"

    drawings, names, rows = load_drawings(args.drawings)
    photographs = load_photographs(args.fashion, args.held_out)
    corpus = hashlib.sha256(drawings.numpy().tobytes() + photographs.numpy().tobytes() + "\n".join(names).encode()).hexdigest()
    print(f"{len(names)} concepts, {sum(map(len, rows))} drawings, {len(photographs)} photographs, corpus {corpus}", flush=True)

    torch.manual_seed(SEED)
    model = Micro()
    proxies = nn.Parameter(torch.randn(len(names), 2 * CONFIG["hidden_size"]))
    scale = nn.Parameter(torch.tensor(math.log(10.0)))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1] + [proxies, scale]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": RECIPE["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        RECIPE["peak_lr"],
        betas=tuple(RECIPE["betas"]),
    )
    choose, paint = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    step, seconds, log, runs = 0, 0.0, [], []
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        proxies.data, scale.data = state["proxies"], state["scale"]
        optimiser.load_state_dict(state["optimiser"])
        choose.bit_generator.state = state["choose"]
        paint.set_state(state["paint"])
        step, seconds, log = state["step"], state["seconds"], state["log"]
        runs = state.get("runs", [])
        print(f"resumed at step {step}", flush=True)

    per_step = 2 * (RECIPE["concepts_per_step"] + RECIPE["photographs_per_step"])
    started, mean = time.time() - seconds, np.array(log[-1][1:4]) if log else None
    runs.append(dict(from_step=step, steps=args.steps, cool_down_from=cool_down_from, stop=stop, threads=args.threads))
    while step < stop:
        lr = learning_rate(step, args.steps, cool_down_from, stop)
        for group in optimiser.param_groups:
            group["lr"] = lr
        chosen = choose.choice(len(names), RECIPE["concepts_per_step"], replace=False)
        pairs = np.array([choose.choice(rows[c], 2, replace=False) for c in chosen])
        drawn = drawings[np.concatenate([pairs[:, 0], pairs[:, 1]])].float() / 255
        seen = photographs[choose.choice(len(photographs), RECIPE["photographs_per_step"], replace=False)].float() / 255
        images = torch.cat([drawing_view(drawn, paint)] + [photograph_view(crop(seen, paint), paint) for _ in range(2)])
        a, b, c, d = model(images).split([len(pairs), len(pairs), len(seen), len(seen)])
        between = contrast(a, b, scale.exp().clamp(max=RECIPE["max_scale"]))
        cosine = F.normalize(torch.cat([a, b]), dim=-1) @ F.normalize(proxies, dim=-1).T
        proxy = F.cross_entropy(cosine * RECIPE["proxy_scale"], torch.from_numpy(np.concatenate([chosen, chosen])))
        photograph = contrast(c, d, RECIPE["photograph_scale"])
        loss = between + RECIPE["proxy_weight"] * proxy + RECIPE["photograph_weight"] * photograph
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE["clip"])
        optimiser.step()
        step += 1
        now = np.array([between.item(), proxy.item(), photograph.item()])
        mean = now if mean is None else 0.95 * mean + 0.05 * now
        if step % 50 == 0 or step == stop:
            seconds = time.time() - started
            log.append([step, *(round(float(x), 4) for x in mean), round(lr, 7), round(step * per_step / seconds, 1), round(seconds, 1)])
            print(*log[-1], flush=True)
        if step % CHECKPOINT_EVERY == 0 or step == stop:
            save(checkpoint, dict(
                model=model.state_dict(), proxies=proxies.data, scale=scale.data, optimiser=optimiser.state_dict(),
                choose=choose.bit_generator.state, paint=paint.get_state(), step=step, seconds=time.time() - started, log=log,
                corpus=corpus, runs=runs, images=step * per_step, concepts=len(names),
                drawings=sum(map(len, rows)), photographs=len(photographs),
            ))
            with open(args.work / "training_log.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["step", "loss_drawings", "loss_proxy", "loss_photographs", "learning_rate", "images_per_second", "seconds"])
                writer.writerows(log)


if __name__ == "__main__":
    main()

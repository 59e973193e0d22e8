#!/usr/bin/env python3
"""Losses of a LoRA training in transformers and peft over a base in bf16, with adapters and AdamW in f32.

    bf16_losses.py FIXTURE GOLDENS [--steps 20] [--lr 1e-3] > losses.json

FIXTURE: hub-layout folder of a dense Qwen3-VL. GOLDENS: its folder of golden files, with `batch.safetensors`, plain or
gzip'd, and `adapter_r8/`, where the training starts. Same batch in each step, mean loss over the labels, no clipping,
betas (0.9, 0.95), eps 1e-8, no weight decay. Prints the loss before each step, with the base in bf16 and, to tell
rounding from the rest, in f32.

`tests/fixtures/oracle/goldens/*/bf16.json` were written by it (`tests/it/bf16.rs` compares); torch 2.15, transformers
5.23, peft 0.21.2. Needs torch, transformers >= 5, peft, safetensors.
"""
import argparse, gzip, json, os, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load
from transformers import Qwen3VLForConditionalGeneration

transformers.logging.set_verbosity_error()
parser = argparse.ArgumentParser()
parser.add_argument("fixture")
parser.add_argument("goldens")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--lr", type=float, default=1e-3)
arguments = parser.parse_args()


def tensors(name):
    path = f"{arguments.goldens}/{name}"
    raw = open(path, "rb").read() if os.path.exists(path) else gzip.open(path + ".gz").read()
    return load(raw)


def patches(pixels):
    """Normalised; committed goldens keep 8-bit levels, to save space."""
    return pixels if pixels.dtype != torch.uint8 else (pixels.double() * (2 / 255) - 1).float()


def qwen(dtype):
    batch = tensors("batch.safetensors")
    if "pixel_values" not in batch:
        notes = json.load(open(f"{arguments.goldens}/goldens.json"))
        seen = tensors("processor.safetensors")
        names = [name for sample in notes["images_per_sample"] for name in sample]
        batch["pixel_values"] = torch.cat([patches(seen[f"{name}.fast"]) for name in names])
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")
    inputs = {name: batch[name] for name in names}
    inputs["pixel_values"] = patches(batch["pixel_values"]).to(dtype)
    base = Qwen3VLForConditionalGeneration.from_pretrained(arguments.fixture, dtype=dtype)
    model = PeftModel.from_pretrained(base, f"{arguments.goldens}/adapter_r8", is_trainable=True)
    labels = batch["labels_name"]
    return model, lambda: model(**inputs, labels=labels).loss


def losses(dtype):
    torch.manual_seed(0)
    model, loss = qwen(dtype)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in trained)
    optimiser = torch.optim.AdamW(trained, lr=arguments.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    found = []
    for _ in range(arguments.steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        found.append(float(value))
    return found


result = {"lr": arguments.lr, "bf16": losses(torch.bfloat16), "f32": losses(torch.float32)}
lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
print("{\n" + ",\n".join(lines) + "\n}")

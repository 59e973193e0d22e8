#!/usr/bin/env python3
"""Does transformers load a merged Qwen3-VL checkpoint that kshot wrote, and compute the same with it?

    merged_qwen.py FOLDER

FOLDER: written by kshot (`Qwen3Vl::save_merged`), with `check.safetensors` in it: a batch, what kshot
computed with the merged checkpoint at `answer_positions`, and what with the base.
`cargo test --release --test it for_transformers -- --ignored` writes such folders
under KSHOT_MERGED_OUT. Needs torch, transformers >= 5, safetensors.
Exit code 1 when a logit differs by more than 3e-4, or a weight was missing or left over.
"""
import os, shutil, sys, tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

(folder,) = sys.argv[1:]
with tempfile.TemporaryDirectory() as model:
    for name in os.listdir(folder):
        if name != "check.safetensors":
            shutil.copy(os.path.join(folder, name), model)
    # Other products of experts want widths that are multiples of four.
    experts = {"experts_implementation": "eager"} if "moe" in AutoConfig.from_pretrained(model).model_type else {}
    loaded, info = AutoModelForImageTextToText.from_pretrained(
        model, dtype=torch.float32, output_loading_info=True, **experts
    )
batch = load_file(f"{folder}/check.safetensors")
inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")}
rows, columns = batch["answer_positions"].T
with torch.no_grad():
    logits = loaded.eval()(**inputs).logits[rows, columns]
error = float((logits - batch["logits"]).abs().max())
effect = float((logits - batch["base_logits"]).abs().max())
problems = sum(len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
print(f"{folder}: difference {error:.1e}, effect of the adapter {effect:.1e}, {problems} keys missing or left over")
sys.exit(int(not (error <= 3e-4 and problems == 0 and effect > 1e-2)))

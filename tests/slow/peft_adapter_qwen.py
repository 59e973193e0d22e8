#!/usr/bin/env python3
"""Does peft load a Qwen3-VL adapter that kshot saved, and compute the same with it?

    peft_adapter_qwen.py MODEL ADAPTER

MODEL: hub-layout folder of a Qwen3-VL, dense or with experts. ADAPTER: folder written by kshot (`Qwen3Vl::save_adapter_for_peft`)
with `logits.safetensors` beside it: a batch, and what kshot computed with the adapter at
`answer_positions`. `cargo test --release --test it adapters_for_peft -- --ignored` writes such
folders under KSHOT_PEFT_OUT. Needs torch, transformers >= 5, peft, safetensors.
Exit code 1 when a logit differs by more than 3e-4, or a key was not used.
"""
import sys, warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

model_dir, adapter_dir = sys.argv[1:]
warnings.filterwarnings("error", message=".*adapter keys.*")
# Other products of experts want widths that are multiples of four.
experts = {"experts_implementation": "eager"} if "moe" in AutoConfig.from_pretrained(model_dir).model_type else {}
base = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32, **experts).eval()
batch = load_file(f"{adapter_dir}/logits.safetensors")
inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")}
rows, columns = batch["answer_positions"].T


def logits(model):
    with torch.no_grad():
        return model(**inputs).logits[rows, columns]


plain = logits(base)
adapted = PeftModel.from_pretrained(base, adapter_dir).eval()
stored = load_file(f"{adapter_dir}/adapter_model.safetensors")
loaded = sum(1 for name, _ in adapted.named_parameters() if "lora_" in name)
found = logits(adapted)
error, effect = float((found - batch["logits"]).abs().max()), float((found - plain).abs().max())
print(f"{adapter_dir}: {len(stored)} stored, {loaded} loaded, difference {error:.1e}, effect of the adapter {effect:.1e}")
sys.exit(int(not (error <= 3e-4 and loaded == len(stored) and effect > 1e-2)))

#!/usr/bin/env python3
"""Does peft load an adapter that kshot saved, and compute the same with it?

    peft_adapter.py MODEL ADAPTER FEATURES

MODEL: hub-layout folder of a DINOv2. ADAPTER: folder written by kshot (`Dinov2::save_adapter`).
FEATURES: safetensors with `pixel_values` (B, 3, H, W) and `features` (B, 2D): what kshot computed with
the adapter, CLS next to the mean patch. `cargo test --release --test it adapters_for_peft -- --ignored`
writes such triples under KSHOT_PEFT_OUT. Needs torch, transformers >= 5, peft, safetensors.
Exit code 1 when a feature differs by more than 1e-5 of the largest, or a key was not used.
"""
import sys, warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

model_dir, adapter_dir, features = sys.argv[1:]
warnings.filterwarnings("error", message=".*adapter keys.*")
base = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
registers = getattr(base.config, "num_register_tokens", 0)
expected = load_file(features)


def pooled(model):
    with torch.no_grad():
        tokens = model(pixel_values=expected["pixel_values"]).last_hidden_state
    return torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], 1)


plain = pooled(base)
adapted = PeftModel.from_pretrained(base, adapter_dir).eval()
stored = load_file(f"{adapter_dir}/adapter_model.safetensors")
loaded = sum(1 for name, _ in adapted.named_parameters() if "lora_" in name)
found = pooled(adapted)
scale = expected["features"].abs().max()
error = float((found - expected["features"]).abs().max() / scale)
effect = float((found - plain).abs().max() / scale)
print(f"{model_dir}: {len(stored)} stored, {loaded} loaded, relative difference {error:.1e}, effect of the adapter {effect:.1e}")
sys.exit(int(not (error <= 1e-5 and loaded == len(stored) and effect > 1e-3)))

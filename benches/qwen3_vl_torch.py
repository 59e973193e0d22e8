#!/usr/bin/env python3
"""The peer of `cargo bench --bench qwen3_vl`: the same shape and batch with transformers and peft, as they come.

    OMP_NUM_THREADS=2 python benches/qwen3_vl_torch.py

Run it in turns with the bench on a quiet machine. It computes logits at every position, kshot only where an answer is.
"""
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

PICTURES, STEPS = 3, 7
torch.manual_seed(0)
torch.set_num_threads(2)
config = Qwen3VLConfig(
    image_token_id=2000, video_token_id=2001, vision_start_token_id=2002, vision_end_token_id=2003, tie_word_embeddings=True,
    text_config=dict(
        hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=32,
        vocab_size=2048, rope_theta=5e6,
        rope_scaling=dict(rope_type="default", mrope_section=[8, 4, 4], mrope_interleaved=True),
    ),
    vision_config=dict(
        depth=8, hidden_size=256, intermediate_size=1024, num_heads=8, out_hidden_size=256, num_position_embeddings=2304,
        deepstack_visual_indexes=[1, 3, 5], patch_size=16,
    ),
)
base = Qwen3VLForConditionalGeneration(config).float()
base.set_attn_implementation("sdpa")
layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=layers)).train()
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3, betas=(0.9, 0.95), eps=1e-8)
ids = torch.randint(0, 1900, (PICTURES, 91))
ids[:, 8], ids[:, 9:58], ids[:, 58] = 2002, 2000, 2003
labels = torch.full_like(ids, -100)
labels[:, 85:89] = ids[:, 85:89]
batch = dict(
    input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 2000).int(), labels=labels,
    pixel_values=torch.randn(PICTURES * 196, 1536), image_grid_thw=torch.tensor([[1, 14, 14]] * PICTURES),
)


def train():
    optimiser.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    optimiser.step()


def forward():
    with torch.no_grad():
        model(**batch)


for what, step in (("train", train), ("forward", forward)):
    seconds = []
    for repetition in range(STEPS + 2):
        start = time.perf_counter()
        step()
        if repetition >= 2:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"{what}: {PICTURES / median:.1f} images/s ({1e3 * median:.0f} ms a step)")

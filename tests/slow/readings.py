#!/usr/bin/env python3
"""What transformers reads about kshot's question: log-probabilities of class names, greedy tokens.

    readings.py MODEL GOLDENS

MODEL: hub-layout folder of a dense Qwen3-VL with its tokenizer. GOLDENS: its folder of golden values, where
`readings.json` is written, computed in f64, one sequence at a time. The pictures are patterns of sizes that are not
resized: resizing is compared elsewhere, to one level in 255, which is more than these numbers bear. The tests of
`tests/it/reading_local.rs` compare. Needs torch, torchvision, transformers >= 5.
"""
import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorFast, Qwen3VLForConditionalGeneration

QUESTION = "What is the name of the subject in this photo?"
PREFILL = "The subject in this photo is:"
NAMES = ["cat", "cat fish", "red fox", "Great Pyrenees", "guinea pig", "red", "Boeing 737-200"]
SIZES = [(64, 64), (96, 64), (32, 64), (64, 128), (96, 64), (256, 256), (288, 320)]

model_dir, goldens = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{model_dir}/tokenizer.json")
processor = Qwen2VLImageProcessorFast.from_pretrained(model_dir)
model = Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float64).eval()
pad, end = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|im_end|>"])
read = {"names": NAMES, "pictures": []}
for number, (width, height) in enumerate(SIZES):
    y, x, channel = np.ogrid[:height, :width, :3]
    image = Image.fromarray(((x * (5 + number) + y * 3 * (number + 1) + channel * 90) % 256).astype(np.uint8))
    pixels = processor(images=[image], return_tensors="pt")
    if pixels["image_grid_thw"].tolist() != [[1, height // processor.patch_size, width // processor.patch_size]]:
        continue  # outside the pixel limits of this model
    pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
    tokens = int(pixels["image_grid_thw"].prod()) // processor.merge_size**2
    question = (
        f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>{QUESTION}<|im_end|>\n"
        f"<|im_start|>assistant\n{PREFILL}"
    )

    def inputs(ids):
        ids = torch.tensor([ids])
        types = (ids == pad).long()
        return dict(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **pixels)

    prompt = tokenizer.encode(question, add_special_tokens=False)
    log_probs = []
    with torch.no_grad():
        for name in NAMES:
            ids = tokenizer.encode(f"{question} {name}<|im_end|>", add_special_tokens=False)
            assert ids[: len(prompt)] == prompt and ids[-1] == end
            rows = torch.log_softmax(model(**inputs(ids)).logits[0], -1)
            log_probs.append(sum(rows[i - 1, ids[i]].item() for i in range(len(prompt), len(ids))))
        said = model.generate(
            **inputs(prompt), max_new_tokens=6, do_sample=False, eos_token_id=end, pad_token_id=end
        )
    picture = {
        "number": number,
        "size": [width, height],
        "positions": len(prompt),
        "log_probs": log_probs,
        "greedy": said[0, len(prompt) :].tolist(),
    }
    read["pictures"].append(picture)
pathlib.Path(goldens, "readings.json").write_text(json.dumps(read) + "\n")

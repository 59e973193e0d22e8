#!/usr/bin/env python3
"""What transformers reads about kshot's question: log-probabilities of class names, greedy tokens.

    readings.py MODEL GOLDENS

MODEL: hub-layout folder of a dense Qwen3-VL with its tokenizer. GOLDENS: its folder of golden values, with
`images/*.png`; `readings.json` is written there, computed in f64, one sequence at a time. The images are cut at
the right and below to whole merged patches, so that nobody resizes them: resizing is compared elsewhere, to one
level in 255, which is more than these numbers bear. The tests of `tests/it/reading_local.rs` compare. Needs torch, torchvision, transformers >= 5.
"""
import json
import pathlib
import sys

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorFast, Qwen3VLForConditionalGeneration

QUESTION = "What is the name of the subject in this photo?"
PREFILL = "The subject in this photo is:"
NAMES = ["cat", "cat fish", "red fox", "Great Pyrenees", "guinea pig", "red", "Boeing 737-200"]

model_dir, goldens = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{model_dir}/tokenizer.json")
processor = Qwen2VLImageProcessorFast.from_pretrained(model_dir)
model = Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float64).eval()
pad, end = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|im_end|>"])
read = {"names": NAMES, "images": {}}
for path in sorted(pathlib.Path(goldens, "images").glob("*.png")):
    image = Image.open(path)
    if image.mode != "RGB":
        continue
    square = processor.patch_size * processor.merge_size
    size = tuple(side // square * square for side in image.size)
    if 0 in size:
        continue
    image = image.crop((0, 0, *size))
    pixels = processor(images=[image], return_tensors="pt")
    if tuple(int(sides) * processor.patch_size for sides in pixels["image_grid_thw"][0, [2, 1]]) != size:
        continue
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
    read["images"][path.name] = {
        "size": size,
        "positions": len(prompt),
        "log_probs": log_probs,
        "greedy": said[0, len(prompt) :].tolist(),
    }
pathlib.Path(goldens, "readings.json").write_text(json.dumps(read) + "\n")

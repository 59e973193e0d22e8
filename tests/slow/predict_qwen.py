#!/usr/bin/env python3
"""Does `kshot predict --json` say what transformers says?

    predict_qwen.py KSHOT MODEL LABELS IMAGE... [--adapter DIR | --peft DIR] [--write FILE]

KSHOT: the built binary. MODEL: hub-layout folder of a dense Qwen3-VL. LABELS: class names, one a line. For every
image the log-probability of every class name with its end token is computed with transformers, one sequence at a
time, and compared with kshot's; the greedy text is compared with `generate`. With --adapter both load that adapter;
with --peft peft first makes one with random weights there. With --write the transformers numbers
are kept as JSON, for tests that run without Python. Needs torch, transformers >= 5, pillow, and peft with --adapter.
Exit code 1 when a log-probability differs by more than 3e-4 or a text differs.
"""
import argparse, json, pathlib, subprocess, sys

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

QUESTION = "What is the name of the subject in this photo?"
PREFILL = "The subject in this photo is:"
LONGEST_SIDE = 480

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kshot")
parser.add_argument("model")
parser.add_argument("labels", type=pathlib.Path)
parser.add_argument("images", nargs="+")
parser.add_argument("--adapter")
parser.add_argument("--peft")
parser.add_argument("--write", type=pathlib.Path)
args = parser.parse_args()

processor = AutoProcessor.from_pretrained(args.model, use_fast=False)
model = Qwen3VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
if args.peft:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    made = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=layers))
    for weight_name, weight in made.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.03)
    made.save_pretrained(args.peft)
    model, args.adapter = made.unload(), args.peft
if args.adapter:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, args.adapter).eval()
names = [line.strip() for line in args.labels.read_text().splitlines() if line.strip()]
written = [" ".join(name.replace("_", " ").split()) for name in names]
end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def shrunk(image):
    longest = max(image.size)
    if longest <= LONGEST_SIDE:
        return image
    size = [max(1, round(side * LONGEST_SIDE / longest)) for side in image.size]
    return image.resize(size, Image.LANCZOS)


def inputs(image, answer):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + PREFILL + answer
    return processor(text=[text], images=[image], return_tensors="pt")


def log_prob(image, name):
    start = inputs(image, "")["input_ids"].shape[1]
    batch = inputs(image, f" {name}<|im_end|>")
    with torch.no_grad():
        logits = model(**batch).logits[0].double().log_softmax(-1)
    answer = batch["input_ids"][0, start:]
    return sum(float(logits[start - 1 + i, token]) for i, token in enumerate(answer))


def greedy(image):
    batch = inputs(image, "")
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=32, do_sample=False, eos_token_id=end, pad_token_id=end)
    answer = out[0, batch["input_ids"].shape[1] :]
    return processor.tokenizer.decode(answer, skip_special_tokens=True), int(answer[-1]) == end


command = [args.kshot, "predict", "--model", args.model, "--labels", str(args.labels), "--json", *args.images]
if args.adapter:
    command += ["--adapter", args.adapter]
lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
worst, texts, kept = 0.0, 0, []
for line, path in zip(lines, args.images, strict=True):
    found = json.loads(line)
    image = shrunk(Image.open(path).convert("RGB"))
    expected = {name: log_prob(image, text) for name, text in zip(names, written)}
    worst = max(worst, max(abs(found["log_probs"][name] - expected[name]) for name in names))
    text, ended = greedy(image)
    # kshot stops an answer that can be no class name any more.
    same = text.strip() == found["text"].strip() if ended else text.strip().startswith(found["text"].strip())
    texts += same
    if not same:
        print(f"{path}: kshot wrote {found['text']!r}, generate {text!r}")
    kept.append({"image": pathlib.Path(path).name, "text": text.strip(), "log_probs": expected})
print(f"{len(lines)} images, {len(names)} names: largest difference {worst:.1e}, {texts} texts equal")
if args.write:
    args.write.write_text(json.dumps({"names": names, "images": kept}, indent=1) + "\n")
sys.exit(int(not (worst <= 3e-4 and texts == len(lines))))

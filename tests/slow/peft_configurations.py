#!/usr/bin/env python3
"""Does kshot compute what peft computes, for every way in which an adapter can be configured?

    peft_configurations.py KSHOT MODELS LABELS IMAGE... [--write FOLDER]

MODELS: the folder that holds micro-qwen3-vl and micro-dinov2. LABELS: class names, one a line. For each configuration
an adapter is made with random numbers, saved by peft, loaded by `PeftModel.from_pretrained` and compared with `kshot
predict --json` (log-probability of every class) over every image; those that cannot be right are to be refused with
the name of the field. With --write the small ones are kept there with peft's numbers, for tests that run without
Python. Needs torch, transformers >= 5, peft, pillow. Exit code 1 when a number is more than 6e-5 off, or an adapter is
accepted that should not be.
"""
import argparse, json, pathlib, shutil, subprocess, sys, tempfile, warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
import peft, transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoProcessor, Dinov2ForImageClassification, Qwen3VLForConditionalGeneration

QUESTION = "What is the name of the subject in this photo?"
PREFILL = "The subject in this photo is:"
TOLERANCE = 6e-5

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kshot")
parser.add_argument("models", type=pathlib.Path)
parser.add_argument("labels", type=pathlib.Path)
parser.add_argument("images", nargs="+")
parser.add_argument("--write", type=pathlib.Path)
parser.add_argument("--only")
args = parser.parse_args()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
names = [line.strip() for line in args.labels.read_text().splitlines() if line.strip()]
work = pathlib.Path(tempfile.mkdtemp())

# --- the models ---------------------------------------------------------------------------------------------------
qwen_dir, dino_dir = args.models / "micro-qwen3-vl", args.models / "micro-dinov2"
processor = AutoProcessor.from_pretrained(qwen_dir, use_fast=False)
eyes = AutoImageProcessor.from_pretrained(dino_dir)
end = "<|im_end|>"


def untied():
    """The micro Qwen3-VL with a head of its own."""
    folder = work / "untied"
    if not folder.exists():
        shutil.copytree(qwen_dir, folder)
        config = json.loads((folder / "config.json").read_text())
        config["tie_word_embeddings"] = False
        config["text_config"].pop("tie_word_embeddings", None)
        (folder / "config.json").write_text(json.dumps(config))
        tensors = load_file(folder / "model.safetensors")
        generator = torch.Generator().manual_seed(3)
        head = tensors["model.language_model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"] = (head.float() + 0.01 * torch.randn(head.shape, generator=generator)).to(head.dtype)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def qwen(folder):
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def dino(folder):
    torch.manual_seed(1)
    return Dinov2ForImageClassification.from_pretrained(folder, dtype=torch.float32, num_labels=len(names)).eval()


def qwen_log_probs(model):
    rows = []
    for path in args.images:
        image = Image.open(path).convert("RGB")
        message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        prompt = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True) + PREFILL
        start = processor(text=[prompt], images=[image], return_tensors="pt")["input_ids"].shape[1]
        row = []
        for name in names:
            batch = processor(text=[prompt + " " + " ".join(name.replace("_", " ").split()) + end], images=[image], return_tensors="pt")
            with torch.no_grad():
                logits = model(**batch).logits[0].double().log_softmax(-1)
            answer = batch["input_ids"][0, start:]
            row.append(sum(float(logits[start - 1 + i, token]) for i, token in enumerate(answer)))
        rows.append(row)
    return rows


def dino_log_probs(model):
    batch = eyes(images=[Image.open(path).convert("RGB") for path in args.images], return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.double().log_softmax(-1).tolist()


# --- the configurations -------------------------------------------------------------------------------------------
Q, D = "qwen", "dino"
qv = ["q_proj", "v_proj"]
one = r".*language_model\.layers\.1\.self_attn\.(q|v)_proj"
head = dict(modules_to_save=["classifier"])
BIG = dict(r=3, lora_alpha=6)
right = {
    "list": (Q, dict(target_modules=qv, **BIG)),
    "all-linear": (Q, dict(target_modules="all-linear", **BIG)),
    "regex": (Q, dict(target_modules=r"^(?!.*visual).*(?:gate|up|down)_proj$", **BIG)),
    "vision": (Q, dict(target_modules=r".*visual.*(qkv|linear_fc1|linear_fc2|attn\.proj)", **BIG)),
    "rslora": (Q, dict(target_modules=qv, use_rslora=True, **BIG)),
    "rank-pattern": (Q, dict(target_modules=qv, rank_pattern={"v_proj": 2, r"layers\.1\.self_attn\.q_proj": 5}, **BIG)),
    "alpha-pattern": (Q, dict(target_modules=qv, alpha_pattern={"v_proj": 11, r"layers\.[01]\.self_attn\.q_proj": 1}, **BIG)),
    "both-patterns": (Q, dict(target_modules=qv, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 5.5}, use_rslora=True, **BIG)),
    "layers": (Q, dict(target_modules=qv, layers_to_transform=[1, 3], layers_pattern="layers", **BIG)),
    "layers-any": (Q, dict(target_modules=["q_proj"], layers_to_transform=2, **BIG)),
    "excluded": (Q, dict(target_modules=qv, exclude_modules=r".*layers\.0\..*", **BIG)),
    "gaussian": (Q, dict(target_modules=qv, init_lora_weights="gaussian", **BIG)),
    "orthogonal": (Q, dict(target_modules=qv, init_lora_weights="orthogonal", r=4, lora_alpha=6)),
    "false": (Q, dict(target_modules=qv, init_lora_weights=False, **BIG)),
    "mica": (Q, dict(target_modules=qv, init_lora_weights="mica", **BIG)),
    "fan-in": (Q, dict(target_modules=qv, fan_in_fan_out=True, **BIG)),
    "dropout": (Q, dict(target_modules=qv, lora_dropout=0.5, **BIG)),
    "pissa": (Q, dict(target_modules=one, init_lora_weights="pissa", r=2, lora_alpha=4)),
    "pissa-wide": (Q, dict(target_modules=["q_proj", "v_proj", "down_proj", "up_proj"], init_lora_weights="pissa", r=8, lora_alpha=8)),
    "pissa-rslora": (Q, dict(target_modules=qv, init_lora_weights="pissa", use_rslora=True, alpha_pattern={"v_proj": 3}, r=4, lora_alpha=8)),
    "pissa-full": (Q, dict(target_modules=["v_proj"], init_lora_weights="pissa", r=80, lora_alpha=8)),
    "pissa-all": (Q, dict(target_modules="all-linear", init_lora_weights="pissa", r=4, lora_alpha=8)),
    "olora": (Q, dict(target_modules=one, init_lora_weights="olora", r=2, lora_alpha=4)),
    "olora-wide": (Q, dict(target_modules=["q_proj", "v_proj", "down_proj", "up_proj"], init_lora_weights="OLoRA", r=8, lora_alpha=8)),
    "olora-full": (Q, dict(target_modules=["v_proj"], init_lora_weights="olora", r=80, lora_alpha=8)),
    "head-tied": (Q, dict(target_modules=["q_proj", "lm_head"], **BIG)),
    "head-untied": ("untied", dict(target_modules=["q_proj", "lm_head"], **BIG)),
    "head-pissa": ("untied", dict(target_modules=["q_proj", "lm_head"], init_lora_weights="pissa", r=4, lora_alpha=8)),
    "vision-model": (D, dict(target_modules=["q_proj", "v_proj"], **head, **BIG)),
    "vision-model-all": (D, dict(target_modules="all-linear", exclude_modules=["classifier"], **head, **BIG)),
    "vision-model-pissa": (D, dict(target_modules=r".*layer\.1\..*(q|v)_proj", init_lora_weights="pissa", **head, r=2, lora_alpha=4)),
    "vision-model-olora": (D, dict(target_modules=["fc1"], init_lora_weights="olora", **head, r=2, lora_alpha=4)),
}
kept = {"pissa", "olora", "alpha-pattern-one", "vision-model-pissa"}
right["alpha-pattern-one"] = (Q, dict(target_modules=one, alpha_pattern={"v_proj": 11}, r=2, lora_alpha=4))
stored_as = {"bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
for kind in stored_as:
    right[f"file-{kind}"] = (Q, dict(target_modules=qv, **BIG))
refused = {
    "dora": ("use_dora", dict(target_modules=qv, use_dora=True)),
    "lora-bias": ("lora_bias", dict(target_modules=["qkv"], lora_bias=True)),
    "bias": ("bias", dict(target_modules=["qkv"], bias="lora_only")),
    "alora": ("alora_invocation_tokens", dict(target_modules=qv, alora_invocation_tokens=[5, 6], task_type="CAUSAL_LM")),
    "niter": ("init_lora_weights", dict(target_modules=qv, init_lora_weights="pissa_niter_4")),
    "saved": ("modules_to_save", dict(target_modules=qv, modules_to_save=["merger"])),
    "tokens": ("trainable_token_indices", dict(target_modules=qv, trainable_token_indices=[3])),
    "embedding": ("embed_tokens", dict(target_modules=["embed_tokens"])),
    "pissa-tied": ("tied", dict(target_modules=["lm_head"], init_lora_weights="pissa", r=4)),
}


def predict(folder, adapter):
    command = [args.kshot, "predict", "--model", folder, "--adapter", adapter, "--labels", args.labels, "--json", *args.images]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines()] if ran.returncode == 0 else []
    return [[line["log_probs"][name] for name in names] for line in lines], ran.stderr


def spread(model, width=0.05):
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * width)


failed, versions = 0, f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
print(versions)
for label, (kind, options) in right.items():
    if args.only and args.only not in label:
        continue
    folder = {Q: qwen_dir, D: dino_dir, "untied": None}[kind] or untied()
    load, ask = (dino, dino_log_probs) if kind == D else (qwen, qwen_log_probs)
    torch.manual_seed(0)
    made = get_peft_model(load(folder), LoraConfig(**options))
    # Where many layers change, less: what is 10 nats off is rounded more coarsely by both.
    spread(made, 0.01 if label in ("pissa-wide", "pissa-all") else 0.05)
    adapter = work / label
    made.save_pretrained(adapter)
    config = adapter / "adapter_config.json"
    if label.startswith("file-"):
        path = adapter / "adapter_model.safetensors"
        save_file({n: t.to(stored_as[label[5:]]) for n, t in load_file(path).items()}, path, {"format": "pt"})
    base = ask(load(folder))
    expected = ask(PeftModel.from_pretrained(load(folder), adapter).eval())
    if "pissa" in label:
        # peft's singular vectors are of f32: where values lie close together its own numbers are up to 2e-4 off.
        usual, as_is = torch.linalg.svd, expected
        torch.linalg.svd = lambda x, full_matrices: [part.float() for part in usual(x.double(), full_matrices=full_matrices)]
        expected = ask(PeftModel.from_pretrained(load(folder), adapter).eval())
        torch.linalg.svd = usual
        own = max(abs(a - b) for x, y in zip(as_is, expected) for a, b in zip(x, y))
        print(f"     peft as it is differs by {own:.1e} from peft with singular vectors of f64")
    found, said = predict(folder, adapter)
    if found:
        off = max(abs(a - b) for x, y in zip(found, expected) for a, b in zip(x, y))
        effect = max(abs(a - b) for x, y in zip(base, expected) for a, b in zip(x, y))
        good = off <= TOLERANCE and effect > 1e-2
        print(f"{'ok  ' if good else 'FAIL'} {label}: off by {off:.1e}, effect of the adapter {effect:.1e}", flush=True)
    else:
        good = False
        print(f"FAIL {label}: {said.strip()}", flush=True)
    failed += not good
    if args.write and label in kept:
        target = args.write / label
        target.mkdir(parents=True, exist_ok=True)
        fields = json.loads(config.read_text())
        fields["base_model_name_or_path"] = None
        (target / "adapter_config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
        shutil.copy(adapter / "adapter_model.safetensors", target)
        kept_numbers = {"made by": versions, "model": folder.name, "names": names, "images": [pathlib.Path(p).name for p in args.images], "log_probs": expected}
        (target / "expected.json").write_text(json.dumps(kept_numbers, indent=1) + "\n")
for label, (field, options) in refused.items():
    if args.only and args.only not in label:
        continue
    torch.manual_seed(0)
    made = get_peft_model(qwen(qwen_dir), LoraConfig(**{"r": 2, **options}))
    spread(made)
    made.save_pretrained(work / label)
    found, said = predict(qwen_dir, work / label)
    good = not found and field in said and "panic" not in said
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} refused {label}: {' '.join(said.split())[:300]}", flush=True)
sys.exit(int(failed > 0))

"""Turn a checkpoint of `pretrain_vlm.py` into a model folder in the Hugging Face hub's layout.

    python export_vlm.py --checkpoint WORK/checkpoint.pt --mini .. --out ../models/micro-qwen3-vl

Writes config.json, model.safetensors (f16), the tokenizer, the chat template, the processor's settings,
generation_config.json, training_log.csv and recipe.json. Then transformers loads the folder, and the script stops with
an error unless tokens and logits for images of the pack equal those of the module that was trained, its weights
rounded to f16.
"""

import argparse
import csv
import io
import json
import pathlib
import platform

import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

import evaluate
import pretrain_vlm
import vlm

# What Qwen3-VL's own template gives for conversations without tools, in a few lines.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def config(tokenizer, vocabulary):
    ids = {text: tokenizer.token_to_id(text) for text in vlm.SPECIAL}
    text = dict(
        attention_bias=False, attention_dropout=0.0, bos_token_id=ids["<|endoftext|>"], dtype="float16",
        eos_token_id=ids["<|im_end|>"], hidden_act="silu", initializer_range=0.02, max_position_embeddings=2048,
        model_type="qwen3_vl_text", tie_word_embeddings=True, use_cache=True, vocab_size=vocabulary, **vlm.TEXT,
        rope_scaling=dict(mrope_interleaved=True, mrope_section=vlm.MROPE_SECTION, rope_type="default"),
    )
    vision = dict(
        **vlm.VISION, hidden_act="gelu_pytorch_tanh", in_channels=3, initializer_range=0.02, model_type="qwen3_vl",
    )
    return dict(
        architectures=["Qwen3VLForConditionalGeneration"], image_token_id=ids["<|image_pad|>"], model_type="qwen3_vl",
        text_config=dict(sorted(text.items())), tie_word_embeddings=True, video_token_id=ids["<|video_pad|>"],
        vision_config=dict(sorted(vision.items())), vision_end_token_id=ids["<|vision_end|>"],
        vision_start_token_id=ids["<|vision_start|>"],
    )


def tokenizer_config(tokenizer):
    special = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    return dict(
        add_bos_token=False, add_prefix_space=False, bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token=None, errors="replace", clean_up_tokenization_spaces=False, split_special_tokens=False,
        added_tokens_decoder={str(tokenizer.token_to_id(t)): dict(content=t, **special) for t in vlm.SPECIAL},
        additional_special_tokens=vlm.SPECIAL[1:], model_max_length=2048, tokenizer_class="Qwen2Tokenizer",
        processor_class="Qwen3VLProcessor", chat_template=CHAT_TEMPLATE,
    )


def processor_config():
    # Every image comes to about 48 x 48 pixels, the only size trained on.
    area = vlm.SIDE**2
    return dict(
        size=dict(longest_edge=area, shortest_edge=area), patch_size=vlm.PATCH, merge_size=vlm.MERGE,
        temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3, processor_class="Qwen3VLProcessor",
        image_processor_type="Qwen2VLImageProcessorFast",
    )


def recipe(state):
    return {
        "vision": vlm.VISION,
        "text": {**vlm.TEXT, "mrope_section": vlm.MROPE_SECTION},
        "vision_started_from": "micro-dinov2",
        "seed": pretrain_vlm.SEED,
        **pretrain_vlm.RECIPE,
        "optimiser": "AdamW",
        "forms": pretrain_vlm.FORMS,
        "forms_with_letters": pretrain_vlm.FORMS_WITH_LETTERS,
        "corpus": {
            "sha256": state["corpus"],
            "concepts": len(state["names"]),
            "drawings": state["drawings"],
            "photographs": state["photographs"],
        },
        "runs": state["runs"],
        "steps": state["step"],
        "images": state["images"],
        "seconds": round(state["seconds"], 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }


def compare(folder, trained, tokenizer, files):
    """Largest difference of logits between transformers on the folder and the trained module; greedy answers."""
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    largest, answers = 0.0, []
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": vlm.QUESTION}]}
        prompt = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True) + vlm.PREFILL
        inputs = processor(text=[prompt + " palm tree<|im_end|>"], images=[image], return_tensors="pt")
        ids = tokenizer.encode(vlm.conversation(vlm.QUESTION, vlm.PREFILL + " palm tree<|im_end|>")).ids
        if inputs["input_ids"][0].tolist() != ids:
            raise SystemExit("error: transformers makes other tokens of the conversation")
        before = ids.index(tokenizer.token_to_id("<|image_pad|>"))
        wanted = torch.arange(before + vlm.VISUAL_TOKENS, len(ids))[None]
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        with torch.no_grad():
            visual, deep = trained.visual(pixels)
            states = trained.language_model(torch.tensor([ids]), before, visual, deep, wanted)
            ours, theirs = trained.language_model.logits(states)[0], model(**inputs).logits[0, wanted[0]]
            largest = max(largest, (ours - theirs).abs().max().item())
            start = processor(text=[prompt], images=[image], return_tensors="pt")
            written = model.generate(**start, max_new_tokens=16, do_sample=False)[0, start["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(written))
    return largest, answers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--mini", type=pathlib.Path, required=True, help="the pack, for images to compare with")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    state = torch.load(args.checkpoint, weights_only=False)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_str(state["tokenizer"])

    rounded = {name: tensor.half().contiguous() for name, tensor in state["model"].items()}
    save_file({f"model.{n}": t for n, t in rounded.items()}, args.out / "model.safetensors", metadata={"format": "pt"})
    dump = lambda value: json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    settings = config(tokenizer, state["vocabulary"])
    text = settings["text_config"]
    generation = dict(
        bos_token_id=text["bos_token_id"], pad_token_id=text["bos_token_id"], do_sample=False,
        eos_token_id=[text["eos_token_id"], text["bos_token_id"]],
    )
    (args.out / "config.json").write_text(dump(settings))
    (args.out / "generation_config.json").write_text(dump(generation))
    (args.out / "preprocessor_config.json").write_text(dump(processor_config()))
    (args.out / "tokenizer.json").write_text(json.dumps(json.loads(state["tokenizer"]), ensure_ascii=False) + "\n")
    (args.out / "tokenizer_config.json").write_text(dump(tokenizer_config(tokenizer)))
    (args.out / "chat_template.json").write_text(dump(dict(chat_template=CHAT_TEMPLATE)))
    (args.out / "recipe.json").write_text(dump(recipe(state)))
    with open(args.out / "training_log.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(pretrain_vlm.COLUMNS)
        table.writerows(state["log"])

    trained = vlm.MicroVlm(state["vocabulary"]).eval()
    trained.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
    rows = evaluate.archive_images(args.mini / "mini-flowers")
    chosen = sorted(name for name in rows if name.endswith(".jpg"))[:: len(rows) // 8][:8]
    difference, answers = compare(args.out, trained, tokenizer, [rows[name] for name in chosen])
    print(f"largest difference of logits to the trained module: {difference:.1e}")
    print("greedy answers to eight images of mini-flowers:", answers)
    if difference > 1e-4:
        raise SystemExit("error: the exported model does not give the trained module's logits")


if __name__ == "__main__":
    main()

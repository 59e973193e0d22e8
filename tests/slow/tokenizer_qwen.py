#!/usr/bin/env python3
"""The token ids that transformers gives to 2,000 strings and to kshot's prompts, for `tests/it/tokenizer.rs`.

    tokenizer_qwen.py MODEL STRINGS OUT

MODEL: hub-layout folder with the tokenizer and chat template of a Qwen3-VL, with whatever vocabulary. STRINGS: a file that
this script wrote, e.g. tests/fixtures/tokenizer/mini.json.gz: its `strings` and `names` are read. OUT is of the same form,
gzip'd JSON: `ids` of each string, `decoded` where the text without special tokens is not the string, `prompt` and `answers` of
the conversation about one image of one token for each class name. Needs transformers >= 5.
"""
import gzip
import json
import sys

from transformers import AutoTokenizer

QUESTION = "What is the name of the subject in this photo?"
PREFILL = "The subject in this photo is:"

model, source, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
given = json.load(gzip.open(source))


def encode(text):
    return tokenizer.encode(text, add_special_tokens=False)


ids = [encode(text) for text in given["strings"]]
decoded = {}
for number, (text, row) in enumerate(zip(given["strings"], ids)):
    plain = tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if plain != text:
        decoded[number] = plain
end = tokenizer.convert_tokens_to_ids("<|im_end|>")
user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
prompt = encode(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True) + PREFILL)
answers = []
for name in given["names"]:
    text = f"{PREFILL} {' '.join(name.replace('_', ' ').split())}"
    said = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    row = encode(tokenizer.apply_chat_template([user, said], tokenize=False))
    assert row[: len(prompt)] == prompt
    answers.append(row[len(prompt) : row.index(end, len(prompt)) + 1])
made = {
    "names": given["names"],
    "strings": given["strings"],
    "ids": ids,
    "decoded": decoded,
    "prompt": prompt,
    "answers": answers,
}
with open(out, "wb") as file:
    # Without a time in it: the same strings give the same bytes.
    file.write(gzip.compress(json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode(), 9, mtime=0))
print(f"{len(ids)} strings, {sum(map(len, ids))} tokens; {len(answers)} class names")

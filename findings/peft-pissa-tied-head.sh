#!/usr/bin/env bash
# peft 0.21.2: PiSSA on an `lm_head` that is tied to the embedding also takes its start out of the embedding.
#
# PiSSA moves the largest singular values of a weight into A and B, so that the model computes at first what it computed
# without the adapter. Over a tied head the rest, W - B A, is written into the tensor that head and embedding share: the
# embedding loses B A too, and nothing adds it back there.
# Expected: with a fresh adapter the logits are those of the base, as for an untied head (or an error).
# Seen: the embedding has changed, and so have the logits; what is warned of is merging only.
# Exits with 0 as long as that is so, with 1 when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'peft==0.21.2' 'transformers==5.24.0' 'torch==2.15.0'
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys, warnings

import peft, torch, transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def difference(tied):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, tie_word_embeddings=tied, initializer_range=0.3)
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(8)[None]
    before, table = model(ids).logits.detach().clone(), model.model.embed_tokens.weight.detach().clone()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights="pissa")).eval()
    with torch.no_grad():
        after = adapted(ids).logits
    moved = float((model.model.embed_tokens.weight - table).abs().max())
    return float((after - before).abs().max()), moved, [str(w.message)[:200] for w in said]


print("peft", peft.__version__, "transformers", transformers.__version__)
untied, tied = difference(False), difference(True)
print("untied: logits differ by %.1e, embedding by %.1e" % untied[:2])
print("tied:   logits differ by %.1e, embedding by %.1e" % tied[:2])
print("warnings:", tied[2])
sys.exit(int(not (untied[0] < 1e-4 and tied[0] > 1e-2 and tied[1] > 1e-2)))
PYTHON

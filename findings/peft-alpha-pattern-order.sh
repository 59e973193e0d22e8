#!/usr/bin/env bash
# peft 0.21.2: saving an adapter changes which alpha its layers have, where two patterns of `alpha_pattern` match one layer.
#
# The first pattern that matches counts, in the order of the dictionary. `save_pretrained` writes the file with its keys
# sorted, so that after loading another pattern is the first.
# Expected: an adapter that was saved and loaded computes what it computed before.
# Seen: no warning, and other outputs.
# Exits with 0 as long as that is so, with 1 when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'peft==0.21.2' 'transformers==5.24.0' 'torch==2.15.0'
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json, pathlib, sys, warnings

import peft, torch
from peft import LoraConfig, PeftModel, get_peft_model

warnings.simplefilter("error", UserWarning)  # A warning would be an answer too.


def base():
    torch.manual_seed(0)
    block = lambda: torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8), "v_proj": torch.nn.Linear(8, 8)})
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([block(), block()])})
    model.forward = lambda x: model["layers"][1]["v_proj"](model["layers"][0]["v_proj"](x))
    return model


# Every v_proj 32; the other line, after it, says nothing any more.
config = LoraConfig(r=2, lora_alpha=2, target_modules=["v_proj"], alpha_pattern={"v_proj": 32, r"layers\.0\.v_proj": 4})
model = get_peft_model(base(), config)
torch.manual_seed(1)
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter, std=0.3)
scales = lambda m: [m.base_model.model["layers"][i]["v_proj"].scaling["default"] for i in (0, 1)]
x = torch.ones(1, 8)
before, trained_with = model(x).detach(), scales(model)
model.save_pretrained("adapter")
again = PeftModel.from_pretrained(base(), "adapter")
after, loaded_with = again(x).detach(), scales(again)
print("peft", peft.__version__)
print("asked for, in order:", config.alpha_pattern)
print("saved as:           ", json.loads(pathlib.Path("adapter/adapter_config.json").read_text())["alpha_pattern"])
print("scales of the layers before saving:", trained_with, "after loading:", loaded_with)
print("largest difference of the outputs: ", float((before - after).abs().max()))
sys.exit(int(loaded_with == trained_with))
PYTHON

"""Turn a pre-training checkpoint into a model folder in the Hugging Face hub's layout.

    python export.py --checkpoint WORK/checkpoint.pt --out ../models/micro-dinov2

Writes config.json, model.safetensors (f32), preprocessor_config.json, training_log.csv and recipe.json, then loads
the folder with transformers and stops with an error unless its features equal those of the trained module.
"""

import argparse
import csv
import json
import pathlib
import platform

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

import pretrain

LOG_COLUMNS = ["step", "loss_drawings", "loss_proxy", "loss_photographs", "learning_rate", "images_per_second", "seconds"]
PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": pretrain.SIDE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": pretrain.SIDE, "width": pretrain.SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": pretrain.MEAN.flatten().tolist(),
    "image_std": pretrain.STD.flatten().tolist(),
}
PREPROCESSOR["image_mean"] = [round(v, 3) for v in PREPROCESSOR["image_mean"]]
PREPROCESSOR["image_std"] = [round(v, 3) for v in PREPROCESSOR["image_std"]]


def to_hub(trained):
    """The same weights under transformers' names; its fused projection is taken apart into query, key and value."""
    width = pretrain.CONFIG["hidden_size"]
    hub = {
        "embeddings.cls_token": trained["cls"],
        "embeddings.mask_token": torch.zeros(1, width),
        "embeddings.position_embeddings": trained["positions"],
        "embeddings.patch_embeddings.projection.weight": trained["patch.weight"],
        "embeddings.patch_embeddings.projection.bias": trained["patch.bias"],
        "layernorm.weight": trained["norm.weight"],
        "layernorm.bias": trained["norm.bias"],
    }
    for i in range(pretrain.CONFIG["num_hidden_layers"]):
        ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
        hub[f"{theirs}.layer_scale1.lambda1"] = trained[f"{ours}.scale1"]
        hub[f"{theirs}.layer_scale2.lambda1"] = trained[f"{ours}.scale2"]
        for kind in ("weight", "bias"):
            parts = trained[f"{ours}.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts):
                hub[f"{theirs}.attention.attention.{name}.{kind}"] = part.clone()
            hub[f"{theirs}.attention.output.dense.{kind}"] = trained[f"{ours}.dense.{kind}"]
            for name in ("norm1", "norm2"):
                hub[f"{theirs}.{name}.{kind}"] = trained[f"{ours}.{name}.{kind}"]
            for name in ("fc1", "fc2"):
                hub[f"{theirs}.mlp.{name}.{kind}"] = trained[f"{ours}.{name}.{kind}"]
    return hub


def recipe(state):
    return {
        "model": pretrain.CONFIG,
        "seed": pretrain.SEED,
        **pretrain.RECIPE,
        "optimiser": "AdamW",
        "corpus": {
            "sha256": state["corpus"],
            "concepts": state["concepts"],
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
            "numpy": np.__version__,
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    state = torch.load(args.checkpoint, weights_only=False)
    state.setdefault("runs", [])
    args.out.mkdir(parents=True, exist_ok=True)

    tensors = {name: tensor.contiguous() for name, tensor in to_hub(state["model"]).items()}
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    Dinov2Config(**pretrain.CONFIG, layerscale_value=1.0, architectures=["Dinov2Model"]).save_pretrained(args.out)
    dump = lambda value: json.dumps(value, indent=2) + "\n"
    (args.out / "preprocessor_config.json").write_text(dump(PREPROCESSOR))
    (args.out / "recipe.json").write_text(dump(recipe(state)))
    with open(args.out / "training_log.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(LOG_COLUMNS)
        table.writerows(state["log"])

    trained = pretrain.Micro().eval()
    trained.load_state_dict(state["model"])
    images = torch.randn(8, 3, pretrain.SIDE, pretrain.SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        again = Dinov2Model.from_pretrained(args.out).eval()(pixel_values=images).last_hidden_state
        difference = (again - trained.tokens(images)).abs().max().item()
    print(f"largest difference to the trained module: {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit("error: the exported model does not give the trained module's features")


if __name__ == "__main__":
    main()

"""What the micro Qwen3-VL knows without training on the packed datasets, and what a probe on its features learns.

    python evaluate_vlm.py --mini .. --model ../models/micro-qwen3-vl [--sets mini-pets,...] [--shots 1,16] [--seeds 3]

Zero-shot, over all test images: free greedy text that is the class name, greedy decoding constrained to the class names
of the set, and the likeliest class name. Few-shot: nearest neighbour on raw pixels, nearest class mean and logistic
regression on the mean of the merged visual tokens. kshot's own numbers come from its Rust code; this is independent.
"""

import argparse
import csv
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import evaluate
import vlm


def load(folder):
    tensors = {name.removeprefix("model."): t.float() for name, t in load_file(folder / "model.safetensors").items()}
    model = vlm.MicroVlm(len(tensors["language_model.embed_tokens.weight"])).eval()
    model.load_state_dict(tensors)
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def prepare(images):
    if images.shape[-1] != vlm.SIDE:
        images = F.interpolate(images, size=(vlm.SIDE, vlm.SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    return images * 2 - 1


class Names:
    """The class names of a set as answers: ids (C, T), positions that predict them (C, A), their tokens (C, A) or -100."""

    def __init__(self, tokenizer, names):
        start = tokenizer.encode(vlm.conversation(vlm.QUESTION, vlm.PREFILL)).ids
        self.before = start.index(tokenizer.token_to_id("<|image_pad|>"))
        whole = [tokenizer.encode(vlm.conversation(vlm.QUESTION, f"{vlm.PREFILL} {n}<|im_end|>")).ids for n in names]
        self.answers = [ids[len(start) :] for ids in whole]
        most = max(map(len, self.answers))
        padded = [ids[:-1] + [0] * (len(start) + most - len(ids)) for ids in whole]
        self.ids = torch.tensor(padded)
        self.wanted = torch.arange(len(start) - 1, len(start) - 1 + most).expand(len(names), -1)
        self.target = torch.tensor([answer + [-100] * (most - len(answer)) for answer in self.answers])

    def log_probabilities(self, model, visual, deep):
        """(C, A, vocabulary) of one image whose answer is each class in turn."""
        count = len(self.ids)
        image, later = visual.expand(count, -1, -1), [d.expand(count, -1, -1) for d in deep]
        states = model.language_model(self.ids, self.before, image, later, self.wanted)
        return model.language_model.logits(states).log_softmax(-1)

    def constrained(self, scores):
        """The class that greedy decoding arrives at when only class names may be written."""
        alive, at = list(range(len(self.answers))), 0
        while len(alive) > 1:
            best = max({self.answers[c][at] for c in alive}, key=lambda token: scores[alive[0], at, token].item())
            alive = [c for c in alive if self.answers[c][at] == best]
            at += 1
        return alive[0]

    def likeliest(self, scores):
        chosen = scores.gather(-1, self.target.clamp(min=0)[..., None])[..., 0]
        return int((chosen * (self.target >= 0)).sum(1).argmax())

    def free(self, scores, true):
        answer = self.answers[true]
        return scores[true, : len(answer)].argmax(-1).tolist() == answer


@torch.no_grad()
def zero_shot(model, names, images, truth):
    """Shares of right answers: free, constrained, likeliest."""
    visual, deep = model.visual(images)
    right = np.zeros(3)
    for i, true in enumerate(truth.tolist()):
        scores = names.log_probabilities(model, visual[i : i + 1], [d[i : i + 1] for d in deep])
        right += [names.free(scores, true), names.constrained(scores) == true, names.likeliest(scores) == true]
    return 100 * right / len(truth)


@torch.no_grad()
def features(model, images):
    return F.normalize(model.visual(images)[0].mean(1), dim=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mini", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--sets", default=",".join(evaluate.SETS))
    parser.add_argument("--shots", default="1,4,16")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(args.model)
    for name in args.sets.split(","):
        parts, classes = evaluate.load(args.mini / name)
        (pool, labels), (test, truth) = parts["pool"], parts["test"]
        with open(args.mini / name / "provenance.csv", newline="", encoding="utf-8") as file:
            names = sorted({row["class"] for row in csv.DictReader(file)})
        free, constrained, likeliest = zero_shot(model, Names(tokenizer, names), prepare(test), truth)
        print(f"{name:16} zero-shot  free {free:5.1f}   constrained {constrained:5.1f}   likeliest {likeliest:5.1f}")
        pool_features, test_features = features(model, prepare(pool)), features(model, prepare(test))
        for shots in map(int, args.shots.split(",")):
            scores = {}
            for seed in range(args.seeds):
                chosen = evaluate.draw(labels, shots, seed, classes)
                x, y = pool_features[chosen], labels[chosen]
                answers = {
                    "pixels": evaluate.nearest_neighbour(pool[chosen], y, test),
                    "class mean": (test_features @ evaluate.class_means(x, y, classes).T).argmax(1),
                    "logistic": evaluate.logistic_regression(x, y, test_features, classes),
                }
                for learner, answer in answers.items():
                    scores.setdefault(learner, []).append(100 * (answer == truth).float().mean().item())
            cells = (f"{learner} {np.mean(v):5.1f} ± {np.std(v):3.1f}" for learner, v in scores.items())
            print(f"{name:16} k={shots:<2}  " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()

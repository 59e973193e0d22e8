"""Pre-train the micro Qwen3-VL: to name drawings, with features that tell concepts apart.

    python pretrain_vlm.py --drawings drawings.npz --fashion FOLDER --held-out embedded_fashion.json
                           --warm ../models/micro-dinov2 --work WORK --steps 2500
                           [--cool-down-from STEP --stop STEP] [--threads 1] [--letters] [--resume]

* Language: cross-entropy of the answer's tokens and its end token. Three in four drawings are asked for in the very
  words that kshot uses, the rest in other forms (`FORMS`). What may be seen is decided in `concepts.py`, so the names of
  novel concepts are neither answers nor part of the tokenizer's training text.
* Vision: two drawings of one concept by different designers are a positive pair (InfoNCE over the concepts of a batch)
  on the mean of the merged visual tokens, and so are two views of one photograph, whose labels are not read.
* The vision tower starts from micro-dinov2, which was trained on the same drawings with the same ones left out.

Schedules, checkpoints and `--resume` are those of `pretrain.py`. `export_vlm.py` turns the last checkpoint into a folder
in the hub's layout.
"""

import argparse
import csv
import hashlib
import math
import pathlib
import re
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import concepts
import pretrain
import vlm

SEED = 0
RECIPE = dict(
    concepts_per_step=96, photographs_per_step=24, text_peak_lr=2e-3, vision_peak_lr=1e-3, betas=[0.9, 0.98],
    weight_decay=0.05, warmup_steps=100, clip=1.0, max_scale=30.0, language_weight=1.0, drawing_weight=1.0,
    photograph_weight=0.5, photograph_scale=10.0, merges=1500, least_occurrences=3,
)
# Share of drawings per form of conversation.
FORMS = dict(name=0.76, sentence=0.08, yes_or_no=0.06, write=0.10)
# The same with --letters: more writing, of capitals, digits and signs too, which no name of a concept has.
FORMS_WITH_LETTERS = dict(name=0.60, sentence=0.06, yes_or_no=0.04, write=0.30)
SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-'./()&,+"
CHECKPOINT_EVERY = 100
COLUMNS = [
    "step", "loss_names", "loss_drawings", "loss_photographs", "text_learning_rate", "images_per_second", "seconds",
]


class Talk:
    """Conversations about drawings, as token ids of equal length with the positions that predict the answer."""

    def __init__(self, tokenizer, names, letters):
        self.tokenizer, self.names, self.letters = tokenizer, names, letters
        self.forms = FORMS_WITH_LETTERS if letters else FORMS
        self.end = tokenizer.token_to_id("<|endoftext|>")
        self.before = tokenizer.encode(vlm.conversation("", "")).tokens.index("<|image_pad|>")
        pieces = [token.replace("Ġ", "") for token in tokenizer.get_vocab() if re.fullmatch("Ġ?[a-z]+", token)]
        self.pieces = sorted(set(pieces))
        self.forbidden = {
            word
            for set_name, classes in concepts.SETS.items()
            if concepts.REGIME[set_name] == "novel"
            for word in classes
        } | set(concepts.NEAR_NOVEL)

    def invented(self, rng):
        """Two words of random pieces, or of words from names, so that every piece gets written."""
        while True:
            if rng.random() < 0.5:
                words = ["".join(rng.choice(self.pieces, rng.integers(1, 4))) for _ in range(2)]
            else:
                words = [rng.choice(self.names[rng.integers(len(self.names))].split()) for _ in range(2)]
            if self.letters:
                words = [self.lettered(word, rng) for word in words]
            if not self.forbidden & {word.lower() for word in words}:
                return " ".join(words)

    def lettered(self, word, rng):
        """Half of the words with a capital, one in five of signs alone."""
        draw = rng.random()
        if draw < 0.2:
            return "".join(rng.choice(list(SIGNS), rng.integers(1, 6)))
        return word[0].upper() + word[1:] if draw < 0.6 else word

    def one(self, concept, rng):
        name, form = self.names[concept], rng.choice(list(self.forms), p=list(self.forms.values()))
        if form == "name":
            return vlm.QUESTION, vlm.PREFILL, f" {name}"
        if form == "sentence":
            return vlm.QUESTION, "", f"{vlm.PREFILL} {name}"
        if form == "yes_or_no":
            other = self.names[rng.integers(len(self.names))]
            asked = name if rng.random() < 0.5 else other
            return vlm.IS_IT.format(asked), "", vlm.YES if asked == name else vlm.NO
        words = self.invented(rng)
        return vlm.WRITE.format(words), "", words

    def batch(self, chosen, rng):
        """Ids (N, T), positions that predict the answer (N, A) and its tokens (N, A), -100 where there is none."""
        ids, spans = [], []
        for concept in chosen:
            question, prefill, answer = self.one(concept, rng)
            start = self.tokenizer.encode(vlm.conversation(question, prefill)).ids
            whole = self.tokenizer.encode(vlm.conversation(question, prefill + answer + "<|im_end|>")).ids
            assert whole[: len(start)] == start, (question, prefill, answer)
            ids.append(whole[:-1])
            spans.append((len(start) - 1, whole[len(start) :]))
        length, most = max(map(len, ids)), max(len(answer) for _, answer in spans)
        wanted, target = torch.zeros(len(ids), most, dtype=torch.long), torch.full((len(ids), most), -100)
        for i, (first, answer) in enumerate(spans):
            wanted[i, : len(answer)] = torch.arange(first, first + len(answer))
            target[i, : len(answer)] = torch.tensor(answer)
        return torch.tensor([row + [self.end] * (length - len(row)) for row in ids]), wanted, target


def to_pixels(images):
    """From pretrain's normalisation to Qwen3-VL's: mean and deviation 0.5."""
    return (images * pretrain.STD + pretrain.MEAN) * 2 - 1


def share(step, steps, cool_down_from, stop):
    """The learning rate as a share of its peak: as in `pretrain.py`."""
    return pretrain.learning_rate(step, steps, cool_down_from, stop) / pretrain.RECIPE["peak_lr"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=pathlib.Path, required=True)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--held-out", type=pathlib.Path, required=True)
    parser.add_argument("--warm", type=pathlib.Path, required=True, help="folder of micro-dinov2")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="length of the cosine")
    parser.add_argument("--stop", type=int, help="last step, when it is to be before --steps")
    parser.add_argument("--cool-down-from", type=int, help="first step of the linear way down to --stop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--letters", action="store_true", help="capitals, digits and signs among the words to write")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    stop = args.stop or args.steps
    cool_down_from = stop if args.cool_down_from is None else args.cool_down_from
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint = args.work / "checkpoint.pt"

    drawings, identifiers, rows = pretrain.load_drawings(args.drawings)
    names = [vlm.name_of(identifier) for identifier in identifiers]
    photographs = pretrain.load_photographs(args.fashion, args.held_out)
    corpus = hashlib.sha256(
        drawings.numpy().tobytes() + photographs.numpy().tobytes() + "\n".join(names).encode()
    ).hexdigest()
    tokenizer = vlm.train_tokenizer(names, RECIPE["merges"], RECIPE["least_occurrences"])
    vocabulary = -(-tokenizer.get_vocab_size() // 64) * 64
    print(f"{len(names)} concepts, {sum(map(len, rows))} drawings, {len(photographs)} photographs, corpus {corpus}")

    torch.manual_seed(SEED)
    model = vlm.MicroVlm(vocabulary)
    vlm.warm_start(model.visual, load_file(args.warm / "model.safetensors"))
    scale = nn.Parameter(torch.tensor(math.log(10.0)))
    groups = []
    for part, peak in ((model.visual, "vision_peak_lr"), (model.language_model, "text_peak_lr")):
        for decay, chosen in ((RECIPE["weight_decay"], lambda p: p.ndim > 1), (0.0, lambda p: p.ndim <= 1)):
            groups.append(dict(params=[p for p in part.parameters() if chosen(p)], weight_decay=decay, peak=RECIPE[peak]))
    groups.append(dict(params=[scale], weight_decay=0.0, peak=RECIPE["vision_peak_lr"]))
    optimiser = torch.optim.AdamW(groups, 0.0, betas=tuple(RECIPE["betas"]))
    choose, paint = np.random.default_rng(SEED), torch.Generator().manual_seed(SEED)
    step, seconds, log, runs = 0, 0.0, [], []
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        scale.data = state["scale"]
        optimiser.load_state_dict(state["optimiser"])
        choose.bit_generator.state = state["choose"]
        paint.set_state(state["paint"])
        tokenizer = Tokenizer.from_str(state["tokenizer"])
        step, seconds, log, runs = (state[key] for key in ("step", "seconds", "log", "runs"))
        print(f"resumed at step {step}")
    talk = Talk(tokenizer, names, args.letters)
    total = sum(p.numel() for p in model.parameters())
    print(f"{total} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)

    per_step = 2 * (RECIPE["concepts_per_step"] + RECIPE["photographs_per_step"])
    started, mean = time.time() - seconds, np.array(log[-1][1:4]) if log else None
    runs.append(dict(from_step=step, steps=args.steps, cool_down_from=cool_down_from, stop=stop, threads=args.threads, letters=args.letters))
    while step < stop:
        part = share(step, args.steps, cool_down_from, stop)
        for group in optimiser.param_groups:
            group["lr"] = part * group["peak"]
        chosen = choose.choice(len(names), RECIPE["concepts_per_step"], replace=False)
        pairs = np.array([choose.choice(rows[c], 2, replace=False) for c in chosen])
        drawn = drawings[np.concatenate([pairs[:, 0], pairs[:, 1]])].float() / 255
        seen = photographs[choose.choice(len(photographs), RECIPE["photographs_per_step"], replace=False)].float() / 255
        images = [pretrain.drawing_view(drawn, paint)]
        images += [pretrain.photograph_view(pretrain.crop(seen, paint), paint) for _ in range(2)]
        visual, deep = model.visual(to_pixels(torch.cat(images)))
        ids, wanted, target = talk.batch(np.concatenate([chosen, chosen]), choose)
        about = len(drawn)
        states = model.language_model(ids, talk.before, visual[:about], [d[:about] for d in deep], wanted)
        language = F.cross_entropy(model.language_model.logits(states[target >= 0]), target[target >= 0])
        a, b, c, d = visual.mean(1).split([len(pairs), len(pairs), len(seen), len(seen)])
        between = pretrain.contrast(a, b, scale.exp().clamp(max=RECIPE["max_scale"]))
        photograph = pretrain.contrast(c, d, RECIPE["photograph_scale"])
        loss = (
            RECIPE["language_weight"] * language
            + RECIPE["drawing_weight"] * between
            + RECIPE["photograph_weight"] * photograph
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), RECIPE["clip"])
        optimiser.step()
        step += 1
        now = np.array([language.item(), between.item(), photograph.item()])
        mean = now if mean is None else 0.95 * mean + 0.05 * now
        if step % 50 == 0 or step == stop:
            seconds = time.time() - started
            losses = [round(float(x), 4) for x in mean]
            log.append([step, *losses, round(part * RECIPE["text_peak_lr"], 7), round(step * per_step / seconds, 1), round(seconds, 1)])
            print(*log[-1], flush=True)
        if step % CHECKPOINT_EVERY == 0 or step == stop:
            pretrain.save(checkpoint, dict(
                model=model.state_dict(), scale=scale.data, optimiser=optimiser.state_dict(), tokenizer=tokenizer.to_str(),
                choose=choose.bit_generator.state, paint=paint.get_state(), step=step, seconds=time.time() - started, log=log,
                corpus=corpus, runs=runs, images=step * per_step, names=names, vocabulary=vocabulary,
                drawings=sum(map(len, rows)), photographs=len(photographs),
            ))
            with open(args.work / "training_log.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows(log)


if __name__ == "__main__":
    main()

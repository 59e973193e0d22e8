#!/usr/bin/env python3
"""kshot beside transformers and peft: the same checkpoint, adapter and batch, in turns on the same machine.

    python benches/peer.py --kshot target/release/kshot --shape qwen-medium --dataset square-224 --batch 3 --rank 8
    python benches/peer.py --kshot target/release/kshot --shape dinov2-small --batch 8 --rank 8
    python benches/peer.py --kshot target/release/kshot --shape qwen3-vl-2b --batch 32 --repetitions 7 --steps 30 --out results/bench

Starts `kshot bench --serve-steps`, which writes checkpoint, batch, adapter, loss and LoRA gradients and then takes steps on
demand. Loss and gradients are compared first: where they disagree nothing is timed and the exit code is 1. Then every arm
takes its turn in each repetition:

  A  stock: gradient checkpointing, logits everywhere, padded batch, the tower in every step, `generate` for answers
  B  tuned: no checkpointing, logits at the last positions only, fused AdamW, adapters merged for answers; the faster of
     this and its torch.compile form with --compile
  C  B with the exact savings that kshot makes: visual features kept, logits at answers only, answers checked by one
     teacher-forced pass and decoded where they miss (a DINOv2 has none of these: no C)

and kshot with features kept and with new pictures. Ratios are times of an arm over kshot's in the same repetition, their
median and a bootstrap interval of it; above 1 kshot is faster. Needs torch, transformers >= 5, peft, safetensors.
"""
import argparse, contextlib, datetime, json, os, pathlib, platform, random, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--kshot", required=True, help="the binary")
parser.add_argument("--shape", required=True)
parser.add_argument("--layers", type=int)
parser.add_argument("--dataset", default="oxford-pets")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--rank", type=int)
parser.add_argument("--dtype", choices=["f32", "bf16"], help="default: bf16 on a GPU, f32 on the CPU")
parser.add_argument("--repetitions", type=int, default=5)
parser.add_argument("--steps", type=int, default=3, help="steps of an arm in each repetition, after one in the first")
parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--compile", action="store_true", help="let arm B try torch.compile too")
parser.add_argument("--checkpoint", help="folder to keep the checkpoint in")
parser.add_argument("--out", help="folder for the JSON")
arguments = parser.parse_args()
os.environ.update(OMP_NUM_THREADS=str(arguments.threads), HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch
import torch.nn.functional as F
import transformers
import peft
from peft import PeftModel
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()
torch.set_num_threads(arguments.threads)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype or ("bf16" if device.type == "cuda" else "f32")]
LOSS, GRADIENTS = (1e-4, 1e-3) if dtype == torch.float32 else (2e-2, 5e-2)


def synchronised():
    if device.type == "cuda":
        torch.cuda.synchronize()


class Kshot:
    """The other program: one line in, one line out."""

    def __init__(self, folder):
        options = ["--shape", arguments.shape, "--dataset", arguments.dataset, "--batch", str(arguments.batch)]
        options += ["--checkpoint", arguments.checkpoint or f"{folder}/checkpoint", "--serve-steps", f"{folder}/exchange"]
        for name, value in (("--layers", arguments.layers), ("--rank", arguments.rank), ("--dtype", arguments.dtype)):
            options += [name, str(value)] if value else []
        environment = dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads), CANDLE_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [arguments.kshot, "bench", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.known = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"kshot ended with exit code {self.process.wait()}")
        return json.loads(line)

    def seconds(self, phase):
        self.process.stdin.write(phase + "\n")
        self.process.stdin.flush()
        return self.answer()["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Arm:
    """A model in training with what it needs: `loss`, `train` and `answer`."""

    def __init__(self, known, folder, kind, compiled=False):
        self.known, self.kind = known, kind
        self.batch = {name: value.to(device) for name, value in load_file(f"{folder}/exchange/batch.safetensors").items()
                      if not name.startswith("grad.")}
        self.prepare(folder, trained=True)
        if kind == "A" and hasattr(self, "prompts"):
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.enable_input_require_grads()
        self.model.train()
        parameters = [p for p in self.parameters() if p.requires_grad]
        fused = {} if kind == "A" else {"fused": True}
        self.optimiser = torch.optim.AdamW(parameters, 1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, **fused)
        self.compute = torch.compile(self.loss) if compiled else self.loss
        self.asked = None

    def load(self, folder, loader, trained):
        base = loader.from_pretrained(self.known["checkpoint"], dtype=dtype, attn_implementation="sdpa").to(device)
        return PeftModel.from_pretrained(base, f"{folder}/exchange/adapter", is_trainable=trained)

    def train(self):
        self.optimiser.zero_grad(set_to_none=True)
        self.compute().backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.requires_grad], 1.0)
        self.optimiser.step()

    def gradients(self):
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        found = {name.replace(".default.", "."): p.grad.float().cpu() for name, p in self.named() if p.grad is not None}
        self.optimiser.zero_grad(set_to_none=True)
        return float(loss.detach()), found

    def drop_answering(self):
        self.asked = None


class Qwen(Arm):
    def prepare(self, folder, trained):
        self.folder = folder
        self.model = self.load(folder, transformers.AutoModelForImageTextToText, trained)
        batch, base = self.batch, self.model.get_base_model()
        image = base.config.image_token_id
        self.inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "image_grid_thw")}
        self.inputs["pixel_values"] = batch["pixel_values"].to(dtype)
        self.inputs["mm_token_type_ids"] = (batch["input_ids"] == image).int()
        count = self.known["prompt_tokens"]
        self.prompts = {name: value[:, :count] if name in ("input_ids", "attention_mask", "mm_token_type_ids") else value
                        for name, value in self.inputs.items()}
        self.rows, self.columns = (batch["weights"] != 0).nonzero(as_tuple=True)
        self.first = int(self.columns.min())
        self.kept = None

    def parameters(self):
        return self.model.parameters()

    def named(self):
        return self.model.named_parameters()

    def picked(self, logits):
        """Weighted negative log-likelihoods of the answers' logits."""
        targets = self.batch["targets"][self.rows, self.columns]
        weights = self.batch["weights"][self.rows, self.columns]
        return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()

    def loss(self):
        if self.kind == "A":
            return self.picked(self.model(**self.inputs, use_cache=False).logits[self.rows, self.columns])
        if self.kind == "B":
            last = self.batch["input_ids"].shape[1] - self.first
            logits = self.model(**self.inputs, use_cache=False, logits_to_keep=last).logits
            return self.picked(logits[self.rows, self.columns - self.first])
        base = self.model.get_base_model()
        if self.kept is None:
            with torch.no_grad():
                self.kept = base.model.get_image_features(
                    self.inputs["pixel_values"], self.inputs["image_grid_thw"], return_dict=True
                )
        given = {name: value for name, value in self.inputs.items() if name != "pixel_values"}
        hidden = base.model(**given, use_cache=False, mm_encoder_outputs={"image": self.kept})[0]
        return self.picked(base.lm_head(hidden[self.rows, self.columns]))

    def answer(self):
        """Free answers of the whole batch."""
        if self.asked is None:
            self.asked = self.model if self.kind == "A" else self.load(
                self.folder, transformers.AutoModelForImageTextToText, False).merge_and_unload()
        was_training = self.asked.training
        self.asked.eval()
        options = dict(max_new_tokens=self.known["decoded_tokens"], min_new_tokens=self.known["decoded_tokens"], do_sample=False)
        with torch.no_grad():
            if self.kind != "C":
                self.asked.generate(**self.prompts, **options)
            else:
                hidden = self.asked.model(**self.inputs, use_cache=False)[0]
                self.asked.lm_head(hidden[self.rows, self.columns]).argmax(-1)
                some = self.known["decoded"]
                patches = int(self.prompts["image_grid_thw"][:some].prod(-1).sum())
                part = {name: value[: patches if name == "pixel_values" else some] for name, value in self.prompts.items()}
                self.asked.generate(**part, **options)
        self.asked.train(was_training)


class Dino(Arm):
    def prepare(self, folder, trained):
        self.folder = folder
        self.model = self.load(folder, transformers.AutoModel, trained)
        self.registers = getattr(self.model.get_base_model().config, "num_register_tokens", 0)
        self.head = torch.nn.Linear(*reversed(self.batch["head.weight"].shape)).to(device)
        with torch.no_grad():
            self.head.weight.copy_(self.batch["head.weight"])
            self.head.bias.copy_(self.batch["head.bias"])

    def parameters(self):
        return [*self.model.parameters(), *self.head.parameters()]

    def named(self):
        old = {"attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
               "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense"}
        for name, parameter in self.model.named_parameters():
            for new, hub in old.items():
                name = name.replace(new, hub)
            yield name, parameter
        yield from ((f"classifier.{name}", parameter) for name, parameter in self.head.named_parameters())

    def pooled(self, model):
        tokens = model(pixel_values=self.batch["pixel_values"].to(dtype)).last_hidden_state
        return self.head(torch.cat([tokens[:, 0], tokens[:, 1 + self.registers :].mean(1)], 1).float())

    def loss(self):
        return F.cross_entropy(self.pooled(self.model), self.batch["labels"])

    def answer(self):
        if self.asked is None:
            self.asked = self.model if self.kind == "A" else self.load(
                self.folder, transformers.AutoModel, False).merge_and_unload()
        with torch.no_grad():
            self.pooled(self.asked)


def agree(arm, known, folder):
    """Loss and LoRA gradients of kshot and of torch; says what differs."""
    loss, found = arm.gradients()
    ours = {name[5:]: value.float() for name, value in load_file(f"{folder}/exchange/batch.safetensors").items()
            if name.startswith("grad.")}
    if sorted(ours) != sorted(found):
        only = [sorted(set(a) - set(b))[:3] for a, b in ((ours, found), (found, ours))]
        return [f"gradients of other tensors: kshot only {only[0]}, torch only {only[1]}"], {}
    square = lambda tensors: float(sum(t.double().square().sum() for t in tensors)) ** 0.5
    off = square(ours[name] - found[name] for name in ours) / square(found.values())
    worst = max(square([ours[n] - found[n]]) / max(square([found[n]]), 1e-3 * square(found.values())) for n in ours)
    facts = {"loss_kshot": known["loss"], "loss_torch": loss, "loss_relative": abs(known["loss"] - loss) / abs(loss),
             "gradients": len(ours), "gradients_relative": off, "worst_gradient_relative": worst}
    wrong = []
    if not facts["loss_relative"] <= LOSS:
        wrong.append(f"loss {known['loss']} of kshot, {loss} of torch")
    if not off <= GRADIENTS:
        wrong.append(f"gradients differ by {off:.1e} of their norm")
    return wrong, facts


def timed(step):
    synchronised()
    start = time.perf_counter()
    step()
    synchronised()
    return time.perf_counter() - start


def interval(ratios, draws=2000):
    """Bootstrap interval, 95 %, of the median."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws))
    return [medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]]


def turns(theirs, ours, repetitions, steps):
    """Mean seconds of a step by arm and repetition, all arms in turns."""
    seconds = {name: [] for name in [*theirs, *ours]}
    for repetition in range(repetitions + 1):
        for name in seconds:
            step = theirs.get(name)
            taken = [timed(step) if step else ours[name]() for _ in range(1 if repetition == 0 else steps)]
            if repetition > 0:
                seconds[name].append(statistics.mean(taken))
    return seconds


def report(what, seconds, images, theirs, ours):
    rows = {}
    for name, taken in seconds.items():
        rate = images / statistics.median(taken)
        rows[name] = {"seconds": taken, "images_per_second": rate}
        print(f"{what:<8} {name:<28} {rate:9.2f} images/s", flush=True)
    ratios = {}
    for own in ours:
        for other in theirs:
            each = [b / a for a, b in zip(seconds[own], seconds[other])]
            low, high = interval(each)
            ratios[f"{other} / {own}"] = {"median": statistics.median(each), "interval": [low, high]}
            print(f"{what:<8} {own} is {statistics.median(each):.2f} [{low:.2f}, {high:.2f}] times as fast as {other}", flush=True)
    return {"arms": rows, "ratios": ratios}


def main(folder):
    kshot = Kshot(folder)
    known = kshot.known
    writes = known["kind"] == "qwen3_vl"
    make = Qwen if writes else Dino
    arms = {kind: make(known, folder, kind) for kind in (["A", "B", "C"] if writes else ["A", "B"])}
    facts = {}
    for kind, arm in arms.items():
        wrong, facts[kind] = agree(arm, known, folder)
        if wrong:
            print(f"arm {kind} and kshot disagree, nothing is timed: {'; '.join(wrong)}", file=sys.stderr)
            kshot.close()
            sys.exit(1)
        print(f"arm {kind}: loss {facts[kind]['loss_relative']:.1e}, gradients {facts[kind]['gradients_relative']:.1e} from kshot's",
              flush=True)
    if arguments.compile:
        with contextlib.suppress(Exception):
            compiled = make(known, folder, "B", compiled=True)
            for _ in range(3):
                timed(compiled.train)
            plain, fast = (statistics.median(timed(arm.train) for _ in range(3)) for arm in (arms["B"], compiled))
            print(f"arm B: {plain:.4f} s a step plain, {fast:.4f} s compiled", flush=True)
            if fast < plain:
                arms["B"] = compiled
    images, result = known["images"], {}
    pairs = [("train", "train", ["train", "train, new pictures"] if writes else ["train"]),
             ("answer", "answer", ["answer freely"] if writes else ["features"])]
    for what, method, phases in pairs:
        theirs = {kind: getattr(arm, method) for kind, arm in arms.items()}
        ours = {f"kshot ({phase})": (lambda phase=phase: kshot.seconds(phase)) for phase in phases}
        seconds = turns(theirs, ours, arguments.repetitions, arguments.steps)
        result[what] = report(what, seconds, images, theirs, ours)
    kshot.close()
    if arguments.out:
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), None)
        everything = {
            "schema": 1, "shape": arguments.shape, "layers": arguments.layers, "dataset": arguments.dataset,
            "batch": arguments.batch, "rank": arguments.rank, "dtype": str(dtype).removeprefix("torch."),
            "repetitions": arguments.repetitions, "steps": arguments.steps, "agreement": facts, **result,
            "hardware": {"cpu": cpu, "threads": arguments.threads, "load": os.getloadavg()[0],
                         "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None},
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "peft": peft.__version__},
            "commit": known.get("commit"), "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        layers = f"-{arguments.layers}-layers" if arguments.layers else ""
        out = pathlib.Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / f"peer-{arguments.shape}{layers}-{device.type}-batch-{arguments.batch}.json").write_text(
            json.dumps(everything, indent=2) + "\n")


with tempfile.TemporaryDirectory() as scratch:
    main(scratch)

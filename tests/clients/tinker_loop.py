"""Tinker's own SDK trains, saves, loads, samples and lists on `kshot serve`: tinker_loop.py URL"""

import io
import sys

import tinker
from PIL import Image
from tinker import types

URL, MODEL = sys.argv[1], "micro-qwen3-vl"
START, END, DONE = 941, 942, 940  # the micro model's tokens around images and at the end of messages


def image(colour, format="PNG", mode="RGB"):
    data = io.BytesIO()
    Image.new("RGB", (48, 48), colour).convert(mode).save(data, format)
    return types.ImageChunk(data=data.getvalue(), format=format.lower(), expected_tokens=9)


def prompt(picture, more=()):
    text = lambda tokens: types.EncodedTextChunk(tokens=tokens)
    return types.ModelInput(chunks=[text([938, 20, 30]), text([START]), picture, text([END, 40, 41]), *([text(list(more))] if more else [])])


def datum(picture, answer, weights=None):
    model_input = prompt(picture, answer[:-1])
    length = model_input.length
    before = length - len(answer)
    weights = weights or [0.0] * before + [1.0] * len(answer)
    return types.Datum(
        model_input=model_input,
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=[0] * before + answer, dtype="int64", shape=[length]),
            "weights": types.TensorData(data=weights, dtype="float32", shape=[length]),
        },
    )


LESSON = [
    datum(image((255, 0, 0)), [100, 101, DONE]),
    datum(image((0, 255, 0), "JPEG"), [200, 201, DONE]),
    datum(image((90, 90, 90), "JPEG", "L"), [300, 301, DONE]),  # one channel, as the cookbook sends grey images
    datum(image((0, 0, 255), "JPEG", "CMYK"), [400, 401, DONE]),
]


def loss(client, data=LESSON):
    return client.forward(data, "cross_entropy").result().metrics["loss:sum"]


def train(client, steps, data=LESSON, rate=1e-3):
    losses = []
    for _ in range(steps):
        passed = client.forward_backward(data, "cross_entropy")
        stepped = client.optim_step(types.AdamParams(learning_rate=rate))
        losses.append(passed.result().metrics["loss:sum"])
        assert stepped.result().metrics["grad_norm"] > 0
    return losses


service = tinker.ServiceClient(base_url=URL)
assert MODEL in [model.model_name for model in service.get_server_capabilities().supported_models]
client = service.create_lora_training_client(base_model=MODEL, rank=8, seed=1).result()
assert client.get_info().lora_rank == 8
losses = train(client, 20)
print("20 steps:", losses[0], "->", losses[-1])
assert losses[-1] < losses[0] / 3
train(client, 80)

# A checkpoint, and a client that goes on from it.
saved = client.save_state("000020").result().path
here = loss(client)
other = service.create_training_client_from_state_with_optimizer(saved).result()
assert abs(loss(other) - here) < 1e-6, (loss(other), here)
assert train(other, 2) == train(client, 2)
client.load_state(saved).result()
assert abs(loss(client) - here) < 1e-6

# Samples.
sampler = client.save_weights_and_get_sampling_client().result()
greedy = types.SamplingParams(max_tokens=6, temperature=0)
ask = lambda sampler, **more: sampler.sample(prompt(image((255, 0, 0))), sampling_params=greedy, **{"num_samples": 1, **more}).result()
first, second = ask(sampler), ask(sampler)
assert list(first.sequences[0].tokens) == list(second.sequences[0].tokens) == [100, 101, DONE], first
assert first.sequences[0].stop_reason == "stop"
several = ask(sampler, num_samples=3, topk_prompt_logprobs=2, include_prompt_logprobs=True)
assert len(several.sequences) == 3 and several.prompt_logprobs[0] is None
whole = prompt(image((255, 0, 0)), [100, 101, DONE])
scores = sampler.compute_logprobs(whole).result()
assert len(scores) == whole.length and scores[0] is None and all(score == score for score in scores[1:])
of_one = loss(client, LESSON[:1])
assert abs(sum(scores[-3:]) + of_one) < 1e-3, (scores[-3:], of_one)

# Losses: reinforcement learning and one of the caller's own, whose weights are negative.
policy = client.forward(LESSON, "cross_entropy").result()
rewarded = []
for example, output in zip(LESSON, policy.loss_fn_outputs):
    target, weight = example.loss_fn_inputs["target_tokens"], example.loss_fn_inputs["weights"]
    rewarded.append(types.Datum(model_input=example.model_input, loss_fn_inputs={
        "target_tokens": target, "logprobs": output["logprobs"],
        "advantages": types.TensorData(data=list(weight.data), dtype="float32", shape=weight.shape)}))
for name, config in [("importance_sampling", None), ("ppo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}), ("cispo", None), ("dro", {"beta": 0.1})]:
    result = client.forward_backward(rewarded, name, config).result()
    print(name, result.metrics["loss:sum"])
    client.optim_step(types.AdamParams(learning_rate=1e-4)).result()
try:
    import torch
except ImportError:
    print("skipped: a custom loss (it needs torch)")
else:
    custom = lambda data, logprobs: (sum((row[-3:] ** 2).sum() for row in logprobs), {"rows:sum": float(len(logprobs))})
    own = service.create_lora_training_client(base_model=MODEL, rank=8, seed=5).result()
    customs = []
    for _ in range(5):
        customs.append(own.forward_backward_custom(LESSON, custom).result().metrics["loss:sum"])
        own.optim_step(types.AdamParams(learning_rate=1e-3)).result()
    print("custom:", customs)
    assert customs[-1] < customs[0] / 1.5

# Two clients in turns train as one after the other.
alone = [train(service.create_lora_training_client(base_model=MODEL, rank=4, seed=seed).result(), 3) for seed in (2, 3)]
pair = [service.create_lora_training_client(base_model=MODEL, rank=4, seed=seed).result() for seed in (2, 3)]
turns = [[], []]
for _ in range(3):
    for at in (0, 1):
        turns[at] += train(pair[at], 1)
assert turns == alone, (turns, alone)

# Checkpoints by REST.
path = client.save_weights_for_sampler("final").result().path
assert list(ask(service.create_sampling_client(model_path=path).result()).sequences[0].tokens)[:1] == [100]
rest = service.create_rest_client()
run = path.removeprefix("tinker://").split("/")[0]
assert run in [run.training_run_id for run in rest.list_training_runs().result().training_runs]
listed = lambda: [checkpoint.tinker_path for checkpoint in rest.list_checkpoints(run).result().checkpoints]
assert {saved, path} <= set(listed())
rest.publish_checkpoint_from_tinker_path(path).result()
rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result()
found = [checkpoint for checkpoint in rest.list_user_checkpoints().result().checkpoints if checkpoint.tinker_path == path][0]
assert found.public and found.expires_at is not None
assert rest.get_weights_info_by_tinker_path(path).result().lora_rank == 8
rest.delete_checkpoint_from_tinker_path(path).result()
assert path not in listed() and saved in listed()

# Refusals come at once, and the client goes on.
for refused in (
    lambda: service.create_lora_training_client(base_model="none", rank=4).result(),
    lambda: client.save_state("../x").result(),
    lambda: service.create_sampling_client(model_path=path).result(),
):
    try:
        refused()
    except (tinker.BadRequestError, tinker.NotFoundError) as error:
        print("refused:", str(error)[:100])
    else:
        raise AssertionError("was not refused")
assert loss(client) > 0
print("tinker: all held")

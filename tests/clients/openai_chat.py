"""OpenAI's client asks `kshot serve`, also a run that still trains: openai_chat.py URL"""

import base64
import io
import sys

import openai
import tinker
from PIL import Image
from tinker import types

URL, MODEL = sys.argv[1], "micro-qwen3-vl"
client = openai.OpenAI(base_url=URL + "/oai/api/v1", max_retries=0)
data = io.BytesIO()
Image.new("RGB", (64, 48), (200, 30, 30)).save(data, "JPEG")
url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
messages = [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": url}},
    {"type": "text", "text": "What is the name of the subject in this photo?"}]}]

assert MODEL in [model.id for model in client.models.list()]
whole = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_completion_tokens=16, logprobs=True, top_logprobs=3)
text = whole.choices[0].message.content
assert text and len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
assert all(len(token.top_logprobs) == 3 for token in whole.choices[0].logprobs.content)
said, usage = "", None
for piece in client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=16, stream=True, stream_options={"include_usage": True}):
    said += "".join(choice.delta.content or "" for choice in piece.choices)
    usage = piece.usage or usage
assert (said, usage) == (text, whole.usage), (said, text)
assert len(client.chat.completions.create(model=MODEL, messages=messages, n=3, seed=1, max_tokens=4).choices) == 3
guided = client.chat.completions.create(model=MODEL, messages=messages, extra_body={"guided_choice": ["beagle", "pug"]})
print(guided.choices[0].message.content, guided.choices[0].guided_choice)
assert abs(sum(guided.choices[0].guided_choice["probabilities"].values()) - 1) < 1e-6
try:
    client.chat.completions.create(model="none", messages=messages)
except openai.NotFoundError as error:
    assert error.code == "model_not_found"
else:
    raise AssertionError("an unknown model answered")

service = tinker.ServiceClient(base_url=URL)
trainer = service.create_lora_training_client(base_model=MODEL, rank=8).result()
tokens = [938, 20, 30, 40, 41, 100, 101, 940]
datum = types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={
    "target_tokens": types.TensorData(data=tokens[1:], dtype="int64", shape=[7]),
    "weights": types.TensorData(data=[0.0] * 4 + [1.0] * 3, dtype="float32", shape=[7])})
for _ in range(15):
    trainer.forward_backward([datum], "cross_entropy")
    trainer.optim_step(types.AdamParams(learning_rate=5e-3)).result()
path = trainer.save_weights_for_sampler("now").result().path
going_on = trainer.forward_backward([datum] * 8, "cross_entropy")
learnt = client.completions.create(model=path, prompt=tokens[:5], max_tokens=3, temperature=0, logprobs=1)
going_on.result()
base = client.completions.create(model=MODEL, prompt=tokens[:5], max_tokens=3, temperature=0)
assert learnt.choices[0].text != base.choices[0].text and learnt.choices[0].finish_reason == "stop", (learnt, base)
assert path in [model.id for model in client.models.list()]
print("openai: all held")

"""Load on `kshot serve`, or any other OpenAI server: chats with images, each client asking again as soon as it is answered.

    load.py URL MODEL [CLIENTS [SECONDS [PID]]]

Prints requests per second, the median and 99th percentile of their times, errors, and the resident memory of process PID at the first and at
the last request, and its peak between. Exit code 1 if a request failed.
"""

import asyncio
import base64
import io
import statistics
import sys
import time

import httpx
from PIL import Image, ImageDraw

url, model = sys.argv[1:3]
clients, seconds = (int(text) for text in (sys.argv[3:5] + ["200", "60"][len(sys.argv[3:5]) :]))
pid = sys.argv[5] if len(sys.argv) > 5 else None


def resident():
    if pid is None:
        return 0
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def question(number):
    image = Image.new("RGB", (64, 64), (number * 37 % 256, number * 91 % 256, number * 53 % 256))
    ImageDraw.Draw(image).ellipse((8, 8, 8 + number % 48, 50), fill=(255 - number % 256, 40, number % 200))
    data = io.BytesIO()
    image.save(data, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    return {"model": model, "temperature": 0, "max_tokens": 16, "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What is the name of the subject in this photo?"}]}]}


async def main():
    questions = [question(number) for number in range(256)]
    times, errors, memory = [], [], []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        await http.post(url + "/v1/chat/completions", json=questions[0])
        begun = time.monotonic()

        async def client(number):
            while time.monotonic() < begun + seconds:
                asked = time.monotonic()
                try:
                    answer = await http.post(url + "/v1/chat/completions", json=questions[number % len(questions)])
                    if answer.status_code != 200 or not answer.json()["choices"]:
                        errors.append(answer.text)
                except httpx.HTTPError as error:
                    errors.append(repr(error))
                times.append(time.monotonic() - asked)
                number += clients

        async def watch():
            while True:
                memory.append(resident())
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client(number) for number in range(clients)))
        watching.cancel()
        taken = time.monotonic() - begun
    times.sort()
    print(f"{clients} clients, {taken:.0f} s: {len(times) / taken:.1f} requests/s, p50 {statistics.median(times) * 1e3:.0f} ms, "
          f"p99 {times[int(len(times) * 0.99)] * 1e3:.0f} ms, {len(errors)} errors"
          + (f", memory {memory[len(memory) // 4]:.0f} MB after a quarter, {memory[-1]:.0f} MB at the end, at most {max(memory):.0f} MB" if pid else ""))
    for error in errors[:3]:
        print(error[:300])
    sys.exit(bool(errors))


asyncio.run(main())

"""Load on `kshot serve`, or any other OpenAI server: chats with images, each client asking again as soon as it is answered.

It speaks HTTP itself, on connections that stay open: a client library takes as much time for a request as the server does. Prints requests
per second, the median and 99th percentile of their times, errors, and the resident memory of the process after a quarter of the time, at the
end, and at most. Exit code 1 if a request failed.
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
import sys
import time
from urllib.parse import urlsplit

from PIL import Image, ImageDraw

PROMPT = "What is the name of the subject in this photo?"


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def picture(number):
    """A PNG file of 64 × 64 pixels; no two of 65,536 are alike."""
    image = Image.new("RGB", (64, 64), (number % 256, number // 256 % 256, number * 53 % 256))
    ImageDraw.Draw(image).ellipse((8, 8, 8 + number % 48, 50), fill=(255 - number % 256, 40, number % 200))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def request(url, model, number):
    uri = "data:image/png;base64," + base64.b64encode(picture(number)).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": PROMPT}]
    body = json.dumps({"model": model, "temperature": 0, "max_tokens": 16, "messages": [{"role": "user", "content": content}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answer(reader):
    """Status and body of the next answer on a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(fields["content-length"]))
    return int(head.split(" ", 2)[1]), body


async def load(url, model, clients, seconds, pid=None, images=256):
    """Asks about `images` images again and again; times in seconds, errors, memory in MB at every second, seconds in all."""
    requests = [request(url, model, number) for number in range(images)]
    times, errors, memory = [], [], []
    address = urlsplit(url)

    async def client(number, end):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        while time.monotonic() < end:
            asked = time.monotonic()
            writer.write(requests[number % images])
            status, body = await asyncio.wait_for(answer(reader), 120)
            if status != 200 or b'"choices"' not in body:
                errors.append(body.decode())
            times.append(time.monotonic() - asked)
            number += clients
        writer.close()

    async def watch():
        while pid:
            memory.append(resident(pid))
            await asyncio.sleep(1)

    await client(images - 1, time.monotonic() + 0.2)
    times.clear()
    watching = asyncio.create_task(watch())
    begun = time.monotonic()
    for failed in await asyncio.gather(*(client(number, begun + seconds) for number in range(clients)), return_exceptions=True):
        if failed is not None:
            errors.append(repr(failed))
    watching.cancel()
    return sorted(times), errors, memory, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--pid", type=int, help="process whose memory is watched")
    parser.add_argument("--images", type=int, default=256)
    asked = parser.parse_args()
    times, errors, memory, taken = asyncio.run(load(**vars(asked)))
    told = [f"{asked.clients} clients, {taken:.0f} s: {len(times) / taken:.1f} requests/s", f"{len(errors)} errors"]
    if times:
        told.insert(1, f"p50 {statistics.median(times) * 1e3:.0f} ms, p99 {times[int(len(times) * 0.99)] * 1e3:.0f} ms")
    if memory:
        told.append(f"memory {memory[len(memory) // 4]:.0f} MB after a quarter, {memory[-1]:.0f} MB at the end, at most {max(memory):.0f} MB")
    print(", ".join(told))
    for error in errors[:3]:
        print(error[:300])
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How soon a daemon that was just started gives its first command: first_answer.py BUILD [STARTS]

Each start: until it listens, the first answer (sent at once, with the whole catalogue), the second; then as many starts
whose first command comes a second later, when the model is loaded. Milliseconds.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONFIG = """version: 1
listen: 127.0.0.1:0
data_dir: {dir}/data
targets:
  - {{name: device, tier: device, provider: llama, model: {root}/models/starter.gguf, class: command}}
"""


def ask(url, body):
    begin = time.monotonic()
    request = urllib.request.Request(url + "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=30))
    if not answer["choices"][0]["message"].get("tool_calls"):
        sys.exit("no tool call: %s" % answer)
    return (time.monotonic() - begin) * 1000


def start(build, body, delay_s):
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        path = os.path.join(folder, "tandem.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(CONFIG.format(dir=folder, root=ROOT))
        begin = time.monotonic()
        daemon = subprocess.Popen([build + "/src/cli/tandem", "serve", "--config", path], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        try:
            url = next((line.split("listens on ")[1].strip() for line in daemon.stdout if "listens on " in line), None)
            if not url:
                sys.exit("the daemon did not start")
            ready = (time.monotonic() - begin) * 1000
            time.sleep(delay_s)
            return ready, ask(url, body), ask(url, body)
        finally:
            daemon.terminate()
            daemon.wait()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, count = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with open(os.path.join(ROOT, "models/starter/catalogue.json"), encoding="utf-8") as f:
        tools = json.load(f)
    body = json.dumps({"model": "device", "tools": tools,
                       "messages": [{"role": "user", "content": "set a timer for 10 minutes"}]}).encode()
    for words, delay_s in (("at once", 0), ("a second later", 1)):
        rows = [start(build, body, delay_s) for _ in range(count)]
        print("first command %-15s" % words + "  ".join("%s %.0f (%.0f to %.0f)" % (
            name, statistics.median(r), min(r), max(r)) for name, r in zip(("ready", "first", "second"), zip(*rows))))


main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what one request costs the daemon in instructions and cache misses, under callgrind: figures that other work on
the machine does not disturb.

usage: instructions.py BUILD_DIR [--rounds N] [--connections N]

Rounds of N requests of 2 KB, one on each connection, all sent before the first answer (1 KB, from an instant upstream)
is read; ledger, receipts and policy are on. Printed for each thread that matters, by request: instructions, misses of
the first-level caches (32 KB, 8 ways each) for instructions, reads and writes, misses of a second level of 512 KB; then
the worker's instructions by library. Takes about 20 seconds."""
import argparse, glob, os, re, socket, subprocess, sys, tempfile, time, shutil

PORT = 18620
BODY = (b'{"model":"auto","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"' +
        b"word " * 380 + b'"}]}')
REQUEST = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
           b"Content-Length: %d\r\n\r\n" % (PORT, len(BODY))) + BODY
CONFIG = """version: 1
listen: 127.0.0.1:%d
data_dir: %s/data
targets:
  - {name: cloud, tier: cloud, provider: openai, base_url: "http://127.0.0.1:%d/v1", model: big-model, region: us,
     clearance: internal, price: {input: 2.50, output: 10.00}, context: 128000, quality: 0.9}
"""
GROUPS = [("libcurl", r"libcurl"), ("libsodium", r"libsodium"), ("JSON", r"libyyjson|base/json\.c|yyjson\.h"),
          ("memory", r"malloc\.c|arena\.c|base/(mem|buf)\.c"), ("C library", r"libc\.so|libm\.so"), ("libevent", r"libevent"),
          ("features, policy, decision", r"/src/(route|policy|privacy)/")]


def answer_of(s):
    got = b""
    while True:
        head = got.find(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", got[:head], re.I) if head >= 0 else None
        if length and len(got) >= head + 4 + int(length[1]):
            return got
        more = s.recv(1 << 16)
        if not more:
            sys.exit("a connection was closed")
        got += more


def rounds(sockets, count):
    for _ in range(count):
        for s in sockets:
            s.sendall(REQUEST)
        for s in sockets:
            if b" 200 " not in answer_of(s)[:16]:
                sys.exit("a request failed")


def totals(path):
    names = values = None
    for line in open(path):
        if line.startswith("events:"):
            names = line.split()[1:]
        elif line.startswith("totals:"):
            values = [int(v) for v in line.split()[1:]]
    return dict(zip(names or [], values or []))


def by_library(path, requests):
    text = subprocess.run(["callgrind_annotate", "--threshold=100", "--show=Ir", path], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True).stdout
    sums = {}
    for line in text.splitlines():
        m = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+(\S+:\S+.*)", line)
        if m:
            name = next((n for n, pattern in GROUPS if re.search(pattern, m[2])), "all else")
            sums[name] = sums.get(name, 0) + int(m[1].replace(",", "")) / requests
    return sorted(sums.items(), key=lambda x: -x[1])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("--rounds", type=int, default=6)
    a.add_argument("--connections", type=int, default=64)
    a = a.parse_args()
    build, tmp = os.path.abspath(a.build), tempfile.mkdtemp(prefix="tandem-bench-")
    up = subprocess.Popen([build + "/tests/support/scripted-upstream", "--instant"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
    daemon = None
    try:
        port = next(int(line.split("=")[1]) for line in up.stdout if line.startswith("port="))
        open(tmp + "/tandem.yaml", "w").write(CONFIG % (PORT, tmp, port))
        daemon = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", "--cache-sim=yes",
             "--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64", "--callgrind-out-file=" + tmp + "/out",
             build + "/src/cli/tandem", "serve", "--config", tmp + "/tandem.yaml", "--workers", "1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        sockets = []
        while len(sockets) < a.connections:
            try:
                sockets.append(socket.create_connection(("127.0.0.1", PORT)))
            except OSError:
                if daemon.poll() is not None:
                    sys.exit("the daemon did not start")
                time.sleep(0.1)
        rounds(sockets, 3)
        subprocess.run(["callgrind_control", "-i", "on", str(daemon.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rounds(sockets, a.rounds)
        subprocess.run(["callgrind_control", "-i", "off", str(daemon.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        daemon.terminate()
        daemon.wait(120)
        n = a.rounds * a.connections
        print("%d requests" % n)
        threads = sorted(((totals(p), p) for p in glob.glob(tmp + "/out-*")), key=lambda x: -x[0].get("Ir", 0))
        for t, path in threads[:2]:
            v = {k: t[k] / n for k in t}
            print("%-7s %7.0f instructions; first level missed by %5.0f instructions, %5.0f reads, %4.0f writes; second by "
                  "%4.0f, %4.0f, %4.0f" % ("worker" if path == threads[0][1] else "writer", v["Ir"], v["I1mr"], v["D1mr"],
                                           v["D1mw"], v["ILmr"], v["DLmr"], v["DLmw"]))
        for name, count in by_library(threads[0][1], n):
            print("%15.0f %s" % (count, name))
    finally:
        for p in (daemon, up):
            if p and p.poll() is None:
                p.kill()
                p.wait()
        shutil.rmtree(tmp, ignore_errors=True)


main()

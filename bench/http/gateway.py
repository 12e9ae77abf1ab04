#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the whole daemon as a gateway, with nginx, HAProxy and the floor (Tandem's listener and libcurl alone) beside
it, all in front of the same instant upstream.

usage: gateway.py BUILD_DIR [--rounds N] [--seconds S] [--only latency|cpu|durability|lag|sse] [NAME...]
       NAME: direct floor tandem nginx haproxy; all by default ("direct" is the upstream without a gateway)

The gateway runs on core 0 alone; upstream and load share core 1. Rounds are interleaved, medians are printed.
  latency  one connection, 2 KB request, 1 KB answer: p50 and p99, and what the gateway adds to "direct"
  cpu      64 connections: processor time of the gateway per request (its threads and children), requests/s
  durability  1 and 16 connections through Tandem, for each of the ledger's modes: p50, p99, requests/s
  lag      64 streams at 20 ms per token: from the upstream's send to the client's read, and how often nginx's that is
  sse      1,000 streams at 20 ms per token: lost events, gaps, lag, memory per stream, processor time per event
"""
import argparse, os, re, shutil, socket, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")
STREAMS, TOKENS, TOKEN_MS = 1000, 200, 20
LAG_STREAMS = 64
PATH = "/v1/chat/completions"


def children(pid):
    found = [pid]
    for p in found:
        try:
            for task in os.listdir("/proc/%d/task" % p):
                found += [int(c) for c in open("/proc/%d/task/%s/children" % (p, task)).read().split() if int(c) not in found]
        except OSError:
            pass
    return found


def cpu_s(pid):
    total = 0
    for p in children(pid):
        try:
            f = open("/proc/%d/stat" % p).read().rsplit(")", 1)[1].split()
            total += int(f[11]) + int(f[12])
        except OSError:
            pass
    return total / TICK


def rss_kb(pid):
    return sum(int(re.search(r"VmRSS:\s+(\d+)", open("/proc/%d/status" % p).read())[1]) for p in children(pid))


def on_core(core, argv, **kw):
    return subprocess.Popen(["taskset", "-c", str(core), *argv], **kw)


def wait_for(port, process):
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if process.poll() is not None:
                sys.exit("%s ended with %s" % (process.args, process.returncode))
            time.sleep(0.02)
    sys.exit("nothing listens on port %d" % port)


def upstream(build, *more):
    p = on_core(1, [build + "/tests/support/scripted-upstream", "--instant", *more], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if line.startswith("port="):
            return p, int(line.split("=")[1])
    sys.exit("the upstream did not start")


def write_configs(tmp, up):
    open(tmp + "/nginx.conf", "w").write("""worker_processes 1; pid %(t)s/nginx.pid; error_log /dev/null; daemon off;
master_process off; worker_rlimit_nofile 8192; events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; client_body_buffer_size 64k;
  client_body_temp_path %(t)s/b; proxy_temp_path %(t)s/p; fastcgi_temp_path %(t)s/f; uwsgi_temp_path %(t)s/u;
  scgi_temp_path %(t)s/s;
  upstream u { server 127.0.0.1:%(u)d; keepalive 2048; keepalive_requests 100000000; }
  server { listen 127.0.0.1:18603 backlog=2048; location / { proxy_pass http://u; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_buffering off; } } }""" % {"t": tmp, "u": up})
    open(tmp + "/haproxy.cfg", "w").write("""global
 nbthread 1
 maxconn 4096
defaults
 mode http
 http-reuse always
 timeout client 60s
 timeout http-request 10s
 timeout connect 2s
 timeout server 60s
frontend f
 bind 127.0.0.1:18604
 default_backend b
backend b
 server u 127.0.0.1:%d maxconn 4096 pool-max-conn 4096
""" % up)
    open(tmp + "/tandem.yaml", "w").write("""version: 1
listen: 127.0.0.1:18602
data_dir: %s/data
targets:
  - name: cloud
    tier: cloud
    provider: openai
    base_url: http://127.0.0.1:%d/v1
    model: big-model
    region: us
    clearance: internal
    price: {input: 2.50, output: 10.00}
    context: 128000
    quality: 0.9
""" % (tmp, up))


def gateways(build, tmp, up):
    return {
        "direct": (None, up),
        "floor": ([build + "/bench/floor", "18601", str(up)], 18601),
        "tandem": ([build + "/src/cli/tandem", "serve", "--config", tmp + "/tandem.yaml", "--workers", "1"], 18602),
        "nginx": (["nginx", "-c", tmp + "/nginx.conf", "-p", tmp], 18603),
        "haproxy": (["haproxy", "-q", "-f", tmp + "/haproxy.cfg"], 18604),
    }


def wrk(port, connections, seconds):
    out = subprocess.run(["taskset", "-c", "1", "wrk", "-t1", "-c%d" % connections, "-d%ds" % seconds, "-s", HERE + "/post.lua",
                          "http://127.0.0.1:%d" % port], stdout=subprocess.PIPE, text=True).stdout
    return {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", out[out.index("RESULT"):])}


def middle(rows, key):
    return statistics.median(r[key] for r in rows)


def start(argv, port):
    if not argv:
        return None
    p = on_core(0, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port, p)
    return p


def stop(p):
    if p:
        p.terminate()
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def measure_requests(what, names, table, rounds, seconds):
    rows = {n: [] for n in names}
    running = {n: start(*table[n]) for n in names}
    connections = 1 if what == "latency" else 64
    for n in names:
        wrk(table[n][1], connections, 1)
    for _ in range(rounds):
        for n in names:
            before = cpu_s(running[n].pid) if running[n] else 0
            r = wrk(table[n][1], connections, seconds)
            used = cpu_s(running[n].pid) - before if running[n] else 0
            r["cpu_us"] = used * 1e6 / max(r["requests"], 1)
            r["rate"] = r["requests"] / r["seconds"]
            rows[n].append(r)
    direct = {k: middle(rows["direct"], k) for k in ("p50_us", "p99_us")} if "direct" in rows else None
    for n in names:
        line = "%-8s %-8s p50 %5.0f us  p99 %6.0f us" % (what, n, middle(rows[n], "p50_us"), middle(rows[n], "p99_us"))
        if what == "latency" and direct and n != "direct":
            line += "  added p50 %4.0f us  p99 %5.0f us" % (middle(rows[n], "p50_us") - direct["p50_us"],
                                                        middle(rows[n], "p99_us") - direct["p99_us"])
        if what == "cpu":
            line += "  %6.0f requests/s" % middle(rows[n], "rate")
            if running[n]:
                line += "  %5.1f us processor/request  rss %d KiB" % (middle(rows[n], "cpu_us"), rss_kb(running[n].pid))
        bad = sum(r["bad"] for r in rows[n])
        print(line + ("  FAILED REQUESTS: %d" % bad if bad else ""), flush=True)
    for p in running.values():
        stop(p)


def measure_durability(build, tmp, rounds, seconds):
    modes = ("batched", "before_answer", "before_egress")
    base = open(tmp + "/tandem.yaml").read()
    table, rows = {}, {(m, c): [] for m in modes for c in (1, 16)}
    for i, mode in enumerate(modes):
        file = "%s/%s.yaml" % (tmp, mode)
        open(file, "w").write(base.replace("18602", str(18610 + i)).replace("/data\n", "/data-%s\n" % mode) +
                              "ledger: {durability: %s}\n" % mode)
        table[mode] = ([build + "/src/cli/tandem", "serve", "--config", file, "--workers", "1"], 18610 + i)
    running = {m: start(*table[m]) for m in modes}
    for m in modes:
        wrk(table[m][1], 16, 1)
    for _ in range(rounds):
        for m, connections in rows:
            r = wrk(table[m][1], connections, seconds)
            r["rate"] = r["requests"] / r["seconds"]
            rows[m, connections].append(r)
    for m, connections in rows:
        r = rows[m, connections]
        bad = sum(x["bad"] for x in r)
        print("durability %-14s %2d connections  p50 %6.0f us  p99 %7.0f us  %6.0f requests/s%s" % (
            m, connections, middle(r, "p50_us"), middle(r, "p99_us"), middle(r, "rate"),
            "  FAILED REQUESTS: %d" % bad if bad else ""), flush=True)
    for p in running.values():
        stop(p)


def measure_sse(build, names, table):
    body = '{"model":"auto","stream":true,"messages":[{"role":"user","content":"Count."}]}'
    for n in names:
        p = start(*table[n])
        wrk(table[n][1], 8, 1)
        idle, before = (rss_kb(p.pid), cpu_s(p.pid)) if p else (0, 0)
        load = on_core(1, [build + "/bench/sse-load", "127.0.0.1", str(table[n][1]), PATH, str(STREAMS), body, "-e",
                           str(TOKEN_MS)], stdout=subprocess.PIPE, text=True)
        time.sleep(TOKENS * TOKEN_MS / 2000 + 0.5)
        during = rss_kb(p.pid) if p else 0
        out = load.communicate()[0].strip()
        events = int(re.search(r"events=(\d+)", out)[1])
        print("sse      %-8s %s" % (n, out.replace("\n", "\n                  ")))
        if p:
            print("                  %.1f KiB/stream  %.1f us processor/event" % (
                (during - idle) / STREAMS, (cpu_s(p.pid) - before) * 1e6 / max(events, 1)), flush=True)
        stop(p)


def measure_lag(build, names, table, rounds):
    body = '{"model":"auto","stream":true,"messages":[{"role":"user","content":"Count."}]}'
    rows = {n: [] for n in names}
    running = {n: start(*table[n]) for n in names}
    for round in range(rounds + 1): # the first warms up
        for n in names:
            before = cpu_s(running[n].pid) if running[n] else 0
            out = subprocess.run(["taskset", "-c", "1", build + "/bench/sse-load", "127.0.0.1", str(table[n][1]), PATH,
                                  str(LAG_STREAMS), body, "-e", str(TOKEN_MS)], stdout=subprocess.PIPE, text=True).stdout
            r = {k: float(v) for k, v in re.findall(r"(p\d+)=(\d+)", re.search(r"lag_us .*", out)[0])}
            r["complete"] = int(re.search(r"complete=(\d+)", out)[1])
            events = int(re.search(r"events=(\d+)", out)[1])
            r["cpu"] = (cpu_s(running[n].pid) - before) * 1e6 / events if running[n] else 0
            if round:
                rows[n].append(r)
    for n in names:
        line = "lag      %-8s p50 %5.0f us  p90 %5.0f us  p99 %6.0f us" % (n, middle(rows[n], "p50"), middle(rows[n], "p90"),
                                                                       middle(rows[n], "p99"))
        if "nginx" in rows and n != "nginx":
            line += "  %.2f and %.2f x nginx's p50 and p99" % tuple(middle(rows[n], k) / middle(rows["nginx"], k)
                                                                    for k in ("p50", "p99"))
        if running[n]:
            line += "  %.1f us processor/event" % middle(rows[n], "cpu")
        lost = sum(LAG_STREAMS - r["complete"] for r in rows[n])
        print(line + ("  STREAMS CUT: %d" % lost if lost else ""), flush=True)
    for p in running.values():
        stop(p)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("names", nargs="*")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--seconds", type=int, default=3)
    a.add_argument("--only", choices=["latency", "cpu", "durability", "lag", "sse"])
    a = a.parse_intermixed_args()
    build = os.path.abspath(a.build)
    tmp = tempfile.mkdtemp(prefix="tandem-bench-")
    print("machine: %s, %d processors, Linux %s, load %.1f" % (
        re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())[1], os.cpu_count(), os.uname().release,
        os.getloadavg()[0]))
    up = stamping = streaming = None
    try:
        up, port = upstream(build)
        write_configs(tmp, port)
        table = gateways(build, tmp, port)
        names = a.names or list(table)
        for what in ("latency", "cpu"):
            if a.only in (None, what):
                measure_requests(what, names, table, a.rounds, a.seconds)
        if a.only in (None, "durability"):
            measure_durability(build, tmp, a.rounds, a.seconds)
        stop(up)
        if a.only in (None, "lag"):
            stamping, port = upstream(build, "--stamp", "--tokens", str(a.seconds * 1000 // TOKEN_MS), "--token-ms", str(TOKEN_MS))
            write_configs(tmp, port)
            measure_lag(build, names, gateways(build, tmp, port), a.rounds)
            stop(stamping)
        if a.only in (None, "sse"):
            streaming, port = upstream(build, "--tokens", str(TOKENS), "--token-ms", str(TOKEN_MS))
            write_configs(tmp, port)
            measure_sse(build, names, gateways(build, tmp, port))
    finally:
        stop(up)
        stop(stamping)
        stop(streaming)
        shutil.rmtree(tmp, ignore_errors=True)


main()

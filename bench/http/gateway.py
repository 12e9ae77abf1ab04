#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the whole daemon as a gateway, with nginx, HAProxy and the floor (Tandem's listener and libcurl alone) beside
it, all in front of the same instant upstream.

usage: gateway.py BUILD_DIR [--rounds N] [--seconds S] [--streams N,N,…] [--only latency|cpu|durability|lag|sse] [NAME...]
       NAME: direct relay relay-uring relay+4 floor tandem nginx haproxy; all by default ("direct" is the upstream without a
       gateway, "relay" moves bytes and does nothing else: what is the kernel's own; both only where they make sense;
       for who asks for them: "relay-uring" is the same with io_uring, "relay+4" with 4 us of idle turning for each event)

The gateway runs on core 0 alone; upstream and load share core 1. Rounds are interleaved, medians are printed.
  latency  one connection, 2 KB request, 1 KB answer: p50 and p99, and what the gateway adds to "direct"
  cpu      64 connections: processor time of the gateway per request (its threads and children), requests/s
  durability  1 and 16 connections through Tandem, for each of the ledger's modes: p50, p99, requests/s
  lag      64 streams at 20 ms per token: from the upstream's send to the client's read, and how often nginx's that is
  sse      streams at 20 ms per token, 1,000 or what --streams says: gaps at the client, what the gateway added to them, lag,
           lost events, memory per stream, processor time per event (bench/sse.c: both ends in one thread, which have a
           core to themselves; where they use nearly all of it, they are what is measured)
"""
import argparse, os, re, shutil, socket, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")
TOKENS, TOKEN_MS = 300, 20
SOURCE_PORT = 18610 # of bench/sse.c
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
 option http-no-delay
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
        "relay": ([build + "/bench/relay", "18605", str(up)], 18605),
        "relay+4": ([build + "/bench/relay", "18607", str(up), "4"], 18607),
        "relay-uring": ([build + "/bench/relay-uring", "18606", str(up)], 18606),
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
        open(file, "w").write(base.replace("18602", str(18620 + i)).replace("/data\n", "/data-%s\n" % mode) +
                              "ledger: {durability: %s}\n" % mode)
        table[mode] = ([build + "/src/cli/tandem", "serve", "--config", file, "--workers", "1"], 18620 + i)
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


def cpu_ns(pid):
    """Processor time to the nanosecond, and how long it waited for the processor; what ended meanwhile is not in it."""
    used = waited = 0
    for p in children(pid):
        for task in os.listdir("/proc/%d/task" % p):
            a, b, _ = open("/proc/%d/task/%s/schedstat" % (p, task)).read().split()
            used, waited = used + int(a), waited + int(b)
    return used, waited


def stream(build, name, table, streams, tokens):
    """One run of sse-bench through a gateway of its own. The gateway's processor time and memory are looked at where
    all streams run ("steady" to "over"); what it printed when it was ended is in "said". Both ends go before what else
    runs on the machine, where that is allowed."""
    argv, port = table[name]
    p = on_core(0, ["nice", "-n", "-15", *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) if argv else None
    if p:
        wait_for(port, p)
    bench = on_core(1, [build + "/bench/sse-bench", str(SOURCE_PORT), str(port), str(streams), str(TOKEN_MS), str(tokens), PATH],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    r, marks = {"name": name, "streams": streams}, {}
    for line in bench.stdout:
        word = line.split()[0]
        if word in ("warm", "steady", "over"):
            marks[word] = (time.monotonic(), *(cpu_ns(p.pid) if p else (0, 0)), rss_kb(p.pid) if p else 0,
                           int(re.search(r"events=(\d+)", line)[1]), cpu_ns(bench.pid)[0])
        if word == "warm":
            bench.stdin.write("go\n")
            bench.stdin.flush()
        prefix = word + "_" if word.endswith("_us") else ""
        r.update({prefix + k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", line)})
    if bench.wait() and "complete" not in r:
        sys.exit("%s: the streams did not come through" % name)
    if p:
        (at, cpu, wait, rss, events, own), (at2, cpu2, wait2, _, events2, own2) = marks["steady"], marks["over"]
        r.update(own_core=(own2 - own) / 1e9 / (at2 - at), us_event=(cpu2 - cpu) / 1e3 / max(events2 - events, 1), core=(cpu2 - cpu) / 1e9 / (at2 - at),
                 wait=(wait2 - wait) / 1e9 / (at2 - at), kib=(rss - marks["warm"][3]) / streams,
                 us_whole=(cpu_ns(p.pid)[0] - marks["warm"][1]) / 1e3 / max(r["events"], 1))
        p.terminate()
        r["said"] = p.communicate()[0].strip()
    return r


def measure_sse(build, names, table, counts, tokens):
    """What stays up with 50,000 events a second, and how evenly; at fewer streams too, because where a core is full the
    order in which it falls behind is all that is measured."""
    print("sse      %-8s %7s  %22s  %23s  %22s" % ("", "streams", "gap p50/p99/p999 ms", "added p50/p99/p999 ms",
                                               "lag p50/p99/p999 ms"))
    for count in counts:
        for n in names:
            r = stream(build, n, table, count, tokens)
            three = lambda what: "%.2f/%.2f/%.2f" % tuple(r.get("%s_us_%s" % (what, q), 0) / 1000 for q in ("p50", "p99", "p999"))
            line = "sse      %-8s %7d  %22s  %23s  %22s" % (n, count, three("gap"), three("added"), three("lag"))
            if "core" in r:
                line += "  %5.1f us/event (%.1f with start and end)  core %3.0f %% (others took %.0f, the ends have %.0f of theirs)  %5.1f KiB/stream" % (
                    r["us_event"], r["us_whole"], r["core"] * 100, r["wait"] * 100, r["own_core"] * 100, r["kib"])
            line += "  source late p99 %.2f ms" % (r["late_us_p99"] / 1000)
            line += "  while they start and end: added p99 %.2f ms, first event p99 %.1f ms" % (
                r["ramp_added_us_p99"] / 1000, r["first_us_p99"] / 1000)
            if n.startswith("relay"):
                line += "  (%s)" % r["said"]
            bad = count - r["complete"] + r["lost"] + r["cut"]
            print(line + ("  LOST: %d events, %d streams not complete" % (r["lost"], count - r["complete"]) if bad else ""), flush=True)


def measure_lag(build, names, table, rounds, tokens):
    rows = {n: [] for n in names}
    for _ in range(rounds):
        for n in names:
            rows[n].append(stream(build, n, table, LAG_STREAMS, tokens))
    for n in names:
        line = "lag      %-8s p50 %5.0f us  p90 %5.0f us  p99 %6.0f us" % (n, *(middle(rows[n], "lag_us_" + q) for q in ("p50", "p90", "p99")))
        if "nginx" in rows and n not in ("nginx", "direct"):
            line += "  %.2f and %.2f x nginx's p50 and p99" % tuple(
                middle(rows[n], "lag_us_" + q) / middle(rows["nginx"], "lag_us_" + q) for q in ("p50", "p99"))
        if table[n][0]:
            line += "  %.1f us processor/event" % middle(rows[n], "us_event")
        bad = sum(LAG_STREAMS - r["complete"] + r["lost"] for r in rows[n])
        print(line + ("  LOST: %d" % bad if bad else ""), flush=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("names", nargs="*")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--seconds", type=int, default=3)
    a.add_argument("--streams", default="1000")
    a.add_argument("--only", choices=["latency", "cpu", "durability", "lag", "sse"])
    a = a.parse_intermixed_args()
    build = os.path.abspath(a.build)
    tmp = tempfile.mkdtemp(prefix="tandem-bench-")
    print("machine: %s, %d processors, Linux %s, load %.1f" % (
        re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())[1], os.cpu_count(), os.uname().release,
        os.getloadavg()[0]))
    up = None
    try:
        if a.only not in ("lag", "sse"):
            up, port = upstream(build)
            write_configs(tmp, port)
            table = gateways(build, tmp, port)
            names = [n for n in a.names or table if not n.startswith("relay")]
            for what in ("latency", "cpu"):
                if a.only in (None, what):
                    measure_requests(what, names, table, a.rounds, a.seconds)
            if a.only in (None, "durability"):
                measure_durability(build, tmp, a.rounds, a.seconds)
            stop(up)
        write_configs(tmp, SOURCE_PORT)
        table = gateways(build, tmp, SOURCE_PORT)
        names = a.names or [n for n in table if n not in ("relay-uring", "relay+4")]
        if a.only in (None, "lag"):
            measure_lag(build, names, table, a.rounds, a.seconds * 1000 // TOKEN_MS)
        if a.only in (None, "sse"):
            measure_sse(build, names, table, [int(n) for n in a.streams.split(",")], TOKENS)
    finally:
        stop(up)
        shutil.rmtree(tmp, ignore_errors=True)


main()

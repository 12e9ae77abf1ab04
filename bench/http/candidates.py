#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures HTTP server libraries in Tandem's role, with nginx and HAProxy beside them: docs/decisions/0001 quotes it.

usage: candidates.py BUILD_DIR [NAME...]      (NAME: evhttp mhd tandem nginx haproxy; all by default)

Server on core 0, load on core 1. For each: requests/s and processor time per request at 64 connections (wrk, 2 KB POST,
1 KB answer, 5 s), 1,000 event streams at 20 ms per event (8 s), time to notice a client that went away without an
answer, resident memory, and the framing vectors of tests/support/http_vectors.txt.
"""
import os, re, socket, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    f = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / TICK


def rss_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open("/proc/%d/status" % pid).read())[1])


def run(core, *argv, **kw):
    return subprocess.run(["taskset", "-c", str(core), *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **kw).stdout


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit("nothing listens on port %d" % port)


def configs(tmp):
    answer = "x" * 1024
    open(tmp + "/nginx.conf", "w").write("""worker_processes 1; pid %s/nginx.pid; error_log /dev/null; daemon off;
master_process off; events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; client_body_buffer_size 64k; default_type application/json;
  client_body_temp_path %s/b; proxy_temp_path %s/p; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;
  server { listen 127.0.0.1:18503; location / { return 200 "%s"; } } }""" % (tmp, tmp, tmp, tmp, tmp, tmp, answer))
    open(tmp + "/haproxy.cfg", "w").write("""global
 nbthread 1
defaults
 mode http
 timeout client 30s
 timeout http-request 10s
 timeout connect 1s
 timeout server 30s
frontend f
 bind 127.0.0.1:18504
 http-request return status 200 content-type application/json string %s
""" % answer)


def gone_ms(path, port, process):
    """Time from closing a connection whose request got no answer yet to the server's own "gone" line."""
    body = b'{"hold":1}'
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(b"POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
              % (path, port, len(body), body))
    time.sleep(0.2)
    os.set_blocking(process.stdout.fileno(), False)
    process.stdout.read()
    s.close()
    start = time.monotonic()
    while time.monotonic() - start < 3:
        if process.stdout.read():
            return "%.1f ms" % ((time.monotonic() - start) * 1e3)
        time.sleep(0.0005)
    return "not within 3 s"


def main():
    build = os.path.abspath(sys.argv[1])
    wanted = sys.argv[2:]
    tmp = tempfile.mkdtemp(prefix="tandem-bench-")
    configs(tmp)
    servers = [
        ("evhttp", [build + "/bench/candidate-evhttp", "18501"], 18501),
        ("mhd", [build + "/bench/candidate-mhd", "18502"], 18502),
        ("tandem", [build + "/bench/candidate-tandem", "18505"], 18505),
        ("nginx", ["nginx", "-c", tmp + "/nginx.conf", "-p", tmp], 18503),
        ("haproxy", ["haproxy", "-q", "-f", tmp + "/haproxy.cfg"], 18504),
    ]
    print("machine: %s, %d processors, Linux %s" % (
        re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())[1], os.cpu_count(), os.uname().release))
    for name, argv, port in servers:
        if wanted and name not in wanted:
            continue
        p = subprocess.Popen(["taskset", "-c", "0", *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            idle = rss_kb(p.pid)
            before = cpu_s(p.pid)
            out = run(1, "wrk", "-t1", "-c64", "-d5s", "-s", HERE + "/post.lua", "http://127.0.0.1:%d" % port)
            used = cpu_s(p.pid) - before
            r = {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", out[out.index("RESULT"):])}
            print("%-8s %7.0f requests/s  %5.1f us processor/request  p50 %4.0f us  p99 %5.0f us  bad %d  rss %d KiB idle" % (
                name, r["requests"] / r["seconds"], used * 1e6 / r["requests"], r["p50_us"], r["p99_us"], r["bad"], idle))
            if name in ("evhttp", "mhd", "tandem"):
                while b"" != (p.stdout.read1() if not os.get_blocking(p.stdout.fileno()) else b""):
                    pass
                warm, before = rss_kb(p.pid), cpu_s(p.pid)
                load = subprocess.Popen(["taskset", "-c", "1", build + "/bench/sse-load", "127.0.0.1", str(port),
                                         "/v1/sse" if name == "tandem" else "/sse", "1000"], stdout=subprocess.PIPE, text=True)
                time.sleep(5)
                during = rss_kb(p.pid)
                out = load.communicate()[0]
                print("%-8s %.1f KiB/stream  %.1f us processor/event\n  %s" % (
                    "", (during - warm) / 1000, (cpu_s(p.pid) - before) * 1e6 / 400000, out.strip().replace("\n", "\n  ")))
                print("%-8s client gone noticed: %s" % ("", gone_ms(b"/v1/hold" if name == "tandem" else b"/hold", port, p)))
            print("%-8s %s" % ("", run(1, sys.executable, HERE + "/probe.py", "127.0.0.1", str(port)).split("\n")[0]))
        finally:
            p.kill()
            p.wait()


main()

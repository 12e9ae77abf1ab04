#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start to ready, resident memory and size of the daemon without a model.

usage: footprint.py BUILD_DIR [STARTS]

Ready is the first 200 of /readyz. The data directory exists from the second start on; the first start is shown apart.
Resident memory is taken when ready and again after 200 requests that were refused for want of a target.
"""
import http.client, os, re, shutil, statistics, subprocess, sys, tempfile, time

CONFIG = """version: 1
listen: 127.0.0.1:18612
data_dir: %s/data
targets:
  - {name: cloud, tier: cloud, provider: openai, base_url: "http://127.0.0.1:9/v1", model: m, region: us, clearance: public}
"""


def rss_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open("/proc/%d/status" % pid).read())[1])


def ready(process):
    while True:
        try:
            c = http.client.HTTPConnection("127.0.0.1", 18612, timeout=5)
            c.request("GET", "/readyz")
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        if process.poll() is not None:
            sys.exit("the daemon ended with %d" % process.returncode)
        time.sleep(0.0005)


def main():
    build, starts = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    tmp = tempfile.mkdtemp(prefix="tandem-bench-")
    open(tmp + "/t.yaml", "w").write(CONFIG % tmp)
    times = []
    try:
        for i in range(starts + 1):
            begin = time.monotonic()
            p = subprocess.Popen([build + "/src/cli/tandem", "serve", "--config", tmp + "/t.yaml"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
            ready(p)
            times.append((time.monotonic() - begin) * 1e3)
            idle = rss_kb(p.pid)
            if i == starts:
                c = http.client.HTTPConnection("127.0.0.1", 18612)
                for _ in range(200):
                    c.request("POST", "/v1/chat/completions", '{"model":"auto","messages":[{"role":"user","content":"x"}]}',
                              {"Content-Type": "application/json"})
                    c.getresponse().read()
                after = rss_kb(p.pid)
            p.terminate()
            p.wait()
        shutil.copy(build + "/src/cli/tandem", tmp + "/tandem")
        subprocess.run(["strip", tmp + "/tandem"], check=True)
        print("start to ready: first %.1f ms, then median %.1f ms (least %.1f, most %.1f of %d)" % (
            times[0], statistics.median(times[1:]), min(times[1:]), max(times[1:]), starts))
        print("resident: %d KiB when ready, %d KiB after 200 requests" % (idle, after))
        print("stripped: %.2f MiB" % (os.path.getsize(tmp + "/tandem") / 2**20))
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


main()

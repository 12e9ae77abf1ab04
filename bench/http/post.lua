-- SPDX-License-Identifier: Apache-2.0
-- A 2 KB chat request, the usual size of a short conversation.
wrk.method = "POST"
wrk.path = os.getenv("BENCH_PATH") or "/v1/chat/completions"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"' .. (os.getenv("BENCH_MODEL") or "auto") .. '","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"' .. string.rep("word ", 380) .. '"}]}'
done = function(summary, latency)
  local bad = summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.connect + summary.errors.timeout
  io.write(string.format("RESULT requests=%d seconds=%.3f p50_us=%d p99_us=%d bad=%d\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), bad))
end

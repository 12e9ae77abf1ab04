// SPDX-License-Identifier: Apache-2.0
// What a stream that waits for its next token costs in memory. The promise is less than 40 KB for each of a thousand; what was
// won below that stays won (docs/decisions/0011).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { test } from "node:test";
import { startTandem, startUpstream, until, user } from "./lib.mjs";

const STREAMS = 200, KIB_MAX = 24; // about 15 as measured

const resident = (pid) => Number(readFileSync(`/proc/${pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]);

// Opens `n` streams and waits until each has shown something of its answer; the function returned ends them.
async function open(t, n, prompt = "Count.") {
  const { hostname, port } = new URL(t.url), body = JSON.stringify({ model: "auto", stream: true, messages: user(prompt) });
  const streams = Array.from({ length: n }, () => {
    const s = { socket: connect(Number(port), hostname), shown: "" };
    s.socket.on("data", (d) => (s.shown += d)).on("error", (e) => (s.failed = e));
    s.socket.write(`POST /v1/chat/completions HTTP/1.1\r\nHost: ${hostname}:${port}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${body.length}\r\n\r\n${body}`);
    return s;
  });
  await until(() => streams.every((s) => s.failed || (s.shown.match(/"content":"./g) ?? []).length > 1), "all to have begun");
  for (const s of streams) assert.ok(!s.failed && !s.shown.includes("[DONE]"), s.shown);
  return () => streams.forEach((s) => s.socket.destroy());
}

const start = async (pace_ms) => {
  const up = await startUpstream("--tokens", "120", "--token-ms", String(pace_ms));
  return startTandem(
    `targets:\n  - {name: far, tier: cloud, provider: openai, base_url: "${up.url}", model: big, region: us, clearance: internal, context: 10000000}\n`,
    { args: ["--workers", "1"], env: { MALLOC_PERTURB_: "0" } }); // meson's, which writes to memory that nobody has used
};

test(`${STREAMS} streams at once hold less than ${KIB_MAX} KiB each`, { skip: process.platform !== "linux" }, async () => {
  const t = await start(300);
  const end = await open(t, 8); // what is there once for all
  end();
  await until(async () => (await t.metric("tandem_requests_running")) === 0, "the first ones to be over");
  const idle = resident(t.child.proc.pid);
  const close = await open(t, STREAMS);
  const each = (resident(t.child.proc.pid) - idle) / STREAMS;
  close();
  assert.ok(each < KIB_MAX, `${each.toFixed(1)} KiB a stream`);
  assert.ok(each > 1, `${each.toFixed(1)} KiB a stream: nothing was measured`);
});

// A long prompt is held once while its answer streams: what was sent of it upstream goes with the first of the answer.
test("a stream holds its prompt once", { skip: process.platform !== "linux" }, async () => {
  const t = await start(300), prompt = "the quick brown fox ".repeat(50000), streams = 6;
  (await open(t, 8))();
  await until(async () => (await t.metric("tandem_requests_running")) === 0, "the first ones to be over");
  const ends = [], idle = resident(t.child.proc.pid);
  for (let i = 0; i < streams; i++) ends.push(await open(t, 1, prompt)); // what one gives back serves the next
  const each = (resident(t.child.proc.pid) - idle) * 1024 / streams / prompt.length;
  ends.forEach((end) => end());
  assert.ok(each < 1.6, `${each.toFixed(2)} times its prompt`); // 1.1 as measured
  assert.ok(each > 0.9, `${each.toFixed(2)} times its prompt: nothing was measured`);
});

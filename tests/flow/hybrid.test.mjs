// SPDX-License-Identifier: Apache-2.0
// Device and cloud together: cascade, progressive, offline and back, with the real starter model on the device.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, SLOWER, readStream, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const tools = JSON.parse(readFileSync(join(ROOT, "models/starter/catalogue.json"), "utf8"));
const starter = join(ROOT, "models/starter.gguf");

async function house({ upstreamArgs = ["--tokens", "30"], extra = "" } = {}) {
  const up = await startUpstream(...upstreamArgs);
  const t = await startTandem(`targets:
  - {name: device, tier: device, provider: llama, model: "${starter}", class: command, quality: 0.35}
  - {name: cloud, tier: cloud, provider: openai, base_url: "${up.url}", model: big, region: us, clearance: internal, quality: 0.9, context: 128000, continues: true, price: {input: 2.5, output: 10}, timeouts: {connect_ms: 1000, first_token_ms: 5000, idle_ms: 2000, total_ms: 20000}}
outbox: {enabled: true}
probe_interval_ms: 1000
${extra}`);
  return { up, t };
}

test("cascade: a command is answered on the device, a hard question in the cloud, and nothing is shown that is thrown away", async () => {
  const { up, t } = await house();
  const command = await t.post({ model: "auto", messages: user("set a timer for 10 minutes"), tools, tandem: { mode: "cascade" } });
  const body = await command.json();
  assert.equal(command.headers.get("x-tandem-tier"), "device", JSON.stringify(body.tandem));
  assert.equal(body.choices[0].message.tool_calls[0].function.name, "timer");
  assert.equal((await up.log()).requests.length, 0);
  const hard = await readStream(await t.post({ model: "auto", stream: true, tandem: { mode: "cascade" },
    messages: user("explain in depth how the Roman Empire's monetary system changed over three centuries") }));
  const tandemInfo = hard.chunks.findLast((c) => c.tandem).tandem;
  assert.equal(tandemInfo.target, "cloud");
  const whole = JSON.parse((await up.log()).requests.at(-1).body);
  assert.ok(whole.messages.length >= 1);
  assert.equal(hard.finish, "stop");
  await t.stop();
});

test("progressive: a draft at once, then the cloud's text replaces it; the final text is the cloud's", async () => {
  const { up, t } = await house({ upstreamArgs: ["--tokens", "30", "--first-token-ms", `${Math.round(800 * SLOWER)}`] });
  await t.post({ model: "device", messages: user("hello"), max_tokens: 5 }); // loads the model
  const prompt = user("what is the tallest building of the town");
  const start = Date.now();
  const r = await t.post({ model: "auto", stream: true, messages: prompt, tandem: { mode: "progressive" } });
  const s = await readStream(r);
  const ops = s.chunks.filter((c) => c.tandem?.op).map((c) => c.tandem.op);
  assert.equal(ops[0], "draft");
  assert.ok(ops.includes("replace"), ops.join());
  let text = "";
  for (const c of s.chunks) {
    if (c.tandem?.op === "replace") text = "";
    text += c.choices?.[0]?.delta?.content ?? "";
  }
  const plain = await (await t.post({ model: "cloud", messages: prompt })).json();
  assert.equal(text, plain.choices[0].message.content);
  assert.ok(Date.now() - start > 700, "the cloud really was slow");
  assert.ok(s.done);
  await t.stop();
});

test("a client that did not ask for revisions sees one answer, in any mode the policy sets", async () => {
  const { t } = await house({ extra: "policy: {rules: [{name: p, mode: progressive}]}\n" });
  const s = await readStream(await t.post({ model: "auto", stream: true, messages: user("tell me about bridges") }));
  assert.ok(!s.chunks.some((c) => c.tandem?.op));
  assert.equal(s.error, null);
  assert.ok(s.done);
  await t.stop();
});

test("offline: the device answers inside the connect budget; what was queued is answered and reconciled on return", async () => {
  const { up, t } = await house();
  await t.post({ model: "device", messages: user("hello"), max_tokens: 5 });
  await up.down(true);
  const times = [];
  let first;
  for (let i = 0; i < 5; i++) {
    const start = Date.now();
    const r = await t.post({ model: "auto", messages: user("what do bees do in winter"), tandem: { queue: true, prefer: "quality" } });
    times.push(Date.now() - start);
    const body = await r.json();
    assert.equal(r.status, 200, JSON.stringify(body));
    assert.equal(body.tandem.tier, "device");
    assert.equal(body.tandem.degraded, true);
    first ??= body;
  }
  assert.ok(times[0] <= 2000, `the first took ${times[0]} ms`);
  const list = JSON.parse((await tandem(["outbox", "list", "--json", "--config", t.file])).stdout).entries;
  assert.equal(list.length, 5);
  const id = first.tandem.exchange;
  assert.ok(list.some((e) => e.id === id && ["answered_locally", "intent_sent"].includes(e.state)), JSON.stringify(list));

  const events = await fetch(`${t.url}/v1/tandem/events`);
  const reader = events.body.pipeThrough(new TextDecoderStream()).getReader();
  await up.down(false);
  let seen = "";
  await until(async () => {
    const { value } = await reader.read();
    seen += value;
    return seen.includes(`"exchange":"${id}"`);
  }, "the revision event", 30000);
  await reader.cancel();
  const kept = await (await fetch(`${t.url}/v1/tandem/exchanges/${id}`)).json();
  assert.equal(kept.state, "reconciled");
  assert.equal(kept.accepted, "cloud");
  assert.ok(kept.cloud_text.length > 0 && kept.local_text.length >= 0);
  const again = await fetch(`${t.url}/v1/tandem/events`, { headers: { "last-event-id": "0" } });
  const reader2 = again.body.pipeThrough(new TextDecoderStream()).getReader();
  let replayed = "";
  await until(async () => ((replayed += (await reader2.read()).value), replayed.includes(id)), "the event again");
  await reader2.cancel();
  assert.equal((await fetch(`${t.url}/v1/tandem/exchanges/01ARZ3NDEKTSV4RRFFQ69G5FAV`)).status, 404);
  await t.stop();
});

test("a client that goes away stops the upstream within 50 ms, and what was used is accounted", async () => {
  const { up, t } = await house({ upstreamArgs: ["--tokens", "2000", "--token-ms", "5"] });
  const abort = new AbortController();
  const r = await fetch(t.url + "/v1/chat/completions", { method: "POST", signal: abort.signal,
    headers: { "content-type": "application/json" }, body: JSON.stringify({ model: "cloud", stream: true, messages: user("long [tokens=2000]") }) });
  const reader = r.body.getReader();
  await reader.read();
  const info = await up.log();
  const offset = Date.now();
  abort.abort();
  const closed = await until(async () => (await up.log()).requests[0].closed_ms > 0 && Date.now() - offset, "the upstream's close");
  assert.ok(closed < 500, `${closed} ms`); // the bench measures the 50 ms; here only that it happens at once
  assert.equal(info.requests.length, 1);
  const row = await until(async () => {
    const rows = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows;
    return rows.find((x) => x.outcome === "cancelled");
  }, "the ledger row");
  assert.ok(row.completion_tokens > 0 && row.cost_nusd > 0);
  await t.stop();
});

test("the model host killed: the next request is answered all the same", async () => {
  const { t } = await house();
  await t.post({ model: "device", messages: user("hello"), max_tokens: 5 });
  const list = async () => JSON.parse((await tandem(["models", "list", "--json", "--config", t.file])).stdout).targets;
  await until(async () => (await list()).find((x) => x.name === "device").loaded, "the model to be loaded");
  const { execSync } = await import("node:child_process");
  execSync(`pkill -KILL -P ${t.child.proc.pid} tandem-host`);
  const r = await t.post({ model: "device", messages: user("hello"), max_tokens: 5 });
  assert.equal(r.status, 200, await r.text());
  await t.stop();
});

// SPDX-License-Identifier: Apache-2.0
// What the API promises beyond an ordinary answer: fields that only the provider knows, several choices, budgets and
// rate limits from the configuration, and an error for each reason why nobody may answer.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { ROOT, cloud, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

// A provider with fields of its own, which the scripted upstream does not have.
const seen = [];
const native = createServer(async (request, response) => {
  let body = "";
  for await (const piece of request) body += piece;
  body = JSON.parse(body);
  seen.push(body);
  const base = { id: "c1", created: 1, model: "native-model", system_fingerprint: "fp_7", tandem: { from: "elsewhere" } };
  if (!body.stream) {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ ...base, object: "chat.completion", citations: ["a", "b"],
      choices: [{ index: 0, finish_reason: "stop", native_score: 0.5,
        message: { role: "assistant", content: "hi", annotations: [{ type: "note" }] } }],
      usage: { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 } }));
    return;
  }
  response.setHeader("content-type", "text/event-stream");
  const send = (x) => response.write(`data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", ...x })}\n\n`);
  for (let index = 0; index < (body.n ?? 1); index++)
    send({ choices: [{ index, delta: { role: "assistant", content: `hi ${index}`, annotations: [index] }, finish_reason: null }] });
  for (let index = 0; index < (body.n ?? 1); index++) {
    send({ choices: [{ index, delta: { audio: { data: "AA" } }, finish_reason: null }] });
    send({ choices: [{ index, delta: {}, finish_reason: "stop" }] });
  }
  response.end("data: [DONE]\n\n");
});
await new Promise((resolve) => native.listen(0, "127.0.0.1", resolve));
after(() => native.close());

const upstream = await startUpstream("--tokens", "20");
const t = await startTandem(`
targets:
${cloud("cloud", upstream.url)}${cloud("native", `http://127.0.0.1:${native.address().port}/v1`)}`);
const client = await t.client();

test("fields of the provider's own come back: whole", async () => {
  const r = await client.chat.completions.create({ model: "native", messages: user("x"), top_k: 4, extra: { deep: [1] } });
  assert.equal(seen.at(-1).top_k, 4);
  assert.deepEqual(seen.at(-1).extra, { deep: [1] });
  assert.equal(r.choices[0].message.content, "hi");
  assert.equal(r.system_fingerprint, "fp_7");
  assert.deepEqual(r.citations, ["a", "b"]);
  assert.equal(r.choices[0].native_score, 0.5);
  assert.deepEqual(r.choices[0].message.annotations, [{ type: "note" }]);
  assert.equal(r.tandem.from, undefined, "the provider does not speak for Tandem");
});

test("fields of the provider's own come back: streamed, for each choice", async () => {
  const stream = await client.chat.completions.create({ model: "native", messages: user("x"), n: 2, stream: true });
  const text = ["", ""], notes = [], audio = [0, 0];
  for await (const chunk of stream) {
    for (const c of chunk.choices) {
      assert.equal(chunk.tandem?.from, undefined);
      text[c.index] += c.delta.content ?? "";
      if (c.delta.annotations) { notes.push(...c.delta.annotations); assert.equal(chunk.system_fingerprint, "fp_7"); }
      if (c.delta.audio) audio[c.index]++;
    }
  }
  assert.deepEqual(text, ["hi 0", "hi 1"]);
  assert.deepEqual(notes, [0, 1]);
  assert.deepEqual(audio, [1, 1]);
});

test("n choices, whole and streamed, each complete", async () => {
  const whole = await client.chat.completions.create({ model: "cloud", messages: user("four of them"), n: 4 });
  assert.deepEqual(whole.choices.map((c) => c.index), [0, 1, 2, 3]);
  assert.ok(whole.choices.every((c) => c.message.content && c.finish_reason === "stop"));
  const stream = await client.chat.completions.create({ model: "cloud", messages: user("four of them"), n: 4, stream: true });
  const text = ["", "", "", ""], finishes = [];
  for await (const chunk of stream)
    for (const c of chunk.choices) {
      text[c.index] += c.delta.content ?? "";
      if (c.finish_reason) finishes.push(c.index);
    }
  assert.deepEqual(text, whole.choices.map((c) => c.message.content));
  assert.deepEqual(finishes.sort(), [0, 1, 2, 3]);
});

test("a method that a path does not take is told so, and which it takes", async () => {
  for (const [method, path, allow] of [["DELETE", "/v1/models", "GET, HEAD, OPTIONS"], ["DELETE", "/v1/models/cloud", "GET, HEAD, OPTIONS"],
    ["GET", "/v1/chat/completions", "POST, OPTIONS"], ["PUT", "/v1/embeddings", "POST, OPTIONS"], ["POST", "/v1/models", "GET, HEAD, OPTIONS"],
    ["POST", "/v1/tandem/events", "GET, HEAD, OPTIONS"], ["DELETE", "/v1/tandem/exchanges/x", "GET, HEAD, OPTIONS"]]) {
    const r = await fetch(t.url + path, { method, headers: { "content-type": "application/json" }, body: method[0] === "P" ? "{}" : undefined });
    assert.equal(r.status, 405, path);
    assert.equal(r.headers.get("allow"), allow);
    const { error } = await r.json();
    assert.equal(error.type, "invalid_request_error");
    assert.equal(error.code, "tandem.request.method");
  }
  for (const [method, path] of [["POST", "/v1/responses"], ["GET", "/v1/files"], ["GET", "/elsewhere"]]) {
    const r = await fetch(t.url + path, { method, headers: { "content-type": "application/json" }, body: method === "POST" ? "{}" : undefined });
    assert.equal(r.status, 404, path);
    assert.equal((await r.json()).error.type, "not_found_error");
  }
});

test("a request that names no model is answered by the default one", async () => {
  const r = await t.post({ messages: user("ECHO:ok") });
  assert.equal(r.status, 200);
});

test("a target's budget is kept, and the next target answers; a tenant's budget ends paid answers with 429", async () => {
  // The most an answer can cost is put aside first: 1,000 tokens at 10,000 nano-dollars. It costs a fiftieth of that, so
  // the budget ends with most of it unspent, and the next target takes over.
  const b = await startTandem(`
targets:
${cloud("small", upstream.url, ", budget_usd_per_day: 0.0104").replace("quality: 0.9", "quality: 0.95")}${cloud("other", upstream.url)}`);
  const ask = async (target) => (await target.post({ model: "auto", messages: user("x"), max_tokens: 1000 }));
  const first = await ask(b);
  assert.equal(first.headers.get("x-tandem-target"), "small");
  const targets = [];
  for (let i = 0; i < 4; i++) targets.push((await ask(b)).headers.get("x-tandem-target"));
  const tail = JSON.parse((await tandem(["ledger", "tail", "--json", "--limit", "100", "--config", b.file])).stdout);
  const spent = tail.rows.filter((r) => r.target === "small").reduce((n, r) => n + r.cost_nusd, 0);
  assert.equal(targets.at(-1), "other", `${targets}`);
  assert.ok(spent > 0 && spent <= 10_400_000, `${spent} of 10,400,000 nano-dollars`);
  const c = await startTandem(`
targets:
${cloud("cloud", upstream.url)}tenants:\n  - {name: default, budget_usd_per_day: 0.000001}\n`);
  const r = await ask(c);
  assert.equal(r.status, 429);
  assert.equal((await r.json()).error.code, "tandem.budget.exhausted");
  // A reload gives it money.
  const { readFileSync, writeFileSync } = await import("node:fs");
  writeFileSync(c.file, readFileSync(c.file, "utf8").replace("0.000001", "1.5"));
  c.child.proc.kill("SIGHUP");
  let after;
  for (let i = 0; i < 200 && (after = await ask(c)).status !== 200; i++) await new Promise((f) => setTimeout(f, 20));
  assert.equal(after.status, 200);
});

test("rate limits of tenants and of keys: 429 with Retry-After", async () => {
  const b = await startTandem(`
targets:
${cloud("cloud", upstream.url)}key_rate: {requests_per_min: 3}
tenants:\n  - {name: default, rate: {requests_per_min: 2}}\n  - {name: shop}\n`);
  const anonymous = [];
  for (let i = 0; i < 3; i++) anonymous.push(await b.post({ model: "auto", messages: user("ECHO:x") }));
  assert.deepEqual(anonymous.map((r) => r.status), [200, 200, 429]);
  assert.ok(Number(anonymous[2].headers.get("retry-after")) >= 1);
  assert.equal((await anonymous[2].json()).error.code, "tandem.rate.limited");
  const made = await tandem(["keys", "create", "--tenant", "shop", "--json", "--config", b.file]);
  const { key } = JSON.parse(made.stdout);
  assert.equal(made.stderr, "");
  const typo = await tandem(["keys", "create", "--tenant", "shpo", "--config", b.file]);
  assert.equal(typo.code, 0);
  assert.match(typo.stderr, /no tenant 'shpo'/);
  const keyed = [];
  for (let i = 0; i < 4; i++)
    keyed.push((await b.post({ model: "auto", messages: user("ECHO:x") }, undefined, { authorization: `Bearer ${key}` })).status);
  assert.deepEqual(keyed, [200, 200, 200, 429]);
});

test("an input longer than the local model's context: an error before work starts, or a target with more", async () => {
  const b = await startTandem(`
targets:
  - {name: device, tier: device, provider: llama, model: ${ROOT}/models/starter.gguf, fallback: [cloud]}
  - {name: alone, tier: device, provider: llama, model: ${ROOT}/models/starter.gguf}
${cloud("cloud", upstream.url)}`);
  const long = (i) => user(`number ${i}: ${"a longer story ".repeat(3000)}`);
  // Until its model is loaded nobody knows its context; the starter's template then cuts the text, and it declines.
  await until(async () => (await b.post({ model: "alone", messages: long(9) })).status === 400, "its context to be known");
  for (let i = 0; i < 2; i++) {
    const r = await b.post({ model: "device", messages: long(i) });
    assert.equal(r.status, 200, await r.clone().text());
    assert.equal(r.headers.get("x-tandem-target"), "cloud");
    const e = await b.post({ model: "alone", messages: long(i + 2) });
    assert.equal(e.status, 400);
    assert.equal((await e.json()).error.code, "tandem.context_length");
  }
  await upstream.reset();
});

test("each reason why nobody may answer has its own error", async () => {
  const b = await startTandem(`
targets:
${cloud("cloud", upstream.url, ", context: 64").replace("context: 128000, ", "")}\
  - {name: gone, tier: device, provider: llama, model: not-there.gguf}
policy:
  rules:
    - {name: no-poems, when: {labels: [poem]}, transform: block, reason: no poems here}
    - {name: secret, when: {labels: [phi]}, allow: {tiers: [onprem]}}
    - {name: dear, when: {labels: [dear]}, budget: {request_usd: 0.0000001}, allow: {targets: [cloud]}}
`);
  const cases = [
    [{ tandem: { labels: ["poem"] } }, 403, "tandem.policy.blocked", /no-poems.*no poems here/],
    [{ tandem: { labels: ["phi"] } }, 403, "tandem.policy.no_target", /cloud: its tier is not allowed.*secret.*gone/],
    [{ model: "gone" }, 503, "tandem.unavailable", /gone: its model file is not there/],
    [{ model: "cloud", messages: user("word ".repeat(500)) }, 400, "tandem.context_length", /cloud: the input does not fit/],
    [{ model: "cloud", messages: user("x".repeat(50)), max_tokens: 10, tandem: { labels: ["dear"] } }, 429, "tandem.budget.exhausted", /cloud/],
    [{ model: "cloud", tandem: { deadline_ms: 1 } }, 504, "tandem.deadline", /./],
    [{ model: "nobody" }, 404, "tandem.model.not_found", /nobody/],
    [{ model: "cloud", messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:image/png;base64,AA==" } }] }] },
      400, "tandem.request.unsupported", /cloud: it cannot do what the request needs \(image\)/],
  ];
  for (const [i, [body, status, code, message]] of cases.entries()) {
    // Each a conversation of its own: labels stick to conversations.
    const r = await b.post({ model: "auto", messages: user(`case ${i}`), ...body });
    const { error } = await r.json();
    assert.equal(error?.code, code, JSON.stringify(body).slice(0, 100) + JSON.stringify(error));
    assert.equal(r.status, status);
    assert.match(error.message, message);
  }
  // However many there are, each is named with what refused it, also by the command line.
  const names = [...Array(40)].map((_, i) => `target-${i}`);
  const many = await startTandem(`targets:\n${names.map((n) => cloud(n, upstream.url)).join("")}policy:
  rules:\n    - {name: nobody-sees-this, when: {labels: [phi]}, allow: {tiers: [onprem]}}\n`);
  const refused = await (await many.post({ model: "auto", messages: user("x"), tandem: { labels: ["phi"] } })).json();
  const asked = await tandem(["ask", "--no-tools", "--class", "restricted", "y", "--config", many.file]);
  assert.equal(asked.code, 1);
  for (const name of names) {
    assert.ok(refused.error.message.includes(`${name}: its tier is not allowed for this request (rule nobody-sees-this)`), refused.error.message);
    assert.ok(asked.stderr.includes(`${name}: the data class is above its clearance`), asked.stderr);
  }
  const offline = await startTandem(`connectivity: offline\ntargets:\n${cloud("cloud", "https://api.invalid/v1")}`);
  const r = await offline.post({ model: "auto", messages: user("x") });
  assert.equal(r.status, 503);
  assert.match((await r.json()).error.message, /cloud: there is no network/);
});

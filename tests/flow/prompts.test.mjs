// SPDX-License-Identifier: Apache-2.0
// Several prompts in one completion: one answer, and an exchange for each in plan, ledger and money. LangChain and
// evaluation harnesses send them; the official client types `prompt` as an array, too.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, cloud, readStream, startTandem, startUpstream, tandem, until } from "./lib.mjs";

const upstream = await startUpstream("--tokens", "12");
const caps = ", capabilities: [chat, completion, embedding, choices, logprobs]";
const t = await startTandem(`targets:
${cloud("cloud", upstream.url, caps)}  - {name: device, tier: device, provider: llama, model: "${join(ROOT, "models/starter.gguf")}"}
policy:
  content: {labels: {secret: {words: [hush]}}}
  rules:
    - {name: quiet, when: {labels: [secret]}, transform: block, reason: not this one}
`);
const client = await t.client();
const path = "/v1/completions";
const prompts = ["Once upon a time", "Two sailors met", "In three days", "Four of them", "Five", "Six and more"];
const rows = async (limit) =>
  JSON.parse((await tandem(["ledger", "tail", "--json", "--limit", `${limit}`, "--config", t.file])).stdout).rows;

async function streamed(body) {
  const text = [], finish = [];
  let usage, done = 0;
  const stream = await client.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    for (const c of chunk.choices) {
      assert.equal(finish[c.index], undefined, "nothing after its finish");
      text[c.index] = (text[c.index] ?? "") + c.text;
      if (c.finish_reason) finish[c.index] = c.finish_reason;
    }
    usage = chunk.usage ?? usage;
    done += chunk.tandem ? 1 : 0;
  }
  assert.equal(done, 1);
  return { text, finish, usage };
}

for (const model of ["cloud", "device"])
  test(`each prompt is answered as if it came alone, whole and streamed: ${model}`, async () => {
    const body = { model, prompt: prompts, max_tokens: 5, n: 2, seed: 1, temperature: 0 };
    const alone = [];
    let tokens = 0;
    for (const prompt of prompts) {
      const one = await client.completions.create({ ...body, prompt });
      alone.push(...one.choices.map((c) => c.text));
      tokens += one.usage.completion_tokens;
    }
    const { data, response } = await client.completions.create(body).withResponse();
    assert.equal(data.object, "text_completion");
    assert.deepEqual(data.choices.map((c) => c.index), [...Array(12).keys()]);
    assert.deepEqual(data.choices.map((c) => c.text), alone);
    assert.ok(data.choices.every((c) => c.finish_reason));
    assert.equal(data.usage.completion_tokens, tokens);
    assert.equal(response.headers.get("x-tandem-target"), model);
    const { tandem: told } = data;
    assert.equal(told.exchanges.length, prompts.length);
    assert.equal(new Set(told.exchanges).size, prompts.length);
    assert.equal(told.exchange, told.exchanges[0]);
    assert.equal(response.headers.get("x-tandem-exchange"), told.exchange);
    assert.equal(data._request_id, told.exchange);
    assert.deepEqual(told.attempts.map((a) => a.prompt).sort(), [0, 1, 2, 3, 4, 5]);
    assert.equal(told.cost_nusd, Math.round(told.attempts.reduce((n, a) => n + a.cost_usd, 0) * 1e9));
    const mine = (await rows(prompts.length)).map((r) => [r.exchange, r.outcome]);
    assert.deepEqual(mine.map((r) => r[0]).sort(), [...told.exchanges].sort());
    assert.ok(mine.every((r) => r[1] === "ok"));

    const s = await streamed(body);
    assert.deepEqual(s.text, alone);
    assert.equal(s.finish.filter(Boolean).length, 12);
    assert.equal(s.usage.completion_tokens, tokens);
  });

test("an upstream sees each prompt alone, a few at a time", async () => {
  await upstream.reset();
  await upstream.standing({ token_ms: 5 });
  const body = { model: "cloud", prompt: [...prompts, ...prompts], user: "me", odd_field: { a: 1 }, max_tokens: 6, best_of: 1 };
  await client.completions.create(body);
  const { requests } = await upstream.log();
  assert.deepEqual(requests.map((r) => JSON.parse(r.body).prompt).sort(), [...prompts, ...prompts].sort());
  for (const r of requests) assert.deepEqual(JSON.parse(r.body).odd_field, { a: 1 });
  const edges = requests.flatMap((r) => [[r.at_ms, 1], [r.ended_ms, -1]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  let open = 0, most = 0;
  for (const [, step] of edges) most = Math.max(most, (open += step));
  assert.ok(most > 1 && most <= 4, `${most} at a time`);
  await upstream.reset();
});

test("one prompt that may not be answered makes it an error that says which; nothing of it leaves", async () => {
  for (const stream of [false, true]) {
    await upstream.reset();
    await upstream.standing({ first_token_ms: 300 });
    const r = await t.post({ model: "cloud", prompt: ["fine", "hush now", "fine too"], stream }, path);
    assert.equal(r.status, 403);
    const body = await r.json();
    assert.equal(body.error.code, "tandem.policy.blocked");
    assert.match(body.error.message, /^prompt\[1\]: .*quiet.*not this one/);
    assert.equal(body.tandem.exchanges.length, 3);
    const { requests } = await upstream.log();
    assert.ok(!requests.some((q) => q.body.includes("hush")));
    await until(async () => (await rows(3)).every((row) => row.outcome === "refused" || row.outcome === "cancelled"), "the rows");
  }
  await upstream.reset();
});

test("a prompt that fails when others have begun to speak ends the stream with a typed error", async () => {
  await upstream.reset();
  await upstream.scriptThen({ token_ms: 20 }, { match: "Two sailors", first_token_ms: 100, status: 400, times: 9 });
  const s = await readStream(await t.post({ model: "cloud", prompt: ["Once upon [tokens=200]", "Two sailors met"], max_tokens: 200, stream: true }, path));
  assert.equal(s.done, false);
  assert.equal(s.error.code, "tandem.upstream.request");
  assert.match(s.error.message, /^prompt\[1\]: /);
  assert.ok(s.text.length > 0);
  const told = s.chunks.at(-1).tandem;
  assert.deepEqual(told.attempts.map((a) => a.outcome).sort(), ["tandem.cancelled", "tandem.upstream.request"]);
  assert.ok(told.usage_total.completion_tokens > 0, "what was used is told");
  const whole = await t.post({ model: "cloud", prompt: ["Once upon [tokens=200]", "Two sailors met"], max_tokens: 200 }, path);
  assert.equal(whole.status, 400);
  await upstream.reset();
});

test("a client that goes stops them all, and what waits is not begun", async () => {
  await upstream.reset();
  await upstream.standing({ token_ms: 20 });
  const stop = new AbortController();
  const r = await fetch(t.url + path, { method: "POST", signal: stop.signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "cloud", prompt: prompts.map((p) => `${p} [tokens=500]`), max_tokens: 500, stream: true }) });
  await r.body.getReader().read();
  stop.abort();
  const log = await upstream.log("?requests=4&closed=4&timeout_ms=5000");
  assert.equal(log.requests.length, 4);
  assert.ok(log.requests.every((q) => q.closed_ms >= 0));
  assert.equal((await client.completions.create({ model: "cloud", prompt: ["a", "b"], max_tokens: 2 })).choices.length, 2);
  await upstream.reset();
});

test("limits: how many, texts alone, money and time for all together", async () => {
  const refused = async (body, status, match) => {
    const r = await t.post({ model: "cloud", max_tokens: 3, ...body }, path);
    assert.equal(r.status, status);
    assert.match((await r.json()).error.message, match);
  };
  await refused({ prompt: [] }, 400, /1 to 128/);
  await refused({ prompt: Array(129).fill("a") }, 400, /1 to 128/);
  await refused({ prompt: Array(65).fill("a"), n: 2 }, 400, /128 completions/);
  await refused({ prompt: [[1, 2], [3]] }, 400, /cannot be read cannot be labelled/);
  await refused({ prompt: ["a", 7] }, 400, /Send text/);
  await refused({ prompt: Array(128).fill("a"), extra: "x".repeat(300000) }, 413, /beside the prompts/);
  // 100 tokens at 10,000 nano-dollars may be a millionth of a dollar each: enough for one prompt, not for half of that.
  const cost = (max_cost_usd, prompt) => t.post({ model: "cloud", prompt, max_tokens: 100, tandem: { max_cost_usd } }, path);
  assert.equal((await cost(0.0015, "a")).status, 200);
  assert.equal((await cost(0.0015, ["a", "b"])).status, 429);
  await upstream.standing({ first_token_ms: 400 });
  const late = await t.post({ model: "cloud", prompt: Array(20).fill("a"), max_tokens: 2, tandem: { deadline_ms: 900 } }, path);
  assert.equal(late.status, 504);
  assert.match((await late.json()).error.message, /^prompt\[\d+\]: /);
  await upstream.reset();
  const most = await client.completions.create({ model: "cloud", prompt: Array(128).fill("a"), max_tokens: 1 });
  assert.equal(most.choices.length, 128);
});

test("each prompt counts against the rate limit", async () => {
  const b = await startTandem(`targets:\n${cloud("cloud", upstream.url, caps)}tenants:\n  - {name: default, rate: {requests_per_min: 3}}\n`);
  const r = await b.post({ model: "cloud", prompt: prompts, max_tokens: 2 }, path);
  assert.equal(r.status, 429);
  assert.ok(Number(r.headers.get("retry-after")) >= 1);
  assert.equal((await r.json()).error.code, "tandem.rate.limited");
});

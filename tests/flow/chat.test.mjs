// SPDX-License-Identifier: Apache-2.0
// The API as its clients know it, driven by the official client and by fetch, against the scripted upstream.
import assert from "node:assert/strict";
import { test } from "node:test";
import { cloud, readStream, startTandem, startUpstream, tandem, user } from "./lib.mjs";

const upstream = await startUpstream("--tokens", "20");
const caps = ", capabilities: [chat, completion, embedding, tools, json, json_schema, logprobs, choices]";
const t = await startTandem(`targets:\n${cloud("cloud", upstream.url, caps)}aliases: {gpt-4o: auto, "meta/large": cloud}\n`);
const client = await t.client();

test("a whole answer names the model that answered, and what it used", async () => {
  const { data, response } = await client.chat.completions
    .create({ model: "auto", messages: user("ECHO:hello there") }).withResponse();
  assert.equal(data.object, "chat.completion");
  assert.equal(data.choices[0].message.content, "hello there");
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.equal(data.model, "upstream-model");
  assert.ok(data.usage.total_tokens > 0);
  assert.equal(response.headers.get("x-tandem-target"), "cloud");
  assert.equal(response.headers.get("x-tandem-tier"), "cloud");
  assert.match(response.headers.get("x-tandem-exchange"), /^[0-9A-Z]{26}$/);
  assert.ok(response.headers.get("x-tandem-reason"));
});

test("a stream gives the same text, one finish and, if asked, usage", async () => {
  const whole = await client.chat.completions.create({ model: "auto", messages: user("about rivers") });
  const stream = await client.chat.completions.create({
    model: "auto", messages: user("about rivers"), stream: true, stream_options: { include_usage: true },
  });
  let text = "", usage = null, finishes = [], ids = new Set();
  for await (const chunk of stream) {
    ids.add(chunk.id);
    text += chunk.choices[0]?.delta?.content ?? "";
    if (chunk.choices[0]?.finish_reason) finishes.push(chunk.choices[0].finish_reason);
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(finishes, ["stop"]);
  assert.equal(ids.size, 1);
  assert.equal(usage.completion_tokens, 20);
});

test("a stream ends with [DONE], and its last chunk tells all attempts", async () => {
  const s = await readStream(await t.post({ model: "auto", messages: user("x"), stream: true }));
  assert.ok(s.done);
  const tandem = s.chunks.findLast((c) => c.tandem)?.tandem;
  assert.equal(tandem.attempts.length, 1);
  assert.equal(tandem.attempts[0].target, "cloud");
  assert.ok(tandem.cost_usd > 0);
});

test("tool calls come with right indexes and whole arguments", async () => {
  const stream = await client.chat.completions.create({
    model: "auto", stream: true, messages: user('TOOL:get_weather {"city":"Łódź"}'),
    tools: [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } }],
  });
  const calls = [];
  let finish;
  for await (const chunk of stream) {
    for (const c of chunk.choices[0]?.delta?.tool_calls ?? []) {
      calls[c.index] ??= { name: "", args: "", id: "" };
      calls[c.index].name += c.function?.name ?? "";
      calls[c.index].args += c.function?.arguments ?? "";
      calls[c.index].id += c.id ?? "";
    }
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  assert.equal(calls.length, 1);
  assert.equal(calls[0].name, "get_weather");
  assert.deepEqual(JSON.parse(calls[0].args), { city: "Łódź" });
  assert.ok(calls[0].id);
  assert.equal(finish, "tool_calls");
});

test("logprobs, n, stop and max_tokens reach the provider and come back", async () => {
  const r = await client.chat.completions.create({
    model: "auto", messages: user("about ships"), n: 2, logprobs: true, top_logprobs: 2, max_tokens: 5,
  });
  assert.equal(r.choices.length, 2);
  assert.equal(r.choices[0].finish_reason, "length");
  assert.equal(r.choices[0].logprobs.content.length, 5);
  assert.equal(r.choices[0].logprobs.content[0].top_logprobs.length, 2);
});

test("completions and embeddings", async () => {
  const c = await client.completions.create({ model: "auto", prompt: "Once upon a time there was", max_tokens: 4 });
  assert.equal(c.object, "text_completion");
  assert.ok(c.choices[0].text.length > 0);
  const e = await client.embeddings.create({ model: "cloud", input: ["a", "b"] });
  assert.equal(e.data.length, 2);
  assert.ok(e.data[1].embedding.length > 1);
});

test("models lists auto, targets and aliases; an alias works", async () => {
  const ids = (await client.models.list()).data.map((m) => m.id);
  assert.deepEqual(ids.sort(), ["auto", "cloud", "gpt-4o", "meta/large"]);
  const r = await client.chat.completions.create({ model: "gpt-4o", messages: user("ECHO:ok") });
  assert.equal(r.choices[0].message.content, "ok");
});

test("a model is found by every name that a request may give", async () => {
  for (const id of ["auto", "auto:fast", "cloud", "gpt-4o", "meta/large"]) assert.equal((await client.models.retrieve(id)).id, id);
  for (const id of ["auto:best", "gpt-5", "../cloud", "cloud%"])
    await assert.rejects(client.models.retrieve(id), (e) => e.status === 404 && e.code === "tandem.model.not_found" && e.message.includes(id));
  const odd = await fetch(`${t.url}/v1/models/%ff`);
  assert.equal(odd.status, 404);
  assert.match((await odd.json()).error.message, /'%ff' does not exist/);
});

test("unknown fields reach a provider of the same dialect; the tandem object never does", async () => {
  await upstream.reset();
  await t.post({ model: "auto", messages: user("ECHO:x"), top_k: 40, metadata: { a: "b" }, tandem: { prefer: "cheap" } });
  const body = JSON.parse((await upstream.log()).requests[0].body);
  assert.equal(body.top_k, 40);
  assert.deepEqual(body.metadata, { a: "b" });
  assert.equal(body.tandem, undefined);
  assert.equal(body.model, "upstream-model");
});

test("errors have OpenAI's form and status", async () => {
  const bad = [
    [{ model: "auto", messages: "no" }, 400],
    [{ model: "auto", messages: user("x"), temperature: 9 }, 400],
    [{ model: "no-such-model", messages: user("x") }, 404],
    ["{", 400],
    ["[".repeat(100000), 413],
    ['{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}', 400],
  ];
  for (const [body, status] of bad) {
    const r = await t.post(body);
    assert.equal(r.status, status, JSON.stringify(body).slice(0, 80));
    const { error } = await r.json();
    assert.equal(typeof error.message, "string");
    assert.match(error.code, /^tandem\.|_/);
  }
});

test("the ledger has a row for each attempt, with tokens and money", async () => {
  const before = JSON.parse((await tandem(["ledger", "stats", "--json", "--config", t.file])).stdout);
  await t.post({ model: "auto", messages: user("ECHO:one two three") });
  const r = await tandem(["ledger", "tail", "--json", "--limit", "1", "--config", t.file]);
  assert.equal(r.code, 0, r.stderr);
  const row = JSON.parse(r.stdout).rows[0];
  assert.equal(row.target, "cloud");
  assert.equal(row.outcome, "ok");
  assert.ok(row.prompt_tokens > 0 && row.completion_tokens > 0);
  assert.equal(row.cost_nusd, row.prompt_tokens * 2500 + row.completion_tokens * 10000);
  const now = JSON.parse((await tandem(["ledger", "stats", "--json", "--config", t.file])).stdout);
  assert.equal(now.cost_nusd - before.cost_nusd, row.cost_nusd);
  assert.equal(now.cloud_only_target, "cloud");
  const proof = await tandem(["ledger", "verify", "--json", "--config", t.file]);
  assert.equal(JSON.parse(proof.stdout).valid, true);
});

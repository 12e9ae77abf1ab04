// SPDX-License-Identifier: Apache-2.0
// What the official client builds on top of plain requests (streams with events, tool loops, parsed answers, typed
// errors, its own retries), and the requests of other clients as they send them, against a provider and the device.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, cloud, readStream, startTandem, startUpstream, tandem, user } from "./lib.mjs";

const require = createRequire(join(process.env.CLIENT, "package.json"));
const openai = require("openai");
const { makeParseableResponseFormat } = require("openai/lib/parser");
const catalogue = JSON.parse(readFileSync(join(ROOT, "models/starter/catalogue.json"), "utf8"));

const upstream = await startUpstream("--tokens", "20");
const t = await startTandem(`targets:
${cloud("cloud", upstream.url, ", capabilities: [chat, completion, embedding, tools, json, json_schema, logprobs, choices, infill, image]")}
  - {name: device, tier: device, provider: llama, model: "${join(ROOT, "models/starter.gguf")}", class: command, capabilities: [default, embedding]}
`);
const client = await t.client();

const timer = (called) => ({ type: "function", function: { ...catalogue.find((x) => x.function.name === "timer").function,
  parse: JSON.parse, function: (a) => { called.push(a); return "done"; } } });
const ways = { cloud: 'TOOL:timer {"action":"set","duration":"10 minutes"}', device: "set a timer for 10 minutes" };

for (const [model, command] of Object.entries(ways)) for (const stream of [false, true])
  test(`a tool loop calls, answers and goes on: ${model}, ${stream ? "streamed" : "whole"}`, async () => {
    const called = [];
    if (model === "cloud") await upstream.script({}, { say: "It is set." });
    const run = client.chat.completions.runTools({ model, stream, messages: user(command), tools: [timer(called)],
      ...(stream ? { stream_options: { include_usage: true } } : {}) }, { maxChatCompletions: model === "cloud" ? 2 : 5 });
    const last = (await run.finalChatCompletion()).choices[0];
    assert.deepEqual(called[0], { action: "set", duration: "10 minutes" });
    assert.ok(run.messages.some((m) => m.role === "tool" && m.content === "done"));
    if (model === "device") assert.match(last.message.content, /\.$/);
    assert.ok((await run.totalUsage()).total_tokens > 0);
    await upstream.reset();
  });

test("a stream with events ends in the whole answer", async () => {
  for (const model of Object.keys(ways)) {
    const seen = new Set();
    const s = client.chat.completions.stream({ model, messages: user("hello"), stream_options: { include_usage: true } });
    for (const name of ["chunk", "content", "message", "finalContent", "finalChatCompletion", "end"]) s.on(name, () => seen.add(name));
    const whole = await s.finalChatCompletion();
    assert.equal(whole.choices[0].finish_reason, "stop");
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
    assert.equal(seen.size, 6, [...seen].join());
  }
});

test("an answer in a demanded form comes parsed", async () => {
  const schema = { type: "object", properties: { on: { type: "boolean" }, day: { type: "string", enum: ["mon", "tue"] } }, required: ["on", "day"], additionalProperties: false };
  const form = makeParseableResponseFormat({ type: "json_schema", json_schema: { name: "it", strict: true, schema } }, JSON.parse);
  for (const [model, text] of [["cloud", 'ECHO:{"on":true,"day":"mon"}'], ["device", "x"]]) {
    const body = { model, messages: user(text), response_format: form, max_tokens: 200 };
    const whole = (await client.chat.completions.parse(body)).choices[0].message.parsed;
    const streamed = (await client.chat.completions.stream(body).finalChatCompletion()).choices[0].message.parsed;
    for (const x of [whole, streamed]) assert.ok(typeof x.on === "boolean" && ["mon", "tue"].includes(x.day), JSON.stringify(x));
  }
});

test("each status is the client's own error, with the exchange as its request id", async () => {
  const up = await startUpstream();
  const b = await startTandem(`targets:\n${cloud("cloud", up.url)}policy:\n  rules: [{name: no, when: {labels: [never]}, transform: block}]\n`);
  const c = await b.client();
  const ask = (more) => c.chat.completions.create({ model: "cloud", messages: user("x"), ...more });
  const fails = async (promise, type, status, code) => {
    const e = await promise.then(() => assert.fail(`${code} expected`), (x) => x);
    assert.ok(e instanceof openai[type], `${e.constructor.name}: ${e.message}`);
    assert.deepEqual([e.status, e.code], [status, code]);
    if (status) assert.match(e.requestID, /^[0-9A-Z]{26}$/);
    return e;
  };
  await fails(ask({ temperature: 9 }), "BadRequestError", 400, "tandem.request.invalid");
  await fails(ask({ model: "nobody" }), "NotFoundError", 404, "tandem.model.not_found");
  await fails(ask({ messages: user("labels stick to a conversation"), tandem: { labels: ["never"] } }), "PermissionDeniedError", 403, "tandem.policy.blocked");
  const responses = await fails(c.responses.create({ model: "cloud", input: "x" }), "NotFoundError", 404, "tandem.not_found");
  assert.match(responses.message, /Responses API is not offered.*chat\/completions/);
  await up.script({ content_policy: true });
  await fails(ask(), "BadRequestError", 400, "tandem.content_policy");
  await up.scriptThen({ error_after_tokens: 3 });
  const s = await ask({ stream: true });
  await fails((async () => { for await (const chunk of s) assert.ok(chunk.choices); })(), "APIError", undefined, "tandem.upstream.server");
  await up.reset();
  const created = JSON.parse((await tandem(["keys", "create", "--json", "--config", b.file])).stdout);
  await fails(ask(), "AuthenticationError", 401, "tandem.auth.key");
  await fails(c.models.list(), "AuthenticationError", 401, "tandem.auth.key");
  assert.ok(created.key);
});

test("the client's own retries wait as long as they are told to", async () => {
  const b = await startTandem(`targets:\n${cloud("cloud", upstream.url)}tenants:\n  - {name: default, rate: {requests_per_min: 60}}\n`);
  const patient = new openai.OpenAI({ baseURL: `${b.url}/v1`, apiKey: "none", maxRetries: 3 });
  let limited = 0;
  const hasty = await b.client();
  for (let i = 0; i < 200 && !limited; i++)
    await hasty.chat.completions.create({ model: "cloud", messages: user("ECHO:x") }).catch((e) => {
      assert.ok(e instanceof openai.RateLimitError);
      assert.ok(Number(e.headers.get("retry-after")) >= 1);
      limited++;
    });
  assert.equal(limited, 1);
  const r = await patient.chat.completions.create({ model: "cloud", messages: user("ECHO:at last") });
  assert.equal(r.choices[0].message.content, "at last");
});

// Seen of: the official client (with everything it has a type for, and with nulls), the AI SDK, LangChain, and editors
// that complete code.
const shapes = {
  "all that is typed": ["chat/completions", {
    messages: [{ role: "developer", content: [{ type: "text", text: "be short" }], name: "dev" },
      { role: "user", content: [{ type: "text", text: "hel" }, { type: "text", text: "lo" }], name: "bob" },
      { role: "assistant", content: null, refusal: "no" }, { role: "assistant", content: [{ type: "text", text: "hm" }, { type: "refusal", refusal: "not" }] },
      { role: "user", content: "again" }],
    store: true, metadata: { a: "b" }, reasoning_effort: "low", max_completion_tokens: 20, logit_bias: { 50256: -100 }, user: "me",
    service_tier: "auto", modalities: ["text"], prediction: { type: "content", content: "hello there" }, verbosity: "low",
    prompt_cache_key: "k", prompt_cache_retention: "24h", safety_identifier: "s", frequency_penalty: 0.1, presence_penalty: 0.1,
    seed: 7, stop: ["zzz"], top_p: 0.9, temperature: 0.5 }, ["store", "metadata", "reasoning_effort", "logit_bias", "service_tier", "prediction", "verbosity", "prompt_cache_key"]],
  "nulls for what is not given": ["chat/completions", { messages: user("hello"), temperature: null, top_p: null, n: null, stop: null,
    max_tokens: null, logit_bias: null, logprobs: null, top_logprobs: null, presence_penalty: null, stream: null, stream_options: null,
    user: null, tools: null, tool_choice: null, response_format: null, seed: null, functions: null, function_call: null,
    parallel_tool_calls: null, metadata: null, store: null }, []],
  "a history with a call that was no JSON": ["chat/completions", { messages: [...user("set a timer"),
    { role: "assistant", content: "", tool_calls: [{ id: "a", type: "function", function: { name: "timer", arguments: "{\"action\":" } }] },
    { role: "tool", tool_call_id: "a", content: [{ type: "text", text: "that was no JSON" }] }, { role: "user", content: "hello" }] }, []],
  "strict tools, one after the other": ["chat/completions", { messages: user("hello"), parallel_tool_calls: false, tool_choice: "auto",
    tools: [{ type: "function", function: { name: "f", strict: true, description: "", parameters: { type: "object", properties: { a: { type: ["string", "null"] } },
      required: ["a"], additionalProperties: false, $schema: "http://json-schema.org/draft-07/schema#" } } }] }, ["parallel_tool_calls"]],
  "prompts in a list, as LangChain sends them": ["completions", { prompt: ["Once", "Two", "Three"], n: 1, max_tokens: 5, best_of: 1 }, []],
};
for (const [name, [path, body, kept]] of Object.entries(shapes))
  for (const model of ["cloud", "device"]) for (const stream of [false, true])
    test(`a request as clients send it: ${name}; ${model}, ${stream ? "streamed" : "whole"}`, async () => {
      await upstream.reset();
      const r = await t.post({ ...body, model, ...(stream ? { stream: true } : {}) }, `/v1/${path}`,
        { "openai-beta": "assistants=v2", "openai-organization": "org", "x-stainless-retry-count": "0", "http-referer": "https://app.example", "x-title": "app" });
      assert.equal(r.status, 200, r.status === 200 ? "" : await r.text());
      if (stream) {
        const s = await readStream(r);
        assert.ok(s.done && s.finish);
      } else {
        assert.ok((await r.json()).choices.every((x) => x.finish_reason));
      }
      if (model !== "cloud") return;
      const sent = (await upstream.log()).requests[0], there = JSON.parse(sent.body);
      for (const key of kept) assert.deepEqual(there[key], body[key], key);
      assert.doesNotMatch(JSON.stringify(sent.headers), /openai-organization|stainless|app\.example/i, "headers of the client stay here");
    });

test("code between what stands before and behind it: where a target can, else the reason", async () => {
  const body = { prompt: "def add(a, b):\n    return ", suffix: "\n\nprint(add(1, 2))", max_tokens: 8, temperature: 0, stop: ["\n\n"] };
  const r = await client.completions.create({ model: "cloud", ...body });
  assert.equal(r.choices.length, 1);
  assert.equal(JSON.parse((await upstream.log()).requests.at(-1).body).suffix, body.suffix);
  await assert.rejects(client.completions.create({ model: "device", ...body }), (e) => e.status === 400 && /device: .*infill/.test(e.message));
});

test("a model's entry is the same each time it is looked at", async () => {
  const first = await client.models.retrieve("cloud");
  await new Promise((resolve) => setTimeout(resolve, 1100)); // its age is told in seconds
  assert.deepEqual(await client.models.retrieve("cloud"), first);
});

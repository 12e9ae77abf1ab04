// SPDX-License-Identifier: Apache-2.0
// The starter model through the whole daemon: commands become calls, the rest is declined and never guessed.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readStream, ROOT, startTandem, tandem, user } from "./lib.mjs";

const t = await startTandem(
  `targets:\n  - name: device\n    tier: device\n    provider: llama\n    model: ${join(ROOT, "models/starter.gguf")}\n    class: command\n    capabilities: [default, embedding]\n`);
const catalogue = JSON.parse(readFileSync(join(ROOT, "models/starter/catalogue.json"), "utf8"));
const DECLINED = "Not for me.";

async function ask(text, tools = catalogue, more = {}) {
  const r = await t.post({ model: "auto", messages: user(text), ...(tools ? { tools } : {}), ...more });
  const body = await r.json();
  if (body.error?.code === "tandem.model.declined") return { declined: true };
  assert.equal(r.status, 200, JSON.stringify(body));
  const message = body.choices[0].message;
  const call = message.tool_calls?.[0]?.function;
  if (!call) return { declined: message.content === DECLINED, text: message.content };
  assert.equal(body.choices[0].finish_reason, "tool_calls");
  return { name: call.name, arguments: JSON.parse(call.arguments) };
}

const commands = {
  "set a timer for 10 minutes": ["timer", { action: "set", duration: "10 minutes" }],
  "turn off the kitchen lights": ["light", { action: "off", room: "kitchen" }],
  "remind me to call the dentist tomorrow at nine":
    ["reminder", { action: "set", text: "call the dentist", date: "tomorrow", time: "nine" }],
  "what is 18 % of 240": ["calculate", { expression: "18 % of 240" }],
  "add milk to my shopping list": ["shopping_list", { action: "add", item: "milk" }],
};
test("what the first command asks for was made while the model was loading", async () => {
  assert.equal((await ask("set a timer for 10 minutes")).name, "timer");
  const metrics = await (await fetch(t.url + "/metrics")).text();
  assert.match(metrics, /^tandem_local_chats_prepared_total 1$/m);
  assert.match(metrics, /^tandem_local_chats_unprepared_total 0$/m);
});

for (const [text, [name, args]] of Object.entries(commands))
  test(text, async () => assert.deepEqual(await ask(text), { name, arguments: args }));

test("an open question is declined", async () => {
  assert.ok((await ask("tell me about the history of the Roman Empire")).declined);
});

test("a tool that is not offered is declined, and one that is offered is used", async () => {
  const without = catalogue.filter((x) => x.function.name !== "timer");
  assert.ok((await ask("set a timer for 10 minutes", without)).declined);
  const only = catalogue.filter((x) => x.function.name === "timer");
  assert.equal((await ask("set a timer for 10 minutes", only)).name, "timer");
});

test("where a call is required, it is the right one", async () => {
  const required = { tool_choice: "required" };
  assert.deepEqual(await ask("set a timer for 10 minutes", catalogue, required),
    { name: "timer", arguments: { action: "set", duration: "10 minutes" } });
  const some = catalogue.filter((x) => ["timer", "light", "weather"].includes(x.function.name));
  assert.deepEqual(await ask("turn off the kitchen lights", some, required),
    { name: "light", arguments: { action: "off", room: "kitchen" } });
});

test("without a temperature an answer is the likeliest one each time", async () => {
  const seen = new Set();
  for (let i = 0; i < 5; i++) seen.add(JSON.stringify(await ask("remind me to call the dentist tomorrow at nine")));
  assert.equal(seen.size, 1);
});

// What it was told is copied out; a text that repeats itself makes a copier lose its place.
test("no answer is half a call", async () => {
  for (const text of ["add no no no no no no no no no no no no to my shopping list", "play Oj Jelena, Jelena, Jelena",
    "what will the weather be at 08:08:08 on 08/08/2008", "how do you spell bananananananana"]) {
    const r = await t.post({ model: "auto", messages: user(text), tools: catalogue });
    const body = await r.json();
    if (r.status !== 200) { assert.equal(body.error.code, "tandem.model.declined", text); continue; }
    const { message, finish_reason } = body.choices[0];
    assert.ok(finish_reason === "tool_calls" || message.content === DECLINED, text);
    for (const c of message.tool_calls ?? []) assert.doesNotThrow(() => JSON.parse(c.function.arguments), text);
  }
});

test("a tool the model was not made for is never called", async () => {
  const other = [{ type: "function", function: { name: "set_timer", parameters: {
    type: "object", properties: { minutes: { type: "integer" } }, required: ["minutes"] } } }];
  assert.ok((await ask("set a timer for 10 minutes", other)).declined);
});

test("a tool with a known name and other parameters is another tool", async () => {
  const other = [{ type: "function", function: { name: "timer", parameters: {
    type: "object", properties: { minutes: { type: "integer" } }, required: ["minutes"] } } }];
  assert.ok((await ask("set a timer for 10 minutes", other)).declined);
});

test("without tools it says something, and claims nothing", async () => {
  const { declined, text } = await ask("turn off the kitchen lights", null);
  assert.ok(declined || text === "No tools were offered, so nothing was done.", text);
});

test("the first words people try are answered, also the one that serve offers", async () => {
  for (const text of ["Hello", "hello", "hi", "thanks", "Hello!", "Who are you?", "test"]) {
    const r = await t.post({ model: "auto", messages: user(text) });
    const body = await r.json();
    assert.equal(r.status, 200, `${text}: ${JSON.stringify(body)}`);
    assert.equal(body.choices[0].finish_reason, "stop");
    assert.match(body.choices[0].message.content, /\.$/);
  }
});

test("a long text is no command", async () => {
  assert.ok((await ask("set a timer for 10 minutes and ".repeat(20))).declined);
});

// What it says in a demanded form means nothing; that it has the form, and ends, is the grammar's doing.
const object = (properties, more = {}) =>
  ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false, ...more });
const depth = (x) => (x.next === null ? 1 : 1 + depth(x.next));
const forms = {
  "an enum": [object({ color: { type: "string", enum: ["red", "green"] } }), (x) => ["red", "green"].includes(x.color)],
  "objects and lists in objects": [object({ a: object({ list: { type: "array", items: { type: "integer" }, minItems: 2, maxItems: 3 } }), on: { type: "boolean" } }),
    (x) => [2, 3].includes(x.a.list.length) && x.a.list.every(Number.isInteger) && typeof x.on === "boolean"],
  "references to definitions": [object({ from: { $ref: "#/$defs/point" }, to: { $ref: "#/$defs/point" } },
    { $defs: { point: object({ x: { type: "integer", minimum: 0, maximum: 9 } }) } }), (x) => x.from.x in [...Array(10)] && x.to.x in [...Array(10)]],
  "a reference to the whole": [object({ n: { enum: [1, 2] }, next: { anyOf: [{ $ref: "#" }, { type: "null" }] } }), (x) => depth(x) > 0],
  "a pattern": [object({ month: { type: "string", pattern: "^[0-9]{4}-[0-9]{2}$" } }), (x) => /^\d{4}-\d{2}$/.test(x.month)],
};
for (const [name, [schema, holds]] of Object.entries(forms))
  test(`a demanded form is kept: ${name}`, async () => {
    const body = { model: "auto", messages: user("x"), max_tokens: 400,
      response_format: { type: "json_schema", json_schema: { name: "it", strict: true, schema } } };
    const choice = (await (await t.client()).chat.completions.create(body)).choices[0];
    assert.equal(choice.finish_reason, "stop");
    assert.ok(holds(JSON.parse(choice.message.content)), choice.message.content);
    const s = await readStream(await t.post({ ...body, stream: true }));
    assert.equal(s.finish, "stop");
    assert.ok(holds(JSON.parse(s.text)), s.text);
  });

test("a schema that means nothing is refused as the schema it is", async () => {
  for (const schema of [{ type: "objekt" }, { $ref: "#/$defs/none" }]) {
    const r = await t.post({ model: "auto", messages: user("x"), response_format: { type: "json_schema", json_schema: { name: "it", schema } } });
    assert.equal(r.status, 400);
    assert.match((await r.json()).error.message, /JSON schema/);
  }
});

test("tools that must not be called leave no call in the text either", async () => {
  const { text } = await ask("set a timer for 10 minutes", catalogue, { tool_choice: "none" });
  assert.ok(text && !/timer|tool_call/.test(text), text);
});

test("embeddings, whole and alike however they travel; how many dimensions is told", async () => {
  const client = await t.client();
  const [a, b] = (await client.embeddings.create({ model: "auto", input: ["set a timer", "play music"] })).data;
  assert.deepEqual([a.index, b.index, a.embedding.length, b.embedding.length], [0, 1, 256, 256]);
  assert.notDeepEqual(a.embedding, b.embedding);
  const plain = await client.embeddings.create({ model: "auto", input: "set a timer", encoding_format: "float" });
  assert.ok(plain.data[0].embedding.every((x, i) => Math.abs(x - a.embedding[i]) < 1e-6));
  assert.ok(plain.usage.prompt_tokens > 0);
  await assert.rejects(client.embeddings.create({ model: "auto", input: "x", dimensions: 8 }), (e) => e.status === 400 && /256/.test(e.message));
});

test("a call streams with its name first and whole arguments", async () => {
  const s = await readStream(await t.post({
    model: "auto", messages: user("add milk to my shopping list"), tools: catalogue, stream: true, temperature: 0 }));
  const calls = s.chunks.flatMap((c) => c.choices?.[0]?.delta?.tool_calls ?? []);
  assert.equal(calls[0].function.name, "shopping_list");
  assert.deepEqual(JSON.parse(calls.map((c) => c.function.arguments ?? "").join("")), { action: "add", item: "milk" });
  assert.equal(s.finish, "tool_calls");
  assert.ok(s.done);
});

test("tandem eval counts what is right, and writes predictions", async () => {
  const row = (id, text, intent, slots) => ({ id, text, intent, slots });
  const rows = [
    row("right", "turn off the kitchen lights", "light.off", { room: "kitchen" }),
    row("other slot", "add milk to my shopping list", "shopping_list.add", { item: "bread" }),
    row("other intent", "what is 18 % of 240", "timer.set", {}),
    row("not for it", "tell me about the history of the Roman Empire", "none", {}),
    { id: "as a call", text: "set a timer for 10 minutes",
      tool_call: { name: "timer", arguments: { action: "set", duration: "10 minutes" } } },
  ];
  const input = join(t.dir, "eval.jsonl"), predictions = join(t.dir, "predictions.jsonl");
  writeFileSync(input, rows.map((r) => JSON.stringify(r)).join("\n") + "\n");
  const run = await tandem(["eval", input, "--json", "--predictions", predictions, "--tools",
    join(ROOT, "models/starter/catalogue.json"), "--config", t.file]);
  assert.equal(run.code, 0, run.stderr);
  const n = JSON.parse(run.stdout);
  assert.equal(n.items, 5);
  assert.equal(n.failed, 0);
  assert.equal(n.accuracy, 80);
  assert.equal(n.in_scope_accuracy, 75);
  assert.equal(n.exact_match, 60);
  // Three slots expected; predicted: room, item, expression, duration; right: room and duration.
  assert.ok(Math.abs(n.slot_f1 - (200 * 2) / (4 + 3)) < 1e-3, n.slot_f1);
  assert.ok(n.p50_ms > 0 && n.p50_ms <= n.p95_ms && n.p95_ms <= n.p99_ms);
  assert.ok(n.ece >= 0 && n.ece <= 1 && n.scope_auroc >= 0 && n.scope_auroc <= 1);
  const lines = readFileSync(predictions, "utf8").trim().split("\n").map((l) => JSON.parse(l));
  assert.deepEqual(lines.map((l) => l.id), rows.map((r) => r.id));
  assert.deepEqual(lines.map((l) => l.intent), ["light.off", "shopping_list.add", "calculate", "none", "timer.set"]);
  assert.deepEqual(lines.map((l) => l.slots),
    [{ room: "kitchen" }, { item: "milk" }, { expression: "18 % of 240" }, {}, { duration: "10 minutes" }]);
  for (const l of lines) assert.deepEqual(Object.keys(l), ["id", "intent", "slots", "confidence", "ms"]);
});

// SPDX-License-Identifier: Apache-2.0
// The modes on the whole daemon, each outcome forced: what a progressive stream may become (confirm, append, replace),
// what is not paid for and not shown, cascade's window, and the hedge.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { ROOT, SLOWER, TANDEM, readStream, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const run = promisify(execFile);
const starter = join(ROOT, "models/starter.gguf");
const CLOUD = "region: us, clearance: internal, quality: 0.9, context: 128000, price: {input: 2.5, output: 10}, timeouts: {connect_ms: 1000, first_token_ms: 5000, idle_ms: 2000, total_ms: 20000}";
const device = (url, more = "") => `  - {name: device, tier: device, provider: openai, base_url: "${url}", model: small, terminal: true, quality: 0.3, continues: true${more}}\n`;
const cloud = (url, name = "cloud", more = "") => `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: big, continues: true, ${CLOUD}${more}}\n`;

// A device and a cloud that tell the same story, each as far as its --tokens go.
async function pair(small, big, more = "") {
  const d = await startUpstream(...small), c = await startUpstream(...big);
  const t = await startTandem(`targets:\n${device(d.url)}${cloud(c.url)}${more}`);
  return { d, c, t };
}

const progressive = (messages, more = {}, wishes = {}) =>
  ({ model: "auto", stream: true, messages, tandem: { mode: "progressive", ...wishes }, ...more });

// What an aware client (docs/protocol.md) has in the end, and how it came to it.
function fold(stream) {
  let text = "";
  const ops = [], seen = [];
  for (const c of stream.chunks) {
    if (c.tandem?.op) ops.push(c.tandem.op);
    if (c.tandem?.op === "replace") text = "";
    text += c.choices?.[0]?.delta?.content ?? c.choices?.[0]?.text ?? "";
    seen.push(text);
  }
  const marks = stream.chunks.filter((c) => c.tandem?.revision);
  assert.deepEqual(marks.map((c) => c.tandem.revision), [...marks.map((c) => c.tandem.revision)].sort((a, b) => a - b));
  const last = stream.chunks.findLast((c) => c.tandem?.attempts)?.tandem;
  return { text, ops, seen, last };
}

const whole = async (t, messages, model = "cloud") =>
  (await (await t.post({ model, messages })).json()).choices[0].message.content;

test("progressive, confirm: the better answer says the same, so nothing is said twice", async () => {
  const { t } = await pair(["--tokens", "12"], ["--tokens", "12", "--first-token-ms", "150"]);
  const q = user("where do rivers begin");
  const s = await readStream(await t.post(progressive(q)));
  const f = fold(s);
  assert.deepEqual(f.ops, ["draft", "confirm"]);
  assert.equal(f.text, await whole(t, q));
  assert.equal(s.text, f.text, "an unaware reader of the same bytes has the same text");
  const confirm = s.chunks.find((c) => c.tandem?.op === "confirm").tandem;
  assert.equal(confirm.origin.target, "cloud");
  assert.equal(confirm.draft.target, "device");
  assert.equal(confirm.final, true);
  assert.equal(f.last.target, "cloud");
  assert.equal(s.finish, "stop");
  assert.ok(s.done);
  await t.stop();
});

test("progressive, append: the better answer goes on where the draft ended", async () => {
  const { t } = await pair(["--tokens", "5"], ["--tokens", "20", "--first-token-ms", "150"]);
  const q = user("where do rivers end");
  const s = await readStream(await t.post(progressive(q)));
  const f = fold(s);
  assert.deepEqual(f.ops, ["draft", "append"]);
  assert.equal(f.text, await whole(t, q));
  assert.equal(s.text, f.text);
  assert.equal(f.text.startsWith(await whole(t, q, "device")), true);
  assert.equal(f.last.target, "cloud");
  await t.stop();
});

test("progressive, append in the middle of a draft that is still being written", async () => {
  const { d, t } = await pair(["--tokens", "60", "--token-ms", "60"], ["--tokens", "60", "--first-token-ms", "200"]);
  const q = user("how do rivers bend");
  const f = fold(await readStream(await t.post(progressive(q))));
  assert.deepEqual(f.ops, ["draft", "append"]);
  assert.equal(f.text, await whole(t, q));
  assert.ok((await d.log()).requests[0].tokens < 60, "the draft was stopped");
  await t.stop();
});

test("progressive, replace: the better answer differs; the draft was there first", async () => {
  const firstTokenMs = Math.round(800 * SLOWER), c = await startUpstream("--tokens", "30", "--first-token-ms", `${firstTokenMs}`);
  const t = await startTandem(`targets:\n  - {name: device, tier: device, provider: llama, model: "${starter}", class: command, quality: 0.35}\n${cloud(c.url)}`);
  await t.post({ model: "device", messages: user("hello"), max_tokens: 5 }); // loads the model
  const q = user("turn on the kitchen lights");
  const began = Date.now();
  const r = await t.post(progressive(q));
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  let bytes = "", firstMs = 0;
  for (let p; !(p = await reader.read()).done;) {
    bytes += p.value;
    if (!firstMs && /"content":"[^"]/.test(bytes)) firstMs = Date.now() - began;
  }
  const s = await readStream(new Response(bytes));
  const f = fold(s);
  assert.deepEqual(f.ops, ["draft", "replace"]);
  assert.equal(f.text, await whole(t, q));
  assert.ok(firstMs < firstTokenMs, `the draft's first text came after ${firstMs} ms`);
  console.log(`# draft's first text after ${firstMs} ms; the cloud's first token takes ${firstTokenMs} ms`);
  await t.stop();
});

for (const kind of ["chat", "completions"])
  test(`progressive ${kind}: the cloud is not paid for every keystroke, only for where the person stays`, async () => {
    const { d, c, t } = await pair(["--tokens", "5"], ["--tokens", "20"]);
    const path = kind === "chat" ? "/v1/chat/completions" : "/v1/completions";
    const body = (typed, ms) => ({ model: "auto", stream: true, ...(kind === "chat" ? { messages: user(typed) } : { prompt: typed }),
      tandem: { mode: "progressive", refine_after_ms: ms } });
    const shown = kind === "chat" ? /"content":"[^"]/ : /"text":"[^"]/;
    // Types on as soon as the suggestion is there: each keystroke drops the request before.
    const line = "function add(", keystrokes = [line.slice(0, 9), line.slice(0, 10), line];
    for (const typed of keystrokes) {
      const abort = new AbortController();
      const r = await fetch(t.url + path, { method: "POST", signal: abort.signal,
        headers: { "content-type": "application/json" }, body: JSON.stringify(body(typed, 60000)) });
      const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; !shown.test(text);) text += (await reader.read()).value;
      abort.abort();
    }
    const rows = await until(async () => {
      const all = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows;
      return all.length === keystrokes.length && all;
    }, "a ledger row for each");
    assert.deepEqual(rows.map((x) => x.target), keystrokes.map(() => "device"));
    assert.equal((await d.log()).requests.length, keystrokes.length);
    assert.equal((await c.log()).requests.length, 0);
    assert.equal(await t.metric("tandem_requests_running"), 0);
    // Who stays is served: the pause is waited for, not skipped.
    const began = Date.now();
    const s = await readStream(await t.post(body(`${line}a, b)`, 300), path));
    const f = fold(s);
    assert.deepEqual(f.ops, ["draft", "append"]);
    assert.equal(f.last.target, "cloud");
    assert.ok(s.done);
    assert.ok(Date.now() - began >= 300);
    assert.equal((await c.log()).requests.length, 1);
    await t.stop();
  });

test("progressive: leaving stops both sides, and both are in the ledger", async () => {
  const { d, c, t } = await pair(["--tokens", "500", "--token-ms", "20"], ["--tokens", "500", "--first-token-ms", "3000"]);
  const abort = new AbortController();
  const r = await fetch(`${t.url}/v1/chat/completions`, { method: "POST", signal: abort.signal,
    headers: { "content-type": "application/json" }, body: JSON.stringify(progressive(user("leaving"))) });
  await r.body.getReader().read();
  await until(async () => (await c.log()).requests.length === 1, "the cloud to be asked");
  abort.abort();
  await until(async () => (await d.log()).requests[0].closed_ms > 0 && (await c.log()).requests[0].closed_ms > 0, "both to be closed");
  assert.ok((await d.log()).requests[0].tokens < 500);
  const rows = await until(async () => {
    const all = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows;
    return all.length === 2 && all;
  }, "both ledger rows");
  assert.deepEqual(rows.map((x) => [x.target, x.outcome]).sort(), [["cloud", "cancelled"], ["device", "cancelled"]]);
  await t.stop();
});

test("progressive: a better answer that fails leaves the draft, marked degraded", async () => {
  const { c, t } = await pair(["--tokens", "5"], ["--tokens", "20"]);
  await c.standing({ status: 503 });
  const q = user("what remains");
  const s = await readStream(await t.post(progressive(q)));
  const f = fold(s);
  assert.ok(!f.ops.includes("replace") && !f.ops.includes("append"), f.ops.join());
  assert.equal(f.text, await whole(t, q, "device"));
  assert.equal(f.last.degraded, true);
  assert.equal(f.last.target, "device");
  assert.ok(s.done);
  await t.stop();
});

test("progressive completions: an instant suggestion, refined", async () => {
  const { t } = await pair(["--tokens", "4"], ["--tokens", "16", "--first-token-ms", "150"]);
  const body = { model: "auto", prompt: "function add(a, b) {", stream: true, max_tokens: 16, tandem: { mode: "progressive" } };
  const s = await readStream(await t.post(body, "/v1/completions"));
  const f = fold(s);
  assert.deepEqual(f.ops, ["draft", "append"]);
  const plain = await (await t.post({ ...body, model: "cloud", stream: false, tandem: undefined }, "/v1/completions")).json();
  assert.equal(f.text, plain.choices[0].text);
  assert.ok(s.chunks.every((c) => c.object === "text_completion"));
  await t.stop();
});

test("progressive: the official client reads the stream; one that did not opt in sees one answer", async () => {
  const { t } = await pair(["--tokens", "5"], ["--tokens", "20", "--first-token-ms", "100"], "policy: {rules: [{name: p, mode: progressive}]}\n");
  const client = await t.client();
  const q = user("where do rivers end");
  let text = "";
  const ops = [];
  for await (const chunk of await client.chat.completions.create(progressive(q))) {
    if (chunk.tandem?.op) ops.push(chunk.tandem.op);
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.deepEqual(ops, ["draft", "append"]);
  const plain = await whole(t, q);
  assert.equal(text, plain);
  let unaware = "", from = "";
  const finishes = [];
  for await (const chunk of await client.chat.completions.create({ model: "auto", stream: true, messages: q })) {
    assert.equal(chunk.tandem?.op, undefined);
    from = chunk.tandem?.target ?? from;
    unaware += chunk.choices[0]?.delta?.content ?? "";
    if (chunk.choices[0]?.finish_reason) finishes.push(chunk.choices[0].finish_reason);
  }
  assert.equal(unaware, await whole(t, q, from)); // one answer, whole, of one target
  assert.deepEqual(finishes, ["stop"]);
  await t.stop();
});

test("progressive: the example of thirty lines, and `tandem ask --progressive`, end with the cloud's text", async () => {
  const { t } = await pair(["--tokens", "5"], ["--tokens", "20", "--first-token-ms", "200"]);
  const q = "where do rivers end";
  const plain = await whole(t, user(q));
  const { stdout } = await run(process.execPath, [join(ROOT, "examples/progressive.mjs"), q, `${t.url}/v1`]);
  const screens = stdout.split("\x1b[2J\x1b[H");
  assert.ok(screens.at(-1).includes(plain), screens.at(-1));
  assert.ok(screens.some((s) => s.includes("draft")));
  const ask = await tandem(["ask", "--progressive", q, "--config", t.file]);
  assert.equal(ask.code, 0, ask.stderr);
  assert.ok(ask.stdout.includes(plain), ask.stdout);
  await t.stop();
});

test("`tandem ask --progressive` on a terminal draws the better answer over the draft", async (context) => {
  const c = await startUpstream("--tokens", "10", "--first-token-ms", `${Math.round(400 * SLOWER)}`);
  const t = await startTandem(`targets:\n  - {name: device, tier: device, provider: llama, model: "${starter}", class: command, quality: 0.35}\n${cloud(c.url)}`);
  await t.post({ model: "device", messages: user("hello"), max_tokens: 5 });
  const line = `${TANDEM} ask --progressive --no-tools "turn on the kitchen lights" --config ${t.file}`;
  const { stdout } = await run("script", ["-qec", line, "/dev/null"]).catch((e) => e.code === "ENOENT" ? context.skip("no script(1)") ?? {} : Promise.reject(e));
  if (stdout) {
    const plain = await whole(t, [{ role: "user", content: "turn on the kitchen lights" }]);
    const [draft, ...rest] = stdout.split("\x1b[J");
    assert.ok(draft.trim().length > 0 && !draft.includes(plain));
    assert.ok(rest.at(-1).startsWith(plain), stdout);
  }
  await t.stop();
});

test("`tandem ask --progressive` takes away a draft of several screen lines, and its calls, before the better answer stands", async (context) => {
  const { d, c, t } = await pair(["--tokens", "5"], ["--tokens", "10", "--first-token-ms", "400"]);
  const ask = async (q, columns) => {
    const line = `stty cols ${columns}; ${TANDEM} ask --progressive --model auto "${q}" --config ${t.file}`;
    return (await run("script", ["-qec", line, "/dev/null"]).catch((e) => e.code === "ENOENT" ? context.skip("no script(1)") ?? {} : Promise.reject(e))).stdout;
  };
  // 25 columns, twelve characters of two columns each, four more columns: three lines of a screen of 20.
  await d.standing({ say: "a draft that goes wrong: \u6c34\u6c34\u6c34\u6c34\u6c34\u6c34\u6c34\u6c34\u6c34\u6c34\u6c34\u6c34 end" });
  await c.standing({ say: "better", first_token_ms: 400 });
  const narrow = await ask("how many lines", 20);
  if (narrow === undefined) return t.stop();
  assert.ok(narrow.includes("\x1b[2A\r\x1b[J"), JSON.stringify(narrow));
  const wide = await ask("how many lines", 120);
  assert.ok(wide.includes("\r\x1b[J") && !/\x1b\[\d+A/.test(wide), JSON.stringify(wide));
  // A call that was drafted is not glued to the one that replaces it.
  const tool = { type: "function", function: { name: "timer", parameters: { type: "object" } } };
  const tools = join(t.dir, "tools.json");
  (await import("node:fs")).writeFileSync(tools, JSON.stringify([tool]));
  await d.standing({});
  await c.standing({ say: "no call at all", first_token_ms: 400 });
  const json = async () => JSON.parse((await tandem(["ask", "--progressive", "--json", "--tools", tools, 'TOOL:timer {"minutes": 1}', "--config", t.file])).stdout);
  assert.deepEqual((await json()).tool_calls, []);
  assert.equal((await json()).text, "no call at all");
  await t.stop();
});

test("`tandem ask`: an answer cannot steer the terminal; into a pipe it goes as it is", async (context) => {
  const c = await startUpstream();
  const t = await startTandem(`targets:
  - {name: cloud, tier: cloud, provider: openai, base_url: "${c.url}", model: big, region: us, clearance: internal}
`);
  const said = "one\x1b]0;title\x07 two\x1b[2Jthree \u009b31mfour\x7f\tfive\n\u6c34 six\rseven";
  await c.standing({ say: said });
  const piped = await tandem(["ask", "say it", "--config", t.file]);
  assert.ok(piped.stdout.includes(said), JSON.stringify(piped));
  const script = await run("script", ["-qec", `${TANDEM} ask --no-color "say it" --config ${t.file}`, "/dev/null"]).catch((e) => e.code === "ENOENT" ? undefined : Promise.reject(e));
  if (!script)
    context.skip("no script(1)");
  else
    assert.ok(script.stdout.includes("one]0;title two[2Jthree 31mfour\tfive\r\n\u6c34 sixseven"), JSON.stringify(script.stdout));
  await t.stop();
  await c.stop();
});

test("cascade: nothing of a draft that is not trusted is shown, streaming or not; each target has its own threshold", async () => {
  const c = await startUpstream("--tokens", "20");
  const t = await startTandem(`targets:
  - {name: sure, tier: device, provider: llama, model: "${starter}", quality: 0.3, cascade_threshold: 0}
${cloud(c.url)}policy: {default: {cascade: {threshold: 1, hold_tokens: 8, hold_ms: 400}}}\n`);
  const q = user("hello there");
  await t.post({ model: "sure", messages: q, max_tokens: 20 });
  const draft = await whole(t, q, "sure");
  const ask = (stream) => t.post({ model: "auto", messages: q, stream, max_tokens: 20, tandem: { mode: "cascade" } });
  const trusted = await (await ask(false)).json();
  assert.equal(trusted.tandem.target, "sure", JSON.stringify(trusted.tandem));
  assert.equal((await c.log()).requests.length, 0);
  const { readFileSync, writeFileSync } = await import("node:fs");
  writeFileSync(t.file, readFileSync(t.file, "utf8").replace("cascade_threshold: 0}", "cascade_threshold: 1}"));
  t.child.proc.kill("SIGHUP");
  const plain = await whole(t, q);
  const unsure = await until(async () => {
    const body = await (await ask(false)).json();
    return body.tandem.target === "cloud" && body;
  }, "the new threshold");
  assert.equal(unsure.choices[0].message.content, plain);
  assert.ok(unsure.tandem.attempts.some((a) => a.target === "sure"));
  const s = await readStream(await ask(true));
  assert.equal(s.text, plain);
  assert.ok(!s.chunks.some((x) => x.tandem?.op));
  assert.notEqual(draft, plain);
  await c.down(true); // nobody better: the unsure answer, told as such
  const alone = await (await ask(false)).json();
  assert.equal(alone.tandem.target, "sure");
  assert.equal(alone.tandem.degraded, true);
  assert.equal(alone.choices[0].message.content, draft);
  await t.stop();
});

test("cascade: what is held back is judged after hold_ms at the latest, long before the draft is whole", async () => {
  const c = await startUpstream("--tokens", "12");
  const slow = join(process.env.BUILD, "tests/support/slow.gguf"); // its four hundred tokens take seconds
  const config = (threshold, holdMs) => `targets:
  - {name: device, tier: device, provider: llama, model: "${slow}", quality: 0.3, capabilities: [chat, completion]}
${cloud(c.url)}policy: {default: {cascade: {threshold: ${threshold}, hold_tokens: 100000, hold_ms: ${holdMs}}}}\n`;
  const body = (max_tokens, more) => ({ model: "auto", prompt: "one two three", max_tokens, tandem: { mode: "cascade" }, ...more });
  const drafted = (info) => info.attempts.find((x) => x.target === "device").usage.completion_tokens;
  const unsure = await startTandem(config(0.9, 150));
  const first = await (await unsure.post(body(400), "/v1/completions")).json();
  assert.equal(first.tandem.target, "cloud", JSON.stringify(first.tandem));
  assert.ok(drafted(first.tandem) < 400, `${drafted(first.tandem)} tokens were drafted`);
  const s = await readStream(await unsure.post(body(400, { stream: true }), "/v1/completions"));
  assert.equal(s.text, first.choices[0].text, "nothing of the draft is in it");
  assert.ok(drafted(s.chunks.findLast((x) => x.tandem?.attempts).tandem) < 400);
  await unsure.stop();
  // Sure enough: what was held is shown while the rest is still being written.
  const sure = await startTandem(config(0.0001, 150));
  const abort = new AbortController();
  const r = await fetch(`${sure.url}/v1/completions`, { method: "POST", signal: abort.signal,
    headers: { "content-type": "application/json" }, body: JSON.stringify(body(400, { stream: true })) });
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let seen = ""; !/"text":"[^"]/.test(seen);) seen += (await reader.read()).value;
  abort.abort();
  const row = await until(async () =>
    JSON.parse((await tandem(["ledger", "tail", "--json", "--config", sure.file])).stdout).rows.at(-1), "the ledger row");
  assert.equal(row.outcome, "cancelled");
  assert.ok(row.completion_tokens > 0 && row.completion_tokens < 400, `${row.completion_tokens} tokens`);
  await sure.stop();
  // With time enough it is the window in tokens, or the draft's end, that counts.
  const patient = await startTandem(config(0.9, 60000));
  const whole = await (await patient.post(body(40), "/v1/completions")).json();
  assert.equal(whole.tandem.target, "cloud");
  assert.equal(drafted(whole.tandem), 40);
  await patient.stop();
});

test("hedge: after the first target's own p95 a second is asked, the loser is stopped and metered; rarely, and not for money", async () => {
  const a = await startUpstream("--tokens", "8"), b = await startUpstream("--tokens", "8"), p = await startUpstream("--tokens", "8");
  const free = (name, url, q) => `  - {name: ${name}, tier: edge, provider: openai, base_url: "${url}", model: m, terminal: true, region: us, clearance: internal, quality: ${q}}\n`;
  const t = await startTandem(`targets:\n${free("first", a.url, 0.8)}${free("second", b.url, 0.7)}${cloud(p.url, "paid")}` +
    "policy: {default: {prefer: private}}\n");
  const ask = (i) => t.post({ model: "auto", messages: user(`hedge ${i}`), stream: true, tandem: { mode: "hedge" } });
  // What p95 and the share are reckoned from: far more than a busy machine adds to the quick ones after it.
  await a.standing({ first_token_ms: 400 });
  for (let i = 0; i < 2; i++)
    await Promise.all(Array.from({ length: 25 }, async (_, k) =>
      readStream(await t.post({ model: "auto", messages: user(`usual ${i} ${k}`), stream: true }))));
  await a.standing({});
  for (let i = 0; i < 10; i++) await readStream(await ask(i));
  assert.equal((await b.log()).requests.length, 0, "quick answers are not hedged");
  await a.standing({ first_token_ms: 3000 });
  const began = Date.now();
  const s = await readStream(await ask("slow"));
  assert.ok(Date.now() - began < 3000, "the first was not waited for");
  const info = s.chunks.findLast((c) => c.tandem?.attempts).tandem;
  assert.equal(info.target, "second");
  assert.deepEqual(info.attempts.map((x) => x.target), ["first", "second"]);
  assert.equal((await b.log()).requests.length, 1);
  await until(async () => (await a.log("?requests=61")).requests.at(-1).closed_ms > 0, "the loser to be stopped");
  const rows = await until(async () => {
    const all = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows;
    return all.some((x) => x.outcome === "lost_hedge") && all;
  }, "the loser's row");
  assert.equal(rows.find((x) => x.outcome === "lost_hedge").target, "first");
  // The share is used up: the next slow one is waited for (2 % of 62 calls).
  await a.standing({ first_token_ms: 1500 });
  await readStream(await ask("again"));
  assert.equal((await b.log()).requests.length, 1);
  assert.equal((await p.log()).requests.length, 0, "nobody paid for a hedge");
  await t.stop();
});

test("hedge: at most 2 % of calls however many are slow; the loser is stopped, metered and part of what the answer cost", async () => {
  const CALLS = 150;
  const a = await startUpstream("--tokens", "8", "--token-ms", "20", "--first-token-ms", "250"), b = await startUpstream("--tokens", "8", "--token-ms", "20");
  const t = await startTandem(`targets:\n${cloud(a.url, "first", ", hedge: true")}${cloud(b.url, "second", ", hedge: true").replace("quality: 0.9", "quality: 0.8")}` +
    "policy: {default: {prefer: quality, hedge: {after_ms: 20}}}\n", { args: ["--workers", "8"] }); // they ask all at once
  const answers = [];
  let hedged = [];
  for (let i = 0; i < CALLS; i += 25) {
    if (i === 75) t.child.proc.kill("SIGHUP"); // the share is of all calls, not of those since
    answers.push(...await Promise.all(Array.from({ length: 25 }, async (_, k) =>
      (await t.post({ model: "auto", messages: user(`all are slow ${i + k}`), tandem: { mode: "hedge" } })).json())));
    hedged = answers.filter((x) => x.tandem?.attempts.length > 1);
    assert.ok(hedged.length <= Math.floor(0.02 * answers.length),
      `${hedged.length} of ${answers.length}: ${JSON.stringify(hedged.map((x) => x.tandem.attempts))}`);
  }
  assert.ok(answers.every((x) => x.choices?.[0].finish_reason === "stop"));
  assert.ok(hedged.length >= 1);
  assert.equal((await b.log()).requests.length, hedged.length, "who may not hedge leaves no trace of it");
  const rows = await until(async () => {
    const all = JSON.parse((await tandem(["ledger", "tail", "--limit", "1000", "--json", "--config", t.file])).stdout).rows;
    return all.length === CALLS + hedged.length && all;
  }, "a row for each attempt");
  for (const x of hedged) {
    const own = rows.filter((r) => r.exchange === x.tandem.exchange), loser = own.find((r) => r.outcome === "lost_hedge");
    assert.equal(own.length, 2);
    assert.equal(own.filter((r) => r.outcome === "ok").length, 1);
    assert.ok(loser.prompt_tokens > 0 && loser.cost_nusd > 0, JSON.stringify(loser));
    assert.equal(x.tandem.cost_nusd, own[0].cost_nusd + own[1].cost_nusd);
    assert.equal(x.tandem.usage_total.prompt_tokens, own[0].prompt_tokens + own[1].prompt_tokens);
    assert.ok(x.usage.total_tokens < x.tandem.usage_total.total_tokens, "the answer's own usage is the winner's alone");
  }
  // Stopped, not left to finish: nobody reads what the losers would still have said.
  const cut = async (up) => (await up.log()).requests.filter((r) => r.tokens < 8 && r.closed_ms > 0).length;
  await until(async () => (await cut(a)) + (await cut(b)) === hedged.length, "the losers' connections to be closed");
  await t.stop();
});

test("a stream that has begun and is silent gets comments, which are no events; before its head there are none", async () => {
  const a = await startUpstream("--tokens", "6");
  const t = await startTandem(`targets:\n${cloud(a.url)}keepalive_ms: 100\n`);
  const q = user("be slow");
  const plain = await whole(t, q);
  await a.standing({ first_token_ms: 500, token_ms: 350 });
  const r = await t.post({ model: "cloud", stream: true, messages: q });
  const bytes = await r.text();
  assert.ok(!bytes.startsWith(":"), "the head waits for the first token");
  assert.ok(bytes.split("\n\n").filter((line) => line === ": keep-alive").length >= 3, bytes);
  const s = await readStream(new Response(bytes));
  assert.equal(s.text, plain);
  assert.ok(s.done);
  let official = "";
  for await (const chunk of await (await t.client()).chat.completions.create({ model: "cloud", stream: true, messages: q }))
    official += chunk.choices[0]?.delta?.content ?? "";
  assert.equal(official, plain);
  await t.stop();
});

test("a cut answer goes on with the mark that the server wants", async () => {
  const a = await startUpstream("--tokens", "30"), b = await startUpstream("--tokens", "30"), c = await startUpstream("--tokens", "30");
  const t = await startTandem("targets:\n" + cloud(a.url, "first") +
    cloud(b.url, "vllm", ", continue_mark: vllm").replace("quality: 0.9", "quality: 0.8") +
    cloud(c.url, "mistral", ", continue_mark: mistral").replace("quality: 0.9", "quality: 0.7").replaceAll("continues: true, ", "") +
    "policy: {default: {prefer: quality}}\n");
  const q = user("go on");
  const plain = await whole(t, q, "first");
  await a.standing({ cut_after_tokens: 10, token_ms: 1 });
  await b.standing({ cut_after_tokens: 10, token_ms: 1 });
  const s = await readStream(await t.post({ model: "auto", stream: true, messages: q }));
  assert.equal(s.text, plain);
  const vllm = JSON.parse((await b.log()).requests.at(-1).body), mistral = JSON.parse((await c.log()).requests.at(-1).body);
  assert.equal(vllm.continue_final_message, true);
  assert.equal(vllm.add_generation_prompt, false);
  assert.equal(mistral.messages.at(-1).prefix, true);
  assert.equal(mistral.continue_final_message, undefined);
  assert.ok(plain.startsWith(mistral.messages.at(-1).content));
  await t.stop();
});

test("cascade: the unsure draft goes along only where the policy says so, and not where it would tell more", async () => {
  for (const pass of [true, false]) {
    const c = await startUpstream("--tokens", "8");
    const t = await startTandem(`targets:
  - {name: small, tier: device, provider: llama, model: "${starter}", quality: 0.3, cascade_threshold: 1}
${cloud(c.url)}policy: {default: {cascade: {pass_draft: ${pass}, hold_tokens: 4}}}\n`);
    const q = user("hello there");
    await t.post({ model: "small", messages: q, max_tokens: 12 });
    const r = await (await t.post({ model: "auto", messages: q, max_tokens: 12, tandem: { mode: "cascade" } })).json();
    assert.equal(r.tandem.target, "cloud");
    const sent = JSON.parse((await c.log()).requests.at(-1).body).messages;
    assert.equal(sent.length, pass ? 2 : 1);
    if (pass) assert.match(sent[1].content, /smaller model has drafted/);
    await t.stop();
  }
});

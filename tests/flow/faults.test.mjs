// SPDX-License-Identifier: Apache-2.0
// Sixteen ways a provider fails, each streaming and not: the caller gets the complete answer (for a content policy: the
// provider's reason), the provider sees a well-behaved caller, and the process is healthy afterwards.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { readStream, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const PROMPT = "tell me about rivers [tokens=60]";

const quick = "timeouts: {connect_ms: 500, first_token_ms: 700, idle_ms: 500, total_ms: 20000}";
const target = (name, url, quality) =>
  `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: model-${name}, region: us, clearance: internal, ` +
  `price: {input: 1, output: 10}, quality: ${quality}, context: ${name === "second" ? 128000 : 64000}, continues: true, ${quick}}\n`;

// What the process holds. Memory only where no sanitizer keeps what was freed: there it looks for leaks itself, at the end.
function holds(t) {
  const status = readFileSync(`/proc/${t.child.proc.pid}/status`, "utf8");
  const number = (name) => Number(status.match(new RegExp(`^${name}:\\s+(\\d+)`, "m"))[1]);
  return { threads: number("Threads"), fds: readdirSync(`/proc/${t.child.proc.pid}/fd`).length,
           kib: process.env.ASAN_OPTIONS || process.env.TSAN_OPTIONS ? 0 : number("VmRSS") };
}

// Two clouds of one kind: the first is better and preferred, the second stands behind it. Both have been asked once, so
// that what the process keeps for them is there.
async function pair() {
  const a = await startUpstream("--tokens", "60"), b = await startUpstream("--tokens", "60");
  const t = await startTandem(`targets:\n${target("first", a.url, 0.95)}${target("second", b.url, 0.5)}` +
    "policy: {default: {prefer: quality}}\n");
  for (const stream of [true, false]) await (await t.post({ model: "second", messages: user(PROMPT), stream })).text();
  const r = await t.post({ model: "auto", messages: user(PROMPT) });
  const plain = (await r.json()).choices[0].message.content;
  assert.equal(r.headers.get("x-tandem-target"), "first");
  await (await t.post({ model: "auto", messages: user(PROMPT), stream: true })).text();
  await a.reset();
  await b.reset();
  const before = holds(t);
  // Nothing runs on, at a provider or here, and nothing is kept.
  const healthy = async () => {
    for (const up of [a, b])
      await until(async () => (await up.log()).requests.every((x) => x.ended_ms >= 0 || x.closed_ms >= 0), "every request to end or be dropped");
    assert.equal((await fetch(t.url + "/healthz")).status, 200);
    await until(async () => (await t.metric("tandem_requests_running")) === 0, "no request to run");
    // One more connection of the test's own to it, and one to a provider that took another's place.
    await until(() => holds(t).threads <= before.threads && holds(t).fds <= before.fds + 2, `what it holds to be given back: ${JSON.stringify(before)}`);
    assert.ok(holds(t).kib <= before.kib + 4096, `${before.kib} KiB before, ${holds(t).kib} after`);
    await t.stop();
  };
  return { a, b, t, plain, healthy };
}

async function ask(t, stream) {
  const r = await t.post({ model: "auto", messages: user(PROMPT), stream });
  if (!stream || r.status !== 200) {
    const body = await r.json();
    return { status: r.status, text: body.choices?.[0]?.message?.content, finish: body.choices?.[0]?.finish_reason,
             error: body.error, model: body.model, tandem: body.tandem, done: true };
  }
  const s = await readStream(r);
  return { status: r.status, ...s, tandem: s.chunks.findLast((c) => c.tandem?.attempts)?.tandem };
}

// Every request that a provider saw is one that it can answer: the whole question, and at most what the client has been
// shown of an answer.
function assertWellFormed(requests, plain) {
  for (const r of requests) {
    assert.equal(r.path, "/v1/chat/completions");
    assert.match(r.headers["content-type"], /^application\/json/);
    const { messages } = JSON.parse(r.body);
    assert.equal(messages[0].content, PROMPT);
    assert.ok(messages.length <= 2);
    if (messages[1]) assert.ok(messages[1].role === "assistant" && messages[1].content.length > 0 && plain.startsWith(messages[1].content));
  }
}

// Name, behaviour of the first upstream, tries it may see; `gap_ms`: between any two; `closed`: the next question does not
// ask it either.
const faults = [
  ["429 with Retry-After", { status: 429, retry_after: "30" }, 1, { closed: true }],
  ["429 with a Retry-After worth waiting for", { status: 429, retry_after: "1", once: true }, 2, { gap_ms: 1000 }],
  ["429 without, persistent", { status: 429 }, 3],
  ["500 once", { status: 500, once: true }, 2],
  ["503 persistent", { status: 503 }, 3],
  ["reset before headers", { reset: true }, 3],
  ["accepts and never answers", { hang: true }, 1],
  ["first token after 20 s", { first_token_ms: 20000 }, 1],
  ["cut after 40 of 60 tokens", { cut_after_tokens: 40, token_ms: 1 }, 1],
  ["silence after 20 tokens", { silence_after_tokens: 20, token_ms: 1 }, 1],
  ["one malformed event among good ones", { malformed_at: 10 }, 2],
  ["no [DONE]", { no_done: true }, 1],
  ["no end after the finish", { open_end: true }, 1],
  ["400 context length", { context_length: true }, 1],
];

for (const stream of [true, false]) {
  for (const [name, fault, tries, rule = {}] of faults) {
    test(`${name}, ${stream ? "streaming" : "whole"}`, async () => {
      const { a, b, t, plain, healthy } = await pair();
      const { once, ...behaviour } = fault;
      if (once) await a.script(behaviour);
      else await a.standing(behaviour);
      const got = await ask(t, stream);
      assert.equal(got.status, 200, JSON.stringify(got.error));
      assert.equal(got.error ?? null, null);
      assert.equal(got.text, plain);
      assert.equal(got.finish, "stop");
      assert.ok(got.done);
      // What was worked on before it broke off is estimated, the question too, and is part of what it cost.
      for (const x of got.tandem.attempts.filter((x) => x.outcome !== "ok" && x.usage.completion_tokens > 0))
        assert.ok(x.usage.estimated && x.usage.prompt_tokens > 0 && x.cost_usd > x.usage.completion_tokens * 10e-6, JSON.stringify(x));
      const seen = (await a.log()).requests;
      assert.ok(seen.length >= 1 && seen.length <= tries, `the first upstream saw ${seen.length} requests`);
      assertWellFormed(seen, plain);
      assertWellFormed((await b.log()).requests, plain);
      if (rule.gap_ms) {
        assert.equal(seen.length, 2, "it was waited for");
        assert.ok(seen[1].at_ms - seen[0].at_ms >= rule.gap_ms, `asked again after ${seen[1].at_ms - seen[0].at_ms} ms`);
      }
      if (rule.closed) {
        assert.equal((await ask(t, stream)).text, plain);
        assert.equal((await a.log()).requests.length, seen.length, "asked again before the time it named");
      }
      await healthy();
    });
  }

  test(`content policy is told, not routed around, ${stream ? "streaming" : "whole"}`, async () => {
    const { a, b, t, plain, healthy } = await pair();
    await a.standing({ content_policy: true });
    const got = await ask(t, stream);
    assert.equal(got.status, 400);
    assert.equal(got.error.code, "tandem.content_policy");
    assert.equal(got.error.message, "Your request was rejected as a result of our safety system.", "the provider's reason");
    assert.equal((await a.log()).requests.length, 1, "asked again, it would say the same");
    assertWellFormed((await a.log()).requests, plain);
    assert.equal((await b.log()).requests.length, 0);
    await healthy();
  });

  test(`a cut stream and a fallback that refuses a prefix, ${stream ? "streaming" : "whole"}`, async () => {
    const { a, b, t, plain, healthy } = await pair();
    await a.standing({ cut_after_tokens: 40, token_ms: 1 });
    await b.standing({ refuse_prefix: true });
    const got = await ask(t, stream);
    // Both upstreams answer by the same rule, so the fresh answer reproduces what was sent: spliced without a seam.
    assert.equal(got.text, plain);
    assert.equal(got.finish, "stop");
    const seen = (await b.log()).requests;
    assert.equal((await a.log()).requests.length, 1);
    assert.ok(seen.length <= 2, `the second upstream saw ${seen.length} requests`);
    assert.equal(JSON.parse(seen.at(-1).body).messages.length, 1, "asked afresh once it has refused the prefix");
    assertWellFormed(seen, plain);
    await healthy();
  });

  test(`a failed primary: the fallback's model and usage are told, ${stream ? "streaming" : "whole"}`, async () => {
    const { a, t, healthy } = await pair();
    await a.standing({ status: 500 });
    const r = await t.post({ model: "auto", messages: user(PROMPT), stream, stream_options: stream ? { include_usage: true } : undefined });
    const body = stream ? (await readStream(r)).chunks.findLast((c) => c.usage) : await r.json();
    assert.equal(body.usage.completion_tokens, 60);
    assert.equal(body.model, "model-second");
    assert.equal(r.headers.get("x-tandem-target"), "second");
    // What failed is no completion and costs nothing, in the answer and in the ledger.
    assert.equal(body.tandem.usage_total.completion_tokens, 60);
    const winner = body.tandem.attempts.at(-1), failed = body.tandem.attempts.slice(0, -1);
    assert.ok(failed.length >= 1 && failed.every((x) => x.target === "first" && x.usage.completion_tokens === 0 && x.cost_usd === 0));
    assert.equal(body.tandem.cost_usd, winner.cost_usd);
    const rows = await until(async () => {
      const all = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows.filter((x) => x.exchange === body.tandem.exchange);
      return all.length === body.tandem.attempts.length && all;
    }, "the rows");
    assert.ok(rows.every((x) => x.outcome === "ok" ? x.completion_tokens === 60 && x.cost_nusd > 0 : x.outcome === "failed" && x.completion_tokens === 0 && x.cost_nusd === 0), JSON.stringify(rows));
    await healthy();
  });
}

test("an answer that nobody could go on with tells what all tries used and cost", async () => {
  const { a, t } = await pair();
  await a.standing({ cut_after_tokens: 5, token_ms: 1 });
  const s = await readStream(await t.post({ model: "first", messages: user(PROMPT), stream: true }));
  const { usage_total, cost_nusd, attempts } = s.chunks.at(-1).tandem;
  assert.equal(s.error.code, "tandem.upstream.cut");
  for (const kind of ["prompt_tokens", "completion_tokens"]) {
    assert.ok(usage_total[kind] > 0);
    assert.equal(usage_total[kind], attempts.reduce((n, x) => n + x.usage[kind], 0));
  }
  assert.equal(cost_nusd, Math.round(attempts.reduce((n, x) => n + x.cost_usd, 0) * 1e9));
  await t.stop();
});

test("down, then healthy, under steady traffic: all served, and the primary is used again", async () => {
  const { a, t, plain, healthy } = await pair();
  await a.down(true);
  for (let i = 0; i < 20; i++) {
    const got = await ask(t, i % 2 === 0);
    assert.equal(got.status, 200);
    assert.equal(got.text, plain);
  }
  await a.down(false);
  const recovered = Date.now();
  let back = false;
  while (!back && Date.now() - recovered < 8000) {
    const r = await t.post({ model: "auto", messages: user("ECHO:x") });
    assert.equal(r.status, 200);
    back = r.headers.get("x-tandem-target") === "first";
    await r.text();
  }
  assert.ok(back, "the primary was not used again");
  assert.ok(Date.now() - recovered <= 5500, `it took ${Date.now() - recovered} ms`);
  await healthy();
});

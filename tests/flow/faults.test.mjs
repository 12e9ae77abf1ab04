// SPDX-License-Identifier: Apache-2.0
// Sixteen ways a provider fails, each streaming and not: the caller gets the complete answer (for a content policy: the
// provider's reason), the provider sees a well-behaved caller, and the process is healthy afterwards.
import assert from "node:assert/strict";
import { test } from "node:test";
import { readStream, startTandem, startUpstream, user } from "./lib.mjs";

const PROMPT = "tell me about rivers [tokens=60]";

const quick = "timeouts: {connect_ms: 500, first_token_ms: 700, idle_ms: 500, total_ms: 20000}";
const target = (name, url, quality) =>
  `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: model-${name}, region: us, clearance: internal, ` +
  `quality: ${quality}, context: ${name === "second" ? 128000 : 64000}, continues: true, ${quick}}\n`;

// Two clouds of one kind: the first is better and preferred, the second stands behind it.
async function pair() {
  const a = await startUpstream("--tokens", "60"), b = await startUpstream("--tokens", "60");
  const t = await startTandem(`targets:\n${target("first", a.url, 0.95)}${target("second", b.url, 0.5)}` +
    "policy: {default: {prefer: quality}}\n");
  const r = await t.post({ model: "auto", messages: user(PROMPT) });
  const plain = (await r.json()).choices[0].message.content;
  assert.equal(r.headers.get("x-tandem-target"), "first");
  await a.reset();
  return { a, b, t, plain };
}

async function ask(t, stream) {
  const r = await t.post({ model: "auto", messages: user(PROMPT), stream });
  if (!stream || r.status !== 200) {
    const body = await r.json();
    return { status: r.status, text: body.choices?.[0]?.message?.content, finish: body.choices?.[0]?.finish_reason,
             error: body.error, model: body.model, done: true };
  }
  return { status: r.status, ...(await readStream(r)) };
}

// name, behaviour of the first upstream, tries the first upstream may see (per request)
const faults = [
  ["429 with Retry-After", { status: 429, retry_after: "30" }, 1],
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
  ["400 context length", { context_length: true }, 1],
];

for (const stream of [true, false]) {
  for (const [name, fault, tries] of faults) {
    test(`${name}, ${stream ? "streaming" : "whole"}`, async () => {
      const { a, t, plain, b } = await pair();
      const { once, ...behaviour } = fault;
      if (once) await a.script(behaviour);
      else await a.standing(behaviour);
      const got = await ask(t, stream);
      assert.equal(got.status, 200, JSON.stringify(got.error));
      assert.equal(got.error ?? null, null);
      assert.equal(got.text, plain);
      assert.equal(got.finish, "stop");
      assert.ok(got.done);
      const seen = (await a.log()).requests.length;
      assert.ok(seen >= 1 && seen <= tries, `the first upstream saw ${seen} requests`);
      await a.reset();
      await b.reset();
      const health = await fetch(t.url + "/healthz");
      assert.equal(health.status, 200);
      await t.stop();
    });
  }

  test(`content policy is told, not routed around, ${stream ? "streaming" : "whole"}`, async () => {
    const { a, b, t } = await pair();
    await a.standing({ content_policy: true });
    const got = await ask(t, stream);
    assert.equal(got.status, 400);
    assert.equal(got.error.code, "tandem.content_policy");
    assert.equal((await b.log()).requests.length, 0);
    await t.stop();
  });

  test(`a cut stream and a fallback that refuses a prefix, ${stream ? "streaming" : "whole"}`, async () => {
    const { a, b, t, plain } = await pair();
    await a.standing({ cut_after_tokens: 40, token_ms: 1 });
    await b.standing({ refuse_prefix: true });
    const got = await ask(t, stream);
    // Both upstreams answer by the same rule, so the fresh answer reproduces what was sent: spliced without a seam.
    assert.equal(got.text, plain);
    assert.equal(got.finish, "stop");
    await t.stop();
  });

  test(`a failed primary: the fallback's model and usage are told, ${stream ? "streaming" : "whole"}`, async () => {
    const { a, t } = await pair();
    await a.standing({ status: 500 });
    const r = await t.post({ model: "auto", messages: user(PROMPT), stream, stream_options: stream ? { include_usage: true } : undefined });
    const body = stream ? (await readStream(r)).chunks.findLast((c) => c.usage) : await r.json();
    assert.equal(body.usage.completion_tokens, 60);
    assert.equal(body.model, "model-second");
    assert.equal(r.headers.get("x-tandem-target"), "second");
    await t.stop();
  });
}

test("down, then healthy, under steady traffic: all served, and the primary is used again", async () => {
  const { a, t, plain } = await pair();
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
  await t.stop();
});

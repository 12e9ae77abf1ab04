// SPDX-License-Identifier: Apache-2.0
// Tandems in a chain: what binds travels with the request, the next one enforces it, and no chain goes round for ever.
import assert from "node:assert/strict";
import { test } from "node:test";
import { cloud, freePort, readStream, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const next = (url, extra = "") =>
  `  - {name: next, tier: onprem, provider: tandem, base_url: "${url}", model: auto, region: eu, clearance: restricted, ` +
  `quality: 0.9, context: 128000, continues: true, timeouts: {connect_ms: 1000, first_token_ms: 5000, idle_ms: 2000, total_ms: 20000}${extra}}\n`;

async function pair(policyOfA = "", policyOfB = "") {
  const up = await startUpstream("--tokens", "30");
  const b = await startTandem(`targets:\n${cloud("far", up.url)}${policyOfB}`);
  const a = await startTandem(`targets:\n${next(`${b.url}/v1`)}${policyOfA}`);
  return { up, a, b };
}

// What A would tell the next Tandem: a scripted upstream stands in its place.
async function told(request, config = "", extraTargets = async () => "", prepare = async () => {}) {
  const seat = await startUpstream("--tokens", "5");
  const t = await startTandem(`targets:\n${next(seat.url)}${await extraTargets()}${config}`);
  await prepare(t);
  const r = await t.post({ model: "auto", messages: user("ECHO:ok"), ...request });
  assert.equal(r.status, 200, await r.clone().text());
  await r.text();
  await t.stop();
  const body = JSON.parse((await seat.log()).requests.at(-1).body);
  return body.tandem;
}

test("an answer comes through two Tandems as through one, whole and streamed", async () => {
  const { up, a } = await pair();
  const r = await a.post({ model: "auto", messages: user("ECHO:from afar") });
  const body = await r.json();
  assert.equal(body.choices[0].message.content, "from afar");
  assert.equal(r.headers.get("x-tandem-target"), "next");
  assert.equal(body.tandem.attempts.length, 1);
  assert.ok(body.usage.total_tokens > 0);
  const s = await readStream(await a.post({ model: "auto", messages: user("about rivers"), stream: true }));
  assert.ok(s.done);
  assert.equal(s.finish, "stop");
  assert.equal(s.chunks.findLast((c) => c.tandem).tandem.target, "next");
  const seen = JSON.parse((await up.log()).requests.at(-1).body);
  assert.equal(seen.tandem, undefined, "the object never leaves the chain");
});

test("class, labels, residency, deadline and a hop travel, as they are in effect here", async () => {
  const w = await told({ tandem: { residency: "eu", deadline_ms: 8000, labels: ["pii"] } },
    "policy: {content: {labels: {phi: {words: [diagnosis], class: restricted}}}}\n");
  assert.equal(w.residency, "eu");
  assert.equal(w.hops, 1);
  assert.ok(w.labels.includes("pii"));
  assert.ok(w.deadline_ms > 0 && w.deadline_ms <= 8000, String(w.deadline_ms));
  const raised = await told({ messages: user("the diagnosis of this patient"), tandem: { data_class: "public" } },
    "policy: {content: {labels: {phi: {words: [diagnosis], class: restricted}}}}\n");
  assert.equal(raised.data_class, "restricted");
  assert.deepEqual(raised.labels, ["phi"]);
});

test("tiers travel as wish and rules leave them; the next one's own device is where it stands", async () => {
  assert.equal((await told({})).tiers, undefined);
  assert.deepEqual((await told({ tandem: { tiers: ["onprem"] } })).tiers.sort(), ["device", "onprem"]);
  const rule = "policy: {rules: [{name: stay, when: {labels: [phi]}, allow: {tiers: [device, onprem]}}]}\n";
  assert.deepEqual((await told({ tandem: { labels: ["phi"] } }, rule)).tiers.sort(), ["device", "onprem"]);
  assert.equal((await told({}, rule)).tiers, undefined);
});

test("what is left of the cost ceiling travels, less what earlier attempts cost", async () => {
  assert.equal((await told({ tandem: { max_cost_usd: 0.5 } })).max_cost_usd, 0.5);
  let first;
  const dear = async () => {
    first = await startUpstream("--tokens", "60");
    await first.standing({ cut_after_tokens: 40, token_ms: 1 });
    return `  - {name: first, tier: cloud, provider: openai, base_url: "${first.url}", model: m, region: eu, clearance: restricted, quality: 0.99, context: 128000, price: {input: 100, output: 1000}}\n`;
  };
  const w = await told({ messages: user("about rivers [tokens=60]"), max_tokens: 60, tandem: { max_cost_usd: 0.5, prefer: "quality" } },
    "", dear);
  assert.equal((await first.log()).requests.length, 1, "the dear one was asked first");
  assert.ok(w.max_cost_usd < 0.5 && w.max_cost_usd > 0.4, String(w.max_cost_usd));
});

test("the ceiling is for all attempts together, also here", async () => {
  const dear = await startUpstream("--tokens", "60"), other = await startUpstream("--tokens", "60");
  await dear.standing({ cut_after_tokens: 40, token_ms: 1 });
  const priced = (name, url, quality, output) =>
    `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: m, region: us, clearance: internal, continues: true, quality: ${quality}, context: 128000, price: {input: 1, output: ${output}}}\n`;
  const t = await startTandem(`targets:\n${priced("dear", dear.url, 0.95, 1000)}${priced("other", other.url, 0.5, 900)}policy: {default: {prefer: quality}}\n`);
  // One answer of at most 60 tokens fits under the ceiling, a second one does not.
  const r = await t.post({ model: "auto", messages: user("about rivers [tokens=60]"), max_tokens: 60, tandem: { max_cost_usd: 0.07 } });
  const body = await r.json();
  assert.equal((await dear.log()).requests.length, 1);
  assert.equal((await other.log()).requests.length, 0);
  assert.equal(body.error.code, "tandem.upstream.cut", JSON.stringify(body));
});

test("the next Tandem enforces it: what must stay near does not reach its cloud", async () => {
  const { up, a } = await pair("policy: {rules: [{name: stay, when: {labels: [phi]}, allow: {tiers: [device, onprem]}}]}\n");
  const r = await a.post({ model: "auto", messages: user("ECHO:x"), tandem: { labels: ["phi"] } });
  const { error } = await r.json();
  assert.equal(r.status, 403, JSON.stringify(error));
  assert.match(error.code, /^tandem\./);
  assert.match(error.message, /far/, "the refusal says which target was refused");
  assert.equal((await up.log()).requests.length, 0);
  assert.equal((await a.post({ model: "auto", messages: user("ECHO:another matter") })).status, 200);
});

test("its policy binds as well: a class that only the next Tandem knows of", async () => {
  const { up, a } = await pair("", "policy: {content: {labels: {phi: {words: [diagnosis], class: restricted}}}}\n");
  const r = await a.post({ model: "auto", messages: user("the diagnosis of this patient") });
  assert.equal(r.status, 403);
  assert.equal((await up.log()).requests.length, 0);
});

test("the next Tandem asks for a key", async () => {
  const up = await startUpstream();
  const b = await startTandem(`targets:\n${cloud("far", up.url)}`);
  const { key } = JSON.parse((await tandem(["keys", "create", "--json", "--tenant", "acme", "--config", b.file])).stdout);
  const without = await startTandem(`targets:\n${next(`${b.url}/v1`)}`);
  const r = await without.post({ model: "auto", messages: user("ECHO:x") });
  assert.equal((await r.json()).error.code, "tandem.upstream.auth");
  assert.equal((await up.log()).requests.length, 0);
  const t = await startTandem(`targets:\n${next(`${b.url}/v1`, ", api_key: env:NEXT_KEY")}`, { env: { NEXT_KEY: key } });
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") })).status, 200);
});

test("a chain that leads back to itself ends after four hops", async () => {
  const port = await freePort();
  const t = await startTandem(`targets:\n${next(`http://127.0.0.1:${port}/v1`)}`, { port });
  for (const stream of [false, true]) {
    const r = await t.post({ model: "auto", messages: user("ECHO:x"), stream });
    assert.equal(r.status, 508);
    assert.equal((await r.json()).error.code, "tandem.chain.too_long");
  }
  const { rows } = JSON.parse((await tandem(["ledger", "tail", "--json", "--limit", "100", "--config", t.file])).stdout);
  assert.equal(rows.length, 10, "the first and four more, twice");
});

test("retries do not multiply along a chain", async () => {
  const { up, a } = await pair();
  await up.standing({ status: 503 });
  const r = await a.post({ model: "auto", messages: user("x") });
  assert.ok(r.status >= 500);
  const seen = (await up.log()).requests.length;
  assert.ok(seen >= 1 && seen <= 3, `the provider saw ${seen} requests`);
});

test("a stream that is cut behind the next Tandem goes on from another target here", async () => {
  const up = await startUpstream("--tokens", "60"), spare = await startUpstream("--tokens", "60");
  const b = await startTandem(`targets:\n${cloud("far", up.url)}`);
  const a = await startTandem(`targets:\n${next(`${b.url}/v1`)}${cloud("spare", spare.url, ", continues: true").replace("quality: 0.9", "quality: 0.5")}policy: {default: {prefer: quality}}\n`);
  const whole = (await (await a.post({ model: "auto", messages: user("about ships [tokens=60]") })).json()).choices[0].message.content;
  await up.scriptThen({ status: 503 }, { cut_after_tokens: 40, token_ms: 1 });
  const s = await readStream(await a.post({ model: "auto", messages: user("about ships [tokens=60]"), stream: true }));
  assert.equal(s.error, null);
  assert.equal(s.text, whole);
  assert.equal(s.finish, "stop");
  assert.ok(s.done);
  const attempts = s.chunks.findLast((c) => c.tandem).tandem.attempts.map((x) => x.target);
  assert.equal(attempts[0], "next");
  assert.equal(attempts.at(-1), "spare");
});

test("a caller that goes away stops the provider at the chain's end", async () => {
  const { up, a } = await pair();
  await up.standing({ token_ms: 50, tokens: 2000 });
  const stop = new AbortController();
  const r = await fetch(a.url + "/v1/chat/completions", {
    method: "POST", signal: stop.signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "auto", messages: user("long"), stream: true }),
  });
  const reader = r.body.getReader();
  await reader.read();
  stop.abort();
  const log = await until(async () => { const l = await up.log(); return l.requests[0]?.closed_ms >= 0 && l; }, "the provider's connection to close");
  assert.ok(log.requests[0].tokens < 2000);
});

// SPDX-License-Identifier: Apache-2.0
// The cut campaign on the whole daemon: the connection to the provider is cut at a random byte of what it sends (status
// line, headers, chunk sizes, in the middle of an event or a character), with another target behind it. Every request
// must end in the very answer an uncut run gives, or in a typed error; a part of an answer is never told as a whole one.
// CUTS=1000 SEED=7 node --test cuts.test.mjs (tools/run-campaign does that); the seed fixes every byte and every choice.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { draws, seedOf, startWire } from "./campaign.mjs";
import { readStream, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const CUTS = Number(process.env.CUTS ?? 40);
const SEED = seedOf("cuts", CUTS);
const HEAD_BYTES = 150; // status line and headers of the upstream, about
const PROMPTS = ["rivers", "bridges", "the sea at night", "a village 🌊", "old maps"];

// `first` is behind the wire; what goes on is a target that takes a prefix (`goer`), one that is asked afresh and spliced
// (`afresh`), or the one after the other, where the second is cut as well.
async function house() {
  const up = await startUpstream("--tokens", "60");
  const wire = await startWire(up.port), second = await startWire(up.port);
  const target = (name, url, more) => `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: m, region: us, ` +
    `clearance: internal, quality: 0.9, context: 64000, capabilities: [default, logprobs], ` +
    `timeouts: {connect_ms: 2000, first_token_ms: 5000, idle_ms: 5000, total_ms: 20000}${more}}\n`;
  const t = await startTandem("targets:\n" +
    target("to-goer", wire.url, ", fallback: [goer]") + target("to-afresh", wire.url, ", fallback: [afresh]") +
    target("to-both", wire.url, ", fallback: [second, goer]") + target("goer", up.url, ", continues: true") +
    target("afresh", up.url, "") + target("second", second.url, ", continues: true"));
  return { up, wire, second, t };
}

// One request and what came of it: {text, finish, done, error}.
let asked = 0;
async function ask(t, c, model) {
  asked++;
  const chat = c.kind === "chat";
  const body = { model, stream: c.stream, ...(chat ? { messages: user(c.prompt) } : { prompt: c.prompt }),
    ...(c.max_tokens && { max_tokens: c.max_tokens }), ...(c.stop && { stop: c.stop }) };
  const r = await t.post(body, chat ? "/v1/chat/completions" : "/v1/completions");
  if (c.stream && r.status === 200) return readStream(r);
  const whole = await r.json(), choice = whole.choices?.[0];
  return { text: choice?.message?.content ?? choice?.text, finish: choice?.finish_reason, done: r.status === 200, error: whole.error };
}

// What the i-th request is, from the seed alone.
function draw(i, plainOf) {
  const d = draws(SEED, i);
  const c = { kind: d.chance(80) ? "chat" : "completion", stream: d.chance(85), prompt: `tell me about ${d.pick(PROMPTS)}` };
  if (d.chance(15)) c.max_tokens = 1 + d.below(60);
  if (d.chance(15)) {
    // A stop string from the middle of the answer, across a seam of two tokens.
    const plain = plainOf(c), at = plain.indexOf(" ", d.below(plain.length));
    if (at > 4) c.stop = plain.slice(at - 3, at + 3);
  }
  return { c, model: d.pick(["to-goer", "to-goer", "to-afresh", "to-both"]), at: d.below(1 << 30), second: d.below(1 << 30),
           early: d.chance(10), how: d.chance(50) ? "fin" : "rst" };
}

test(`${CUTS} cuts at random bytes: the answer of an uncut run, or a typed error`, async () => {
  const { up, wire, second, t } = await house();
  const key = (c) => JSON.stringify([c.kind, c.prompt, c.max_tokens, c.stop, c.stream]);
  const uncut = new Map(), texts = new Map();
  const fds = () => readdirSync(`/proc/${t.child.proc.pid}/fd`).length;
  const reference = async (c) => {
    const before = wire.seen, got = await ask(t, c, "to-goer");
    assert.ok(got.done && !got.error, JSON.stringify(got.error));
    const ref = { ...got, bytes: wire.seen - before };
    uncut.set(key(c), ref);
    return ref;
  };
  for (const kind of ["chat", "completion"])
    for (const p of PROMPTS) {
      const c = { kind, stream: true, prompt: `tell me about ${p}` };
      texts.set(kind + c.prompt, (await reference(c)).text);
    }
  let filler = 0; // good answers of `second`
  const tally = { complete: 0, exact: 0, errors: 0, truncated: 0, cut: 0, headers: 0 };
  const fds_before = fds();
  for (let i = 0; i < CUTS; i++) {
    const { c, model, at, second: at2, early, how } = draw(i, (c) => texts.get(c.kind + c.prompt));
    const ref = uncut.get(key(c)) ?? await reference(c);
    const byte = at % (early ? HEAD_BYTES : ref.bytes), cuts = wire.cuts;
    wire.cut(byte, how);
    if (model === "to-both") second.cut(at2 % ref.bytes, how === "fin" ? "rst" : "fin");
    const got = await ask(t, c, model);
    wire.whole();
    second.whole();
    tally.cut += wire.cuts > cuts;
    tally.headers += byte < HEAD_BYTES;
    const whole = got.done || (got.finish && !got.error), where = `cut ${i} (seed ${SEED}): byte ${byte} of ${ref.bytes}, ${how}, ${model}, ${key(c)}`;
    if (whole) {
      tally.complete++;
      if (got.text === ref.text && got.finish === ref.finish) tally.exact++;
      else { tally.truncated++; console.log(`${where}\n  got  ${got.finish} ${got.text}\n  want ${ref.finish} ${ref.text}`); }
    } else {
      assert.match(got.error?.code ?? "", /^tandem\./, where);
      tally.errors++;
      console.log(`${where}: ${got.error.code}`);
    }
    // Good answers between the cuts keep the breakers of these targets closed, so that each next cut meets its target.
    for (const m of model === "to-both" ? [model, model, "second", "second"] : [model, model]) {
      filler += m === "second";
      assert.ok((await ask(t, { kind: "chat", stream: true, prompt: "ECHO:x" }, m)).done);
    }
  }
  console.log(`${CUTS} requests, ${tally.cut} really cut (${tally.headers} in the headers): ${tally.complete} complete, ` +
    `${tally.exact} byte for byte as uncut, ${tally.errors} typed errors, ${tally.truncated} truncated successes`);
  assert.equal(tally.truncated, 0);
  assert.equal(tally.cut, CUTS);
  assert.ok(tally.complete * 100 >= CUTS * 99, `${tally.complete} of ${CUTS} complete`);
  // Every answer has its rows, others went on with nearly all (a cut behind the finish needs nobody), the chain holds.
  assert.equal((await fetch(t.url + "/healthz")).status, 200);
  const ledger = async (verb) => JSON.parse((await tandem(["ledger", verb, "--json", "--config", t.file])).stdout);
  const stats = await ledger("stats"), of = (name) => stats.targets.find((x) => x.target === name) ?? { ok: 0 };
  assert.ok(stats.delivered >= asked - tally.errors, `${stats.delivered} of ${asked} delivered`);
  assert.ok(of("goer").ok + of("afresh").ok + of("second").ok - filler >= 0.8 * CUTS, JSON.stringify(stats.targets));
  assert.equal((await ledger("verify")).valid, true);
  // Each worker keeps a connection to each target, for a while: with the other sides gone nothing is kept, and what is
  // still open is one that was cut.
  await up.stop();
  wire.drop();
  second.drop();
  await until(() => fds() <= fds_before, "connections of the cut requests to be closed");
  await t.stop();
});

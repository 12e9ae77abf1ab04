// SPDX-License-Identifier: Apache-2.0
// Reloads while answers are on their way: what runs keeps the configuration it began with, and yet nothing goes to a
// target that the policy now in force forbids, not even the second half of a sentence. RELOADS=200 SEED=7 runs more.
import assert from "node:assert/strict";
import { renameSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { draws, seedOf, startWire } from "./campaign.mjs";
import { readStream, startTandem, startUpstream, until, user } from "./lib.mjs";

const RELOADS = Number(process.env.RELOADS ?? 30);
const SEED = seedOf("reloads", RELOADS);

const target = (name, url, quality) => `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: m, region: us, clearance: internal, ` +
  `quality: ${quality}, context: 64000, continues: true, timeouts: {connect_ms: 2000, first_token_ms: 5000, idle_ms: 5000, total_ms: 30000}}\n`;

async function house() {
  const ups = await Promise.all([1, 2, 3].map(() => startUpstream("--tokens", "60"))), wire = await startWire(ups[0].port);
  const urls = { first: wire.url, second: ups[1].url, third: ups[2].url }, quality = { first: 0.9, second: 0.6, third: 0.5 };
  const config = (names, rest = "") => `targets:\n${names.map((n) => target(n, urls[n], quality[n])).join("")}${rest || "policy: {default: {prefer: quality}}\n"}`;
  const t = await startTandem(config(["first", "second", "third"]));
  // Puts another configuration in place and waits until the daemon has taken or refused it.
  const reload = async (yaml) => {
    const said = () => [...t.child.stderr.matchAll(/(msg=reloaded|reload refused[^\n]*) why=SIGHUP/g)];
    const before = said().length;
    writeFileSync(`${t.file}.new`, `version: 1\nlisten: 127.0.0.1:0\ndata_dir: ${t.dir}/data\n${yaml}`);
    renameSync(`${t.file}.new`, t.file);
    t.child.proc.kill("SIGHUP");
    await until(() => said().length > before, "the reload");
    return said().at(-1)[1] === "msg=reloaded";
  };
  return { ups, wire, t, config, reload };
}

const deny = (names) => `policy: {default: {prefer: quality}, rules: [{name: no-more, deny: {targets: [${names.join(", ")}]}}]}\n`;

for (const [name, next] of [
  ["a rule denies it", (h) => h.config(["first", "second", "third"], deny(["second"]))],
  ["it is removed", (h) => h.config(["first", "third"])],
])
  for (const stream of [true, false])
    test(`in the middle of an answer ${name}: it is gone on with elsewhere, ${stream ? "streaming" : "whole"}`, async () => {
      const h = await house(), ask = { model: "auto", messages: user("tell me about rivers"), stream };
      const read = async (r) => (stream ? readStream(r) : r.json().then((b) => ({ text: b.choices?.[0]?.message?.content, finish: b.choices?.[0]?.finish_reason, done: r.status === 200, error: b.error, tandem: b.tandem })));
      const plain = (await read(await h.t.post(ask))).text;
      await h.ups[0].script({ silence_after_tokens: 30, token_ms: 1 });
      const running = h.t.post(ask).then(read);
      await until(async () => (await h.ups[0].log()).requests.at(-1)?.tokens >= 30, "half of the answer");
      assert.equal(await h.reload(next(h)), true);
      await h.ups[0].down(true); // resets what runs
      const got = await running;
      assert.equal(got.error ?? null, null, JSON.stringify(got.error));
      assert.equal(got.text, plain);
      assert.equal(got.finish, "stop");
      assert.equal((await h.ups[1].log()).requests.length, 0, "it went to a target that is forbidden now");
      assert.equal((await h.ups[2].log()).requests.length, 1);
      await h.t.stop();
    });

test("a reload that denies every other target: the cut answer ends in a typed error, and nothing goes out", async () => {
  const h = await house();
  await h.ups[0].script({ silence_after_tokens: 30, token_ms: 1 });
  const running = h.t.post({ model: "auto", messages: user("tell me about rivers"), stream: true }).then(readStream);
  await until(async () => (await h.ups[0].log()).requests.at(-1)?.tokens >= 30, "half of the answer");
  assert.equal(await h.reload(h.config(["first", "second", "third"], deny(["second", "third"]))), true);
  await h.ups[0].down(true);
  const got = await running;
  assert.ok(!got.done && got.finish === null);
  assert.match(got.error.code, /^tandem\./);
  for (const up of h.ups.slice(1)) assert.equal((await up.log()).requests.length, 0);
  await h.t.stop();
});

test(`${RELOADS} random configurations, some of them wrong, while answers run and break off: each whole or a typed error`, async () => {
  const h = await house(), prompts = ["rivers", "bridges", "old maps"].map((p) => `tell me about ${p}`), plain = new Map();
  const post = (prompt, stream) => h.t.post({ model: "auto", messages: user(prompt), stream });
  for (const p of prompts) plain.set(p, (await readStream(await post(p, true))).text);
  for (const up of h.ups) await up.standing({ token_ms: 1 });
  const sum = { complete: 0, errors: 0, cut: 0, taken: 0, refused: 0 };
  let over = false, turn = 0;
  const client = async () => {
    while (!over) {
      const d = draws(SEED ^ 0x5bd1e995, turn++), prompt = d.pick(prompts), r = await post(prompt, d.chance(70));
      const got = r.headers.get("content-type").startsWith("text/event-stream") ? await readStream(r)
        : await r.json().then((b) => ({ text: b.choices?.[0]?.message?.content, done: r.status === 200, error: b.error }));
      if (got.done) {
        assert.equal(got.text, plain.get(prompt), "an answer that is not whole");
        sum.complete++;
      } else {
        assert.match(got.error?.code ?? "", /^tandem\./);
        sum.errors++;
      }
    }
  };
  const clients = Promise.all([client(), client(), client(), client()]);
  for (let i = 0; i < RELOADS; i++) {
    const d = draws(SEED, i), kind = d.below(5);
    if (d.chance(60)) h.wire.cut(d.below(20000), d.chance(50) ? "fin" : "rst");
    const yaml = kind === 0 ? "targets: [{name: x, tier: nowhere}]\n"
      : kind === 1 ? h.config(["first", "second", "third"], deny([d.pick(["first", "second", "third"])]))
      : kind === 2 ? h.config(d.pick([["first", "third"], ["second", "third"], ["second", "first"]]))
      : kind === 3 ? h.config(["third", "second", "first"], "policy: {default: {prefer: fast}}\n")
      : h.config(["first", "second", "third"]);
    const taken = await h.reload(yaml);
    assert.equal(taken, kind !== 0);
    sum[taken ? "taken" : "refused"]++;
    const now = sum.complete + sum.errors;
    await until(() => sum.complete + sum.errors >= now + 3, "a few answers between two reloads");
  }
  over = true;
  await clients;
  console.log(`${RELOADS} reloads (${sum.refused} refused), ${h.wire.cuts} cuts, ${sum.complete} answers byte for byte as without, ${sum.errors} typed errors`);
  assert.ok(sum.complete * 100 >= (sum.complete + sum.errors) * 95);
  assert.equal((await fetch(h.t.url + "/healthz")).status, 200);
  await h.t.stop();
});

test("connections and names are kept over a reload, and found anew once the link was gone: it may be another network", async () => {
  const h = await house(), yaml = (more) => h.config(["first"], `policy: {default: {prefer: quality}}\n${more}`);
  const ask = async () => (await h.t.post({ model: "first", messages: user("hello [tokens=3]") })).status;
  for (let i = 0; i < 8; i++) assert.equal(await ask(), 200); // each worker has its connection
  const before = h.wire.connections;
  assert.equal(await h.reload(yaml("key_rate: {requests_per_min: 1000}\n")), true);
  for (let i = 0; i < 8; i++) assert.equal(await ask(), 200);
  assert.equal(h.wire.connections, before);
  assert.equal(await h.reload(yaml("connectivity: offline\n")), true);
  assert.equal(await h.reload(yaml("")), true);
  for (let i = 0; i < 8; i++) assert.equal(await ask(), 200);
  assert.ok(h.wire.connections > before, "an old connection was used again");
  await h.t.stop();
});

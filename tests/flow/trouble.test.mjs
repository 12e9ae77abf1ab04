// SPDX-License-Identifier: Apache-2.0
// The machine itself in trouble: no space on the disk, a clock that jumps, a model host that is killed in the middle of a
// token, that hangs, that runs out of memory. Streaming and not: the caller gets the complete answer from elsewhere, or a
// typed error; the process is healthy afterwards.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readStream, scratch, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";
import { memoryCage, tightHouse, trouble } from "./trouble.mjs";

const SANITIZED = Boolean(process.env.ASAN_OPTIONS || process.env.TSAN_OPTIONS); // they take terabytes of address space

const device = (model, more = "") => `  - {name: device, tier: device, provider: llama, model: "${model}", parallel: 2, quality: 0.9${more}}\n`;
const cloud = (url, more = "") => `  - {name: cloud, tier: cloud, provider: openai, base_url: "${url}", model: c, region: us, ` +
  `clearance: internal, quality: 0.5, context: 64000${more}}\n`;
const PAID = ", price: {input: 2.5, output: 10}";

async function ask(t, stream, body) {
  const r = await t.post({ stream, ...body }, body.prompt ? "/v1/completions" : undefined);
  if (!stream || r.status !== 200) {
    const b = await r.json(), choice = b.choices?.[0];
    return { status: r.status, text: choice?.message?.content ?? choice?.text, finish: choice?.finish_reason, error: b.error, tandem: b.tandem, done: r.status === 200 };
  }
  const s = await readStream(r);
  return { status: 200, ...s, tandem: s.chunks.findLast((c) => c.tandem)?.tandem };
}

const rows = async (t) => JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows;

for (const durability of ["batched", "before_answer"])
  test(`the disk is full (${durability}): nothing is paid for that cannot be noted, the rest is served, then all is well`, async () => {
    const dir = scratch(), sick = trouble(), up = await startUpstream("--tokens", "10"), free = await startUpstream("--tokens", "10");
    const t = await startTandem(`targets:\n${cloud(up.url, PAID)}` +
      `  - {name: edge, tier: edge, provider: openai, base_url: "${free.url}", model: e, region: us, clearance: internal, quality: 0.3, terminal: true, context: 64000}\n` +
      `ledger: {durability: ${durability}}\n`, { dir, env: sick.env(dir) });
    const hello = (model) => ({ model, messages: user("hello") });
    assert.equal((await ask(t, false, hello("cloud"))).status, 200);
    sick.full(true);
    // Found out with the first rows that cannot be written; from then on nothing is paid for.
    await until(async () => (await ask(t, false, hello("cloud"))).status !== 200, "paid calls to be refused");
    const before = (await up.log()).requests.length;
    for (const stream of [true, false]) {
      const paid = await ask(t, stream, hello("cloud"));
      assert.equal(paid.status, 503);
      assert.equal(paid.error.code, "tandem.ledger.unavailable");
      const other = await ask(t, stream, hello("edge"));
      if (durability === "batched") assert.ok(other.done && other.text.length > 0, JSON.stringify(other.error));
      else assert.equal(other.error?.code, "tandem.ledger.unavailable"); // an end that was promised to be on the disk is not
      const auto = await ask(t, stream, { ...hello("auto"), tandem: { prefer: "quality" } });
      if (durability === "batched") assert.equal(auto.tandem.target, "edge");
    }
    assert.equal((await up.log()).requests.length, before, "a paid call went out that could not be noted");
    assert.equal((await fetch(t.url + "/healthz")).status, 200);
    sick.full(false);
    await until(async () => (await ask(t, true, hello("cloud"))).done, "paid calls to be served again");
    const proof = JSON.parse((await tandem(["ledger", "verify", "--json", "--config", t.file])).stdout);
    assert.equal(proof.valid, true);
    await t.stop();
  });

test("the disk is full while a kept request is replayed: its answer is not lost and not paid for twice", async () => {
  const dir = scratch(), sick = trouble(), up = await startUpstream("--tokens", "10", "--first-token-ms", "300"), low = await startUpstream("--tokens", "5");
  const t = await startTandem(`targets:\n${cloud(up.url, PAID)}` +
    `  - {name: edge, tier: edge, provider: openai, base_url: "${low.url}", model: e, region: us, clearance: internal, quality: 0.3, terminal: true, context: 64000}\n` +
    "outbox: {enabled: true, replay_per_min: 60000}\n", { dir, env: sick.env(dir) });
  await up.down(true);
  const kept = await ask(t, false, { model: "auto", messages: user("hello"), tandem: { queue: true, prefer: "quality" } });
  assert.equal(kept.tandem.queued, true);
  await up.down(false);
  await until(async () => (await up.log()).requests.length > 0, "the replay"); // 300 ms until it answers
  sick.full(true);
  const state = async () => (await (await fetch(`${t.url}/v1/tandem/exchanges/${kept.tandem.exchange}`)).json()).state;
  await until(async () => (await up.log()).requests[0].ended_ms >= 0, "the replay's answer");
  assert.equal(await state(), "intent_sent");
  sick.full(false);
  await until(async () => (await state()) === "reconciled", "the answer to be noted");
  assert.equal((await up.log()).requests.filter((r) => r.status === 200).length, 1);
  await t.stop();
});

for (const [name, jump] of [["a year ahead", 365 * 86400e3], ["a year back", -365 * 86400e3]])
  test(`the clock jumps ${name}: timeouts, retries, events and the outbox go on`, async () => {
    const dir = scratch(), sick = trouble(), up = await startUpstream("--tokens", "60", "--token-ms", "5"), low = await startUpstream("--tokens", "5");
    const t = await startTandem(`targets:\n${cloud(up.url, ", continues: true, timeouts: {connect_ms: 1000, first_token_ms: 800, idle_ms: 800, total_ms: 20000}")}` +
      `  - {name: edge, tier: edge, provider: openai, base_url: "${low.url}", model: e, region: us, clearance: internal, quality: 0.3, terminal: true, context: 64000}\n` +
      "outbox: {enabled: true, expiry_s: 31536000, replay_per_min: 60000}\n", { dir, env: sick.env(dir) });
    const q = (content, more) => ({ model: "auto", messages: user(content), tandem: { prefer: "quality", ...more } });
    const plain = (await ask(t, false, q("hello"))).text;
    // In the middle of a stream.
    const running = ask(t, true, q("hello"));
    await until(async () => (await up.log()).requests.length >= 2, "the stream");
    sick.clock(jump);
    assert.equal((await running).text, plain);
    // A timeout still comes when it should: a silent provider is left for the other.
    await up.script({ hang: true });
    const silent = await ask(t, false, q("hello"));
    assert.equal(silent.tandem.target, "edge");
    assert.equal(silent.tandem.attempts[0].outcome, "tandem.upstream.first_token");
    assert.ok(silent.tandem.attempts[0].duration_ms >= 700 && silent.tandem.attempts[0].duration_ms < 10000);
    // What is kept is replayed, also when its next try was noted under another clock.
    await up.down(true);
    const kept = await ask(t, false, q("hello", { queue: true }));
    assert.equal(kept.tandem.queued, true);
    sick.clock(jump > 0 ? jump + 1 : jump - 86400e3); // and a day back while it waits
    await up.down(false);
    const events = await fetch(`${t.url}/v1/tandem/events`, { headers: { "last-event-id": "0" } });
    const reader = events.body.pipeThrough(new TextDecoderStream()).getReader();
    let seen = "";
    await until(async () => (seen += (await reader.read()).value).includes(kept.tandem.exchange), "its event");
    await reader.cancel();
    assert.ok((await rows(t)).length >= 4);
    await t.stop();
  });

// The model hosts of a daemon.
const hosts = (t) => readdirSync("/proc").filter((p) => /^\d+$/.test(p)).filter((p) => {
  try {
    const stat = readFileSync(`/proc/${p}/stat`, "latin1");
    return Number(stat.slice(stat.lastIndexOf(")") + 4).split(" ")[0]) === t.child.proc.pid && !/\) Z/.test(stat) && /tandem-host/.test(stat);
  } catch {
    return false;
  }
}).map(Number);

for (const stream of [true, false])
  for (const [name, strike, outcome] of [
    ["killed", (pid) => process.kill(pid, "SIGKILL"), /^tandem\.host\.crash$/],
    ["hangs", (pid) => process.kill(pid, "SIGSTOP"), /^tandem\.upstream\.idle$/],
    ["out of memory", (pid) => execFileSync("prlimit", ["--pid", String(pid), "--as=1000000"]), null],
  ])
    test(`the model host in the middle of an answer: ${name}, ${stream ? "streaming" : "whole"}`, async () => {
      const up = await startUpstream("--tokens", "20");
      const t = await startTandem("targets:\n" + device(join(process.env.BUILD, "tests/support/slow.gguf"), ", fallback: [cloud], capabilities: [chat, completion], " +
        "timeouts: {connect_ms: 2000, first_token_ms: 60000, idle_ms: 1500, total_ms: 60000}") + cloud(up.url, ", continues: true"));
      const long = { model: "device", prompt: "one two three", max_tokens: 400 };
      assert.equal((await ask(t, false, { ...long, max_tokens: 2 })).status, 200); // loads the model
      const [pid] = await until(() => hosts(t).length && hosts(t), "the host");
      const running = ask(t, stream, long);
      await until(async () => /^tandem_requests_running 1$/m.test(await (await fetch(t.url + "/metrics")).text()), "the request to run");
      await new Promise((r) => setTimeout(r, 100)); // some tokens; what follows holds at any moment
      strike(pid);
      const got = await running;
      if (outcome) { // memory that is not asked for any more is not missed: that host may finish
        assert.equal(got.error ?? null, null, JSON.stringify(got.error));
        assert.ok(got.done && got.finish);
        assert.match(got.tandem.attempts[0].outcome, outcome);
        assert.equal(got.tandem.attempts.at(-1).target, "cloud");
      } else {
        assert.ok(got.done && got.finish, JSON.stringify(got.error));
        const told = SANITIZED ? /^(ok|tandem\.host\.(memory|crash))$/ : /^(ok|tandem\.host\.memory)$/; // they end it their own way
        for (const x of got.tandem.attempts) assert.match(x.outcome, told);
      }
      // The host is replaced, whatever was wrong with it.
      const next = await until(async () => {
        const r = await ask(t, stream, { ...long, max_tokens: 3 });
        return r.status === 200 && r.tandem.target === "device" && r;
      }, "the device to answer again", 60000);
      assert.ok(next.done);
      if (outcome) assert.ok(!hosts(t).includes(pid), "the host that was struck is still there");
      assert.equal((await fetch(t.url + "/healthz")).status, 200);
      await t.stop();
    });

const tight = (up) => "targets:\n" + device(join(process.env.BUILD, "tests/support/slow.gguf"), ", fallback: [cloud], capabilities: [chat, completion, embedding], " +
  "timeouts: {connect_ms: 2000, first_token_ms: 60000, idle_ms: 20000, total_ms: 120000}") + cloud(up.url, ", continues: true");

test("no memory to load a model: one failed attempt that says so, the answer from elsewhere, and the device is back when there is room", { skip: SANITIZED }, async () => {
  const house = tightHouse(), up = await startUpstream("--tokens", "20"), found = new Set();
  const ask3 = (t, stream) => ask(t, stream, { model: "device", prompt: "one two three", max_tokens: 3 });
  // From nearly enough to not even enough for the program: weights, context or the first token go short.
  for (const [i, kib] of [200000, 170000, 150000, 120000, 60000, 10000].entries()) {
    house.limit(kib);
    const t = await startTandem(tight(up), { program: house.program, env: house.env }), stream = i % 2 === 0;
    const got = await ask3(t, stream);
    assert.ok(got.done && got.finish, `${kib}: ${JSON.stringify(got.error)}`);
    const tries = got.tandem.attempts.filter((x) => x.target === "device");
    assert.ok(tries.length <= 1, JSON.stringify(tries));
    for (const x of tries) {
      assert.match(x.outcome, kib > 100000 ? /^(ok|tandem\.host\.memory)$/ : /^tandem\.(host\.(memory|load)|internal\.memory)$/, `${kib}`);
      found.add(x.outcome);
    }
    assert.equal((await fetch(t.url + "/healthz")).status, 200);
    house.limit("unlimited");
    for (const [pid] of [hosts(t)]) if (pid) process.kill(pid, "SIGKILL"); // one that did load is as short of it as before
    await until(async () => (await ask3(t, !stream)).tandem?.target === "device", "the device to answer", 60000);
    await t.stop();
  }
  assert.ok(found.has("tandem.host.memory"), [...found].join());
});

test("no memory for what a running host opens later: that request alone fails, with its reason, and succeeds when there is room", { skip: SANITIZED }, async () => {
  const up = await startUpstream("--tokens", "20"), t = await startTandem(tight(up));
  const ask3 = () => ask(t, false, { model: "device", prompt: "one two three", max_tokens: 3 });
  assert.equal((await ask3()).tandem.target, "device");
  const [pid] = await until(() => hosts(t).length && hosts(t), "the host");
  const kib = Number(readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmSize:\s+(\d+)/m)[1]);
  const allow = (more) => execFileSync("prlimit", ["--pid", String(pid), `--as=${(kib + more) * 1024}:`]);
  allow(0); // it has room for a few tokens, not for the context of embeddings
  const vector = () => t.post({ model: "device", input: "one two three" }, "/v1/embeddings");
  for (let i = 0; i < 2; i++) {
    const r = await vector();
    assert.equal(r.status, 503);
    assert.equal((await r.json()).error.code, "tandem.host.memory");
    assert.equal((await ask3()).tandem.target, "device", "the host still serves");
  }
  allow(1 << 20);
  await until(async () => (await vector()).status === 200, "the embedding");
  assert.deepEqual(hosts(t), [pid], "it is the same host");
  await t.stop();
});

test("the kernel kills a host for its memory in the middle of an answer: another goes on, and the host is back", { skip: SANITIZED }, async (context) => {
  const cage = memoryCage(1 << 20);
  if (!cage) return context.skip("no control group of its own");
  const up = await startUpstream("--tokens", "20"), t = await startTandem(tight(up));
  const long = { model: "device", prompt: "one two three", max_tokens: 400 };
  assert.equal((await ask(t, false, { ...long, max_tokens: 2 })).tandem.target, "device");
  const [pid] = await until(() => hosts(t).length && hosts(t), "the host");
  const r = await t.post({ ...long, stream: true }, "/v1/completions");
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  let bytes = "";
  while (!/"text":"[^"]/.test(bytes)) bytes += (await reader.read()).value;
  cage.put(pid); // what it takes from now on counts
  const vector = t.post({ model: "device", input: "one two three" }, "/v1/embeddings"); // a context of many megabytes
  for (let p; !(p = await reader.read()).done;) bytes += p.value;
  const s = await readStream(new Response(bytes)), info = s.chunks.findLast((c) => c.tandem?.attempts).tandem;
  assert.ok(cage.kills() >= 1, "the kernel did not kill it");
  assert.ok(s.done && s.finish);
  assert.deepEqual(info.attempts.map((x) => [x.target, x.outcome]), [["device", "tandem.host.memory"], ["cloud", "ok"]]);
  const refused = await vector;
  assert.ok(refused.status === 200 || /^tandem\.(host\.memory|overload)$/.test((await refused.json()).error.code), "told, or made by the next host");
  await until(async () => (await ask(t, false, { ...long, max_tokens: 2 })).tandem?.target === "device", "the device to answer again", 60000);
  assert.ok(!hosts(t).includes(pid));
  await t.stop();
});

test("overload: batch work is turned away first, then the rest, each with a typed error and a time to come back", async () => {
  const t = await startTandem("targets:\n" + device(join(process.env.BUILD, "tests/support/slow.gguf"), ", queue_max: 4, capabilities: [chat, completion], " +
    "timeouts: {connect_ms: 2000, first_token_ms: 60000, idle_ms: 60000, total_ms: 60000}").replace("parallel: 2", "parallel: 1"));
  assert.equal((await ask(t, false, { model: "device", prompt: "one", max_tokens: 1 })).status, 200); // loads the model
  const running = (n) => until(async () => new RegExp(`^tandem_requests_running ${n}$`, "m").test(await (await fetch(t.url + "/metrics")).text()), `${n} requests to run`);
  const leaver = new AbortController();
  const long = (priority) => fetch(t.url + "/v1/completions", { method: "POST", signal: leaver.signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "device", stream: true, prompt: "one two three", max_tokens: 4000, tandem: { priority } }) })
    .then((r) => r.body && r.arrayBuffer()).catch(() => {});
  const pending = [long("interactive"), long("interactive"), long("interactive")]; // one is served, two wait
  await running(3);
  const refused = async (priority) => {
    const r = await t.post({ model: "device", prompt: "four", max_tokens: 1, tandem: { priority } }, "/v1/completions");
    assert.equal(r.status, 503);
    assert.ok(Number(r.headers.get("retry-after")) >= 1, "it is told when to come back");
    assert.equal((await r.json()).error.code, "tandem.overload");
  };
  await refused("batch"); // batch work has half of the queue, and that is taken
  pending.push(long("interactive"), long("interactive"));
  await running(5);
  await refused("interactive");
  await refused("batch");
  const load = JSON.parse((await tandem(["models", "list", "--json", "--config", t.file])).stdout).targets[0].load;
  assert.equal(load.inside, 5);
  assert.deepEqual(load.turned_away, { interactive: 1, batch: 2 });
  assert.equal(load.overloaded, true);
  const metrics = await (await fetch(t.url + "/metrics")).text();
  assert.match(metrics, /^tandem_model_inside\{target="device"\} 5$/m);
  assert.match(metrics, /^tandem_model_turned_away_total\{priority="batch"\} 2$/m);
  leaver.abort();
  await Promise.all(pending);
  await until(async () => (await ask(t, false, { model: "device", prompt: "four", max_tokens: 1, tandem: { priority: "batch" } })).status === 200, "the device to be free again");
  await t.stop();
});

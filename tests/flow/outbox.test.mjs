// SPDX-License-Identifier: Apache-2.0
// What is kept for later, on the whole daemon: how two answers are reconciled, what a person may decide, which answer a
// conversation goes on from, who is told, and what the forced states of the network do.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";
import { startTandem, startUpstream, stopLater, tandem, until, user } from "./lib.mjs";

const deviceOf = (d, more = ", quality: 0.3") => `  - {name: device, tier: device, provider: openai, base_url: "${d.url}", model: small, terminal: true${more}}\n`;
// Over a proxy it is a target beyond this machine, which the state of the network speaks of.
const place = (c, away) => away ? `base_url: "http://cloud.example/v1", insecure: true, proxy: "http://127.0.0.1:${c.port}"` : `base_url: "${c.url}"`;
const cloudOf = (c, away) => `  - {name: cloud, tier: cloud, provider: openai, ${place(c, away)}, model: big, region: us, clearance: internal, quality: 0.9, idempotency: true, continues: true, price: {input: 2.5, output: 10}, timeouts: {connect_ms: 500, first_token_ms: 2000, idle_ms: 1000, total_ms: 5000}}\n`;

// A device of few words, a cloud of many (`same`: of as many).
async function house({ reconcile = "take_better", same = false, away = false, device, more = "", outbox = "", rate = 6000, alone = false } = {}) {
  const d = await startUpstream("--tokens", "5"), c = await startUpstream("--tokens", same ? "5" : "20");
  const t = await startTandem(`targets:\n${alone ? "" : deviceOf(d, device)}${cloudOf(c, away)}outbox: {replay_per_min: ${rate}, reconcile: ${reconcile}${outbox}}\nprobe_interval_ms: 1000\n${more}`);
  const self = { d, c, t };
  self.ask = async (messages, wishes = {}, body = {}, headers = {}) => {
    const r = await t.post({ model: "auto", messages, tandem: { queue: true, prefer: "quality", ...wishes }, ...body }, "/v1/chat/completions", headers);
    const json = await r.json();
    assert.equal(r.status, 200, JSON.stringify(json));
    return { id: json.tandem.exchange, text: json.choices[0].message.content, tandem: json.tandem };
  };
  self.keep = async (question, wishes, body) => {
    await c.down(true);
    const kept = await self.ask(typeof question === "string" ? user(question) : question, wishes, body);
    assert.equal(kept.tandem.target, "device");
    assert.equal(kept.tandem.degraded, true);
    assert.equal(kept.tandem.queued, true);
    return kept;
  };
  self.online = async (change = (yaml) => yaml) => { // from "connectivity: offline"
    writeFileSync(t.file, change(readFileSync(t.file, "utf8")).replace("connectivity: offline", "connectivity: auto"));
    t.child.proc.kill("SIGHUP");
  };
  self.get = async (id) => (await fetch(`${t.url}/v1/tandem/exchanges/${id}`)).json();
  self.settled = (id, state = "reconciled") => until(async () => {
    const e = await self.get(id);
    return e.state === state && e;
  }, `${id} to be ${state}`, 30000);
  self.outbox = async (...args) => {
    const r = await tandem(["outbox", ...args, "--json", "--config", t.file]);
    return { ...r, json: r.code === 0 ? JSON.parse(r.stdout) : null };
  };
  self.events = async (after) => {
    const r = await fetch(`${t.url}/v1/tandem/events`, { headers: after === undefined ? {} : { "last-event-id": String(after) } });
    const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
    let bytes = "";
    const list = () => [...bytes.matchAll(/^id: (\d+)\ndata: (.*)\n\n/gm)].map((m) => ({ lineId: Number(m[1]), ...JSON.parse(m[2]) }));
    return {
      list,
      wait: async (count) => {
        while (list().length < count) {
          const { value, done } = await reader.read();
          if (done) break;
          bytes += value;
        }
        return list();
      },
      close: () => reader.cancel(),
    };
  };
  return self;
}

const plainOf = async (h, messages, model) => (await (await h.t.post({ model, messages })).json()).choices[0].message.content;

test("take_better: the better target's answer stands; agree: what means the same is not told twice", async () => {
  for (const same of [false, true]) {
    const h = await house({ same });
    const events = await h.events();
    const kept = await h.keep("why do rivers bend");
    await h.c.down(false);
    const e = await h.settled(kept.id);
    assert.equal(e.local_text, kept.text);
    assert.equal(e.cloud_text, await plainOf(h, user("why do rivers bend"), "cloud"));
    assert.equal(e.accepted, same ? "local" : "cloud");
    assert.equal(e.verdict, same ? "agree" : "better-target");
    const [ev] = await events.wait(1);
    assert.equal(ev.exchange, kept.id);
    assert.equal(ev.data.op, same ? "confirm" : "replace");
    await events.close();
    await h.t.stop();
  }
});

test("take_better: before the targets' quality it counts whether an answer is one", async () => {
  const h = await house();
  const json = { response_format: { type: "json_object" } };
  const fine = "They carve the outer bank and fill the inner one.";
  for (const [local, later, body, verdict] of [
    [fine, "I cannot help with that.", {}, "cloud-declines"],
    ["I don't know.", fine, {}, "local-declines"],
    ['{"rivers": "bend"}', fine, json, "cloud-not-json"],
    [fine, '{"rivers": "bend"}', json, "local-not-json"],
    ["I don't know.", "I cannot help with that.", {}, "cloud-declines"],
  ]) {
    await h.d.standing({ say: local });
    await h.c.standing({ say: later });
    const kept = await h.keep(`why do rivers bend, said ${verdict}`, {}, body);
    assert.equal(kept.text, local);
    await h.c.down(false);
    const e = await h.settled(kept.id);
    assert.equal(e.verdict, verdict);
    assert.equal(e.local_text, local, "both are kept");
    assert.equal(e.cloud_text, later);
    assert.equal(e.accepted, verdict.startsWith("local") ? "cloud" : "local");
  }
  await h.t.stop();
});

test("take_better: where the targets' quality is equal it is the router's estimate that counts", async () => {
  // A model made for commands is not expected to explain anything, whatever its quality in what it was made for.
  const h = await house({ device: ", quality: 0.9, class: command" });
  const events = await h.events();
  const kept = await h.keep("explain why rivers bend, and what that does to the towns beside them");
  await h.c.down(false);
  const e = await h.settled(kept.id);
  assert.equal(e.verdict, "better-estimate");
  assert.equal(e.accepted, "cloud");
  assert.equal(e.cloud_text, await plainOf(h, user("explain why rivers bend, and what that does to the towns beside them"), "cloud"));
  const [ev] = await events.wait(1);
  assert.equal(ev.data.op, "replace");
  assert.equal(ev.data.verdict, "better-estimate");
  await events.close();
  await h.t.stop();
});

test("an answer that no other target is expected to better is not degraded, and nothing is kept", async () => {
  const h = await house({ device: ", quality: 0.9" });
  await h.c.down(true);
  const r = await h.ask(user("explain why rivers bend"));
  assert.equal(r.tandem.target, "device");
  assert.equal(r.tandem.degraded, false);
  assert.notEqual(r.tandem.queued, true);
  assert.equal((await h.outbox("list")).json.entries.length, 0);
  await h.t.stop();
});

test("keep_local: both answers are kept, the client's stands", async () => {
  const h = await house({ reconcile: "keep_local" });
  const kept = await h.keep("why is the sea salty");
  await h.c.down(false);
  const e = await h.settled(kept.id);
  assert.equal(e.accepted, "local");
  assert.equal(e.verdict, "keep-local");
  assert.ok(e.cloud_text.length > e.local_text.length);
  await h.t.stop();
});

test("ask: a person sees both and decides; the client is told of the question and of the answer", async () => {
  const h = await house({ reconcile: "ask" });
  const events = await h.events();
  const a = await h.keep("first question"), b = await h.keep("second question");
  await h.c.down(false);
  await h.settled(a.id, "answered_by_cloud");
  await h.settled(b.id, "answered_by_cloud");
  const list = (await h.outbox("list")).json.entries;
  assert.deepEqual(list.map((e) => e.state), ["answered_by_cloud", "answered_by_cloud"]);
  const shown = await tandem(["outbox", "show", a.id, "--config", h.t.file]);
  assert.ok(shown.stdout.includes(a.text) && shown.stdout.includes("better answer"), shown.stdout);
  assert.equal((await h.outbox("accept", a.id)).json.state, "reconciled");
  assert.equal((await h.outbox("reject", b.id)).json.state, "reconciled");
  assert.equal((await h.get(a.id)).accepted, "cloud");
  assert.equal((await h.get(b.id)).accepted, "local");
  const all = await events.wait(4);
  assert.deepEqual(all.map((e) => e.data.op).sort(), ["ask", "ask", "confirm", "replace"]);
  const decided = all.find((e) => e.data.op === "replace");
  assert.equal(decided.exchange, a.id);
  assert.equal(decided.data.verdict, "person");
  assert.equal(decided.data.text, (await h.get(a.id)).cloud_text);
  assert.notEqual((await h.outbox("accept", a.id)).code, 0, "decided is decided");
  assert.notEqual((await h.outbox("show", "01ARZ3NDEKTSV4RRFFQ69G5FAV")).code, 0);
  await events.close();
  await h.t.stop();
});

test("a person overrules what a rule decided, and it can be taken back: told each time, and the conversation follows", async () => {
  const h = await house();
  const events = await h.events();
  const q = user("first turn"), wish = { conversation: "talk-1" };
  const kept = await h.keep(q, wish), second = (answer) => [...q, { role: "assistant", content: answer }, ...user("second turn")];
  await h.c.down(false);
  const auto = await h.settled(kept.id);
  assert.equal(auto.accepted, "cloud");
  assert.notEqual(auto.verdict, "person");
  const later = auto.cloud_text;
  const history = async (t, answer) => {
    await h.c.reset();
    await t.post({ model: "cloud", messages: second(answer), tandem: wish });
    return JSON.parse((await h.c.log()).requests.at(-1).body).messages[1].content;
  };
  assert.equal(await history(h.t, kept.text), later);
  const again = await tandem(["outbox", "accept", kept.id, "--config", h.t.file]);
  assert.notEqual(again.code, 0);
  assert.match(again.stderr, /stands already/);
  const decide = async (verb, accepted, stands, gives) => {
    assert.equal((await h.outbox(verb, kept.id)).json.state, "reconciled");
    const e = await h.get(kept.id);
    assert.equal(e.accepted, accepted);
    assert.equal(e.verdict, "person");
    assert.equal(await history(h.t, gives), stands, "what the client has of before");
    assert.equal(await history(h.t, stands), stands);
  };
  await decide("reject", "local", kept.text, later);
  await decide("accept", "cloud", later, kept.text);
  await decide("reject", "local", kept.text, later);
  const all = await events.wait(4);
  assert.deepEqual(all.map((e) => [e.data.op, e.data.verdict === "person", e.data.text]),
    [["replace", false, later], ["replace", true, kept.text], ["replace", true, later], ["replace", true, kept.text]]);
  assert.ok(all.every((e, i) => e.exchange === kept.id && (i === 0 || e.id > all[i - 1].id)));
  await events.close();
  await h.t.stop("SIGKILL");
  const t = await startTandem(readFileSync(h.t.file, "utf8").split("\n").slice(3).join("\n"), { dir: h.t.dir });
  assert.equal((await (await fetch(`${t.url}/v1/tandem/exchanges/${kept.id}`)).json()).accepted, "local");
  assert.equal(await history(t, later), kept.text);
  assert.equal(await history(t, kept.text), kept.text);
  await t.stop();
});

test("an answer that never came cannot be chosen", async () => {
  const h = await house({ alone: true });
  await h.c.down(true);
  const { tandem: told } = await (await h.t.post({ model: "auto", messages: user("nobody is there"), tandem: { queue: true } })).json();
  await h.c.down(false);
  assert.equal((await h.settled(told.exchange)).accepted, "cloud");
  const r = await tandem(["outbox", "reject", told.exchange, "--config", h.t.file]);
  assert.notEqual(r.code, 0);
  assert.match(r.stderr, /answer that is there/);
  assert.equal((await h.get(told.exchange)).accepted, "cloud");
  await h.t.stop();
});

test("drop and retry: what a person drops is not asked again; what was rejected is, when told to", async () => {
  const h = await house({ away: true, outbox: ", expiry_s: 3600", more: "connectivity: offline\n" });
  const gone = await h.ask(user("drop me")), back = await h.ask(user("reject me first"));
  assert.equal((await h.outbox("drop", gone.id)).json.state, "dropped");
  await h.c.standing({ content_policy: true }); // no later try can mend that
  await h.online();
  const rejected = await h.settled(back.id, "rejected");
  assert.equal(rejected.error, "tandem.content_policy");
  const told = await h.events(0);
  assert.deepEqual((await told.wait(1)).map((e) => [e.type, e.exchange, e.data.error]), [["rejected", back.id, "tandem.content_policy"]]);
  await told.close();
  await h.c.standing(null);
  assert.equal((await h.outbox("retry", back.id)).code, 0);
  const e = await h.settled(back.id);
  assert.equal(e.accepted, "cloud");
  assert.equal((await h.get(gone.id)).state, "dropped");
  assert.ok(!(await h.c.log()).requests.some((r) => r.body.includes("drop me")));
  await h.t.stop();
});

test("events: ids rise, a listener that comes back gets what it missed, once, and nothing of another tenant", async () => {
  const h = await house({ more: "tenants: [{name: acme}, {name: other}]\n" });
  const ids = [];
  for (const q of ["one", "two", "three"]) {
    const kept = await h.keep(q);
    ids.push(kept.id);
    await h.c.down(false);
    await h.settled(kept.id);
  }
  const first = await h.events(0);
  const all = await first.wait(3);
  await first.close();
  assert.deepEqual(all.map((e) => e.exchange), ids);
  assert.ok(all.every((e, i) => e.lineId === e.id && (i === 0 || e.id > all[i - 1].id)));
  const resumed = await h.events(all[0].id);
  assert.deepEqual((await resumed.wait(2)).map((e) => e.exchange), ids.slice(1));
  const fresh = await h.events(); // says nothing of where it was: from now on
  const more = await h.keep("four");
  await h.c.down(false);
  assert.equal((await resumed.wait(3))[2].exchange, more.id);
  assert.deepEqual((await fresh.wait(1)).map((e) => e.exchange), [more.id]);
  await fresh.close();
  await resumed.close();
  const bad = await fetch(`${h.t.url}/v1/tandem/events`, { headers: { "last-event-id": "x" } });
  assert.equal(bad.status, 400);
  // With keys each tenant sees its own.
  const key = JSON.parse((await tandem(["keys", "create", "--tenant", "other", "--json", "--config", h.t.file])).stdout).key;
  const theirs = await fetch(`${h.t.url}/v1/tandem/exchanges/${ids[0]}`, { headers: { authorization: `Bearer ${key}` } });
  assert.equal(theirs.status, 404);
  await h.t.stop();
});

test("a replay carries the exchange's idempotency key, the same on every try; a live request carries its own", async () => {
  const h = await house();
  const kept = await h.keep("idempotent");
  await h.c.script({ status: 500 }, { status: 500 }, { status: 500 }, { status: 500 });
  await h.c.down(false);
  await h.settled(kept.id);
  const keys = (await h.c.log()).requests.filter((r) => r.body.includes("idempotent")).map((r) => r.headers["idempotency-key"]);
  assert.ok(keys.length >= 2, `${keys.length} tries`);
  assert.ok(keys[0] && keys.every((k) => k === keys[0]), keys.join());
  await h.t.post({ model: "cloud", messages: user("a live one") });
  const live = (await h.c.log()).requests.at(-1).headers["idempotency-key"];
  assert.ok(live && live !== keys[0]);
  assert.equal((await h.d.log()).requests[0].headers["idempotency-key"], undefined, "the device knows none");
  await h.t.stop();
});

test("what goes on from a prefix is another request, and is not sent under the key of the first", async () => {
  const h = await house();
  await plainOf(h, user("the first"), "cloud");
  await h.c.script({ cut_after_tokens: 5 });
  const cut = await h.t.post({ model: "cloud", messages: user("cut and gone on with"), stream: true });
  assert.ok((await cut.text()).includes("[DONE]"));
  const pair = (await h.c.log()).requests.slice(-2);
  assert.equal(JSON.parse(pair[1].body).messages.at(-1).role, "assistant");
  assert.ok(pair[1].headers["idempotency-key"].startsWith(pair[0].headers["idempotency-key"]));
  assert.notEqual(pair[1].headers["idempotency-key"], pair[0].headers["idempotency-key"]);
  await h.t.stop();
});

test("a client's idempotency key stands for one request; a provider that knows keys gets one made of it", async () => {
  const h = await house();
  const post = (key, body, more = {}) => h.t.post(body, "/v1/chat/completions", { "idempotency-key": key, ...more });
  const body = (text, more) => JSON.stringify({ model: "cloud", messages: user(text), ...more });
  const sent = async () => (await h.c.log()).requests.map((r) => r.headers["idempotency-key"]);
  assert.equal((await post("my-key-1", body("one"))).status, 200);
  assert.equal((await post("my-key-1", body("one"))).status, 200, "the first is over: asked again");
  assert.equal((await post("my-key-2", body("one"))).status, 200);
  const keys = await sent();
  assert.equal(keys.length, 3);
  assert.equal(keys[0], keys[1], "the provider may give the first answer again");
  assert.notEqual(keys[0], keys[2]);
  assert.ok(keys.every((k) => /^tdk-[0-9a-f]{32}-[0-9a-f]{16}$/.test(k)), keys.join());
  const reused = await post("my-key-1", body("two"));
  assert.equal(reused.status, 422);
  assert.equal((await reused.json()).error.code, "tandem.request.key_reused");
  assert.equal((await sent()).length, 3, "nobody was asked");
  // While the first is being answered; from then on it is over, also where its client has gone.
  await h.c.standing({ first_token_ms: 60000 });
  const abort = new AbortController();
  const gone = fetch(`${h.t.url}/v1/chat/completions`, { method: "POST", body: body("slow"), signal: abort.signal,
    headers: { "content-type": "application/json", "idempotency-key": "my-key-3" } }).catch(() => "gone");
  await until(async () => (await sent()).length === 4, "the slow one to be asked");
  const twice = await post("my-key-3", body("slow"));
  assert.equal(twice.status, 409);
  assert.equal(twice.headers.get("retry-after"), "1");
  assert.equal((await twice.json()).error.code, "tandem.request.in_progress");
  abort.abort();
  assert.equal(await gone, "gone");
  await h.c.standing({});
  await until(async () => (await post("my-key-3", body("slow"))).status === 200, "the slow one to be answered");
  // What is no key is told; the device, which knows none, gets none.
  for (const bad of ["two words", "k".repeat(256)]) {
    const r = await post(bad, body("one"));
    assert.equal(r.status, 400);
    assert.equal((await r.json()).error.param, "idempotency-key");
  }
  assert.equal((await post("my-key-4", body("one", { model: "device" }))).status, 200);
  assert.equal((await h.d.log()).requests.at(-1).headers["idempotency-key"], undefined);
  // Another tenant's key is another key, there as here.
  const key = JSON.parse((await tandem(["keys", "create", "--tenant", "other", "--json", "--config", h.t.file])).stdout).key;
  assert.equal((await post("my-key-1", body("one"), { authorization: `Bearer ${key}` })).status, 200);
  assert.ok(!keys.includes((await sent()).at(-1)));
  await h.t.stop();
});

test("a request that is sent again under its key is kept once, also after a restart", async () => {
  const h = await house();
  await h.c.down(true);
  const key = { "idempotency-key": "kept-key" };
  const first = await h.ask(user("keep this once"), {}, {}, key);
  assert.equal(first.tandem.queued, true);
  assert.equal(first.tandem.queued_as, undefined);
  const again = await h.ask(user("keep this once"), {}, {}, key);
  assert.equal(again.tandem.queued, true);
  assert.equal(again.tandem.queued_as, first.id, "where the better answer will be found");
  const other = await h.ask(user("keep this once"), {}, {}, { "idempotency-key": "another-key" });
  assert.equal(other.tandem.queued_as, undefined);
  assert.equal((await h.outbox("list")).json.entries.length, 2);
  await h.t.stop("SIGKILL");
  const yaml = readFileSync(h.t.file, "utf8").replace(/^(version|listen|data_dir):.*\n/gm, "");
  const start = () => startTandem(yaml, { dir: h.t.dir });
  let t = await start();
  const ask = async (text) => (await (await t.post({ model: "auto", messages: user(text), tandem: { queue: true, prefer: "quality" } },
    "/v1/chat/completions", key)).json()).tandem;
  assert.notEqual((await ask("another request")).queued, true, "answered, and not kept in the other's place");
  await t.stop();
  t = await start();
  const third = await ask("keep this once");
  assert.equal(third.queued_as, first.id);
  const entries = async () => JSON.parse((await tandem(["outbox", "list", "--json", "--config", t.file])).stdout).entries;
  assert.equal((await entries()).length, 2);
  await h.c.down(false);
  for (const id of [first.id, other.id]) {
    const done = await until(async () => {
      const e = await (await fetch(`${t.url}/v1/tandem/exchanges/${id}`)).json();
      return e.state === "reconciled" && e;
    }, "the kept one to be answered");
    assert.equal(done.accepted, "cloud");
  }
  const paid = (await h.c.log()).requests.filter((r) => r.body.includes("keep this once")).map((r) => r.headers["idempotency-key"]);
  assert.equal(new Set(paid.filter((k) => k.startsWith("tdk-"))).size, 2, paid.join());
  await t.stop();
});

test("connectivity: offline answers on the device at once, keeps what asks for it, and asks nobody outside until it is taken back", async () => {
  const h = await house({ away: true, more: "connectivity: offline\n" });
  const began = Date.now();
  const kept = await h.ask(user("forced offline"));
  assert.ok(Date.now() - began < 2000);
  assert.equal(kept.tandem.target, "device");
  assert.equal(kept.tandem.degraded, true);
  assert.equal(kept.tandem.reason, "offline");
  assert.equal(kept.tandem.queued, true);
  const pinned = await h.t.post({ model: "cloud", messages: user("pinned") });
  assert.equal(pinned.status, 503);
  assert.equal((await h.c.log()).requests.length, 0);
  assert.equal((await h.get(kept.id)).state, "answered_locally");
  await h.online();
  assert.equal((await h.settled(kept.id)).accepted, "cloud");
  await h.t.stop();
});

test("where nobody can answer now, the error says that the request is kept; the answer comes later", async () => {
  for (const forced of [false, true]) {
    const h = await house({ alone: true, away: forced, more: forced ? "connectivity: offline\n" : "" });
    if (!forced) await h.c.down(true);
    const kept = [];
    for (const stream of [false, true]) {
      const r = await h.t.post({ model: "auto", stream, messages: user(`nobody is there ${stream}`), tandem: { queue: true } });
      const { error, tandem: told } = await r.json();
      assert.ok(r.status === (forced ? 503 : 502), `${r.status} ${error.message}`);
      assert.equal(told.queued, true);
      assert.equal(told.exchange, r.headers.get("x-tandem-exchange"));
      assert.ok(told.attempts.every((a) => a.outcome !== "ok"));
      kept.push(told.exchange);
    }
    const unkept = await (await h.t.post({ model: "auto", messages: user("not to be kept") })).json();
    assert.notEqual(unkept.tandem?.queued, true);
    assert.equal((await h.outbox("list")).json.entries.length, 2);
    await (forced ? h.online() : h.c.down(false));
    for (const id of kept) {
      const e = await h.settled(id);
      assert.equal(e.verdict, "local-empty");
      assert.equal(e.accepted, "cloud");
    }
    await h.t.stop();
  }
});

test("connectivity: metered is a fact that rules may use", async () => {
  const h = await house({ away: true, more: "connectivity: metered\npolicy: {rules: [{name: spare, when: {link: {metered: true}}, allow: {tiers: [device]}}]}\n" });
  const r = await (await h.t.post({ model: "auto", messages: user("metered"), tandem: { prefer: "quality" } })).json();
  assert.equal(r.tandem.target, "device");
  assert.equal((await h.c.log()).requests.length, 0);
  await h.t.stop();
});

test("a full outbox, and one that is switched off: the answer comes all the same, and does not claim to be kept", async () => {
  const h = await house({ outbox: ", max_entries: 1" });
  await h.keep("fits");
  const r = await h.ask(user("does not fit"));
  assert.equal(r.tandem.target, "device");
  assert.notEqual(r.tandem.queued, true);
  assert.equal((await h.outbox("list")).json.entries.length, 1);
  await h.t.stop();
  const off = await house({ outbox: ", enabled: false" });
  await off.c.down(true);
  const q = await off.ask(user("not kept"));
  assert.notEqual(q.tandem.queued, true);
  await off.t.stop();
});

test("what is finished makes room for what waits; a completion is kept like a chat", async () => {
  const h = await house({ outbox: ", max_entries: 1" });
  const first = await h.keep("first");
  await h.c.down(false);
  await h.settled(first.id);
  await h.c.down(true);
  await until(async () => { // its breaker may still be about to let one through
    const r = await (await h.t.post({ model: "auto", prompt: "function add(", tandem: { queue: true, prefer: "quality" } }, "/v1/completions")).json();
    return r.tandem.queued && (first.next = r);
  }, "the completion to be kept");
  assert.equal((await h.outbox("list")).json.entries.length, 1, "the finished one is gone");
  await h.c.down(false);
  const e = await h.settled(first.next.tandem.exchange);
  assert.equal(e.local_text, first.next.choices[0].text);
  assert.equal(e.accepted, "cloud");
  assert.ok((await h.c.log()).requests.some((r) => r.path === "/v1/completions"));
  await h.t.stop();
});

test("what policy refuses by now waits its turn without holding up the others", async () => {
  const policy = (rules) => `policy: {content: {labels: {bird: {words: [bluebird]}}}, rules: [${rules}]}\n`;
  const h = await house({ away: true, rate: 1, more: `connectivity: offline\n${policy("")}` });
  for (let i = 0; i < 4; i++) await h.ask(user(`bluebird ${i}`)); // older than the one that may go
  const free = await h.ask(user("free to go"));
  await h.online((yaml) => yaml.replace("rules: []", "rules: [{name: stay, when: {labels: [bird]}, transform: local_only}]"));
  assert.equal((await h.settled(free.id)).accepted, "cloud");
  const rest = (await h.outbox("list")).json.entries.filter((e) => e.id !== free.id);
  assert.ok(rest.every((e) => e.state === "answered_locally" && e.error === "tandem.policy.no_target"), JSON.stringify(rest));
  assert.ok(!(await h.c.log()).requests.some((r) => r.body.includes("bluebird")));
  await h.t.stop();
});

test("a replay is its tenant's and its key's: their limits bind it, and with the key revoked nobody asks for it", async () => {
  const h = await house({ away: true, more: "connectivity: offline\ntenants: [{name: slow, rate: {requests_per_min: 2}}, {name: gone}]\n" });
  const keys = {};
  for (const tenant of ["slow", "gone"])
    keys[tenant] = JSON.parse((await tandem(["keys", "create", "--tenant", tenant, "--json", "--config", h.t.file])).stdout);
  const as = (tenant, q) => h.ask(user(q), {}, {}, { authorization: `Bearer ${keys[tenant].key}` });
  const slow = [await as("slow", "one"), await as("slow", "two")], gone = await as("gone", "revoked");
  assert.equal((await tandem(["keys", "revoke", keys.gone.id, "--config", h.t.file])).code, 0);
  await h.online();
  const seen = await until(async () => {
    const all = Object.fromEntries((await h.outbox("list")).json.entries.map((e) => [e.id, e]));
    return all[gone.id].state === "rejected" && slow.every(({ id }) => all[id].error === "tandem.rate.limited") && all;
  }, "each to be refused");
  assert.equal(seen[gone.id].error, "tandem.auth.key");
  assert.equal((await h.c.log()).requests.length, 0);
  await h.t.stop();
});

test("wishes that came as headers bind the replay too", async () => {
  const h = await house({ away: true, more: "connectivity: offline\n" });
  const kept = await h.ask(user("not for any price"), {}, {}, { "x-tandem-max-cost-usd": "0.05" });
  assert.equal(kept.tandem.queued, true);
  await h.online((yaml) => yaml.replace("price: {input: 2.5, output: 10}", "price: {input: 25000, output: 100000}"));
  await until(async () => (await h.get(kept.id)).error, "it to be refused");
  assert.equal((await h.get(kept.id)).state, "answered_locally");
  assert.equal((await h.c.log()).requests.length, 0);
  await h.t.stop();
});

test("a later answer too large to be kept ends its entry; the next is asked all the same", async () => {
  const piece = JSON.stringify({ id: "a", object: "chat.completion.chunk", created: 1, model: "big", choices: [{ index: 0, delta: { content: "x".repeat(512 << 10) }, finish_reason: null }] });
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (d) => (body += d));
    request.on("end", async () => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      for (let i = 0; i < (body.includes("endless") ? 81 : 1); i++)
        await new Promise((resolve) => response.write(`data: ${piece}\n\n`, resolve));
      response.end(`data: ${JSON.stringify({ id: "a", object: "chat.completion.chunk", created: 1, model: "big", choices: [{ index: 0, delta: {}, finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n`);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  stopLater(() => server.close());
  const h = await house({ away: true, more: "connectivity: offline\n" });
  const endless = await h.ask(user("endless")), next = await h.ask(user("the next"));
  await h.online((yaml) => yaml.replace(/base_url: "http:..cloud.example.v1".*proxy: "[^"]*"/, `base_url: "http://127.0.0.1:${server.address().port}/v1"`).replaceAll(/(first_token|idle|total)_ms: \d+/g, "$1_ms: 60000"));
  assert.equal((await h.settled(next.id)).cloud_text.length, 512 << 10);
  const e = await h.get(endless.id);
  assert.equal(e.state, "rejected");
  assert.equal(e.error, "tandem.request.too_large");
  assert.equal(e.local_text, endless.text);
  await h.t.stop();
});

test("a conversation that has a name goes on from the answer that was accepted, also after a restart", async () => {
  const h = await house({ reconcile: "ask" });
  const q = user("first turn"), wish = { conversation: "talk-1" };
  const kept = await h.keep(q, wish), other = await h.keep(q, { conversation: "talk-2" });
  await h.c.down(false);
  await h.settled(kept.id, "answered_by_cloud");
  await h.settled(other.id, "answered_by_cloud");
  assert.equal((await h.outbox("accept", kept.id)).code, 0);
  assert.equal((await h.outbox("reject", other.id)).code, 0);
  const later = (await h.get(kept.id)).cloud_text;
  const second = (answer) => [...q, { role: "assistant", content: answer }, ...user("second turn")];
  const history = async (t, messages, wishes) => {
    await h.c.reset();
    await t.post({ model: "cloud", messages, tandem: wishes });
    return JSON.parse((await h.c.log()).requests.at(-1).body).messages[1].content;
  };
  assert.equal(await history(h.t, second(kept.text), wish), later);
  assert.equal(await history(h.t, second("something else"), wish), "something else");
  assert.equal(await history(h.t, second(kept.text), { conversation: "talk-2" }), kept.text, "there the local one was kept");
  assert.equal(await history(h.t, second(kept.text), {}), kept.text, "nobody is rewritten who gave no name");
  await h.t.stop();
  const t = await startTandem(readFileSync(h.t.file, "utf8").split("\n").slice(3).join("\n"), { dir: h.t.dir });
  assert.equal(await history(t, second(kept.text), wish), later);
  await t.stop();
});

test("a kept request bears its labels by name: a restart whose configuration names them in another order changes nothing", async () => {
  const policy = (labels, rules) => `connectivity: offline\npolicy: {content: {labels: {${labels}}}, rules: [${rules}]}\n`;
  const h = await house({ away: true, more: policy("bird: {words: [bluebird]}, fish: {words: [trout]}", "") });
  const bird = await h.ask(user("bluebird")), fish = await h.ask(user("trout"));
  await h.t.stop();
  // Nothing but what was kept says by now which is which: the words are others.
  const yaml = readFileSync(h.t.file, "utf8").split("\n").slice(3).join("\n").replace(/connectivity: offline\npolicy: .*\n/, "") +
    policy("fish: {words: [salmon]}, bird: {words: [sparrow]}", "{name: stay, when: {labels: [bird]}, transform: local_only}");
  h.t = await startTandem(yaml, { dir: h.t.dir });
  await h.online();
  const entry = async (id) => (await h.outbox("list")).json.entries.find((e) => e.id === id);
  await until(async () => (await entry(fish.id)).state === "reconciled", "the fish to be answered", 30000);
  await until(async () => (await entry(bird.id)).error === "tandem.policy.no_target", "the bird to be held back", 30000);
  assert.ok(!(await h.c.log()).requests.some((r) => r.body.includes("bluebird")));
  await h.t.stop();
});

test("tool calls are answers too: kept, compared as data, and agreed on", async () => {
  const tools = [{ type: "function", function: { name: "timer", parameters: { type: "object" } } }];
  const h = await house();
  await h.c.down(true);
  const call = async (json) => h.ask(user(`TOOL:timer ${json}`), {}, { tools });
  const same = await call('{"minutes": 10, "name": "tea"}');
  await h.c.down(false);
  const e = await h.settled(same.id);
  assert.deepEqual(JSON.parse(e.local_text), { tool_calls: [{ name: "timer", arguments: { minutes: 10, name: "tea" } }] });
  assert.equal(e.verdict, "agree");
  await h.t.stop();
});

// SPDX-License-Identifier: Apache-2.0
// Later answers delivered to a webhook: over TLS, signed, at least once with ids that stay the same, through an outage
// of the receiver and a kill of the daemon; and never a text that the receiver may not see.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import { after, test } from "node:test";
import { scratch, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const SECRET = "whsec_" + Buffer.from("a secret of twenty-four b").toString("base64");

// A receiver with a private CA. `behave(delivery)` gives the status; no `port`: a free one.
async function receiver(folder, behave = () => 200, port = 0, headers = {}) {
  const seen = [];
  const server = createServer({ key: readFileSync(join(folder, "server.key")), cert: readFileSync(join(folder, "server.pem")) },
    (req, res) => {
      let body = "";
      req.on("data", (d) => (body += d));
      req.on("end", () => {
        const delivery = { id: req.headers["webhook-id"], headers: req.headers, body, event: JSON.parse(body) };
        seen.push(delivery);
        res.writeHead(behave(delivery, seen.length), headers);
        res.end();
      });
    });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  const close = () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); });
  after(close);
  return { port: server.address().port, seen, close };
}

// A device that answers in few words, a cloud that answers in many, and where to deliver.
async function house(port, folder, { webhook = "clearance: internal, region: eu", more = "", dir } = {}) {
  const small = await startUpstream("--tokens", "5"), big = await startUpstream("--tokens", "20");
  const env = { HOOK_SECRET: SECRET, HOOK_AUTH: "receiver-token" };
  const config = (p = port) => `targets:
  - {name: device, tier: device, provider: openai, base_url: "${small.url}", model: small, terminal: true, quality: 0.3, clearance: restricted}
  - {name: cloud, tier: cloud, provider: openai, base_url: "${big.url}", model: big, region: us, clearance: restricted, quality: 0.9, timeouts: {connect_ms: 500, first_token_ms: 2000, idle_ms: 1000, total_ms: 5000}}
webhook: {url: "https://127.0.0.1:${p}/tandem", secret: "env:HOOK_SECRET", auth: "env:HOOK_AUTH", ca_file: "${folder}/ca.pem", private: true, ${webhook}}
probe_interval_ms: 1000
outbox: {replay_per_min: 6000}
${more}`;
  const t = await startTandem(config(), { env, dir });
  return { small, big, t, config, env };
}

async function keep(h, question, wishes = {}) {
  await h.big.down(true);
  const r = await h.t.post({ model: "auto", messages: user(question), tandem: { queue: true, prefer: "quality", ...wishes } });
  const body = await r.json();
  assert.equal(r.status, 200, JSON.stringify(body));
  assert.equal(body.tandem.tier, "device");
  await h.big.down(false);
  return { id: body.tandem.exchange, text: body.choices[0].message.content };
}

function assertSigned(d) {
  const key = Buffer.from(SECRET.slice(6), "base64");
  const mac = createHmac("sha256", key).update(`${d.id}.${d.headers["webhook-timestamp"]}.${d.body}`).digest("base64");
  assert.equal(d.headers["webhook-signature"], `v1,${mac}`);
  assert.ok(Math.abs(Date.now() / 1000 - Number(d.headers["webhook-timestamp"])) < 300);
  assert.equal(d.headers.authorization, "Bearer receiver-token");
}

async function tlsFolder() {
  const folder = scratch();
  await startUpstream("--tls", folder);
  return folder;
}

test("a later answer is delivered signed; a failing receiver gets it again with the same id, then no more", async () => {
  const folder = await tlsFolder();
  const hook = await receiver(folder, (_, n) => (n <= 2 ? 500 : 200));
  const h = await house(hook.port, folder);
  const first = await keep(h, "why do rivers bend");
  await until(() => hook.seen.length >= 3, "three tries", 30000);
  const plain = await (await h.t.post({ model: "cloud", messages: user("why do rivers bend") })).json();
  for (const d of hook.seen.slice(0, 3)) {
    assertSigned(d);
    assert.equal(d.id, hook.seen[0].id);
    assert.equal(d.event.exchange, first.id);
    assert.equal(d.event.type, "revision");
    assert.equal(d.event.data.op, "replace");
    assert.equal(d.event.data.verdict, "better-target");
    assert.equal(d.event.data.text, plain.choices[0].message.content);
  }
  const second = await keep(h, "why is the sea salty");
  await until(() => hook.seen.some((d) => d.event.exchange === second.id), "the second delivery", 30000);
  assert.equal(hook.seen.length, 4);
  assert.ok(hook.seen[3].event.id > hook.seen[0].event.id);
  const ids = await (await fetch(`${h.t.url}/v1/tandem/exchanges/${first.id}`)).json();
  assert.equal(ids.state, "reconciled");
  await until(async () => (await h.t.metric("tandem_webhook_delivered_total")) === 2, "both to be counted");
  assert.equal(await h.t.metric("tandem_webhook_retried_total"), 2);
  assert.equal(await h.t.metric("tandem_webhook_failed_total"), 0);
  await until(async () => (await h.t.metric("tandem_webhook_pending_seconds")) === 0, "nothing to wait");
  await h.t.stop();
});

test("a receiver that is down, and a daemon killed meanwhile: delivered when both are back, nothing twice that was taken", async () => {
  const folder = await tlsFolder();
  const hook = await receiver(folder);
  const h = await house(hook.port, folder);
  await keep(h, "one");
  await until(() => hook.seen.length === 1, "the first delivery", 30000);
  await hook.close();
  const missed = await keep(h, "two");
  const state = async () => (await (await fetch(`${h.t.url}/v1/tandem/exchanges/${missed.id}`)).json()).state;
  await until(async () => (await state()) === "reconciled", "the second answer", 30000);
  await until(async () => (await h.t.metric("tandem_webhook_pending_seconds")) >= 1, "the age of what waits");
  assert.equal(await h.t.metric("tandem_webhook_delivered_total"), 1);
  await h.t.stop("SIGKILL");
  const again = await receiver(folder, () => 200, hook.port);
  const t = await startTandem(h.config(), { env: h.env, dir: h.t.dir });
  await until(() => again.seen.length >= 1, "the delivery after the restart", 30000);
  assert.deepEqual(again.seen.map((d) => d.event.exchange), [missed.id]);
  assertSigned(again.seen[0]);
  await until(async () => (await t.metric("tandem_webhook_delivered_total")) === 1, "it to be counted");
  await until(async () => (await t.metric("tandem_webhook_pending_seconds")) === 0, "nothing to wait");
  await t.stop();
});

test("what the receiver may not see is told without its text; a rule counts as much as a clearance", async () => {
  const folder = await tlsFolder();
  const hook = await receiver(folder);
  const more = "policy: {rules: [{when: {labels: [phi]}, allow: {targets: [device, cloud]}}]}\n";
  const h = await house(hook.port, folder, { more });
  const secret = await keep(h, "what is in the contract", { data_class: "confidential" });
  const ruled = await keep(h, "what did the doctor say", { data_class: "internal", labels: ["phi"] });
  const open = await keep(h, "what is the weather like", { data_class: "internal" });
  await until(() => hook.seen.length >= 3, "three deliveries", 30000);
  const of = (id) => hook.seen.find((d) => d.event.exchange === id).event.data;
  assert.equal(of(secret.id).withheld, "class");
  assert.equal(of(secret.id).text, undefined);
  assert.equal(of(secret.id).op, "replace");
  assert.equal(of(ruled.id).withheld, "denied");
  assert.equal(of(ruled.id).text, undefined);
  assert.ok(of(open.id).text.length > 0);
  await h.t.stop();
});

test("one event that is refused for good does not hold up the others", async () => {
  const folder = await tlsFolder();
  let refused = null;
  const hook = await receiver(folder, (d) => ((refused ??= d.event.exchange) === d.event.exchange ? 422 : 200));
  const h = await house(hook.port, folder);
  await keep(h, "one");
  const next = await keep(h, "two");
  await until(() => hook.seen.some((d) => d.event.exchange === next.id), "the next event", 60000);
  assert.equal(hook.seen.filter((d) => d.event.exchange === refused).length, 5);
  await until(async () => (await h.t.metric("tandem_webhook_delivered_total")) === 1, "it to be counted");
  assert.equal(await h.t.metric("tandem_webhook_failed_total"), 1);
  assert.equal(await h.t.metric("tandem_webhook_retried_total"), 4);
  await h.t.stop();
});

test("a redirect is not followed: neither the text nor the token goes where a receiver points", async () => {
  const folder = await tlsFolder();
  const elsewhere = await receiver(folder);
  const hook = await receiver(folder, (_, n) => (n === 1 ? 307 : 200), 0, { location: `https://127.0.0.1:${elsewhere.port}/tandem` });
  const h = await house(hook.port, folder);
  await keep(h, "where to");
  await until(() => hook.seen.length >= 2, "the second try", 30000);
  assert.equal(elsewhere.seen.length, 0);
  assert.equal(hook.seen[1].id, hook.seen[0].id);
  // Each try has its receipt in the chain, as every egress has.
  const verify = JSON.parse((await tandem(["ledger", "verify", "--json", "--config", h.t.file])).stdout);
  assert.equal(verify.valid, true);
  assert.ok(verify.receipts >= 4, JSON.stringify(verify)); // the request, its replay, two deliveries
  await h.t.stop();
});

test("a receiver whose certificate is not accepted, or that answers another name, gets nothing", async () => {
  const folder = await tlsFolder(), other = await tlsFolder(); // another authority
  const hook = await receiver(other);
  const h = await house(hook.port, folder);
  const kept = await keep(h, "who are you");
  const state = async () => (await (await fetch(`${h.t.url}/v1/tandem/exchanges/${kept.id}`)).json()).state;
  await until(async () => (await state()) === "reconciled", "the later answer", 30000);
  await until(() => /while=deliver .*err=tandem.upstream.tls/.test(h.t.child.stderr), "a refused handshake", 30000);
  assert.equal(hook.seen.length, 0);
  await h.t.stop();
});

test("check says what is wrong with a webhook", async () => {
  const file = join(scratch(), "tandem.yaml");
  const target = "targets: [{name: d, tier: device, provider: llama, model: m.gguf}]\n";
  const check = async (line) => {
    writeFileSync(file, `version: 1\n${target}${line}\n`);
    const r = await tandem(["check", file]);
    return { code: r.code, text: r.stdout + r.stderr };
  };
  assert.match((await check("webhook: {url: http://example.com/x}")).text, /:3:\d+:.*in the clear/);
  assert.match((await check("webhook: {url: https://127.0.0.1/x}")).text, /private: true/);
  assert.match((await check("webhook: {secret: env:X}")).text, /url is missing/);
  assert.match((await check("webhook: {url: https://example.com/x, sekret: env:X}")).text, /secret/);
  assert.equal((await check("webhook: {url: https://example.com/x, secret: env:X}")).code, 0);
});

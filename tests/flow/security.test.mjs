// SPDX-License-Identifier: Apache-2.0
// What must not happen, on the whole program: open doors, prompts or keys in places where they do not belong, one tenant's
// requests seen by another. docs/security.md says which class of fault each stands for.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { cloud, raw, readStream, scratch, startTandem, startUpstream, tandem, user } from "./lib.mjs";

const files = (dir) => readdirSync(dir).flatMap((name) => {
  const path = join(dir, name), st = statSync(path);
  return st.isDirectory() ? files(path) : st.isFile() ? [path] : [];
});

test("a canary in prompt, answer and key appears in no log and in no file", async () => {
  const canary = "CANARYprompt7391", key = "CANARYkey5520";
  const up = await startUpstream("--api-key", key);
  const t = await startTandem(`log_level: debug\ntargets:\n${cloud("cloud", up.url, ", api_key: env:CLOUD_KEY")}outbox: {enabled: true}\n`,
    { env: { CLOUD_KEY: key } });
  const ok = await t.post({ model: "auto", messages: user(`ECHO:${canary}`) });
  assert.equal((await ok.json()).choices[0].message.content, canary);
  const tags = { tandem: { queue: true }, stream: true };
  await up.script({ cut_after_tokens: 2, times: 4 });
  await readStream(await t.post({ model: "auto", messages: user(`${canary} one two three [tokens=20]`), ...tags }));
  await up.standing({ status: 500 });
  await (await t.post({ model: "auto", messages: user(canary), tandem: { queue: true } })).text();
  await t.post(`{"model":"auto","messages":[{"role":"user","content":"${canary}"}],"temperature":99}`);
  await t.post(`{"messages": ${canary}`);
  await t.stop();
  const seen = (await up.log()).requests[0];
  assert.equal(seen.headers.authorization, `Bearer ${key}`, "the provider did get the key");
  for (const path of files(join(t.dir, "data"))) {
    const bytes = readFileSync(path).toString("latin1");
    assert.ok(!bytes.includes(canary) && !bytes.includes(key), path);
  }
  assert.ok(!t.child.stderr.includes(canary) && !t.child.stderr.includes(key), "the log");
});

test("without keys nothing is served beyond loopback", async () => {
  const dir = scratch(), file = join(dir, "t.yaml");
  writeFileSync(file, `version: 1\nlisten: 0.0.0.0:0\ndata_dir: ${dir}/data\ntargets:\n${cloud("cloud", "http://127.0.0.1:9/v1")}`);
  const r = await tandem(["serve", "--config", file]);
  assert.notEqual(r.code, 0);
  assert.match(r.stderr, /key|TLS/i);
});

test("once a key exists a request needs one; a revoked key opens nothing", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`);
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") })).status, 200);
  const made = JSON.parse((await tandem(["keys", "create", "--json", "--tenant", "acme", "--config", t.file])).stdout);
  assert.match(made.key, /^td_live_.{43}$/);
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") })).status, 401);
  const auth = { authorization: `Bearer ${made.key}` };
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, auth)).status, 200);
  const wrong = { authorization: `Bearer ${made.key.slice(0, -1)}${made.key.endsWith("A") ? "B" : "A"}` };
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, wrong)).status, 401);
  await tandem(["keys", "revoke", made.id, "--config", t.file]);
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, auth)).status, 401);
  for (const path of files(join(t.dir, "data")))
    assert.ok(!readFileSync(path).toString("latin1").includes(made.key.slice(8)), path);
  await t.stop();
});

test("a page in a browser cannot use it: foreign Host and Origin are refused, on every method", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`);
  const { host } = new URL(t.url);
  const body = JSON.stringify({ model: "auto", messages: user("x") });
  const post = (h) => raw(t.url, `POST /v1/chat/completions HTTP/1.1\r\n${h}Content-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
  assert.match(await post("Host: evil.example\r\n"), /^HTTP\/1\.1 (403|421)/);
  assert.match(await post(`Host: ${host}\r\nOrigin: https://evil.example\r\n`), /^HTTP\/1\.1 403/);
  assert.match(await raw(t.url, "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), /^HTTP\/1\.1 (403|421)/);
  const pre = await raw(t.url, `OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: ${host}\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\nConnection: close\r\n\r\n`);
  assert.ok(!/access-control-allow-origin/i.test(pre), pre);
  const get = (h) => raw(t.url, `GET /v1/models HTTP/1.1\r\nHost: ${host}\r\n${h}Connection: close\r\n\r\n`);
  assert.match(await get("Sec-Fetch-Site: cross-site\r\n"), /^HTTP\/1\.1 403/);
  assert.match(await get("Sec-Fetch-Site: same-site\r\n"), /^HTTP\/1\.1 403/, "another port of this machine");
  assert.match(await get("Sec-Fetch-Site: same-origin\r\n"), /^HTTP\/1\.1 200/);
  assert.match(await get("Sec-Fetch-Site: none\r\n"), /^HTTP\/1\.1 200/, "typed into the address bar");
  assert.equal((await fetch(t.url + "/v1/chat/completions", { method: "POST", headers: { "content-type": "text/plain" }, body })).status, 415);
  assert.equal((await up.log()).requests.length, 0);
  assert.equal((await t.post({}, "/admin/keys.list")).status, 404, "operators' methods are not on TCP");
  await t.stop();
});

test("policy holds on every attempt: what a target may not see never reaches it, not even as a fallback", async () => {
  const a = await startUpstream(), b = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("us", a.url)}${cloud("eu", b.url).replace("region: us", "region: eu")}
policy: {rules: [{name: stay, when: {residency: eu}, allow: {regions: [eu, local]}}], content: {labels: {phi: {words: [diagnosis], class: restricted}}}}\n`);
  await b.standing({ status: 503 });
  const r = await t.post({ model: "auto", messages: user("ECHO:x"), tandem: { residency: "eu" } });
  assert.ok(r.status >= 500, String(r.status));
  assert.equal((await a.log()).requests.length, 0);
  const before = (await b.log()).requests.length;
  const refused = await t.post({ model: "auto", messages: user("the diagnosis of this patient") });
  assert.equal((await refused.json()).error.code, "tandem.policy.no_target");
  assert.equal((await a.log()).requests.length, 0);
  assert.equal((await b.log()).requests.length, before);
  await t.stop();
});

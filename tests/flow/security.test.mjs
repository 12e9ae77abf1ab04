// SPDX-License-Identifier: Apache-2.0
// What must not happen, on the whole program: open doors, prompts or keys in places where they do not belong, one tenant's
// requests seen by another. docs/security.md says which class of fault each stands for.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, cloud, raw, readStream, scratch, startTandem, startUpstream, stopLater, tandem, user } from "./lib.mjs";

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
  const told = [await (await fetch(`${t.url}/metrics`)).text(), readFileSync(`/proc/${t.child.proc.pid}/cmdline`, "latin1")];
  for (const args of [["ledger", "tail", "--json"], ["ledger", "stats", "--json"], ["outbox", "list", "--json"]]) {
    const r = await tandem([...args, "--config", t.file]);
    assert.equal(r.code, 0, r.stderr);
    told.push(r.stdout);
  }
  await t.stop();
  const seen = (await up.log()).requests[0];
  assert.equal(seen.headers.authorization, `Bearer ${key}`, "the provider did get the key");
  for (const text of told) assert.ok(text.length > 0 && !text.includes(canary) && !text.includes(key), text);
  for (const path of files(join(t.dir, "data"))) {
    const bytes = readFileSync(path).toString("latin1");
    assert.ok(!bytes.includes(canary) && !bytes.includes(key), path);
  }
  assert.ok(!t.child.stderr.includes(canary) && !t.child.stderr.includes(key), "the log");
});

test("a crash leaves no dump with prompts and keys in it", async () => {
  const up = await startUpstream(), dir = scratch();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`, { dir, before: ["sh", "-c", `cd ${dir} && ulimit -c unlimited; exec "$@"`, "sh"] });
  await (await t.post({ model: "auto", messages: user("ECHO:CANARYdump4410") })).text();
  assert.match(readFileSync(`/proc/${t.child.proc.pid}/limits`, "utf8"), /^Max core file size +[01] /m);
  assert.equal((await t.stop("SIGABRT")).signal, "SIGABRT");
  for (const path of files(dir)) assert.ok(!readFileSync(path).includes("CANARYdump4410"), path);
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

test("an address of every kind is refused beyond loopback, also with a key but no TLS", async () => {
  const dir = scratch(), file = join(dir, "t.yaml");
  const config = (listen) => writeFileSync(file, `version: 1\nlisten: ${listen}\ndata_dir: ${dir}/data\ntargets:\n${cloud("cloud", "http://127.0.0.1:9/v1")}`);
  config("127.0.0.1:0");
  assert.equal((await tandem(["keys", "create", "--config", file])).code, 0);
  for (const listen of ["0.0.0.0:0", '"[::]:0"', '"[::ffff:0.0.0.0]:0"', "192.0.2.1:0"]) {
    config(listen);
    const r = await tandem(["serve", "--config", file]);
    assert.notEqual(r.code, 0, listen);
    assert.match(r.stderr, /TLS|listen/i, listen);
  }
});

test("beyond loopback it serves with key and TLS, and who must show a certificate must show a good one", async () => {
  const dir = scratch(), at = (name) => join(dir, name);
  const openssl = (...args) => execFileSync("openssl", args, { stdio: "ignore" });
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  for (const ca of ["ca", "other"]) {
    openssl("req", "-x509", ...ec, "-subj", `/CN=${ca}`, "-keyout", at(`${ca}.key`), "-out", at(`${ca}.pem`));
    writeFileSync(at("ext"), "subjectAltName=IP:127.0.0.1");
    for (const who of ["server", "client"]) {
      openssl("req", "-new", ...ec.slice(0, 5), "-subj", `/CN=${who}`, "-keyout", at(`${ca}-${who}.key`), "-out", at("csr"));
      openssl("x509", "-req", "-in", at("csr"), "-CA", at(`${ca}.pem`), "-CAkey", at(`${ca}.key`), "-CAcreateserial", "-days", "2", "-extfile", at("ext"), "-out", at(`${ca}-${who}.pem`));
    }
  }
  const up = await startUpstream(), file = at("tandem.yaml");
  const base = `version: 1\ndata_dir: ${dir}/data\ntargets:\n${cloud("cloud", up.url)}`;
  writeFileSync(file, base);
  const { key } = JSON.parse((await tandem(["keys", "create", "--json", "--tenant", "acme", "--config", file])).stdout);
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}tls: {cert: "${at("ca-server.pem")}", key: "${at("ca-server.key")}", client_ca: "${at("ca.pem")}"}\n`,
    { dir, listen: "0.0.0.0:0" });
  const port = t.child.stdout.match(/listens on https:\/\/\S+:(\d+)/)[1];
  const ask = (options, auth = `Bearer ${key}`) => new Promise((resolve) => {
    const body = JSON.stringify({ model: "auto", messages: user("ECHO:x") });
    const r = request({ host: "127.0.0.1", port, method: "POST", path: "/v1/chat/completions", agent: false, ca: readFileSync(at("ca.pem")),
      headers: { "content-type": "application/json", "content-length": body.length, ...(auth && { authorization: auth }) }, ...options }, (res) => {
      res.resume().on("end", () => resolve(res.statusCode)).on("error", () => resolve("refused"));
    });
    r.on("error", () => resolve("refused")).end(body);
  });
  const shown = (ca) => ({ cert: readFileSync(at(`${ca}-client.pem`)), key: readFileSync(at(`${ca}-client.key`)) });
  assert.equal(await ask(shown("ca")), 200);
  assert.equal(await ask(shown("ca"), null), 401, "a certificate is no key");
  assert.equal(await ask({}), "refused", "no certificate");
  assert.equal(await ask(shown("other")), "refused", "a certificate of somebody else's");
  assert.equal(await ask({ ...shown("ca"), maxVersion: "TLSv1.1", minVersion: "TLSv1", ciphers: "DEFAULT@SECLEVEL=0" }), "refused", "old TLS");
  const plain = await raw(`http://127.0.0.1:${port}`, `GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`);
  assert.ok(!plain.includes("200 OK"), "plain HTTP on the TLS port");
  assert.equal((await up.log()).requests.length, 1);
  await t.stop();
});

test("names are never paths: not a model's in a request, not an exchange's, not one on the command line", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`);
  const victim = join(t.dir, "victim.gguf"), model = join(t.dir, "mine.gguf");
  copyFileSync(join(ROOT, "models/starter.gguf"), victim);
  copyFileSync(victim, model);
  for (const name of ["../victim.gguf", victim, "..%2fvictim.gguf", "models/../../victim.gguf", "file:///etc/passwd", "/etc/passwd", "sha256:../../victim", "a\\..\\b", ".", ".."]) {
    const r = await t.post({ model: name, messages: user("x") });
    assert.equal(r.status, 404, name);
    await r.text();
    for (const path of [`/v1/tandem/exchanges/${name}`, `/v1/tandem/exchanges/${encodeURIComponent(name)}`, `/v1/models/${encodeURIComponent(name)}`]) {
      const got = await raw(t.url, `GET ${path} HTTP/1.1\r\nHost: ${new URL(t.url).host}\r\nConnection: close\r\n\r\n`);
      assert.match(got, /^HTTP\/1\.1 4\d\d /, path);
      assert.ok(!got.includes("root:"), path);
    }
    const removed = await tandem(["models", "rm", name, "--config", t.file]);
    assert.notEqual(removed.code, 0, `models rm ${name}`);
    const added = await tandem(["models", "add", model, "--name", name, "--config", t.file]);
    assert.notEqual(added.code, 0, `models add --name ${name}`);
  }
  assert.ok(existsSync(victim));
  assert.equal((await up.log()).requests.length, 0);
  await t.stop();
});

test("nothing listens but the address that was asked for and the owner's socket, also while a model is loaded", async () => {
  const t = await startTandem(`targets:\n  - {name: device, tier: device, provider: llama, model: "${join(ROOT, "models/starter.gguf")}"}\n`);
  assert.equal((await t.post({ model: "device", messages: user("set a timer for 10 minutes") })).status, 200);
  const children = (pid) => readdirSync("/proc").filter((p) => /^\d+$/.test(p) && (() => {
    try { return readFileSync(`/proc/${p}/stat`, "utf8").split(") ")[1].split(" ")[1] === String(pid); } catch { return false; }
  })());
  const guests = children(t.child.proc.pid);
  assert.ok(guests.length > 0, "the guest runs");
  const sockets = [t.child.proc.pid, ...guests].flatMap((pid) => { // a guest without a network may be closed to us: then it has none
    try { return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`)); } catch { return []; }
  }).map((l) => l.match(/^socket:\[(\d+)\]$/)?.[1]).filter(Boolean);
  const table = (name) => readFileSync(`/proc/net/${name}`, "utf8").split("\n").slice(1).map((l) => l.trim().split(/\s+/)).filter((f) => f.length > 9);
  const listening = [...table("tcp"), ...table("tcp6")].filter((f) => f[3] === "0A" && sockets.includes(f[9])).map((f) => f[1]);
  const wanted = Number(new URL(t.url).port).toString(16).toUpperCase().padStart(4, "0");
  assert.deepEqual([...new Set(listening)], [`0100007F:${wanted}`]);
  assert.equal([...table("udp"), ...table("udp6")].filter((f) => sockets.includes(f[9])).length, 0);
  await t.stop();
});

test("a client never chooses where a request goes, nor what is fetched", async () => {
  const up = await startUpstream();
  let touched = 0;
  const trap = createServer((socket) => { touched++; socket.destroy(); });
  await new Promise((resolve) => trap.listen(0, "127.0.0.1", resolve));
  stopLater(() => trap.close());
  const evil = `http://127.0.0.1:${trap.address().port}/`;
  const t = await startTandem(`targets:\n${cloud("cloud", up.url, ", capabilities: [default, image]")}`);
  const bodies = [
    { api_base: evil }, { base_url: evil }, { endpoint: evil }, { proxy: evil }, { callback_url: evil }, { webhook: evil }, { tandem: { base_url: evil } }, { tandem: { webhook: evil } },
    { model: evil }, { messages: [{ role: "user", content: [{ type: "text", text: "x" }, { type: "image_url", image_url: { url: evil } }] }] },
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: `http://good.example@127.0.0.1:${trap.address().port}\\@good.example/` } }] }] },
  ];
  for (const more of bodies) await (await t.post({ model: "auto", messages: user("ECHO:x"), ...more })).text();
  for (const header of ["x-forwarded-host", "x-original-url", "x-tandem-base-url", "forwarded", "x-rewrite-url"])
    await (await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, { [header]: header === "forwarded" ? `host=127.0.0.1:${trap.address().port}` : evil })).text();
  assert.equal(touched, 0);
  for (const { path } of (await up.log()).requests) assert.equal(path, "/v1/chat/completions");
  await t.stop();
});

test("a redirect is not followed: neither key nor prompt reaches where it points", async () => {
  const up = await startUpstream("--api-key", "k-1"), other = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url, ", api_key: env:K")}`, { env: { K: "k-1" } });
  for (const status of [301, 302, 303, 307, 308]) {
    await up.standing({ status, location: `${other.url}/chat/completions` });
    for (const stream of [false, true]) {
      const r = await t.post({ model: "auto", messages: user("x"), stream });
      assert.ok(r.status >= 500, String(r.status));
      assert.match((await r.json()).error.code, /^tandem\./);
    }
  }
  assert.equal((await other.log()).requests.length, 0);
  await t.stop();
});

test("what clients write is never SQL, also before anybody knows who they are", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`);
  const evil = ["' OR '1'='1", "'; DROP TABLE ledger; --", '" OR ""="', "1); DELETE FROM keys; --", "x' UNION SELECT secret FROM keys --"];
  const { key, id } = JSON.parse((await tandem(["keys", "create", "--json", "--tenant", "acme", "--config", t.file])).stdout);
  const auth = { authorization: `Bearer ${key}` };
  for (const x of evil) {
    assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, { authorization: `Bearer ${x}` })).status, 401);
    assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, { authorization: `Bearer td_live_${x}` })).status, 401);
    await (await t.post({ model: x, messages: user(x), user: x }, undefined, auth)).text();
    await (await t.post({ model: "auto", messages: user(`ECHO:${x}`), tandem: { conversation: x.replaceAll(" ", "_") } }, undefined, auth)).text();
    await tandem(["keys", "revoke", x, "--config", t.file]);
    await (await fetch(`${t.url}/v1/tandem/exchanges/${encodeURIComponent(x)}`, { headers: auth })).text();
  }
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, auth)).status, 200);
  const proof = JSON.parse((await tandem(["ledger", "verify", "--json", "--config", t.file])).stdout);
  assert.ok(proof.valid && proof.rows >= evil.length * 2, JSON.stringify(proof));
  const { keys } = JSON.parse((await tandem(["keys", "list", "--json", "--config", t.file])).stdout);
  assert.deepEqual(keys.map((k) => k.id), [id]);
  await t.stop();
});

test("keys that begin alike are not alike, and what is at rest opens nothing", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`);
  const { key } = JSON.parse((await tandem(["keys", "create", "--json", "--tenant", "acme", "--config", t.file])).stdout);
  const ask = async (k) => (await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, { authorization: `Bearer ${k}` })).status;
  assert.equal(await ask(key), 200);
  for (let cut = 8; cut < key.length; cut += 5) { // shorter, longer, and different from there on
    assert.equal(await ask(key.slice(0, cut)), 401);
    assert.equal(await ask(key.slice(0, cut) + "A".repeat(key.length - cut)), 401);
  }
  for (const k of [`${key}A`, `${key} `.trimEnd() + "%00", key.toUpperCase(), `Bearer ${key}`]) assert.equal(await ask(k), 401, k);
  // Every run of 43 characters or 32 bytes in the data directory, tried as a key.
  const stored = files(join(t.dir, "data")).flatMap((path) => {
    const text = readFileSync(path).toString("latin1");
    return [...text.matchAll(/[A-Za-z0-9_-]{43}/g)].map((m) => m[0]);
  });
  for (const s of new Set(stored.slice(0, 200))) assert.equal(await ask(`td_live_${s}`), 401);
  await t.stop();
});

test("nobody makes more of himself than the operator made: unknown wishes and operators' methods are refused", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}policy: {rules: [{name: acme, when: {tenant: acme}, deny: {tiers: cloud}}]}\ntenants: [{name: acme}]\n`);
  const { key } = JSON.parse((await tandem(["keys", "create", "--json", "--tenant", "acme", "--config", t.file])).stdout);
  const auth = { authorization: `Bearer ${key}` };
  assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, auth)).status, 403);
  for (const field of ["tenant", "role", "admin", "clearance", "allow", "targets", "policy", "key", "user_role", "max_budget"]) {
    const r = await t.post({ model: "auto", messages: user("ECHO:x"), tandem: { [field]: "admin" } }, undefined, auth);
    assert.equal(r.status, 400, field);
    await r.text();
    assert.equal((await t.post({ model: "auto", messages: user("ECHO:x"), [field]: "admin" }, undefined, auth)).status, 403, field);
  }
  for (const header of ["x-tandem-tenant", "x-tandem-role", "x-tandem-admin"])
    assert.equal((await t.post({ model: "auto", messages: user("ECHO:x") }, undefined, { ...auth, [header]: "admin" })).status, 400, header);
  for (const [name, value] of [["x-tandem-tiers", "cloud"], ["x-tandem-data-class", "public"], ["x-tandem-prefer", "quality"]])
    assert.equal((await t.post({ model: "cloud", messages: user("ECHO:x") }, undefined, { ...auth, [name]: value })).status, 403, "a wish narrows, never widens");
  for (const method of ["keys.create", "keys.list", "ledger.tail", "models.rm", "outbox.list", "explain"])
    assert.equal((await t.post({ tenant: "other" }, `/admin/${method}`, auth)).status, 404, method);
  assert.equal((await up.log()).requests.length, 0);
  await t.stop();
});

test("the list of what Tandem is made of is complete, and the same each time", () => {
  const list = () => execFileSync(join(ROOT, "tools/sbom"), { encoding: "utf8" });
  const text = list(), { components } = JSON.parse(text);
  assert.equal(list(), text);
  const names = components.map((c) => c.name);
  const wanted = [...readFileSync(join(ROOT, "meson.build"), "utf8").matchAll(/dependency\('([^']+)'/g)].map((m) => m[1])
    .filter((n) => !["threads", "libevent_openssl"].includes(n)); // a part of libc, a part of libevent
  assert.ok(wanted.length >= 7);
  for (const n of [...wanted, "node-llama-cpp", "openai"]) assert.ok(names.includes(n), n);
  for (const c of components) {
    assert.match(c.version, /^\d/, c.name);
    if (c.purl) assert.match(c.hashes[0].content, /^[0-9a-f]{128}$/, c.name);
  }
});

test("what is brought in is pinned by digest, and the program does not update itself", async () => {
  for (const lock of ["tests/flow/package-lock.json", "tools/llama/package-lock.json"]) {
    const { packages } = JSON.parse(readFileSync(join(ROOT, lock), "utf8"));
    const names = Object.keys(packages).filter((n) => n);
    assert.ok(names.length > 0, lock);
    for (const n of names) {
      assert.match(packages[n].integrity ?? "", /^sha512-/, `${lock}: ${n}`);
      assert.match(packages[n].version, /^\d/, `${lock}: ${n}`);
    }
  }
  const help = (await tandem(["--help"])).stdout;
  assert.ok(!/\b(update|upgrade|self)\b/i.test(help), help);
});

test("every class of fault that docs/security.md knows has the tests it names", () => {
  const rows = readFileSync(join(ROOT, "docs/security.md"), "utf8").split("\n").map((l) => l.match(/^\| (\d+) \|.*\| (.+) \|$/)).filter(Boolean);
  assert.deepEqual(rows.map((r) => Number(r[1])), Array.from({ length: 16 }, (_, i) => i + 1));
  const sources = ["tests/flow", "tests/unit"].flatMap((dir) => files(join(ROOT, dir))).filter((path) => /\.(mjs|c)$/.test(path))
    .map((path) => readFileSync(path, "utf8")).join("\n");
  for (const [, number, tests] of rows) {
    const names = [...tests.matchAll(/(fuzz )?`([^`]+)`/g)];
    const flows = [...tests.matchAll(/flow ([a-z0-9]+)/g)].map((m) => m[1]);
    assert.ok(names.length + flows.length >= 2, `class ${number}`);
    for (const flow of flows) assert.ok(existsSync(join(ROOT, `tests/flow/${flow}.test.mjs`)), `class ${number}: flow ${flow}`);
    for (const [, fuzz, name] of names) {
      const file = fuzz ? `fuzz/${name}.c` : /^(tests|tools|src)\//.test(name) ? name : /^[a-z_]+\/[a-z_]+$/.test(name) ? `tests/unit/${name.replace("/", "/test_")}.c` : null;
      assert.ok(file ? existsSync(join(ROOT, file)) : sources.includes(`${name}(void **`) || ["\"", "`"].some((q) => sources.includes(`test(${q}${name}`)), `class ${number}: ${name}`);
    }
  }
});

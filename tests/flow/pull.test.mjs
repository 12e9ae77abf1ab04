// SPDX-License-Identifier: Apache-2.0
// `tandem models`: from an HTTPS server that cuts, from a repository as Hugging Face lists it, from a folder; resumed
// also after a kill, verified, and usable by name afterwards.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import { after, test } from "node:test";
import { ROOT, TANDEM, freePort, scratch, tandem, until } from "./lib.mjs";

const dir = scratch();
const model = readFileSync(join(ROOT, "models/starter.gguf")), whole = model;
const files = {}; // by name, where it is not the model
const sha = createHash("sha256").update(model).digest("hex");
execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
  "-keyout", join(dir, "key.pem"), "-out", join(dir, "ca.pem"), "-subj", "/CN=127.0.0.1",
  "-addext", "subjectAltName=IP:127.0.0.1"], { stdio: "ignore" });

// Serves /model.gguf with ranges; `plan` says what to do with each request for it: a number cuts after so many bytes,
// a function answers itself. What is left unsaid is served whole.
let plan = [], seen = [], etag = '"v1"', slow = 0;
const listing = {};
const server = createServer({ key: readFileSync(join(dir, "key.pem")), cert: readFileSync(join(dir, "ca.pem")) }, (q, r) => {
  seen.push({ url: q.url, range: q.headers.range, ifRange: q.headers["if-range"], auth: q.headers.authorization });
  if (listing[q.url]) return r.end(JSON.stringify(listing[q.url]));
  if (!q.url.endsWith(".gguf")) return r.writeHead(404).end();
  const model = files[q.url.split("/").at(-1)] ?? whole;
  const step = plan.shift();
  if (typeof step === "function") return step(q, r);
  const asked = /^bytes=(\d+)-$/.exec(q.headers.range ?? "");
  const from = asked && q.headers["if-range"] === etag ? Number(asked[1]) : 0;
  if (from >= model.length) return r.writeHead(416, { "content-range": `bytes */${model.length}` }).end();
  const head = { "content-type": "application/octet-stream", etag, "content-length": model.length - from };
  if (from) head["content-range"] = `bytes ${from}-${model.length - 1}/${model.length}`;
  r.writeHead(from ? 206 : 200, head);
  if (step === undefined && !slow) return r.end(model.subarray(from));
  if (step !== undefined) return r.write(model.subarray(from, from + step), () => r.socket.destroy());
  let at = from; // slowly, so that a kill finds it at work
  const timer = setInterval(() => {
    if (at >= model.length || r.destroyed) return clearInterval(timer), r.end();
    r.write(model.subarray(at, (at += 65536)));
  }, slow);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
after(() => { server.closeAllConnections(); server.close(); });
const base = `https://127.0.0.1:${server.address().port}`;

let homes = 0;
function home() {
  const path = join(dir, `home${homes++}`);
  mkdirSync(path);
  plan = []; seen = []; etag = '"v1"'; slow = 0;
  return { path, data: join(path, "data"), file: join(path, "data/models/model.gguf"),
    env: { ...process.env, HOME: path, HF_ENDPOINT: base, HF_TOKEN: "hf_secret" },
    run(...args) { return tandem(["models", ...args, "--ca-file", join(dir, "ca.pem"), "--data-dir", join(path, "data")],
      { env: this.env, cwd: path }); } };
}
const digest = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");

test("a download that is cut goes on where it stopped, and is verified", async () => {
  const h = home();
  plan = [100_000, 0, 250_000];
  const r = await h.run("pull", `${base}/model.gguf`, "--sha256", sha, "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.deepEqual(JSON.parse(r.stdout), { name: "model.gguf", sha256: sha, bytes: model.length, verified: true });
  assert.equal(digest(h.file), sha);
  assert.ok(!existsSync(`${h.file}.part`) && !existsSync(`${h.file}.part.etag`));
  const starts = seen.map((s) => Number(/\d+/.exec(s.range ?? "bytes=0")[0]));
  assert.equal(seen.length, 4);
  assert.ok(starts[3] > 0 && starts[3] <= 350_000 && starts.every((s, i) => !i || s >= starts[i - 1]), `${starts}`);
  assert.ok(seen.every((s) => s.auth === undefined), "the token is for Hugging Face alone");
});

test("a download that is killed goes on in the next run", async () => {
  const h = home();
  slow = 5;
  const child = spawn(TANDEM, ["models", "pull", `${base}/model.gguf`, "--ca-file", join(dir, "ca.pem"), "--data-dir", h.data],
    { env: h.env, cwd: h.path, stdio: "ignore" });
  const gone = new Promise((resolve) => child.on("close", resolve));
  await until(() => existsSync(`${h.file}.part`) && statSync(`${h.file}.part`).size > 200_000, "half a file");
  child.kill("SIGKILL");
  await gone;
  const have = statSync(`${h.file}.part`).size;
  assert.ok(have < model.length);
  slow = 0;
  const r = await h.run("pull", `${base}/model.gguf`, "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.equal(seen.at(-1).range, `bytes=${have}-`);
  assert.equal(digest(h.file), sha);
});

test("a file that changed meanwhile starts afresh; a wrong digest is refused and leaves nothing", async () => {
  const h = home();
  plan = [200_000, (q, r) => { etag = '"v2"'; plan = []; server.emit("request", q, r); }];
  assert.equal((await h.run("pull", `${base}/model.gguf`, "--sha256", sha)).code, 0);
  assert.equal(digest(h.file), sha);
  const w = home();
  const r = await w.run("pull", `${base}/model.gguf`, "--sha256", "0".repeat(64));
  assert.equal(r.code, 1);
  assert.match(r.stderr, /SHA-256 is .* expected 0000/);
  assert.ok(!existsSync(w.file) && !existsSync(`${w.file}.part`));
});

test("what is no model, not there, or not trusted is said plainly", async () => {
  const h = home();
  plan = [(q, r) => r.end("<html>please log in</html>")];
  let r = await h.run("pull", `${base}/model.gguf`);
  assert.equal(r.code, 1);
  assert.match(r.stderr, /not a GGUF file/);
  assert.ok(!existsSync(`${h.file}.part`));
  r = await h.run("pull", `${base}/nothing`);
  assert.match(r.stderr, /HTTP status 404/);
  r = await tandem(["models", "pull", `${base}/model.gguf`, "--data-dir", h.data], { env: h.env, cwd: h.path });
  assert.equal(r.code, 1);
  assert.match(r.stderr, /tandem\.upstream\.tls/);
  // One line, which names who could not be reached.
  const port = await freePort();
  for (const [source, what] of [[`https://127.0.0.1:${port}/model.gguf`, /no connection/], ["maker/tiny", /file list could not be read: could not connect/]]) {
    r = await tandem(["models", "pull", source, "--data-dir", h.data], { env: { ...h.env, HF_ENDPOINT: `https://127.0.0.1:${port}` }, cwd: h.path });
    assert.equal(r.code, 1);
    assert.equal(r.stderr.trim().split("\n").length, 1, r.stderr);
    assert.ok(r.stderr.startsWith(`tandem: 127.0.0.1:${port}: `), r.stderr);
    assert.match(r.stderr, what);
  }
});

test("a repository by name: listing, digest, credentials that do not follow a redirect to elsewhere", async () => {
  const h = home();
  const other = createServer({ key: readFileSync(join(dir, "key.pem")), cert: readFileSync(join(dir, "ca.pem")) },
    (q, r) => { seen.push({ url: q.url, auth: q.headers.authorization, elsewhere: true }); r.writeHead(200, { etag: '"x"' }); r.end(model); });
  await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
  after(() => other.close());
  listing["/api/models/maker/small/tree/main?recursive=true"] =
    [{ path: "README.md" }, { path: "model.gguf", lfs: { oid: sha, size: model.length } }];
  plan = [(q, r) => r.writeHead(302, { location: `https://127.0.0.1:${other.address().port}/blob.gguf` }).end()];
  const r = await h.run("pull", "maker/small", "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.equal(JSON.parse(r.stdout).verified, true, "the published digest was compared");
  assert.deepEqual(seen.map((s) => [s.auth, !!s.elsewhere]),
    [["Bearer hf_secret", false], ["Bearer hf_secret", false], [undefined, true]]);
  listing["/api/models/maker/two/tree/main?recursive=true"] = [{ path: "a.gguf" }, { path: "b.gguf" }];
  const two = await h.run("pull", "maker/two");
  assert.equal(two.code, 2);
  assert.match(two.stderr, /2 GGUF files.*owner\/name:file/);
});

test("from a folder; add, list, use by name, rm", async () => {
  const h = home();
  mkdirSync(join(h.path, "usb"));
  copyFileSync(join(ROOT, "models/starter.gguf"), join(h.path, "usb/model.gguf"));
  writeFileSync(join(h.path, "usb/notes.txt"), "x");
  assert.equal((await h.run("pull", join(h.path, "usb"))).code, 0);
  assert.equal(digest(h.file), sha);
  assert.equal((await h.run("add", join(h.path, "usb/model.gguf"), "--name", "second")).code, 0);
  const list = JSON.parse((await h.run("list", "--json")).stdout).models;
  assert.deepEqual(list.map((m) => [m.name, m.sha256]).sort(), [["model.gguf", sha], ["second", sha]]);
  writeFileSync(join(h.path, "tandem.yaml"), `version: 1\ndata_dir: ${h.data}\ntargets:\n` +
    `  - {name: mine, tier: device, provider: llama, model: model.gguf}\n`);
  const asked = await tandem(["ask", "--json", "set a timer for 10 minutes"], { env: h.env, cwd: h.path });
  assert.equal(asked.code, 0, asked.stderr);
  assert.match(asked.stdout, /"target":"mine"/);
  assert.equal((await h.run("rm", "second")).code, 0);
  assert.ok(existsSync(join(h.path, "usb/model.gguf")), "a file that was added stays its owner's");
  assert.equal((await h.run("rm", "model.gguf")).code, 0);
  assert.ok(!existsSync(h.file));
  assert.equal((await h.run("rm", "model.gguf")).code, 1);
});

const parts = (stem, n) => Array.from({ length: n }, (_, i) => `${stem}-0000${i + 1}-of-0000${n}.gguf`);
function splitInto(folder, stem, n) {
  execFileSync(join(process.env.BUILD, "tests/support/split_gguf"), [join(ROOT, "models/starter.gguf"), join(folder, stem), String(n)]);
  return parts(stem, n).map((name) => ({ name, bytes: readFileSync(join(folder, name)) }));
}
const digestOf = (list) => list.reduce((h, p) => h.update(p.bytes), createHash("sha256")).digest("hex");

test("a model in parts: all are fetched, a cut one goes on, a whole one is not fetched again, all are verified, used, removed", async () => {
  const h = home();
  const list = splitInto(h.path, "big", 3), all = digestOf(list);
  for (const p of list) files[p.name] = p.bytes;
  const failure = (q, r) => r.writeHead(404).end(); // the second part, in the first run
  plan = [undefined, 200_000, failure];
  let r = await h.run("pull", `${base}/dir/big-00001-of-00003.gguf`, "--sha256", all);
  assert.equal(r.code, 1, r.stderr);
  const models = join(h.data, "models");
  assert.deepEqual(readdirSync(models).filter((f) => !f.includes("part")), [], "no half model is in place");
  seen = []; plan = [];
  r = await h.run("pull", `${base}/dir/big-00001-of-00003.gguf`, "--sha256", all, "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.deepEqual(JSON.parse(r.stdout), { name: "big-00001-of-00003.gguf", sha256: all,
    bytes: list.reduce((n, p) => n + p.bytes.length, 0), verified: true });
  assert.deepEqual(seen.map((s) => [s.url, s.range]), [["/dir/" + list[0].name, `bytes=${list[0].bytes.length}-`],
    ["/dir/" + list[1].name, "bytes=200000-"], ["/dir/" + list[2].name, undefined]]);
  assert.deepEqual(readdirSync(models).sort(), list.map((p) => p.name));
  for (const p of list) assert.ok(readFileSync(join(models, p.name)).equals(p.bytes), p.name);
  writeFileSync(join(h.path, "tandem.yaml"), `version: 1\ndata_dir: ${h.data}\ntargets:\n` +
    `  - {name: mine, tier: device, provider: llama, model: big-00001-of-00003.gguf}\n`);
  const asked = await tandem(["ask", "--json", "set a timer for 10 minutes"], { env: h.env, cwd: h.path });
  assert.equal(asked.code, 0, asked.stderr);
  assert.match(asked.stdout, /"target":"mine"/);
  assert.equal((await h.run("rm", "big-00001-of-00003.gguf")).code, 0);
  assert.deepEqual(readdirSync(models), []);
});

test("a model in parts: from a repository and a folder, where it counts as one; added; a wrong digest leaves nothing", async () => {
  const h = home();
  mkdirSync(join(h.path, "usb"));
  const list = splitInto(join(h.path, "usb"), "m", 2), all = digestOf(list);
  for (const p of list) files[p.name] = p.bytes;
  const oid = (p) => createHash("sha256").update(p.bytes).digest("hex");
  const entries = list.map((p) => ({ path: `Q4/${p.name}`, lfs: { oid: oid(p), size: p.bytes.length } }));
  listing["/api/models/maker/parts/tree/main?recursive=true"] = entries;
  let r = await h.run("pull", "maker/parts", "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.equal(JSON.parse(r.stdout).sha256, all);
  assert.equal(JSON.parse(r.stdout).verified, true);
  assert.equal((await h.run("rm", list[0].name)).code, 0);
  listing["/api/models/maker/parts/tree/main?recursive=true"] = entries.slice(0, 1);
  r = await h.run("pull", "maker/parts");
  assert.match(r.stderr, /part 2 of 2 is not in the repository/);
  listing["/api/models/maker/parts/tree/main?recursive=true"] = [entries[0], { ...entries[1], lfs: { oid: "0".repeat(64) } }];
  assert.match((await h.run("pull", "maker/parts:Q4/m-00001-of-00002.gguf")).stderr, /SHA-256 is .* expected 0000/);
  r = await h.run("pull", join(h.path, "usb"), "--sha256", "0".repeat(64));
  assert.match(r.stderr, /SHA-256 of all parts is .* expected 0000/);
  assert.deepEqual(readdirSync(join(h.data, "models")).filter((f) => !f.startsWith("m-00001")), []);
  assert.equal((await h.run("pull", join(h.path, "usb"), "--sha256", all)).code, 0);
  assert.deepEqual(readdirSync(join(h.data, "models")).sort(), list.map((p) => p.name));
  r = await h.run("add", join(h.path, "usb", list[0].name), "--name", "added", "--json");
  assert.equal(JSON.parse(r.stdout).sha256, all);
  assert.equal((await h.run("rm", "added")).code, 0);
  assert.equal(readdirSync(join(h.path, "usb")).length, 2);
  assert.match((await h.run("add", join(h.path, "usb", list[1].name))).stderr, /name the first/);
  rmSync(join(h.path, "usb", list[1].name));
  assert.equal((await h.run("add", join(h.path, "usb", list[0].name))).code, 2);
});

test("no link in the models' folder leads a download, a removal or a name out of it", async () => {
  const h = home();
  const models = join(h.data, "models"), victim = join(h.path, "victim");
  mkdirSync(models, { recursive: true, mode: 0o700 });
  writeFileSync(victim, "precious");
  for (const name of ["model.gguf.part", "model.gguf.part.etag"]) {
    symlinkSync("../../victim", join(models, name));
    const r = await h.run("pull", `${base}/model.gguf`);
    assert.equal(readFileSync(victim, "utf8"), "precious", name);
    if (name.endsWith(".part")) assert.equal(r.code, 1);
    rmSync(join(models, name), { force: true });
  }
  rmSync(h.file);
  symlinkSync(victim, h.file); // is replaced, not written through
  assert.equal((await h.run("pull", `${base}/model.gguf`)).code, 0);
  assert.equal(readFileSync(victim, "utf8"), "precious");
  assert.equal(digest(h.file), sha);
  rmSync(h.file);
  symlinkSync(join(ROOT, "models/starter.gguf"), h.file); // a name in the configuration is no way out either
  writeFileSync(join(h.path, "tandem.yaml"), `version: 1\ndata_dir: ${h.data}\ntargets:\n` +
    `  - {name: mine, tier: device, provider: llama, model: model.gguf}\n`);
  const list = JSON.parse((await tandem(["models", "list", "--json"], { env: h.env, cwd: h.path })).stdout);
  assert.equal(list.targets[0].found, false);
  for (const bad of ["maker", "maker/..", "maker/.hidden", "ma?ker/x", "maker/x#y", "maker/a b"])
    assert.equal((await h.run("pull", bad)).code, 2, bad);
});

test("the progress bar, on a terminal only", async () => {
  const h = home();
  const plain = await h.run("pull", `${base}/model.gguf`);
  assert.doesNotMatch(plain.stderr, /%/);
  const shown = await new Promise((resolve) => {
    let out = "";
    const child = spawn("script", ["-qec", `${TANDEM} models pull ${base}/model.gguf --ca-file ${dir}/ca.pem --data-dir ${home().data}`, "/dev/null"],
      { env: h.env, cwd: h.path });
    child.stdout.on("data", (d) => (out += d));
    child.on("close", () => resolve(out));
  });
  assert.match(shown, /\[#+ *\] +\d+ %  [\d.]+ MiB of [\d.]+ MiB/);
  assert.match(shown, /SHA-256 [0-9a-f]{64}/);
});

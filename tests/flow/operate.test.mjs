// SPDX-License-Identifier: Apache-2.0
// Running it: what a wrong start says, reloads whole or not at all under running requests, draining, the commands'
// answers for people and for scripts.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { TANDEM, cloud, readStream, scratch, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";

const upstream = await startUpstream("--tokens", "20");
const clean = (dir, more = {}) => ({ cwd: dir, env: { ...process.env, HOME: dir, ...more } });
const write = (dir, text, name = "tandem.yaml") => (writeFileSync(join(dir, name), text), join(dir, name));
const head = (dir) => `version: 1\nlisten: 127.0.0.1:0\ndata_dir: ${dir}/data\n`;

test("a wrong configuration: file, line, column, what was expected; exit 2", async () => {
  const dir = scratch();
  const wrong = [
    ["version: 1\ntargets:\n  - name: a\n    teir: device\n", /tandem\.yaml:4:5: unknown key 'teir'; did you mean 'tier'\?/],
    ["version: 1\ntargets:\n  - {name: a, tier: devise, provider: llama, model: x}\n", /:3:21: .*expected one of device \| edge \| onprem \| cloud/],
    ["version: 2\n", /:1:10: version: expected 1/],
    ["version: 1\ntargets: [\n", /:3:1: /],
    ["version: 1\ntargets:\n  - {name: c, tier: cloud, provider: openai, base_url: \"http://example.com\", model: m}\n", /in the clear.*insecure: true/],
    ["version: 1\ntargets:\n  - {name: c, tier: cloud, provider: openai, base_url: \"https://x/v1\", model: m, api_key: sk-123}\n", /api_key: expected .*env:NAME/],
    ["version: 1\nlisten: 127.0.0.1\ntargets: []\n", /:2:9: listen: expected address:port/],
  ];
  for (const [text, message] of wrong) {
    const file = write(dir, text);
    for (const args of [["check"], ["serve"], ["ask", "x"], ["check", file]]) {
      const r = await tandem(args, clean(dir));
      assert.equal(r.code, 2, `${args}: ${r.stderr}`);
      assert.match(r.stderr, message);
      assert.doesNotMatch(r.stderr, /sk-123/, "a key written by mistake is not repeated");
    }
    const json = JSON.parse((await tandem(["check", "--json"], clean(dir))).stdout);
    assert.equal(json.valid, false);
    assert.match(json.message, message);
  }
});

test("check says what a valid file names that is not there", async () => {
  const dir = scratch();
  write(dir, `version: 1\ntargets:\n  - {name: d, tier: device, provider: llama, model: later.gguf}\n` +
    cloud("c", "https://api.invalid/v1", ", api_key: env:NO_SUCH_KEY"));
  const r = await tandem(["check"], clean(dir));
  assert.equal(r.code, 0);
  assert.match(r.stderr, /note: target 'd': there is no model file .*later\.gguf yet/);
  assert.match(r.stderr, /note: target 'c': .*NO_SUCH_KEY/);
  const j = JSON.parse((await tandem(["check", "--json"], clean(dir))).stdout);
  assert.equal(j.valid, true);
  assert.equal(j.notes.length, 2);
});

test("a wrong start: port in use, data directory, two daemons, no command, a misspelt one", async () => {
  const dir = scratch();
  const busy = createServer().listen(0, "127.0.0.1");
  await until(() => busy.address(), "a port");
  const target = `targets:\n${cloud("c", upstream.url)}`;
  let file = write(dir, `version: 1\nlisten: 127.0.0.1:${busy.address().port}\ndata_dir: ${dir}/data\n${target}`);
  let r = await tandem(["serve", "--config", file], clean(dir));
  assert.equal(r.code, 1);
  assert.match(r.stderr, /cannot listen on 127\.0\.0\.1 port \d+: Address already in use/);
  busy.close();
  write(dir, "in the way", "plain");
  r = await tandem(["serve", "--config", file, "--data-dir", join(dir, "plain/data")], clean(dir));
  assert.equal(r.code, 1);
  assert.match(r.stderr, new RegExp(`data directory ${dir}/plain/data cannot be made: Not a directory`));
  mkdirSync(join(dir, "open"));
  chmodSync(join(dir, "open"), 0o777);
  r = await tandem(["serve", "--config", file, "--data-dir", join(dir, "open")], clean(dir));
  assert.match(r.stderr, /other users can write to the data directory; chmod 700/);
  const t = await startTandem(target);
  r = await tandem(["serve", "--config", t.file], clean(dir));
  assert.equal(r.code, 1);
  assert.match(r.stderr, /another process holds the data directory: pid \d+/);
  r = await tandem([], clean(dir));
  assert.equal(r.code, 2);
  assert.match(r.stderr, /usage: tandem COMMAND/);
  r = await tandem(["modles"], clean(dir));
  assert.equal(r.code, 2);
  assert.match(r.stderr, /did you mean 'models'/);
  r = await tandem(["--json", "--data-dir", join(dir, "fresh"), "--config", file, "keys", "list"], clean(dir));
  assert.deepEqual([r.code, JSON.parse(r.stdout)], [0, { keys: [] }], "common options may come first");
  for (const address of ["0.0.0.0:0", "[::]:0"]) {
    r = await tandem(["serve", "--config", write(dir, `version: 1\nlisten: "${address}"\n${target}`)], clean(dir));
    assert.equal(r.code, 1);
    assert.match(r.stderr, /other machines.*tandem keys create.*tls\.cert/);
  }
});

test("every command: --help, --json that is JSON, no colour in a pipe, an unknown option is exit 2", async () => {
  const t = await startTandem(`targets:\n${cloud("c", upstream.url)}`);
  await t.post({ model: "auto", messages: user("ECHO:x") });
  const made = JSON.parse((await tandem(["keys", "create", "--json", "--config", t.file])).stdout);
  const lines = [["keys", "list"], ["models", "list"], ["ledger", "tail"], ["ledger", "stats"], ["ledger", "verify"],
    ["outbox", "list"], ["explain", "hello"], ["check"], ["check", "--schema"]];
  for (const line of lines) {
    const r = await tandem([...line, "--json", "--config", t.file]);
    assert.equal(r.code, 0, `${line}: ${r.stderr}`);
    JSON.parse(r.stdout);
    const plain = await tandem([...line, "--config", t.file]);
    assert.equal(plain.code, 0);
    assert.ok(plain.stdout.length > 10 && !plain.stdout.includes("\x1b["), `${line}`);
  }
  const revoked = await tandem(["keys", "revoke", made.id, "--json", "--config", t.file]);
  assert.deepEqual(JSON.parse(revoked.stdout), { revoked: true });
  for (const command of ["serve", "ask", "explain", "check", "models", "keys", "ledger", "outbox", "eval", "completion", "man"]) {
    const r = await tandem([command, "--help"]);
    assert.equal(r.code, 0);
    assert.match(r.stdout, new RegExp(`^usage: tandem ${command}`));
    assert.equal((await tandem([command, "--no-such-option"])).code, 2);
  }
});

test("ledger tail --exchange: one exchange's attempts, in text and JSON, labels by their names", async () => {
  const down = await startUpstream();
  const two = (cloud("a", down.url) + cloud("b", upstream.url).replace("0.9", "0.8")).replaceAll("clearance: internal", "clearance: confidential");
  const t = await startTandem(`targets:\n${two}policy: {rules: [{name: birds, when: {labels: [bird]}, outbox: false}]}\n`);
  await down.down(true);
  await t.post({ model: "b", messages: user("ECHO:before") });
  const r = await t.post({ model: "auto", messages: user("ECHO:this one"), tandem: { labels: ["phi", "bird"] } });
  const id = r.headers.get("x-tandem-exchange");
  await r.text();
  const tail = (...more) => tandem(["ledger", "tail", "--exchange", id, "--config", t.file, ...more]);
  const rows = await until(async () => {
    const list = JSON.parse((await tail("--json")).stdout).rows;
    return list.length >= 2 && list;
  }, "both attempts' rows");
  assert.deepEqual([...new Set(rows.map((x) => x.exchange))], [id]);
  assert.deepEqual(rows.at(-1).label_names.sort(), ["bird", "phi"]);
  assert.equal(rows.at(-1).label_names_sure, undefined);
  const plain = await tail();
  assert.equal(plain.code, 0);
  assert.match(plain.stdout, /\n {4}1 · model .* · reason .*labels phi · bird .*error tandem\.upstream\./);
  assert.equal(plain.stdout.split("\n").filter((l) => l.includes(id)).length, rows.length);
  // Under another configuration the bits may stand for others: said, not hidden.
  writeFileSync(t.file, readFileSync(t.file, "utf8") + "# another text\n");
  t.child.proc.kill("SIGHUP");
  await until(async () => JSON.parse((await tail("--json")).stdout).rows[0].label_names_sure === false, "the other configuration");
  assert.match((await tail()).stdout, /as they are called now/);
  const none = await tandem(["ledger", "tail", "--exchange", "01AAAAAAAAAAAAAAAAAAAAAAAA", "--config", t.file]);
  assert.equal(none.code, 1);
  assert.match(none.stderr, /no row of this exchange/);
  assert.deepEqual(JSON.parse((await tandem(["ledger", "tail", "--exchange", "'\"\\", "--json", "--config", t.file])).stdout).rows, []);
  assert.equal((await tandem(["ledger", "stats", "--exchange", id, "--config", t.file])).code, 2);
  assert.equal((await tandem(["ledger", "tail", "--exchange", "x".repeat(2000), "--config", t.file])).code, 2);
  assert.match((await tandem(["completion", "bash"])).stdout, /--exchange/);
  await t.stop();
});

test("ledger tail -f follows; a refused request has no tier", async () => {
  const t = await startTandem(`targets:\n${cloud("c", upstream.url)}`);
  await t.post({ model: "auto", messages: user("ECHO:first") });
  const child = spawn(TANDEM, ["ledger", "tail", "-f", "--json", "--config", t.file], { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (d) => (out += d));
  await until(() => out.split("\n").length > 1, "the first row");
  await t.post({ model: "nobody", messages: user("x") });
  await t.post({ model: "auto", messages: user("ECHO:second") });
  await until(() => out.split("\n").length > 3, "the rows that came later");
  child.kill("SIGTERM");
  const rows = out.trim().split("\n").map((l) => JSON.parse(l));
  assert.deepEqual(rows.map((r) => r.outcome), ["ok", "refused", "ok"]);
  assert.ok(rows[0].number < rows[1].number && rows[1].number < rows[2].number);
  const plain = await tandem(["ledger", "tail", "--config", t.file]);
  assert.match(plain.stdout, /-\s+-\s+refused/);
  const stats = JSON.parse((await tandem(["ledger", "stats", "--json", "--config", t.file])).stdout);
  assert.equal(stats.delivered, 2);
  assert.equal(stats.cloud_only_nusd, stats.cost_nusd, "all of it was answered in the cloud");
});

test("a reload is whole or not at all, and running requests keep what they were accepted under", async () => {
  const t = await startTandem(`targets:\n${cloud("before", upstream.url)}`);
  const text = readFileSync(t.file, "utf8");
  await upstream.standing({ token_ms: 60 });
  const running = t.post({ model: "auto", messages: user("a slow one"), stream: true });
  const first = await running;
  assert.equal(first.headers.get("x-tandem-target"), "before");
  // A wrong file changes nothing, by either way.
  writeFileSync(t.file, text.replace("quality: 0.9", "quality: 9"));
  t.child.proc.kill("SIGHUP");
  await until(() => /reload refused.*tandem\.yaml:\d+:\d+: quality/.test(t.child.stderr), "the refusal");
  assert.deepEqual((await (await fetch(`${t.url}/v1/models`)).json()).data.map((m) => m.id), ["auto", "before"]);
  // Nor does a right one whose listener cannot be had, or that only a restart could take.
  for (const [wrong, why] of [["listen: 127.0.0.1:1", /reload refused.*listen: a change needs a restart/],
    ["data_dir: /elsewhere", /reload refused.*data_dir: a change needs a restart/],
    ["workers: 7", /reload refused.*workers: a change needs a restart/],
    ["tls: {cert: /nowhere.pem, key: /nowhere.key}", /reload refused.*nowhere/]]) {
    const name = wrong.slice(0, wrong.indexOf(":"));
    const kept = text.split("\n").filter((l) => !l.startsWith(name + ":")).join("\n");
    writeFileSync(t.file, `${kept}\n${wrong}\n`.replace("name: before", "name: never"));
    t.child.proc.kill("SIGHUP");
    await until(() => why.test(t.child.stderr), wrong);
    assert.deepEqual((await (await fetch(`${t.url}/v1/models`)).json()).data.map((m) => m.id), ["auto", "before"]);
  }
  // A right one is taken by itself.
  writeFileSync(t.file, text.replace("name: before", "name: after"));
  await until(async () => (await (await fetch(`${t.url}/v1/models`)).json()).data.some((m) => m.id === "after"), "the file to be taken");
  const whole = await readStream(first);
  assert.ok(whole.done && whole.finish === "stop", "the running request ended well");
  assert.equal(whole.chunks.at(-1).tandem.target, "before");
  await upstream.standing({});
  const next = await t.post({ model: "auto", messages: user("ECHO:x") });
  assert.equal(next.headers.get("x-tandem-target"), "after");
});

test("SIGTERM finishes what runs, refuses what comes, and ends with 0", async () => {
  const t = await startTandem(`targets:\n${cloud("c", upstream.url)}`);
  await upstream.standing({ token_ms: 60 });
  const r = await t.post({ model: "auto", messages: user("a slow one"), stream: true });
  const stopping = t.stop("SIGTERM");
  const whole = await readStream(r);
  assert.ok(whole.done && whole.finish === "stop");
  assert.deepEqual(await stopping, { code: 0, signal: null });
  await assert.rejects(fetch(t.url));
  await upstream.standing({});
});

test("keys come from the environment, a file and the service manager's credentials", async () => {
  const dir = scratch();
  const key = write(dir, "sk-from-file\n", "key");
  chmodSync(key, 0o600);
  mkdirSync(join(dir, "creds"));
  write(join(dir, "creds"), "sk-from-systemd\n", "cloud-key");
  chmodSync(join(dir, "creds/cloud-key"), 0o600);
  const t = await startTandem(`targets:\n${cloud("a", upstream.url, ", api_key: env:THE_KEY")}` +
    `${cloud("b", upstream.url, `, api_key: "file:${key}"`)}${cloud("c", upstream.url, ", api_key: credential:cloud-key")}`,
    { env: { THE_KEY: "sk-from-env", CREDENTIALS_DIRECTORY: join(dir, "creds") } });
  await upstream.reset();
  for (const model of ["a", "b", "c"]) assert.equal((await t.post({ model, messages: user("ECHO:x") })).status, 200);
  const { requests } = await upstream.log();
  assert.deepEqual(requests.map((r) => r.headers.authorization ?? r.headers.Authorization),
    ["Bearer sk-from-env", "Bearer sk-from-file", "Bearer sk-from-systemd"]);
  assert.doesNotMatch(t.child.stderr, /sk-from/);
});

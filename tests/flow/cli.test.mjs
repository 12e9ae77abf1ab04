// SPDX-License-Identifier: Apache-2.0
// One table says what a command takes; help, usage line, completion in three shells, manual page, README and what the
// program really does must agree with each other.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { ROOT, TANDEM, scratch, startTandem, startUpstream, tandem, until } from "./lib.mjs";

const dir = scratch();
const out = (...args) => execFileSync(TANDEM, args, { cwd: dir, encoding: "utf8" });
const sorted = (list) => [...new Set(list)].sort();
const commands = {}; // name → { options, letters, verbs }, as --help says it

before(() => {
  const names = [...out("--help").matchAll(/^  (\w+) {2,}\S/gm)].map((m) => m[1]);
  for (const name of names) {
    const help = out(name, "--help");
    const options = [...help.matchAll(/^  (?:-(\w),|   ) --([\w-]+)/gm)];
    const usage = /^usage: tandem \w+ \[options\](.*)$/m.exec(help)[1];
    commands[name] = { options: sorted(options.map((m) => m[2])), letters: sorted(options.filter((m) => m[1]).map((m) => m[1])),
      verbs: sorted(usage.replace(/\[[^\]]*\]/g, "").match(/\b[a-z]+\b/g) ?? []) };
  }
  assert.ok(names.length >= 11, names.join());
});

test("help on each command, by --help, by -h and without a daemon; common options are everywhere", () => {
  for (const [name, c] of Object.entries(commands)) {
    assert.equal(out(name, "-h"), out(name, "--help"));
    for (const common of ["config", "data-dir", "json", "no-color", "verbose", "help"]) assert.ok(c.options.includes(common), `${name} ${common}`);
    assert.doesNotMatch(out(name, "--help"), /[ \t]$/m, name);
  }
});

// What the shell really offers after `words`.
function completed(shell, ...words) {
  const script = `source <("$0" completion ${shell}); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tandem; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return sorted(spawnSync("bash", ["-c", script, TANDEM, ...words], { cwd: dir, encoding: "utf8" }).stdout.split("\n").filter(Boolean));
}

test("completion offers the commands, their verbs and options, no more and no less", () => {
  const fish = out("completion", "fish");
  assert.deepEqual(completed("bash", "tandem", ""), sorted(Object.keys(commands)));
  assert.deepEqual(completed("bash", "tandem", "out"), ["outbox"]);
  assert.match(out("completion", "zsh"), /^#compdef tandem\n/);
  assert.equal(out("completion", "zsh").split("\n").slice(2).join("\n"), out("completion", "bash"));
  for (const [name, c] of Object.entries(commands)) {
    const want = sorted([...c.verbs, ...c.options.map((o) => `--${o}`)]);
    assert.deepEqual(completed("bash", "tandem", name, ""), want, name);
    assert.deepEqual(completed("bash", "tandem", name, "--data-"), ["--data-dir"]);
    const lines = fish.split("\n").filter((l) => l.includes(`'__fish_seen_subcommand_from ${name}'`));
    assert.deepEqual(sorted(lines.flatMap((l) => / -l ([\w-]+)/.exec(l)?.[1] ?? [])), c.options, name);
    assert.deepEqual(sorted(lines.flatMap((l) => / -s (\w)/.exec(l)?.[1] ?? [])), c.letters, name);
    assert.deepEqual(sorted(lines.flatMap((l) => / -a (\w+)/.exec(l)?.[1] ?? [])), c.verbs, name);
  }
});

test("the manual page has every command, verb and option, and README every command and verb", () => {
  const man = out("man").replaceAll("\\-", "-");
  const common = sorted([.../\.SH COMMON OPTIONS\n([^]*?)\.SH/.exec(man)[1].matchAll(/\\fB--([\w-]+)\\fR/g)].map((m) => m[1]));
  const sections = man.split(/^\.SS tandem /m).slice(1).map((s) => s.split(/^\.SH/m)[0]);
  assert.deepEqual(sorted(sections.map((s) => /^\w+/.exec(s)[0])), sorted(Object.keys(commands)));
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  for (const s of sections) {
    const name = /^\w+/.exec(s)[0], c = commands[name];
    assert.deepEqual(sorted([...common, ...[...s.matchAll(/^\\?.*\\fB--([\w-]+)\\fR/gm)].map((m) => m[1])]), c.options, name);
    const row = readme.split("\n").find((l) => l.startsWith("| `tandem ") && l.includes(`\`tandem ${name}`));
    assert.ok(row, `README: ${name}`);
    for (const verb of c.verbs) {
      assert.match(s.split("\n")[0], new RegExp(`\\b${verb}\\b`));
      assert.match(row, new RegExp(`\\b${verb}\\b`), `README: ${name} ${verb}`);
    }
  }
});

test("wrong usage is exit 2 for every command and option, and names what would be right", async () => {
  const common = ["--data-dir", join(dir, "data")];
  for (const [name, c] of Object.entries(commands)) {
    const help = out(name, "--help");
    for (const wrong of [["--nonsense"], ["-Z"], ["--json=yes"], ["one", "too", "many", "words"]]) {
      if (wrong.length > 1 && ["ask", "explain"].includes(name)) continue; // words are their text
      const r = await tandem([name, ...wrong, ...common], { cwd: dir });
      assert.equal(r.code, 2, `${name} ${wrong}`);
      assert.match(r.stderr, /^tandem: ./, `${name} ${wrong}`);
      assert.equal(r.stdout, "");
    }
    for (const verb of c.verbs) if (name !== "completion") {
      const r = await tandem([name, "nonsense", ...common], { cwd: dir });
      assert.ok(r.stderr.includes(verb), `${name} nonsense: ${r.stderr}`);
    }
    for (const [, option, value] of help.matchAll(/^  (?:-\w,|   ) --([\w-]+) (\S+)  /gm)) {
      const r = await tandem([name, `--${option}`], { cwd: dir });
      assert.equal(r.code, 2, `${name} --${option}`);
      assert.ok(r.stderr.includes(value), r.stderr);
      if (!["N", "S", "MS", "HOURS"].includes(value)) continue;
      const number = await tandem([name, `--${option}`, "12x", ...common], { cwd: dir });
      assert.equal(number.code, 2);
      assert.match(number.stderr, /wants a whole number from/);
    }
  }
});

test("exit codes are those of the manual page and of README, each really given", async () => {
  const man = /\.SH EXIT STATUS\n([^]*?)\.SH/.exec(out("man"))[1];
  const documented = [...man.matchAll(/^(\d+)$/gm)].map((m) => Number(m[1]));
  assert.deepEqual(documented, [0, 1, 2, 3, 130]);
  const readme = /Exit codes: ([^]*?)\n\n/.exec(readFileSync(join(ROOT, "README.md"), "utf8"))[1];
  assert.deepEqual([...readme.matchAll(/\b(\d+) [a-z]/g)].map((m) => Number(m[1])), documented);
  const at = ["--data-dir", join(dir, "codes")];
  assert.equal((await tandem(["keys", "list", ...at], { cwd: dir })).code, 0);
  assert.equal((await tandem(["keys", "revoke", "nobody", ...at], { cwd: dir })).code, 1);
  assert.equal((await tandem(["check", "/nonexistent", ...at], { cwd: dir })).code, 2);
  assert.equal((await tandem(["ledger", "tail", "-f", ...at], { cwd: dir })).code, 3);
  const up = await startUpstream("--tokens", "1000");
  await up.standing({ token_ms: 20 });
  const t = await startTandem(`targets:\n  - {name: cloud, tier: cloud, provider: openai, base_url: "${up.url}", model: m, region: us, clearance: internal}\n`);
  const asking = spawn(TANDEM, ["ask", "tell me", "--config", t.file], { cwd: dir });
  let shown = "";
  asking.stdout.on("data", (d) => (shown += d));
  const ended = new Promise((resolve) => asking.on("close", (code) => resolve(code)));
  await until(() => shown.length > 5, "the answer's beginning");
  asking.kill("SIGINT");
  assert.equal(await ended, 130);
  await t.stop();
});

test("--json: one JSON value on standard output, and nothing else there", async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n  - {name: cloud, tier: cloud, provider: openai, base_url: "${up.url}", model: m, region: us, clearance: internal}\n`);
  const at = ["--json", "--config", t.file];
  const json = async (...args) => {
    const r = await tandem([...args, ...at], { cwd: dir });
    assert.equal(r.code, 0, `${args}: ${r.stderr}`);
    return JSON.parse(r.stdout);
  };
  await json("ask", "ECHO:hello");
  await json("explain", "hello");
  await json("check", t.file);
  await json("check", "--schema");
  const key = await json("keys", "create");
  for (const args of [["keys", "list"], ["keys", "revoke", key.id], ["models", "list"], ["models", "add", join(ROOT, "models/starter.gguf")],
    ["models", "rm", "starter.gguf"], ["ledger", "tail"], ["ledger", "stats"], ["ledger", "verify"], ["outbox", "list"]]) await json(...args);
  await t.stop();
});

test("what serve offers to try can be typed as it stands; keys are listed in columns", async () => {
  const up = await startUpstream("--tokens", "5");
  const t = await startTandem(`targets:\n  - {name: cloud, tier: cloud, provider: openai, base_url: "${up.url}", model: m, region: us, clearance: internal}\n`);
  const offered = () => t.child.stdout.split("\n").filter((l) => l.startsWith("  ")).map((l) => l.trim());
  assert.equal(offered().length, 2);
  for (const line of offered()) assert.match(execFileSync("sh", ["-c", line], { cwd: dir, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }), /\w/);
  const key = JSON.parse((await tandem(["keys", "create", "--name", "mine", "--json", "--config", t.file])).stdout);
  const [head, row] = (await tandem(["keys", "list", "--config", t.file])).stdout.trim().split("\n");
  assert.deepEqual(head.split(/\s+/).slice(0, 3), ["ID", "TENANT", "NAME"]);
  assert.deepEqual(row.split(/\s+/).slice(0, 3), [key.id, "default", "mine"]);
  await t.stop();
  const again = await startTandem(`targets:\n  - {name: cloud, tier: cloud, provider: openai, base_url: "${up.url}", model: m, region: us, clearance: internal}\n`, { dir: t.dir });
  const curl = again.child.stdout.split("\n").find((l) => l.includes("curl"));
  assert.match(curl, /Bearer KEY/);
  assert.match(execFileSync("sh", ["-c", curl.trim().replace("KEY", key.key)], { cwd: dir, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }), /"choices"/);
  await again.stop();
});

const cloudAt = (up) => `targets:\n  - {name: cloud, tier: cloud, provider: openai, base_url: "${up.url}", model: m, region: us, clearance: internal}\n`;
const shell = (line, env = {}) => spawnSync("bash", ["-c", line, TANDEM], { cwd: dir, encoding: "utf8", env: { ...process.env, ...env } });

test("what cannot be printed is no success, and an answer that nobody reads on is not paid to its end", async () => {
  const up = await startUpstream("--tokens", "500");
  const t = await startTandem(cloudAt(up));
  const at = `--config ${t.file}`;
  for (const line of [`ask --no-tools [tokens=5] ${at}`, `ledger tail ${at}`, `ledger tail --json ${at}`, `check ${at}`, "--help", "--version", "man"]) {
    const full = shell(`"$0" ${line} >/dev/full`);
    assert.equal(full.status, 1, line);
    assert.match(full.stderr, /tandem: standard output: (No space left on device|Input\/output error)\n$/, line);
    assert.equal(shell(`"$0" ${line} >&-`).status, 0, `${line}: a closed one takes nothing, and no other file takes its place`);
  }
  await up.reset();
  await up.standing({ token_ms: 10 });
  const cut = shell(`set -o pipefail; "$0" ask --no-tools long ${at} | head -c 10`);
  assert.equal(cut.status, 1);
  assert.equal(cut.stderr, "", "a closed pipe is no news");
  const { requests } = await up.log("?requests=1&closed=1&timeout_ms=5000");
  assert.ok(requests[0].tokens < 400, `${requests[0].tokens} tokens were made`);
  await t.stop();
});

test("Ctrl-C ends an answer that has not begun, at the daemon and in a process of its own", async () => {
  const up = await startUpstream();
  await up.standing({ hang: true });
  const t = await startTandem(cloudAt(up));
  const own = ["--config", t.file, "--data-dir", join(dir, "own")];
  for (const [i, at] of [["--config", t.file], own].entries()) {
    const asking = spawn(TANDEM, ["ask", "--no-tools", "x", ...at], { cwd: dir });
    const ended = new Promise((resolve) => asking.on("close", (code) => resolve(code)));
    await up.log(`?requests=${i + 1}&timeout_ms=20000`);
    asking.kill("SIGINT");
    assert.equal(await ended, 130);
    await up.log(`?requests=${i + 1}&closed=${i + 1}&timeout_ms=20000`);
  }
  assert.equal((await up.log()).requests.filter((r) => r.closed_ms >= 0).length, 2);
  await up.standing(null);
  await t.stop();
});

test("what a person gets wrong is told in a person's words, and costs nothing", async () => {
  const up = await startUpstream();
  const t = await startTandem(cloudAt(up));
  const at = `--config ${t.file}`;
  for (const [line, match] of [[`ask "" ${at}`, /this one is empty/], [`ask ${at} </dev/null`, /this one is empty/], [`ask - ${at} </`, /standard input: Is a directory/],
    [`printf 'a\\xff' | "$0" ask ${at}`, /is not UTF-8/], [`head -c 17000000 /dev/zero | tr '\\0' a | "$0" ask ${at}`, /longer than 16 MiB/],
    [`ask x --tools /nope ${at}`, /\/nope: No such file/], [`ask x --tools /etc/passwd ${at}`, /\/etc\/passwd is no list of tools/],
    [`explain x --tools /nope ${at}`, /\/nope: No such file/], [`explain --body /nope ${at}`, /\/nope: No such file/],
    ["ask x --config /nope", /cannot open \/nope: No such file/], ["serve --config /", /\/ is a folder/]]) {
    const r = shell(line.includes("| ") ? line : `"$0" ${line}`);
    assert.equal(r.status, 2, `${line}: ${r.stderr}`);
    assert.match(r.stderr, match);
  }
  assert.equal((await up.log()).requests.length, 0);
  const unset = shell('"$0" ask --no-tools ECHO:yes', { TANDEM_CONFIG: "", HOME: dir });
  assert.doesNotMatch(unset.stderr, /cannot open/, "set to nothing is not set");
  await t.stop();
});

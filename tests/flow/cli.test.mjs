// SPDX-License-Identifier: Apache-2.0
// One table says what a command takes; help, usage line, completion in three shells, manual page, README and what the
// program really does must agree with each other.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { ROOT, TANDEM, scratch, startTandem, startUpstream, tandem, until } from "./lib.mjs";
import { spawn } from "node:child_process";

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
    const row = readme.split("\n").find((l) => l.startsWith("|") && l.includes(`\`tandem ${name}`));
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

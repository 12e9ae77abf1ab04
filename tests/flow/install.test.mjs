// SPDX-License-Identifier: Apache-2.0
// `make install` into a staging folder: a program outside the tree finds the library through pkg-config, builds and
// answers, on the device as well; the installed command, its manual page and its completions are in their places.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { ROOT, cloud, scratch, startUpstream } from "./lib.mjs";

const dir = scratch();
const stage = join(dir, "stage"), home = join(dir, "home");
mkdirSync(home);
execFileSync("meson", ["install", "-C", process.env.BUILD, "--no-rebuild", "--quiet"],
  { env: { ...process.env, DESTDIR: stage }, stdio: ["ignore", "ignore", "inherit"] });

function files(folder) {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}
const all = files(stage);
const the = (end) => {
  const found = all.find((f) => f.endsWith(end));
  assert.ok(found, `${end} is not installed`);
  return found;
};
const env = { ...process.env, HOME: home, LD_LIBRARY_PATH: dirname(the("/libtandem.so")) };
const run = (program, args, more = {}) => spawnSync(program, args, { env, cwd: dir, encoding: "utf8", timeout: 60000, ...more });

test("a program builds with pkg-config alone and answers from the device and from the cloud", async () => {
  const upstream = await startUpstream("--tokens", "20");
  const flags = execFileSync("pkg-config", ["--cflags", "--libs", "tandem"],
    { env: { ...env, PKG_CONFIG_PATH: dirname(the("/tandem.pc")), PKG_CONFIG_SYSROOT_DIR: stage }, encoding: "utf8" });
  const built = run("cc", ["-std=c17", "-Wall", "-Werror", join(ROOT, "examples/chat.c"), "-o", "chat", ...flags.trim().split(/\s+/)]);
  assert.equal(built.status, 0, built.stderr);
  writeFileSync(join(dir, "cloud.yaml"), `version: 1\ndata_dir: ${dir}/data\nlog_level: error\ntargets:\n${cloud("cloud", upstream.url)}`);
  const remote = run("./chat", ["ECHO:one two three", "cloud.yaml"]);
  assert.match(remote.stdout, /^one two three\n\[cloud, cloud, \$0\.0\d+\]\n$/, remote.stderr);
  // Without a configuration: the embedded one, with the model and the model host that were installed.
  const local = run("./chat", ["set a timer for 10 minutes"]);
  assert.equal(local.stdout, 'timer({"action":"set","duration":"10 minutes"})\n[device, device, $0.000000]\n', local.stderr);
});

test("C++ programs take the headers too", () => {
  writeFileSync(join(dir, "tandem.cpp"), `#include <tandem/tandem.h>
#include <tandem/admin.h>
int main() { td_options o{}; o.log = TD_LOG_QUIET; td_runtime *r; td_failure f; o.config_text = "version: 7";
  return td_runtime_open(&o, &r, &f) == 1 && td_version() == std::string(TANDEM_VERSION) ? 0 : 1; }
`.replace("int main", "#include <string>\nint main"));
  for (const standard of ["c++11", "c++20"]) {
    const built = run("c++", [`-std=${standard}`, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "tandem.cpp", "-o", "tandem-cpp",
      `-I${join(dirname(the("/tandem/tandem.h")), "..")}`, `-L${dirname(the("/libtandem.so"))}`, "-ltandem"]);
    assert.equal(built.status, 0, built.stderr);
    assert.equal(run("./tandem-cpp", []).status, 0);
  }
});

test("the shared library has a version, and shows nothing but the public names", () => {
  const library = the("/libtandem.so.0.1.0");
  assert.match(run("readelf", ["-d", library]).stdout, /SONAME.*\[libtandem\.so\.0\]/);
  const names = run("nm", ["-D", "--defined-only", library]).stdout.trim().split("\n").map((l) => l.split(" ").at(-1));
  const declared = ["tandem.h", "admin.h"].map((h) => readFileSync(join(ROOT, "include/tandem", h), "utf8")).join();
  for (const name of names) assert.match(declared, new RegExp(`\\b${name.split("@")[0]}\\(`), `${name} is not public`);
  assert.ok(names.length > 10);
  for (const program of [library, the("/bin/tandem"), the("/tandem-host")])
    assert.doesNotMatch(run("readelf", ["-d", program]).stdout, new RegExp(`(RUNPATH|RPATH).*${ROOT}`), "a path of the build stays behind");
});

test("the installed command answers from its own model", () => {
  const r = run(the("/bin/tandem"), ["ask", "--json", "set a timer for 10 minutes"]);
  assert.equal(r.status, 0, r.stderr);
  assert.match(r.stdout, /"target":\s*"device"/);
});

test("manual page and completions are there and well-formed", () => {
  const man = readFileSync(the("/man1/tandem.1"), "utf8");
  assert.match(man, /^\.TH TANDEM 1/);
  for (const line of man.split("\n").filter((l) => /^[.']/.test(l)))
    assert.match(line, /^\.(TH|SH|SS|PP|TP|nf|fi)\b/, "every line that begins with a dot is a macro");
  for (const command of ["serve", "ask", "explain", "check", "models", "keys", "ledger", "outbox", "eval"])
    assert.ok(man.includes(`tandem ${command}`), command);
  const bash = the("/completions/tandem.bash");
  const asked = run("bash", ["-c", `source ${bash}; COMP_WORDS=(tandem ledger st); COMP_CWORD=2; _tandem; echo "\${COMPREPLY[*]}"`]);
  assert.equal(asked.stdout.trim(), "stats");
  assert.match(readFileSync(the("/_tandem"), "utf8"), /^#compdef tandem/);
  assert.match(readFileSync(the("/tandem.fish"), "utf8"), /^complete -c tandem -f -n __fish_use_subcommand -a serve /);
});

test("an uninstall leaves nothing of it, and nothing else goes", () => {
  const other = join(dir, "other"), foreign = join(other, "usr/local/bin/foreign");
  execFileSync("meson", ["install", "-C", process.env.BUILD, "--no-rebuild", "--quiet"], { env: { ...process.env, DESTDIR: other }, stdio: "ignore" });
  assert.equal(files(other).length, all.length);
  mkdirSync(dirname(foreign), { recursive: true });
  writeFileSync(foreign, "of somebody else");
  const r = spawnSync(join(ROOT, "tools/uninstall"), [join(process.env.BUILD, "meson-logs/install-log.txt")], { encoding: "utf8" });
  assert.equal(r.status, 0, r.stderr);
  assert.deepEqual(files(other), [foreign]);
  assert.deepEqual(readdirSync(join(other, "usr/local")), ["bin"]);
});

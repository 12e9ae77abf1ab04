// SPDX-License-Identifier: Apache-2.0
// The switches of tests/support/trouble.c: a full disk, a jumping clock, a name server that never answers; and want of
// memory for a model host, by limits of the process and by the kernel itself.
import { chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, openSync, readFileSync, rmdirSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { ROOT, TANDEM, scratch, stopLater, until } from "./lib.mjs";

export function trouble() {
  const file = join(scratch(), "trouble");
  writeFileSync(file, Buffer.alloc(24));
  const set = (index, value) => {
    const b = Buffer.alloc(8), fd = openSync(file, "r+");
    b.writeBigInt64LE(BigInt(value));
    writeSync(fd, b, 0, 8, index * 8);
    closeSync(fd);
  };
  return {
    env: (dir) => ({
      LD_PRELOAD: join(process.env.BUILD, "tests/support/trouble.so"), TROUBLE: file, TROUBLE_DIR: dir,
      ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ""}:verify_asan_link_order=0`,
    }),
    full: (on) => set(0, on ? 1 : 0),
    clock: (ms) => set(1, ms),
    dns: (off) => set(2, off ? 1 : 0),
  };
}

// A program like the real one, whose model hosts start with so much address space (KiB, or "unlimited").
export function tightHouse() {
  const dir = scratch(), file = join(dir, "limit"), program = join(dir, "tandem"), host = join(dir, "tandem-host");
  const limit = (kib) => writeFileSync(file, `${kib}\n`);
  limit("unlimited");
  copyFileSync(TANDEM, program);
  chmodSync(program, 0o755);
  writeFileSync(host, `#!/bin/sh\nread kib <${file}\nulimit -v $kib\nexec ${process.env.BUILD}/host/tandem-host "$@"\n`);
  chmodSync(host, 0o755);
  return { program, limit, env: { LD_LIBRARY_PATH: `${ROOT}/.deps/yyjson/lib:${process.env.LD_LIBRARY_PATH ?? ""}` } };
}

// A control group of its own in which the kernel kills what takes more than `bytes`; null where there may be none.
export function memoryCage(bytes) {
  for (const [root, limit] of [["/sys/fs/cgroup/memory", "memory.limit_in_bytes"], ["/sys/fs/cgroup", "memory.max"]]) {
    const dir = join(root, `tandem-test-${process.pid}`);
    try {
      mkdirSync(dir);
    } catch {
      continue;
    }
    stopLater(() => until(() => {
      try {
        rmdirSync(dir); // when the last process has left
        return true;
      } catch {
        return !existsSync(dir);
      }
    }, "the control group to be empty"));
    try {
      writeFileSync(join(dir, limit), String(bytes));
      return {
        put: (pid) => writeFileSync(join(dir, "cgroup.procs"), String(pid)),
        kills: () => Number(readFileSync(join(dir, limit === "memory.max" ? "memory.events" : "memory.oom_control"), "utf8").match(/^oom_kill (\d+)$/m)?.[1] ?? 0),
      };
    } catch {
      continue;
    }
  }
  return null;
}

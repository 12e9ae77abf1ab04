// SPDX-License-Identifier: Apache-2.0
// The switches of tests/support/trouble.c: a full disk, a jumping clock, a name server that never answers.
import { closeSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { scratch } from "./lib.mjs";

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

import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import { lockFolder } from "../../src/trainers/lock.ts";
import { gatherProvenance } from "../../src/trainers/provenance.ts";
import { exitCodeOf, listenForSignals, StopRequest } from "../../src/trainers/signals.ts";
import { rowsOfStep } from "../../src/trainers/transformer-stage.ts";
import { temporaryFolder } from "./support.ts";

describe("lock", () => {
  test("one holder at a time, and it is given back", () => {
    const dir = temporaryFolder();
    const unlock = lockFolder(dir);
    expect(() => lockFolder(dir)).toThrow(UserError);
    unlock();
    lockFolder(dir)();
    expect(readdirSync(dir)).toEqual([]);
  });

  test("the lock of a dead process, or half a lock, is taken over", () => {
    const dir = temporaryFolder();
    const path = join(dir, "lock.json");
    const { pid } = spawnSync(process.execPath, ["-e", ""]);
    writeFileSync(path, JSON.stringify({ pid, host: hostname() }));
    lockFolder(dir)();
    writeFileSync(path, JSON.stringify({ pid: process.pid, host: hostname(), started: "earlier" }));
    lockFolder(dir)();
    writeFileSync(path, '{"pid":');
    lockFolder(dir)();
    expect(existsSync(path)).toBe(false);
  });

  test("the lock of a living process is respected", async () => {
    const dir = temporaryFolder();
    const child = spawn(process.execPath, ["-e", "setTimeout(() => {}, 30000)"]);
    try {
      writeFileSync(join(dir, "lock.json"), JSON.stringify({ pid: child.pid, host: hostname() }));
      expect(() => lockFolder(dir)).toThrow(`process ${child.pid}`);
    } finally {
      child.kill();
      await new Promise((resolve) => child.once("exit", resolve));
    }
  });
});

describe("signals", () => {
  test("the first one asks for a stop, and shells see the usual exit code", () => {
    const stop = new StopRequest();
    const told: string[] = [];
    const unlisten = listenForSignals(stop, (signal) => told.push(signal));
    process.emit("SIGTERM", "SIGTERM");
    unlisten();
    expect(told).toEqual(["SIGTERM"]);
    expect(() => stop.check()).toThrow("SIGTERM");
    expect([exitCodeOf("SIGINT"), exitCodeOf("SIGTERM")]).toEqual([130, 143]);
  });
});

describe("provenance", () => {
  test("names code, packages, machine and command", () => {
    const { provenance } = gatherProvenance({
      device: "a device",
      seed: 3,
      configHash: "abc",
      datasets: { train: "x", validation: "y" },
    });
    expect(provenance).toMatchObject({ seed: 3, config_hash: "abc", node: process.version });
    expect(provenance.packages["@tensorflow/tfjs-core"]).toMatch(/^\d+\.\d+\.\d+/);
    expect(provenance.cores).toBeGreaterThan(0);
  });
});

describe("order of token batches", () => {
  test("every row once an epoch, and each step knows its rows alone", () => {
    const epoch = (first: number) =>
      [0, 1, 2].flatMap((i) => [...rowsOfStep(12, 4, 7, first + i)]).sort((a, b) => a - b);
    expect(epoch(0)).toEqual(Array.from({ length: 12 }, (_, i) => i));
    expect(epoch(3)).toEqual(epoch(0));
    expect(rowsOfStep(12, 4, 7, 3)).not.toEqual(rowsOfStep(12, 4, 7, 0));
    expect(rowsOfStep(12, 4, 8, 0)).not.toEqual(rowsOfStep(12, 4, 7, 0));
  });

  test("a cache smaller than a batch fills it", () => {
    const rows = rowsOfStep(3, 8, 0, 5);
    expect(rows).toHaveLength(8);
    expect(new Set(rows).size).toBe(3);
  });
});

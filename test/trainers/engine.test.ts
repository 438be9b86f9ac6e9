/** @file A run that goes on keeps the engine that it began with: another one rounds otherwise. */

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { findAddon } from "../../src/runtime/native/addon.ts";
import { checkpointDir } from "../../src/trainers/loop.ts";
import { openRunDevice } from "../../src/trainers/run.ts";
import { temporaryFolder } from "./support.ts";

const auto = { type: "cpu", engine: "auto", threads: 1 } as const;

/** A run folder that was begun with an engine, or only made. */
function folder(provenance: object, begun: boolean): string {
  const dir = temporaryFolder();
  const path = join(dir, "provenance.json");
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, JSON.stringify(provenance));
  if (begun) {
    mkdirSync(checkpointDir(dir, "tokenizer"), { recursive: true });
  }
  return dir;
}

async function engineOf(dir: string): Promise<string | undefined> {
  const device = await openRunDevice(dir, auto);
  device.dispose();
  return device.info.engine;
}

test("a begun run goes on with the engine that provenance.json names", async () => {
  expect(await engineOf(folder({ engine: "onnx" }, true))).toBe("onnx");
  // Before there was a choice there was ONNX Runtime.
  expect(await engineOf(folder({}, true))).toBe("onnx");
});

test("a run without a checkpoint takes the best engine that is here", async () => {
  const best = findAddon().addon ? "native" : "onnx";
  expect(await engineOf(folder({ engine: "onnx" }, false))).toBe(best);
});

const { missing } = findAddon();

test.runIf(missing === undefined)("a run of the native engine goes on with it", async () => {
  expect(await engineOf(folder({ engine: "native" }, true))).toBe("native");
});

test.runIf(missing !== undefined)(
  "a run of the native engine stops where it is missing",
  async () => {
    await expect(engineOf(folder({ engine: "native" }, true))).rejects.toThrow(
      /was begun with the native engine/,
    );
  },
);

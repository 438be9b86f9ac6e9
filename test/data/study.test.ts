/**
 * @file A whole study on the layout of UCF-101 by overrides alone, from the experiment at the paper's
 * scale: it resolves as it is, and small enough it trains, encodes and scores.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { setWarningSink } from "../../src/data/warnings.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { runExperiment } from "../../src/trainers/run.ts";
import * as write from "./look-alikes.ts";
import { temporaryFolder } from "./support.ts";

const root = temporaryFolder("study");
beforeAll(async () => {
  setWarningSink(() => undefined);
  await write.ucf101(join(root.path, "ucf"));
});
afterAll(() => write.forgetVideos());

const load = (...overrides: string[]) =>
  loadConfig<Experiment>({
    file: "@magvit2-ucf101",
    overrides: [`dataset.path=${root.path}/ucf`, ...overrides],
    schema: experimentSchema,
    checks,
  });

test("MAGVIT-v2 on UCF-101: the paper's scale resolves", () => {
  const { config } = load();
  expect(config.dataset).toMatchObject({ frames: 17, height: 128, width: 128, verify: "drawn" });
  expect(config.tokenizer).toMatchObject({ type: "magvit2", base_channels: 128 });
  expect(config.trainer.tokenizer.batch).toBe(128);
});

test("and a small one trains on the same layout", async () => {
  const small = load(
    "dataset.height=16",
    "dataset.width=16",
    "dataset.workers=0",
    "tokenizer=@magvit2-vq-small",
    "tokenizer.base_channels=8",
    "model=@transformer-tiny",
    "trainer=@quick",
    "trainer.tokenizer.steps=2",
    "trainer.tokenizer.batch=2",
    "trainer.transformer.steps=2",
    "trainer.transformer.batch=2",
    "trainer.samples.count=1",
    "~evals.probe",
    `output=${root.path}/runs`,
  );
  const { dir, state, scores } = await runExperiment(small, {
    output: { terminal: false, line: () => undefined },
  });
  expect(state).toBe("finished");
  const psnr = scores.find(({ name }) => name.startsWith("reconstruction/psnr"))!;
  expect(psnr.protocol).toMatchObject({ dataset: { type: "ucf101", sampling: { split: "test list 1", clips: "centre" } } }); // biome-ignore format: one call
  expect(readFileSync(join(dir, "timing.jsonl"), "utf8")).toMatch(/"data_wait_share"/);
});

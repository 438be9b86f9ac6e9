/** @file Data-parallel training: who is which rank, what ranks tell each other, and equal gradients. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { tesseraBackend } from "../../src/runtime/backend.ts";
import {
  acrossRanks,
  averageOverRanks,
  setRanks,
  sumOverRanks,
} from "../../src/runtime/collective.ts";
import {
  firstHost,
  type Group,
  type Membership,
  membershipOf,
  openGroup,
} from "../../src/runtime/group.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { orderCollectives } from "../../src/runtime/torch/collectives.ts";
import { TORCH_RULES } from "../../src/runtime/torch/lowering.ts";
import { isBuilt } from "../../src/runtime/torch/native.ts";
import { plannerFor, withoutDead } from "../../src/runtime/torch/plan.ts";
import { traceFunction } from "../../src/runtime/trace.ts";
import { rowsOfRank } from "../../src/trainers/ranks.ts";

const torch = isBuilt();
if (!torch) {
  process.stderr.write("two processes are not tested: the addon for PyTorch is not built\n");
}

describe("membership", () => {
  test("alone without variables, and under Slurm's batch step", () => {
    expect(membershipOf({})).toBeUndefined();
    expect(membershipOf({ SLURM_NTASKS: "4", SLURM_PROCID: "0" })).toBeUndefined();
  });

  test("torchrun's variables", () => {
    const env = {
      RANK: "3",
      WORLD_SIZE: "4",
      LOCAL_RANK: "1",
      MASTER_ADDR: "a",
      MASTER_PORT: "77",
    };
    expect(membershipOf(env)).toEqual({
      rank: 3,
      world: 4,
      localRank: 1,
      host: "a",
      port: 77,
      external: false,
    });
    expect(membershipOf({ ...env, TORCHELASTIC_USE_AGENT_STORE: "True" })?.external).toBe(true);
  });

  test("Slurm's variables, where there are no others", () => {
    const env = {
      SLURM_STEP_NUM_TASKS: "8",
      SLURM_PROCID: "5",
      SLURM_LOCALID: "1",
      SLURM_STEP_NODELIST: "gpu[07-09,12],b3",
      SLURM_JOB_ID: "1234567",
    };
    expect(membershipOf(env)).toMatchObject({
      rank: 5,
      world: 8,
      localRank: 1,
      host: "gpu07",
      port: 30_067,
    });
    expect(firstHost("one")).toBe("one");
  });

  test("a variable that is missing or wrong is named", () => {
    expect(() => membershipOf({ WORLD_SIZE: "2" })).toThrow(/RANK is missing/);
    expect(() => membershipOf({ WORLD_SIZE: "2", RANK: "x" })).toThrow(/RANK is "x"/);
    expect(() => membershipOf({ WORLD_SIZE: "2", RANK: "2" })).toThrow(/rank 2 of 2/);
  });
});

/** Ranks of one process, joined by their connections alone. */
function groupOf(world: number): Promise<Group[]> {
  let tell: (note: string) => void = () => undefined;
  const note = new Promise<string>((resolve) => {
    tell = resolve;
  });
  return Promise.all(
    Array.from({ length: world }, (_, rank) => {
      const membership: Membership = {
        rank,
        world,
        localRank: rank,
        host: "127.0.0.1",
        port: 0,
        external: false,
      };
      return openGroup(membership, (own) => {
        if (rank === 0) {
          tell(own);
        }
        return note;
      });
    }),
  );
}

test("ranks hear each other's values, and goodbyes are no deaths", async () => {
  const group = await groupOf(3);
  const lost: unknown[] = [];
  for (const { lost: died } of group) {
    died.catch((error) => lost.push(error));
  }
  for (const round of [1, 2]) {
    const heard = await Promise.all(group.map((one) => one.gather({ at: one.rank * round })));
    expect(heard[2]).toEqual([{ at: 0 }, { at: round }, { at: 2 * round }]);
  }
  await group[2]!.leave();
  await group[1]!.leave();
  await group[0]!.leave();
  expect(lost).toEqual([]);
});

test("what rank 0 ends, the others do not wait for", async () => {
  const group = await groupOf(2);
  const waiting = group[1]!.gather(1);
  await Promise.all([group[0]!.leave(), expect(waiting).rejects.toThrow(/rank 0 .* has ended/)]);
});

describe("the plan", () => {
  beforeAll(async () => {
    tesseraBackend();
    await openDevice({ type: "cpu", engine: "onnx" });
  });

  test("means of gradients begin as soon as they can, and end late", () => {
    const variables = [0, 1].map(() => tf.variable(tf.ones([2048, 2048])));
    setRanks({ rank: 0, world: 2 });
    const { graph } = traceFunction(
      "f",
      ({ x }) =>
        acrossRanks(() => {
          const { grads, value } = tf.variableGrads(() => {
            const y = variables.reduce<tf.Tensor>(
              (h, w) => tf.tanh(tf.matMul(h as tf.Tensor2D, w as unknown as tf.Tensor2D)),
              x!,
            );
            return sumOverRanks(tf.sum(y)) as tf.Scalar;
          }, variables as tf.Variable[]);
          const means = averageOverRanks(variables.map(({ name }) => grads[name]!));
          return { value, a: means[0]!, b: means[1]! };
        }),
      [{ name: "x", dtype: "float32", shape: [8, 2048] }],
      new Set(["TesseraAllReduce"]),
    );
    setRanks();
    for (const variable of variables) {
      variable.dispose();
    }
    const planner = plannerFor(graph, "fp32");
    planner.lower(TORCH_RULES);
    const ops = orderCollectives(withoutDead(planner.finish())).instructions.map(({ op }) => op);
    const begin = ops.indexOf("AllReduceBegin");
    // The last layer's gradient is on its way before the first one's is computed.
    expect(ops.slice(begin + 1, ops.indexOf("AllReduceBegin", begin + 1))).toContain("BatchMatMul");
    expect(ops.slice(-2)).toEqual(["AllReduceEnd", "AllReduceEnd"]);
  });
});

test("a rank's rows are its share of the samples", () => {
  const data = Float32Array.from({ length: 12 }, (_, i) => i);
  const inputs = {
    samples: { dtype: "float32", shape: [4, 3], data },
    step: { dtype: "float32", shape: [], data: data.slice(0, 1) },
  } as const;
  const { samples, step } = rowsOfRank(inputs, 4, { rank: 1, world: 2 });
  expect([samples!.shape, [...samples!.data]]).toEqual([
    [2, 3],
    [6, 7, 8, 9, 10, 11],
  ]);
  expect(step).toBe(inputs.step);
});

const parallelCheck = async (...flags: string[]): Promise<string> => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--import", "tsx", "scripts/parallel-check.ts", "torch-cpu", ...flags],
    { env: { ...process.env, OMP_NUM_THREADS: "1" } },
  );
  return stdout;
};

test.skipIf(!torch)("whole trainings part no more than by rounding", async () => {
  const stdout = await parallelCheck("--steps", "20");
  expect(stdout.match(/^agrees \S+ over 20 steps/gm)).toHaveLength(3);
});

test.skipIf(!torch)("two processes give the gradient of one", async () => {
  const stdout = await parallelCheck();
  expect(stdout).toMatch(/tensors of 2 ranks against one; 0 kinds differ/);
});

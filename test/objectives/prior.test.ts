import { beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildTransformer } from "../../src/models/transformer.ts";
import { buildCausalPrior, buildMaskedPrior, haltonOrder } from "../../src/objectives/prior.ts";
import type { TokenPrior } from "../../src/objectives/prior.ts";
import type { Device } from "../../src/runtime/device.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { randomBatch, shake, tinyModel } from "./support.ts";

const space = { grid: [2, 3, 2], factors: [4, 6], classes: 3 } as const;
const N = 12;

let device: Device;
const priors: { [kind: string]: TokenPrior } = {};

beforeAll(async () => {
  device = await openDevice({ type: "cpu", threads: 1 });
  const masked = buildTransformer(tinyModel, space, { mask: true }, Scope.root(1).child("m"));
  const causal = buildTransformer(tinyModel, space, { mask: false }, Scope.root(2).child("c"));
  shake(masked.scope);
  shake(causal.scope);
  priors["masked"] = buildMaskedPrior(device, masked);
  priors["causal"] = buildCausalPrior(device, causal);
});

describe.each(["masked", "causal"])("%s prior", (kind) => {
  test("asks for every place once, and never looks at tokens before their turn", async () => {
    const { ids, labels } = randomBatch(space, 2, 3);
    const seen: number[] = [];
    const logits: number[][] = [];
    for await (const group of priors[kind]!.groups(ids, labels)) {
      seen.push(...group.places);
      for (const place of group.places) {
        logits.push([0, 1].flatMap((b) => [0, 1].flatMap((f) => [...group.logits(b, place, f)])));
      }
    }
    expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: N }, (_, i) => i));

    // A decoder fills `ids` as it goes: what it has not decoded is garbage, and the logits are equal.
    const decoded = new Int32Array(ids.length).fill(-1);
    let next = 0;
    for await (const group of priors[kind]!.groups(decoded, labels)) {
      for (const place of group.places) {
        const row = [0, 1].flatMap((b) => [0, 1].flatMap((f) => [...group.logits(b, place, f)]));
        expect(row).toEqual(logits[next++]);
        for (const b of [0, 1]) {
          const at = (b * N + place) * 2;
          decoded.set(ids.subarray(at, at + 2), at);
        }
      }
    }
    expect(decoded).toEqual(ids);
  });
});

test("the Halton order visits every cell once and spreads", () => {
  const order = haltonOrder([3, 8, 8]);
  expect(new Set(order).size).toBe(192);
  // Any eighth of the order touches all frames and all four quarters of them.
  const first = order.slice(0, 24);
  expect(new Set(first.map((p) => Math.floor(p / 64))).size).toBe(3);
  const quarter = (p: number) => (p % 64 >= 32 ? 2 : 0) + (p % 8 >= 4 ? 1 : 0);
  expect(new Set(first.map(quarter)).size).toBe(4);
});

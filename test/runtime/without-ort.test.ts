/** @file A machine without ONNX Runtime: all else works, and what needs it says so in one error. */

import { expect, test, vi } from "vitest";
import { UserError } from "../../src/config/errors.ts";

vi.mock("onnxruntime-node", () => {
  throw new Error("libonnxruntime.so.1: cannot open shared object file");
});

test("tokenizers, exports and devices are there; the engine onnx is refused", async () => {
  const { tokenizers } = await import("../../src/tokenizers/registry.ts");
  expect(Object.keys(tokenizers)).toContain("onnx");
  await import("../../src/tokenizers/export.ts");
  const { openDevice } = await import("../../src/runtime/registry.ts");
  expect((await openDevice({ type: "reference" })).type).toBe("reference");
  const opening = openDevice({ type: "cpu", engine: "onnx" });
  await expect(opening).rejects.toThrow(UserError);
  await expect(opening).rejects.toThrow(/engine onnx needs ONNX Runtime, which does not load here/);
});

/** @file ONNX Runtime, loaded when something needs it: other devices do without the package. */

import type ortTypes from "onnxruntime-node";
import { UserError } from "../../config/errors.ts";

export type Ort = typeof ortTypes;

let loading: Promise<Ort> | undefined;

/** @throws UserError that says what needs the package and how to get it, where it does not load */
export function loadOrt(needs: string): Promise<Ort> {
  loading ??= import("onnxruntime-node").then((loaded) => loaded.default);
  return loading.catch((error: unknown) => {
    throw new UserError(
      `${needs} ONNX Runtime, which does not load here: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`,
      "install it (npm install onnxruntime-node); the devices cuda, torch-cpu and reference do without",
      { cause: error },
    );
  });
}

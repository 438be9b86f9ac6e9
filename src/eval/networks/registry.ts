/**
 * @file Feature networks by name, with the files of their weights. A network is known by its name and
 * the SHA-256 of its weights, and both stand in every protocol that uses it.
 */

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { Scope } from "../../models/scope.ts";
import { decodeSafetensors } from "../../runtime/safetensors.ts";
import { sizeOf } from "../../runtime/tensors.ts";
import * as movingShapes from "../../models/features/moving-shapes-net.ts";

/** A network ready to use: its variables hold the published weights. */
export interface FeatureNetwork {
  readonly name: string;
  readonly dimensions: number;
  /** SHA-256 of the weight file. */
  readonly sha256: string;
  /** Clips [B, T, H, W, 3] in [-1, 1] to [B, dimensions]; traceable. */
  features(clips: tf.Tensor5D): tf.Tensor2D;
  /** Frees the variables. */
  dispose(): void;
}

interface NetworkEntry {
  readonly dimensions: number;
  /** Path under the package's root. */
  readonly file: string;
  /** What the file must hash to: other weights would be another network under the same name. */
  readonly sha256: string;
  build(scope: Scope): Pick<FeatureNetwork, "features">;
}

export const featureNetworks = {
  "moving-shapes-v1": {
    dimensions: movingShapes.featureWidth,
    file: "src/eval/weights/moving-shapes-v1.safetensors",
    sha256: "a2c4d160205cc2a154f4f51e07d0e6c798f67a0cbe6b8c800fa20352bb9c624b",
    build: movingShapes.movingShapesNet,
  },
} as const satisfies { readonly [name: string]: NetworkEntry };

export type FeatureNetworkName = keyof typeof featureNetworks;

/** The nearest folder at or above this file that holds package.json: the same from src/ and dist/. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const parent = dirname(folder);
    if (parent === folder) {
      throw new Error("no package.json above the program's files");
    }
    folder = parent;
  }
  return folder;
}

/** Where a network's weights lie, and whether they are there and whole: for `tessera doctor`. */
export function checkWeights(name: FeatureNetworkName): {
  readonly path: string;
  readonly state: "ok" | "missing" | "changed";
} {
  const entry: NetworkEntry = featureNetworks[name];
  const path = join(packageRoot(), entry.file);
  if (!existsSync(path)) {
    return { path, state: "missing" };
  }
  const found = createHash("sha256").update(readFileSync(path)).digest("hex");
  return { path, state: found === entry.sha256 ? "ok" : "changed" };
}

/**
 * Build a network and read its weights. The device whose variables they become must be active.
 * @throws UserError when the file is missing or is not the file that the name stands for
 */
export function openFeatureNetwork(name: FeatureNetworkName): FeatureNetwork {
  const entry: NetworkEntry = featureNetworks[name];
  const { path, state } = checkWeights(name);
  if (state !== "ok") {
    throw new UserError(
      state === "missing"
        ? `the weights of the feature network ${name} are not at ${path}`
        : `${path} is not the weight file of ${name}: its SHA-256 differs from ${entry.sha256}`,
      "restore the file from the repository; a distance on other weights would need another name",
    );
  }
  const scope = Scope.blank(0);
  const { features } = entry.build(scope);
  loadVariables(scope, readFileSync(path));
  return {
    name,
    dimensions: entry.dimensions,
    sha256: entry.sha256,
    features,
    dispose: () => scope.dispose(),
  };
}

/** Give each variable of a scope the values under its name in a safetensors file. */
export function loadVariables(scope: Scope, file: Uint8Array): void {
  const { tensors } = decodeSafetensors(file);
  for (const [variable, target] of scope.variables()) {
    const tensor = tensors.get(variable);
    if (!tensor || tensor.data.length !== sizeOf(target.shape)) {
      throw new Error(
        `the weight file has no tensor "${variable}" of [${target.shape.join(", ")}]`,
      );
    }
    const values = tf.tensor(tensor.data as Float32Array, target.shape, "float32");
    target.assign(values);
    values.dispose();
  }
}

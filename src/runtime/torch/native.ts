/** @file The addon native/torch/ as TypeScript sees it, and finding it. */

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { UserError } from "../../config/errors.ts";
import type { HostTensor } from "../tensors.ts";
import type { Type } from "./plan.ts";

declare const opaque: unique symbol;
/** A handle of the addon. */
interface External<Kind extends string> {
  readonly [opaque]: Kind;
}
export type NativeEngine = External<"engine">;
export type NativeBuffer = External<"buffer">;
export type NativeProgram = External<"program">;

export interface NativeSpec {
  readonly shape: readonly number[];
  readonly type: Type;
}

export interface NativeInstruction {
  readonly op: string;
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly specs: readonly NativeSpec[];
  readonly ints: readonly number[];
  readonly floats: readonly number[];
  readonly text: string;
  readonly free: readonly number[];
  readonly where: string;
  /** Computed once and kept until a state is written. */
  readonly fixed: boolean;
  /** One turn of a loop. */
  readonly body?: NativeBody;
}

export interface NativeBody {
  readonly name: string;
  readonly slots: number;
  readonly instructions: readonly NativeInstruction[];
  readonly inputs: readonly (NativeSpec & { readonly slot: number })[];
  readonly constants: readonly (NativeSpec & {
    readonly slot: number;
    readonly data: HostTensor["data"];
  })[];
  /** `next` is -1 where the function only reads the state. */
  readonly states: readonly { readonly slot: number; readonly next: number }[];
  readonly outputs: readonly (NativeSpec & { readonly slot: number })[];
}

export interface NativePlan extends NativeBody {
  /** Capture as CUDA graphs and replay. */
  readonly graph: boolean;
}

export interface GroupOptions {
  readonly backend: "gloo" | "nccl";
  readonly rank: number;
  readonly world: number;
  /** Of the store by which the ranks find each other. */
  readonly host: string;
  readonly port: number;
  /** Somebody else serves the store, else rank 0 does. */
  readonly external: boolean;
  /** How long to wait for the others. */
  readonly seconds: number;
  /** What rank 0 has to tell all. */
  readonly note: string;
  /** Which GPU. */
  readonly index: number;
}

export interface Addon {
  open(options: {
    readonly cuda: boolean;
    readonly index: number;
    readonly tf32: boolean;
    readonly deterministic: boolean;
    readonly threads: number;
  }): {
    readonly engine: NativeEngine;
    readonly version: string;
    readonly name: string;
    /** Bytes of the GPU; 0 on the processor. */
    readonly memory: number;
  };
  devices(): number;
  buffer(engine: NativeEngine, spec: NativeSpec, values: HostTensor["data"]): NativeBuffer;
  write(buffer: NativeBuffer, values: HostTensor["data"]): void;
  read(buffer: NativeBuffer, into: HostTensor["data"]): void;
  load(engine: NativeEngine, plan: NativePlan): NativeProgram;
  run(
    program: NativeProgram,
    inputs: readonly { readonly data: HostTensor["data"]; readonly type: Type }[],
    states: readonly NativeBuffer[],
  ): Promise<ArrayBuffer[]>;
  memory(engine: NativeEngine, reset: boolean): [now: number, most: number];
  /** Blocks until all ranks have joined; gives rank 0's note. */
  join(options: GroupOptions): string;
  leave(): void;
  /** End the process after some seconds, even if a collective waits for a dead rank. */
  abandon(seconds: number, code: number): void;
  kernels(): string[];
  /** What is wrong with a kernel's launch: "" where nothing is. */
  launchFault(gridX: number, gridY: number, block: number, shared: number): string;
}

const FILE = fileURLToPath(
  new URL("../../../native/torch/build/tessera_torch.node", import.meta.url),
);

const HINT = "build it against your PyTorch: npm run build:torch (docs/runtime.md#pytorch)";

/** Whether the addon has been built here; it may still fail to load. */
export const isBuilt = (): boolean => existsSync(FILE);

let loaded: Addon | undefined;

/** The addon. Throws a UserError that says what to do where it is missing or does not load. */
export function loadAddon(): Addon {
  if (!loaded) {
    if (!isBuilt()) {
      throw new UserError("the devices cuda and torch-cpu need an addon that is not built", HINT);
    }
    try {
      loaded = createRequire(import.meta.url)(FILE) as Addon;
    } catch (error) {
      const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
      throw new UserError(
        `the addon for PyTorch does not load: ${reason}`,
        `it belongs to the PyTorch it was built against; ${HINT}`,
        { cause: error },
      );
    }
  }
  return loaded;
}

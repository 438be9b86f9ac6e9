/**
 * @file The TensorFlow.js backend "tessera". While a function is traced its kernels record nodes and
 * compute nothing; otherwise they compute at once with TensorFlow.js's own CPU kernels (initial
 * values, small host-side arithmetic). It also holds the values of variables between the steps of
 * compiled functions, which replace them in place through `takeState` and `putState`.
 */

import { relative } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import "./tfjs.ts";
import type { DType, Value } from "./graph.ts";
import { KERNEL_RULES } from "./kernels.ts";
import { sizeOf } from "./tensors.ts";
import { activeTracer } from "./tracing.ts";

export const BACKEND = "tessera";

/** Host values of a tensor. */
export type Values = Float32Array | Int32Array | Uint8Array;

interface Entry {
  readonly shape: number[];
  readonly dtype: tf.DataType;
  refCount: number;
  /** Host values; absent for a value of the trace under way. */
  values?: Values;
  /** A value of the trace under way. */
  symbol?: Value;
  /**
   * True once compiled steps write this tensor's buffers in place: then nobody else may hold them,
   * and every reader gets a copy.
   */
  owned: boolean;
  /** The other buffer of a state that is updated in turns. */
  spare?: Values;
  /** A device's own buffer with this variable's values. */
  remote?: Remote;
  /** Whether the remote values are newer than `values`, which are then fetched when asked for. */
  stale?: boolean;
}

/** Values of a variable that live on a device. */
export interface Remote {
  readonly handle: unknown;
  /** Copy the device's values into an array. */
  read(into: Values): void;
  write(from: Values): void;
}

/** Which device keeps what of a variable. */
interface RemoteState {
  readonly owner: object;
  readonly remote: Remote;
  entry: Entry;
}

/** The values on the host, fetched first where a device has newer ones. */
function hostValues(entry: Entry): Values {
  if (entry.stale) {
    entry.values ??= emptyValues(entry);
    entry.remote!.read(entry.values);
    entry.stale = false;
  }
  return entry.values!;
}

function emptyValues({ dtype, shape }: Entry): Values {
  const size = sizeOf(shape);
  return dtype === "float32"
    ? new Float32Array(size)
    : dtype === "int32"
      ? new Int32Array(size)
      : new Uint8Array(size);
}

class TesseraBackend extends tf.KernelBackend {
  readonly #entries = new Map<object, Entry>();
  readonly #remotes = new WeakMap<tf.Variable, RemoteState>();

  override write(values: tf.BackendValues, shape: number[], dtype: tf.DataType): object {
    if (activeTracer()) {
      refuseRandomOperations();
    }
    const dataId = {};
    this.#entries.set(dataId, {
      shape,
      dtype,
      refCount: 1,
      values: values as Values,
      owned: false,
    });
    return dataId;
  }

  /** A tensor that stands for a value of the trace. */
  symbol(value: Value): tf.TensorInfo {
    const dataId = {};
    const shape = [...value.shape];
    this.#entries.set(dataId, {
      shape,
      dtype: value.dtype,
      refCount: 1,
      symbol: value,
      owned: false,
    });
    return { dataId, shape, dtype: value.dtype };
  }

  entry(dataId: object): Entry {
    const entry = this.#entries.get(dataId);
    if (!entry) {
      throw new Error(
        "a tensor of another TensorFlow.js backend, or one already disposed of, was used on a Tessera device: make tensors and variables after opening the device",
      );
    }
    return entry;
  }

  has(dataId: object): boolean {
    return this.#entries.has(dataId);
  }

  override readSync(dataId: object): Values {
    const entry = this.entry(dataId);
    if (isTraced(entry)) {
      throw new Error(
        "a tensor's values were read (dataSync, data, arraySync, print, ...) inside a compiled function, where they do not exist yet: return the tensor as an output and read it there, or compute with tf operations" +
          calledFrom(),
      );
    }
    const values = hostValues(entry);
    return entry.owned ? values.slice() : values;
  }

  override async read(dataId: object): Promise<Values> {
    return this.readSync(dataId); // now: later the trace's tensors are gone
  }

  override move(
    dataId: object,
    values: tf.BackendValues,
    shape: number[],
    dtype: tf.DataType,
    refCount: number,
  ): void {
    this.#entries.set(dataId, { shape, dtype, refCount, values: values as Values, owned: false });
  }

  override refCount(dataId: object): number {
    return this.#entries.get(dataId)?.refCount ?? 0;
  }

  override incRef(dataId: object): void {
    this.entry(dataId).refCount += 1;
  }

  decRef(dataId: object): void {
    this.entry(dataId).refCount -= 1;
  }

  override disposeData(dataId: object, force = false): boolean {
    const entry = this.#entries.get(dataId);
    if (entry) {
      entry.refCount -= 1;
      if (!force && entry.refCount > 0) {
        return false;
      }
      this.#entries.delete(dataId);
    }
    return true;
  }

  override numDataIds(): number {
    return this.#entries.size;
  }

  override memory(): { unreliable: boolean } {
    return { unreliable: false };
  }

  override floatPrecision(): 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7;
  }

  override dispose(): void {
    this.#entries.clear();
  }

  /**
   * Give a variable a copy of its values where another tensor shares them (`v.assign(t)`, `tf.variable(t)`):
   * a trace tells states apart by their tensors, and a step writes them in place.
   */
  detach(variable: tf.Variable): void {
    const entry = this.entry(variable.dataId);
    const { shape, dtype, refCount } = entry;
    if (refCount > 1) {
      const copy = tf.tensor(hostValues(entry).slice(), shape, dtype as DType);
      variable.assign(copy);
      copy.dispose();
    }
  }

  /** The current and the next buffer of a variable's tensor; makes them the device's own. */
  takeState(dataId: object): { readonly current: Values; readonly next: Values } {
    const entry = this.entry(dataId);
    if (!entry.owned) {
      entry.values = hostValues(entry).slice();
      entry.owned = true;
    }
    hostValues(entry);
    entry.spare ??= entry.values!.slice().fill(0);
    return { current: entry.values!, next: entry.spare };
  }

  /** The current buffer, made the device's own, for a state that is written over in place. */
  ownState(dataId: object): Values {
    const entry = this.entry(dataId);
    if (!entry.owned) {
      entry.values = hostValues(entry).slice();
      entry.owned = true;
    }
    const values = hostValues(entry);
    delete entry.remote; // another device's copy will be out of date
    return values;
  }

  /** The current buffer alone, for a variable that is read and not assigned. */
  peekState(dataId: object): Values {
    return hostValues(this.entry(dataId));
  }

  /** The step wrote the next buffer: it is the value now. */
  putState(dataId: object): void {
    const entry = this.entry(dataId);
    const { values, spare } = entry;
    entry.values = spare!;
    entry.spare = values!;
    delete entry.remote; // another device's copy is out of date
  }

  /**
   * The handle of a device's own buffer for a variable. The buffer is made once for each variable and
   * keeps its place: values are sent only when they have changed on the host.
   * @param owner the device: a variable's buffer belongs to one at a time
   */
  remoteState(
    variable: tf.Variable,
    owner: object,
    make: (values: Values, shape: number[], dtype: tf.DataType) => Remote,
  ): unknown {
    const entry = this.entry(variable.dataId);
    const known = this.#remotes.get(variable);
    if (known?.owner !== owner) {
      const remote = make(hostValues(entry), entry.shape, entry.dtype);
      this.#remotes.set(variable, { owner, remote, entry });
      entry.remote = remote;
      return remote.handle;
    }
    const { remote } = known;
    if (entry.remote !== remote) {
      const values = hostValues(entry);
      // Another tensor may still mean the values that lie there now.
      hostValues(known.entry);
      delete known.entry.remote;
      known.entry = entry;
      entry.remote = remote;
      remote.write(values);
    }
    return remote.handle;
  }

  /** The device wrote a variable's buffer: what the host has is out of date. */
  remoteChanged(dataId: object): void {
    const entry = this.entry(dataId);
    if (!entry.owned) {
      delete entry.values; // the array may be a caller's
      entry.owned = true; // readers get copies
    }
    delete entry.spare;
    entry.stale = true;
  }
}

let instance: TesseraBackend | undefined;

/** The one backend object, registered with TensorFlow.js on first use. */
export function tesseraBackend(): TesseraBackend {
  if (!instance) {
    const backend = new TesseraBackend();
    instance = backend;
    tf.registerBackend(BACKEND, () => backend, 1);
    const names = new Set([
      ...tf.getKernelsForBackend("cpu").map((kernel) => kernel.kernelName),
      ...Object.keys(KERNEL_RULES),
    ]);
    for (const kernelName of names) {
      tf.registerKernel({
        kernelName,
        backendName: BACKEND,
        kernelFunc: ({ inputs, attrs }) =>
          dispatch(kernelName, inputs as NamedInputs, (attrs ?? {}) as tf.NamedAttrMap),
      });
    }
  }
  return instance;
}

type NamedInputs = { readonly [name: string]: tf.TensorInfo } | readonly tf.TensorInfo[];

function dispatch(
  kernelName: string,
  inputs: NamedInputs,
  attrs: tf.NamedAttrMap,
): tf.TensorInfo | tf.TensorInfo[] {
  const tracer = activeTracer();
  const backend = tesseraBackend();
  const all = (Object.values(inputs) as (tf.TensorInfo | undefined)[]).filter(
    (x) => x !== undefined,
  );
  // What depends on constants alone is computed now, unless its inputs or result are large.
  const constant = all.every((info) => !isTraced(backend.entry(info.dataId)));
  if (
    !tracer ||
    (constant && tf.getKernel(kernelName, "cpu") && !isLarge(kernelName, all, attrs))
  ) {
    return computeNow(kernelName, inputs, attrs);
  }
  const rule = KERNEL_RULES[kernelName];
  if (!rule) {
    throw new Error(
      `the TensorFlow.js kernel "${kernelName}" has no compiled form: write it with other tf operations${calledFrom()}`,
    );
  }
  const named = inputs as { [name: string]: tf.TensorInfo };
  const infos =
    rule.inputs === "list" ? all : rule.inputs.map((name) => named[name.replace("?", "")]!);
  // An optional input that was not given stays undefined; its rule knows.
  const values = infos.map((info) => info && valueOf(info));
  const outputs = rule.trace(tracer, values, attrs as { [name: string]: unknown });
  const made = outputs.map((value) => backend.symbol(value));
  return made.length === 1 && !MULTI_OUTPUT.has(kernelName) ? made[0]! : made;
}

const MULTI_OUTPUT = new Set([
  "SplitV",
  "Unpack",
  "TopK",
  "TesseraGroupNormGrad",
  "TesseraLayerNormGrad",
  "TesseraAttentionGrad",
  "TesseraAdamW",
]);

function isTraced(entry: Entry): boolean {
  const op = (entry.symbol ?? graphValues.get(entry))?.node.op;
  return entry.symbol !== undefined || op === "State";
}

/** What entries with values stand for in the trace under way: variables' states and constants. */
const graphValues = new Map<Entry, Value>();

/** During a trace: the state value that stands for a variable's tensor. */
export function bindVariable(dataId: object, value: Value): void {
  graphValues.set(tesseraBackend().entry(dataId), value);
}

export function unbindVariables(): void {
  graphValues.clear();
}

/** The graph value of a tensor: a traced one, a variable's state, or a constant. */
export function valueOf(info: tf.TensorInfo): Value {
  const entry = tesseraBackend().entry(info.dataId);
  const value = entry.symbol ?? graphValues.get(entry);
  if (value) {
    return value;
  }
  // A constant keeps a copy: the caller may reuse its array.
  const data = { dtype: info.dtype as DType, shape: info.shape, data: hostValues(entry).slice() };
  const made = activeTracer()!.constant(data);
  graphValues.set(entry, made);
  return made;
}

/** Whether folding would make or copy a large constant; 2^16 values are 256 KB of float32. */
function isLarge(
  kernelName: string,
  inputs: readonly tf.TensorInfo[],
  attrs: tf.NamedAttrMap,
): boolean {
  const limit = 1 << 16;
  if (kernelName === "Tile") {
    return sizeOf(inputs[0]!.shape) * sizeOf(attrs["reps"] as unknown as number[]) > limit;
  }
  return inputs.some((info) => sizeOf(info.shape) > limit);
}

/** Run a kernel of TensorFlow.js's CPU backend on host values. */
function computeNow(
  kernelName: string,
  inputs: NamedInputs,
  attrs: tf.NamedAttrMap,
): tf.TensorInfo | tf.TensorInfo[] {
  const kernel = tf.getKernel(kernelName, "cpu");
  if (!kernel) {
    throw new Error(`the kernel "${kernelName}" runs only inside compiled functions`);
  }
  const backend = tesseraBackend();
  const cpu = tf.findBackend("cpu") as tf.KernelBackend & {
    makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
    data: { get(dataId: object): { values: Values } };
  };
  const lend = (info: tf.TensorInfo): tf.TensorInfo => {
    const entry = backend.entry(info.dataId);
    const host = hostValues(entry);
    const values = entry.owned ? host.slice() : host;
    return cpu.makeTensorInfo(info.shape, info.dtype, values);
  };
  const lent = Array.isArray(inputs)
    ? (inputs as tf.TensorInfo[]).map(lend)
    : Object.fromEntries(
        Object.entries(inputs as { [name: string]: tf.TensorInfo | undefined }).map(
          ([name, info]) => [name, info && lend(info)],
        ),
      );
  const out = kernel.kernelFunc({
    inputs: lent as unknown as tf.NamedTensorInfoMap,
    attrs,
    backend: cpu,
  });
  const take = (info: tf.TensorInfo): tf.TensorInfo => ({
    dataId: backend.write(
      inOwnType(cpu.data.get(info.dataId).values, info.dtype),
      info.shape,
      info.dtype,
    ),
    shape: info.shape,
    dtype: info.dtype,
  });
  const taken = Array.isArray(out) ? out.map(take) : take(out as tf.TensorInfo);
  for (const info of [
    ...(Array.isArray(out) ? out : [out as tf.TensorInfo]),
    ...(Object.values(lent) as tf.TensorInfo[]),
  ]) {
    if (info && cpu.refCount(info.dataId) > 0) {
      cpu.disposeData(info.dataId, true);
    }
  }
  return taken;
}

/** Values in their type's array: TensorFlow.js's CPU kernels cast some only by name. */
function inOwnType(values: Values, dtype: tf.DataType): Values {
  const own =
    dtype === "float32" ? Float32Array : dtype === "int32" ? Int32Array : dtype === "bool" ? Uint8Array : undefined; // biome-ignore format: one choice
  return own === undefined || values instanceof own ? values : own.from(values);
}

const RANDOM_OPERATIONS =
  /\b(rand|randomGamma|randomNormal|randomStandardNormal|randomUniform|randomUniformInt|truncatedNormal|multinomial|dropout)_ /g;

/** Throws when a random operation of TensorFlow.js is on the call stack. */
function refuseRandomOperations(): void {
  const found = randomOperation();
  if (found) {
    throw randomnessError(found);
  }
}

/** The outermost random operation of TensorFlow.js on the call stack. */
function randomOperation(): string | undefined {
  const outermost = [...callStack().matchAll(RANDOM_OPERATIONS)].at(-1);
  return outermost && `tf.${outermost[1]}`;
}

/** What a trace says to random numbers; `Math.random` is replaced by what throws this. */
export function randomnessError(what = randomOperation() ?? "Math.random"): Error {
  return new Error(
    `${what} inside a compiled function would give the same numbers at every call: draw noise on the host (runtime/random.ts) and pass it as an input${calledFrom()}`,
  );
}

/** The call stack, deep enough for a model's layers inside TensorFlow.js's scopes. */
function callStack(): string {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 60;
  const { stack = "" } = new Error();
  Error.stackTraceLimit = stackTraceLimit;
  return stack;
}

/** " (called from file:line:col)": the first frame of the caller's own code. */
function calledFrom(): string {
  const frames = callStack().split("\n").slice(1);
  const own = frames.find(
    (frame) =>
      !/node_modules|node:internal|runtime\/(backend|kernels|graph|tracing|ops|trace)\./.test(
        frame,
      ),
  );
  const place = /(?:file:\/\/)?([^\s()]+:\d+:\d+)/.exec(own ?? "")?.[1];
  return place ? ` (called from ${relative(process.cwd(), place)})` : "";
}

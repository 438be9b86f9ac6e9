/**
 * @file Named variables. A layer is a function `(scope, options) => (x) => y`: it makes its
 * variables in the scope when it is built and returns a closure over them.
 */

import * as tf from "@tensorflow/tfjs-core";
import { Random } from "../runtime/random.ts";
import { sizeOf } from "../runtime/tensors.ts";

/** Initial values: given the shape and a random stream of the variable's own. */
export type Initializer = (shape: readonly number[], random: Random) => Float32Array;

export const zeros: Initializer = (shape) => new Float32Array(sizeOf(shape));
export const ones: Initializer = (shape) => new Float32Array(sizeOf(shape)).fill(1);
export const constant =
  (value: number): Initializer =>
  (shape) =>
    new Float32Array(sizeOf(shape)).fill(value);
export const normal =
  (std: number): Initializer =>
  (shape, random) =>
    random.normals(sizeOf(shape)).map((x) => x * std);
export const uniform =
  (limit: number): Initializer =>
  (shape, random) =>
    random.uniforms(sizeOf(shape)).map((x) => (2 * x - 1) * limit);

/**
 * Truncated-free He/Glorot-like normal: std = sqrt(gain / fan_in), with fan_in the product of all
 * axes but the last (kernels are [..., in, out]).
 */
export const fanIn =
  (gain = 1): Initializer =>
  (shape, random) =>
    normal(Math.sqrt(gain / Math.max(1, sizeOf(shape.slice(0, -1)))))(shape, random);

/** What variables start with. */
type Values = "initial" | "zeros" | "none";

interface Entry {
  readonly variable: tf.Variable;
  readonly trainable: boolean;
}

/**
 * A tree of named variables. Full names are joined by "/", e.g. "encoder/level0/block1/conv/kernel".
 * The initial value of a variable depends on (seed, full name) alone, not on the order of creation.
 */
export class Scope {
  readonly #entries: Map<string, Entry>;
  readonly #values: Values;
  readonly #shared: boolean;

  private constructor(
    readonly seed: number,
    readonly prefix: string,
    entries: Map<string, Entry>,
    values: Values,
    shared = false,
  ) {
    this.#entries = entries;
    this.#values = values;
    this.#shared = shared;
  }

  static root(seed: number): Scope {
    return new Scope(seed, "", new Map(), "initial");
  }

  /**
   * A tree whose variables all start as zeros, which costs no time and next to no memory: to count
   * the parameters of a large model, or to build one whose values are then read from a file.
   */
  static blank(seed: number): Scope {
    return new Scope(seed, "", new Map(), "zeros");
  }

  /**
   * A tree whose variables have names and shapes and nothing else: to count the parameters of a model
   * of any size. What is built in it cannot be run.
   */
  static shapes(): Scope {
    return new Scope(0, "", new Map(), "none");
  }

  /** The scope `name` inside this one. Layers take a scope of their own. */
  child(name: string): Scope {
    const prefix = `${this.prefix}${name}/`;
    return new Scope(this.seed, prefix, this.#entries, this.#values, this.#shared);
  }

  /**
   * This scope for a second network over the same variables: a name that is taken gives the variable
   * that is there. Layers throw when it has another shape.
   */
  shared(): Scope {
    return new Scope(this.seed, this.prefix, this.#entries, this.#values, true);
  }

  /** A variable that the optimizer changes (float32). Throws when the name is taken. */
  param(name: string, shape: readonly number[], init: Initializer): tf.Variable {
    return this.#add(name, shape, init, true);
  }

  /** A variable that only `assign` changes: codebook statistics, caches, running means. */
  state(name: string, shape: readonly number[], init: Initializer = zeros): tf.Variable {
    return this.#add(name, shape, init, false);
  }

  #add(name: string, shape: readonly number[], init: Initializer, trainable: boolean): tf.Variable {
    const full = this.prefix + name;
    const known = this.#entries.get(full);
    if (known && this.#shared) {
      if (known.variable.shape.join() !== shape.join()) {
        throw new Error(
          `variable "${full}" is ${known.variable.shape.join("×")}, a second network wants ${shape.join("×")}`,
        );
      }
      return known.variable;
    }
    if (known) {
      throw new Error(`variable "${full}" exists already: give each layer a scope of its own`);
    }
    if (this.#values === "none") {
      const variable = { shape, size: sizeOf(shape), dispose: () => undefined };
      this.#entries.set(full, { variable: variable as unknown as tf.Variable, trainable });
      return variable as unknown as tf.Variable;
    }
    const start = this.#values === "zeros" ? zeros : init;
    const values = start(shape, new Random(this.seed, `init/${full}`));
    const initial = tf.tensor(values, [...shape], "float32");
    const variable = tf.variable(initial, trainable);
    initial.dispose();
    this.#entries.set(full, { variable, trainable });
    return variable;
  }

  /** All variables under this scope by full name, in order of creation. */
  variables(): Map<string, tf.Variable> {
    return this.#select(() => true);
  }

  /** The trainable ones. */
  trainable(): Map<string, tf.Variable> {
    return this.#select((entry) => entry.trainable);
  }

  /** The ones that are state. */
  states(): Map<string, tf.Variable> {
    return this.#select((entry) => !entry.trainable);
  }

  #select(keep: (entry: Entry) => boolean): Map<string, tf.Variable> {
    const found = new Map<string, tf.Variable>();
    for (const [name, entry] of this.#entries) {
      if (name.startsWith(this.prefix) && keep(entry)) {
        found.set(name, entry.variable);
      }
    }
    return found;
  }

  /** The number of trainable values. */
  parameterCount(): number {
    let count = 0;
    for (const variable of this.trainable().values()) {
      count += variable.size;
    }
    return count;
  }

  dispose(): void {
    for (const [name, variable] of this.variables()) {
      variable.dispose();
      this.#entries.delete(name);
    }
  }
}

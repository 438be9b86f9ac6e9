/**
 * @file A loop's body as a graph of its own. While the body is traced, its nodes are recorded among the
 * function's; here they are cut out. What does not depend on the turn stays outside and is computed once;
 * values that the body reads from outside become inputs of the body ("captured").
 *
 * Node "Scan": inputs are the first carries, then what is given slice by slice [count, ...], then captured
 * values; outputs are the last carries, then the stacked outputs [count, ...]. Attributes: count, carries,
 * slices. Its body's states are the carries (each with its next value), its inputs the turn's number
 * [1] int32, the slices and the captured values.
 */

import { type Graph, type GraphNode, GraphTracer, type Value, type ValueSpec } from "./graph.ts";

/** What stands for a value that is another one each turn, while the body is traced. */
export const TURN = "Turn";

/** The body under construction: its own inputs, and where its nodes begin. */
export interface Body {
  readonly count: number;
  readonly index: Value;
  readonly carries: readonly Value[];
  readonly slices: readonly Value[];
  /** How many nodes the tracer had before. */
  readonly start: number;
}

/** Begin a body: the values that change from turn to turn. */
export function beginBody(
  tracer: GraphTracer,
  count: number,
  carries: readonly ValueSpec[],
  slices: readonly ValueSpec[],
): Body {
  const start = tracer.nodes.length;
  const turn = (kind: string, { shape, dtype }: ValueSpec, i = 0): Value =>
    tracer.make(TURN, [], { scan: start, kind, i }, [{ shape, dtype }])[0]!;
  return {
    count,
    start,
    index: turn("index", { shape: [1], dtype: "int32" }),
    carries: carries.map((spec, i) => turn("carry", spec, i)),
    slices: slices.map((spec, i) => turn("slice", spec, i)),
  };
}

/** The finished loop's values. */
export interface Loop {
  readonly carries: readonly Value[];
  readonly outputs: readonly Value[];
}

/**
 * Cut a traced body out and put a "Scan" node in its place.
 * @param initial the first carries
 * @param stacked what is given slice by slice, [count, ...] each
 * @param next the body's carries
 * @param outputs the body's outputs
 */
export function endBody(
  tracer: GraphTracer,
  body: Body,
  initial: readonly Value[],
  stacked: readonly Value[],
  next: readonly Value[],
  outputs: readonly Value[],
): Loop {
  const inside = new Set<GraphNode>();
  for (const node of tracer.nodes.slice(body.start)) {
    const own = node.op === TURN && node.attrs["scan"] === body.start;
    if (own || node.inputs.some((input) => inside.has(input.node))) {
      inside.add(node);
    }
  }
  const changed = body.carries.flatMap((value, i) => (next[i] === value ? [] : [i]));
  const copy = new Copy(tracer.features, inside);
  copy.give(body.index, "index");
  body.slices.forEach((value, i) => copy.give(value, `slice${i}`));
  body.carries.forEach((value, i) => {
    const at = changed.indexOf(i);
    if (at >= 0) {
      copy.carry(value, at);
    } else {
      copy.stand(value, initial[i]!); // the same in every turn
    }
  });
  const ends = changed.map((i) => copy.of(next[i]!));
  const results = outputs.map((value) => copy.of(value));
  const graph: Graph = {
    name: "body",
    inputs: copy.inputs,
    states: changed.map((i, at) => ({ value: copy.of(body.carries[i]!), next: ends[at]! })),
    outputs: results.map((value, i) => ({ name: `output${i}`, value })),
  };
  const attrs = { count: body.count, carries: changed.length, slices: stacked.length };
  const specs = [
    ...changed.map((i) => body.carries[i]!),
    ...outputs.map(({ shape, dtype }) => ({ shape: [body.count, ...shape], dtype })),
  ];
  const inputs = [...changed.map((i) => initial[i]!), ...stacked, ...copy.captured];
  const made = tracer.make("Scan", inputs, attrs, specs, undefined, graph);
  return {
    carries: body.carries.map((_, i) =>
      changed.includes(i) ? made[changed.indexOf(i)]! : initial[i]!,
    ),
    outputs: made.slice(changed.length),
  };
}

/** Copies the nodes of a body into a graph of its own. */
class Copy {
  readonly captured: Value[] = [];
  readonly inputs: { readonly name: string; readonly value: Value }[] = [];
  readonly #tracer: GraphTracer;
  readonly #inside: ReadonlySet<GraphNode>;
  readonly #known = new Map<Value, Value>();
  readonly #standing = new Map<Value, Value>();

  constructor(features: ReadonlySet<string>, inside: ReadonlySet<GraphNode>) {
    this.#tracer = new GraphTracer(features);
    this.#inside = inside;
  }

  /** A value that the loop hands in. */
  give(value: Value, name: string): void {
    const attrs = { name, type: value.dtype };
    const made = this.#tracer.make("Input", [], attrs, [value])[0]!;
    this.#known.set(value, made);
    this.inputs.push({ name, value: made });
  }

  carry(value: Value, index: number): void {
    this.#known.set(value, this.#tracer.make("State", [], { index }, [value])[0]!);
  }

  /** `value` is `other`, which lies outside. */
  stand(value: Value, other: Value): void {
    this.#standing.set(value, other);
  }

  of(wanted: Value): Value {
    // Without recursion: a body may be deeper than the stack.
    const stack = [wanted];
    for (let value = stack.at(-1); value; value = stack.at(-1)) {
      const missing = this.#known.has(value) ? [] : this.#needs(value);
      if (missing.length > 0) {
        stack.push(...missing);
      } else {
        stack.pop();
        if (!this.#known.has(value)) {
          this.#copy(value);
        }
      }
    }
    return this.#known.get(wanted)!;
  }

  #needs(value: Value): Value[] {
    return this.#inside.has(value.node) && !this.#standing.has(value)
      ? value.node.inputs.filter((input) => !this.#known.has(input))
      : [];
  }

  #copy(value: Value): void {
    const outer = this.#standing.get(value);
    const { node } = outer ?? value;
    if (outer || !this.#inside.has(node)) {
      this.#capture(value, outer ?? value);
      return;
    }
    const inputs = node.inputs.map((input) => this.#known.get(input)!);
    const made = this.#tracer.make(node.op, inputs, node.attrs, node.outputs, node.data, node.body);
    node.outputs.forEach((output, i) => this.#known.set(output, made[i]!));
  }

  #capture(value: Value, outer: Value): void {
    const { node } = outer;
    if (node.op === "Fill") {
      this.#known.set(value, this.#tracer.fill(node.attrs["value"] as number, outer));
    } else if (node.op === "Constant") {
      this.#known.set(value, this.#tracer.constant(node.data!));
    } else {
      let at = this.captured.indexOf(outer);
      if (at < 0) {
        at = this.captured.push(outer) - 1;
        this.give(outer, `captured${at}`);
      }
      this.#known.set(value, this.#known.get(outer)!);
    }
  }
}

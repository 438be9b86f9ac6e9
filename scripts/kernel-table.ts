/**
 * @file Writes docs/kernels.md: which operations run on which device, from the tables that the devices
 * themselves use. Run with `npx tsx scripts/kernel-table.ts`; a test fails when the page is behind.
 */

import { pathToFileURL } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "../src/runtime/tfjs.ts";
import { BACKEND, tesseraBackend } from "../src/runtime/backend.ts";
import { signature } from "../src/runtime/compiled.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";
import { KERNEL_RULES, type KernelRule } from "../src/runtime/kernels.ts";
import { FEATURES, NATIVE_NODES } from "../src/runtime/native/device.ts";
import { ONNX_RULES } from "../src/runtime/onnx/device.ts";
import "../src/runtime/own-kernels.ts";
import { TORCH_FEATURES, TORCH_RULES } from "../src/runtime/torch/lowering.ts";
import { traceFunction } from "../src/runtime/trace.ts";
import { caseFunction } from "../test/runtime/case.ts";
import { allCases } from "../test/runtime/cases/all.ts";

export const PAGE = "docs/kernels.md";

const INTRODUCTION = `# Kernels

What TensorFlow.js operations become on each device. This page is generated
(\`npx tsx scripts/kernel-table.ts\`): the cases of \`test/runtime\` are traced, and what their kernels become
is looked up in the tables that the engines themselves use. \`test/runtime\` holds every line against
\`reference\`, values and gradients. Padded average pooling and resizing differ from it on purpose: their
gradients in TensorFlow.js are not those of the operations, ours are.

Columns: the engines \`native\` and \`onnx\` of the device \`cpu\`; \`torch\` for the devices \`cuda\` and
\`torch-cpu\`; \`reference\`, TensorFlow.js in plain JavaScript. *Composed*: the engine has no kernel of its
own, others give the same.

A function given to \`device.compile\` may use any operation whose kernel stands here;
another one is refused with its name and the line that asked for it. Operations of TensorFlow.js that
it composes of others (\`tf.moments\`, \`tf.logSoftmax\`, \`tf.losses\`, ...) need no kernel of their own.
What depends on constants alone (\`tf.fill\`, \`tf.range\`, arithmetic on captured numbers) is computed
while the function is traced. Outside compiled functions all of TensorFlow.js works, in plain JavaScript.
Loops (\`scan\`, [runtime](runtime.md#what-is-fast)) run on \`native\`; elsewhere their bodies are repeated.

`;

/** An engine's own tables: kernels that it asks for, and the graph's nodes that it runs. */
interface Engine {
  readonly features: ReadonlySet<string>;
  readonly nodes: ReadonlySet<string>;
}

const LEAVES = ["Input", "State", "Constant", "Fill"];
const nodesOf = (names: Iterable<string>): ReadonlySet<string> => new Set([...LEAVES, ...names]);

const ENGINES: { readonly [name: string]: Engine } = {
  native: { features: FEATURES, nodes: nodesOf(NATIVE_NODES) },
  onnx: { features: new Set(), nodes: nodesOf(Object.keys(ONNX_RULES)) },
  torch: { features: TORCH_FEATURES, nodes: nodesOf(Object.keys(TORCH_RULES)) },
};

/** The nodes that each kernel becomes in the cases, for an engine with these features. */
function nodesOfKernels(features: ReadonlySet<string>): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  const rules = KERNEL_RULES as { [kernel: string]: KernelRule };
  const originals = { ...rules };
  for (const [kernel, rule] of Object.entries(originals)) {
    rules[kernel] = {
      ...rule,
      trace: (tracer, ...given) => {
        const before = tracer.nodes.length;
        const made = rule.trace(tracer, ...given);
        const ops = found.get(kernel) ?? new Set<string>();
        for (const { op } of tracer.nodes.slice(before)) {
          ops.add(op);
        }
        found.set(kernel, ops);
        return made;
      },
    };
  }
  tesseraBackend();
  void tf.setBackend(BACKEND); // done at once: the backend exists
  try {
    for (const each of allCases) {
      traceFunction(each.name, caseFunction(each), signature(each.inputs), features);
    }
  } finally {
    Object.assign(rules, originals);
  }
  return found;
}

function cellOf(kernel: string, engine: Engine, nodes: ReadonlyMap<string, Set<string>>): string {
  const needed = nodes.get(kernel);
  if (needed === undefined) {
    return isOwn(kernel) && !engine.features.has(kernel) ? "composed" : "no";
  }
  return [...needed].every((op) => engine.nodes.has(op)) ? "yes" : "no";
}

const OWN = `
\`Tessera...\` kernels stand behind the functions of \`src/runtime/ops.ts\`; \`reference\` computes them
as a composition of TensorFlow.js operations.
`;

const NOT_COMPILED = `
## In TensorFlow.js, not in compiled functions

`;

/** Kernels without tensor inputs: their results are constants of a trace. */
const CONSTANTS = new Set(["Fill", "LinSpace", "Range"]);

const isOwn = (kernel: string) => kernel.startsWith("Tessera");
const code = (text: string) => `\`${text}\``;

const hasGradient = (kernel: string) => tf.getGradient(kernel) !== undefined;

/** The page's text. */
export function kernelTable(): string {
  const compiled = Object.keys(KERNEL_RULES).sort();
  const onReference = new Set(tf.getKernelsForBackend("cpu").map((kernel) => kernel.kernelName));
  const engines = Object.values(ENGINES);
  const nodes = engines.map(({ features }) => nodesOfKernels(features));
  const rows = compiled.map((kernel) => {
    const reference = isOwn(kernel) ? "composed" : onReference.has(kernel) ? "yes" : "no";
    const cells = engines.map((engine, i) => cellOf(kernel, engine, nodes[i]!));
    return [code(kernel), ...cells, reference, hasGradient(kernel) ? "yes" : "no"];
  });
  const head = ["kernel", ...Object.keys(ENGINES), "reference", "has a gradient"];
  const table = [head, head.map(() => "---"), ...rows];
  const left = [...onReference]
    .filter((kernel) => !(kernel in KERNEL_RULES) && !CONSTANTS.has(kernel))
    .sort();
  return [
    INTRODUCTION,
    ...table.map((cells) => `| ${cells.join(" | ")} |\n`),
    OWN,
    NOT_COMPILED,
    `${left.map(code).join(", ")}\n`,
  ].join("");
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  writeFileAtomic(PAGE, kernelTable());
}

/**
 * @file Writes docs/kernels.md: which operations run on which device, from the tables that the devices
 * themselves use. Run with `npx tsx scripts/kernel-table.ts`; a test fails when the page is behind.
 */

import { pathToFileURL } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "../src/runtime/tfjs.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";
import { KERNEL_RULES } from "../src/runtime/kernels.ts";
import "../src/runtime/own-kernels.ts";

export const PAGE = "docs/kernels.md";

const INTRODUCTION = `# Kernels

What TensorFlow.js operations become on each device. This page is generated
(\`npx tsx scripts/kernel-table.ts\`); \`test/runtime\` holds every line against
\`reference\`, values and gradients. Padded average pooling and resizing differ from it on purpose: their
gradients in TensorFlow.js are not those of the operations, ours are.

The devices \`cuda\` and \`torch-cpu\` run every kernel that stands under \`cpu\`, \`TesseraAdamW\` and
\`TesseraSumOfSquares\` as compositions.

A function given to \`device.compile\` may use any operation whose kernel stands under \`cpu\`;
another one is refused with its name and the line that asked for it. Operations of TensorFlow.js that
it composes of others (\`tf.moments\`, \`tf.logSoftmax\`, \`tf.losses\`, ...) need no kernel of their own.
What depends on constants alone (\`tf.fill\`, \`tf.range\`, arithmetic on captured numbers) is computed
while the function is traced. Outside compiled functions all of TensorFlow.js works, in plain JavaScript.

`;

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
  const rows = compiled.map((kernel) => {
    const reference = isOwn(kernel) ? "composed" : onReference.has(kernel) ? "yes" : "no";
    return [code(kernel), "yes", reference, hasGradient(kernel) ? "yes" : "no"];
  });
  const table = [
    ["kernel", "cpu", "reference", "has a gradient"],
    ["---", "---", "---", "---"],
    ...rows,
  ];
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

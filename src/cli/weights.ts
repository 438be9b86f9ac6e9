/** @file `tessera weights`: which published weights scores need, whether the files here are right, and conversion. */

import { existsSync } from "node:fs";
import type { Command } from "commander";
import { UserError } from "../config/errors.ts";
import type { PublishedName, PublishedNetwork } from "../eval/networks/published.ts";
import { coloured, print, printJson, say, table } from "./output.ts";

export function addWeights(program: Command): void {
  const weights = program
    .command("weights")
    .description(
      "published weights: which scores need them, where to get them, whether they are right",
    )
    .addHelpText(
      "after",
      `
Files are looked for in the folder weights, or in $TESSERA_WEIGHTS. Nothing is ever fetched.

Examples:
  tessera weights list
  tessera weights check i3d
  tessera weights check lpips-vgg16 vgg16-397923af.pth vgg.pth
  tessera weights convert i3d_pretrained_400.pt i3d.safetensors`,
    );
  weights
    .command("list")
    .description("the networks, their files, sources and licences, and what is here")
    .option("--json", "print JSON")
    .action(list);
  weights
    .command("check")
    .description("read a network's weights, compare checksums and run its acceptance test")
    .argument("<network>", "a name that `tessera weights list` prints")
    .argument("[files...]", "its files; the folder's when left out")
    .option("--json", "print JSON")
    .action(check);
  weights
    .command("convert")
    .description("write a weight file of any known format as safetensors")
    .argument(
      "<from>",
      "PyTorch, TensorFlow checkpoint, flax MessagePack, ONNX, NumPy or safetensors",
    )
    .argument("<to>", "the safetensors file to write")
    .option("--force", "replace a file that is there")
    .action(convert);
}

async function list(options: { readonly json?: boolean }): Promise<void> {
  const { publishedNetworks, locate, weightsFolder } = await import(
    "../eval/networks/published.ts"
  );
  const entries = Object.entries(publishedNetworks as { [name: string]: PublishedNetwork });
  if (options.json) {
    printJson(
      entries.map(([name, network]) => ({
        name,
        ...network,
        files: network.files.map((file) => ({ ...file, found: locate(file) ?? null })),
      })),
    );
    return;
  }
  print(`Files are looked for in ${weightsFolder()} ($TESSERA_WEIGHTS).`);
  for (const [name, network] of entries) {
    print(`\n${coloured("bold", name)}  ${network.title}\n  for ${network.for}`);
    for (const file of network.files) {
      const found = locate(file);
      const state = found
        ? coloured("green", `found: ${found}`)
        : `not here${file.optional ? " (optional)" : ""}; any of: ${file.names.join(", ")}`;
      print(`  ${file.role}: ${state}`);
      for (const from of file.from) {
        print(coloured("dim", `    from ${from}`));
      }
      print(coloured("dim", `    licence: ${file.licence}`));
    }
  }
}

async function check(
  network: string,
  files: readonly string[],
  options: { readonly json?: boolean },
): Promise<void> {
  const [published, { acceptance }, { openDevice }, { suggest }] = await Promise.all([
    import("../eval/networks/published.ts"),
    import("../eval/networks/acceptance.ts"),
    import("../runtime/registry.ts"),
    import("../config/problems.ts"),
  ]);
  const names = Object.keys(published.publishedNetworks) as PublishedName[];
  const name = names.find((one) => one === network);
  if (name === undefined) {
    throw new UserError(
      `there is no network ${JSON.stringify(network)}`,
      suggest(network, names, "there are"),
    );
  }
  const found = published.findWeights(name, files);
  if (!found) {
    throw new UserError(
      published.missingWeights(name).replace("no score: ", ""),
      "name its files: `tessera weights check NETWORK FILE...`",
    );
  }
  const known = published.knownChecksums(name, found);
  const device = await openDevice({ type: "cpu" });
  try {
    const { layout, format, tests } = await acceptance(name, found, device, say);
    const held = tests.every((test) => test.holds);
    if (options.json) {
      printJson({ ...found, layout, format, checksums: known, tests });
    } else {
      print(`${name}: ${found.paths.join(" and ")}`);
      print(`  format    ${format}, names of ${layout}`);
      print(`  sha256    ${found.sha256}`);
      for (const line of known) {
        print(`            ${line}`);
      }
      print(
        table(
          tests.map(({ test, found: got, expected, holds }) => [
            holds ? "  holds  " : "  FAILS  ",
            test,
            `${got}`,
            `expected ${expected}`,
          ]),
        ),
      );
      print(
        held ? "the weights are right" : coloured("red", "these are not the published weights"),
      );
    }
    if (!held) {
      process.exitCode = 1;
    }
  } finally {
    device.dispose();
  }
}

async function convert(
  from: string,
  to: string,
  options: { readonly force?: boolean },
): Promise<void> {
  const [{ openWeights }, { encodeSafetensors }, { writeFileAtomic }] = await Promise.all([
    import("../runtime/weight-files/open.ts"),
    import("../runtime/safetensors.ts"),
    import("../runtime/files.ts"),
  ]);
  if (existsSync(to) && !options.force) {
    throw new UserError(`${to} exists already`, "add --force to replace it");
  }
  const weights = openWeights(from);
  try {
    const tensors = new Map(
      Array.from(weights.tensors, ([name, tensor]) => [name, tensor.read()] as const),
    );
    const metadata = { format: "pt", converted_from: weights.format };
    writeFileAtomic(to, encodeSafetensors({ tensors, metadata }));
    const values = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
    print(`${to}: ${tensors.size} tensors, ${values} values, from ${weights.format}`);
  } finally {
    weights.close();
  }
}

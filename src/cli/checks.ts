/** @file What the doctor looks at. Each check tries the thing itself rather than asking whether it is there. */

import { execFileSync } from "node:child_process";
import { accessSync, constants, existsSync, readFileSync, statfsSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { decoderInfo } from "../data/av.ts";
import {
  checkWeights,
  type FeatureNetworkName,
  featureNetworks,
} from "../eval/networks/registry.ts";
import { formatBytes } from "../reports/format.ts";
import { findAddon } from "../runtime/native/addon.ts";
import { type DeviceConfig, devices, openDevice } from "../runtime/registry.ts";
import { float32 } from "../runtime/tensors.ts";

/** One line of the doctor's. */
export interface Finding {
  readonly name: string;
  /** "bad": the default path needs it; "note": something optional needs it. */
  readonly state: "ok" | "note" | "bad";
  readonly found: string;
  readonly remedy?: string;
}

/** The quickstart writes about 0.2 GiB; several runs should fit. */
const ROOM = 2 * 2 ** 30;

/** What a check may need long for, in ms. */
const TOOL_TIMEOUT = 15_000;

/** All checks, each yielded when it is done. */
export async function* examine(): AsyncGenerator<Finding> {
  yield checkNode();
  yield checkMachine();
  for (const type of Object.keys(devices) as DeviceConfig["type"][]) {
    yield await checkDevice(type);
  }
  yield checkEngine();
  yield* checkMedia();
  yield await checkPictures();
  yield await checkPlots();
  for (const name of Object.keys(featureNetworks) as FeatureNetworkName[]) {
    yield checkNetwork(name);
  }
  yield checkRoom();
  yield checkGit();
  yield checkTensorBoard();
}

function checkNode(): Finding {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  const { engines } = JSON.parse(text) as { engines: { node: string } };
  const [major = 0, minor = 0] = (engines.node.match(/\d+/g) ?? []).map(Number);
  const [hereMajor = 0, hereMinor = 0] = process.versions.node.split(".").map(Number);
  const enough = hereMajor > major || (hereMajor === major && hereMinor >= minor);
  const found = `${process.version} on ${process.platform} ${process.arch}`;
  return enough
    ? { name: "node", state: "ok", found }
    : { name: "node", state: "bad", found, remedy: `install Node.js ${engines.node}` };
}

function checkMachine(): Finding {
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  const found = `${availableParallelism()} cores, ${formatBytes(totalmem())}, ${model}`;
  return totalmem() >= 3 * 2 ** 30
    ? { name: "machine", state: "ok", found }
    : {
        name: "machine",
        state: "note",
        found,
        remedy: "the quickstart needs about 2 GiB of free memory; lower trainer.tokenizer.batch",
      };
}

/** Open the device and let it compile and compute something. */
async function checkDevice(type: DeviceConfig["type"]): Promise<Finding> {
  const name = `device ${type}`;
  try {
    const device = await openDevice({ type });
    try {
      const double = device.compile("doctor", ({ x }) => ({ y: tf.add(x!, x!) }));
      const { y } = await double({ x: float32([2], [1, 2]) });
      const right = y !== undefined && y.data[0] === 2 && y.data[1] === 4;
      return right
        ? { name, state: "ok", found: device.info.description }
        : {
            name,
            state: "bad",
            found: `${device.info.description}, but 1 + 1 came out as ${String(y?.data[0])}`,
            remedy: "install the packages anew with `npm ci`",
          };
    } finally {
      device.dispose();
    }
  } catch (error) {
    return {
      name,
      state: type === "cpu" ? "bad" : "note",
      found: firstLine(error),
      remedy:
        type === "cpu"
          ? "install the packages anew with `npm ci`; until then use device.type=reference, which is slow"
          : ((error instanceof UserError ? error.hint : undefined) ??
            "install the packages anew with `npm ci`"),
    };
  }
}

/** The engine that makes device cpu fast. */
function checkEngine(): Finding {
  const name = "native engine";
  const { addon, missing } = findAddon();
  return addon
    ? { name, state: "ok", found: `compiled for ${addon.about()}` }
    : {
        name,
        state: "note",
        found: missing,
        remedy:
          "device cpu uses the slower ONNX Runtime; install a C++17 compiler (g++ or clang++) and run `npm run build`",
      };
}

async function* checkMedia(): AsyncGenerator<Finding> {
  const { available, decoders, encoders, problem } = await decoderInfo();
  if (!available) {
    yield {
      name: "video files",
      state: "note",
      found: problem ?? "node-av does not load",
      remedy:
        "`npm install node-av` to read real videos and write MP4; moving-shapes and GIF work without",
    };
    return;
  }
  yield { name: "decoders", state: "ok", found: decoders.join(" ") };
  yield encoders.includes("libx264")
    ? { name: "encoders", state: "ok", found: encoders.join(" ") }
    : {
        name: "encoders",
        state: "note",
        found: encoders.join(" ") || "none",
        remedy: "H.264 is missing: samples become GIF files; install node-av with its own FFmpeg",
      };
}

async function checkPictures(): Promise<Finding> {
  try {
    const { encodePng } = await import("../data/image.ts");
    await encodePng(new Uint8Array(12), 2, 2);
    const { default: sharp } = await import("sharp");
    return { name: "pictures", state: "ok", found: `PNG and GIF by sharp ${sharp.versions.sharp}` };
  } catch (error) {
    return {
      name: "pictures",
      state: "bad",
      found: firstLine(error),
      remedy: "sharp's binary for this machine is missing: `npm ci --include=optional`",
    };
  }
}

async function checkPlots(): Promise<Finding> {
  try {
    const { version } = await import("vega");
    return { name: "report plots", state: "ok", found: `vega ${version}` };
  } catch (error) {
    return {
      name: "report plots",
      state: "bad",
      found: firstLine(error),
      remedy: "install the packages anew with `npm ci`",
    };
  }
}

function checkNetwork(network: FeatureNetworkName): Finding {
  const { path, state } = checkWeights(network);
  const name = `weights ${network}`;
  return state === "ok"
    ? { name, state: "ok", found: `${path}, checksum holds` }
    : {
        name,
        state: "bad",
        found: `${path} is ${state === "missing" ? "missing" : "not the published file"}`,
        remedy: `restore it with \`git checkout -- ${featureNetworks[network].file}\``,
      };
}

function checkRoom(): Finding {
  const dir = existsSync("results") ? "results" : ".";
  const { bavail, bsize } = statfsSync(dir);
  const found = `${formatBytes(bavail * bsize)} free for ${dir === "." ? "results here" : dir}`;
  const elsewhere = "choose another folder with output=FOLDER";
  try {
    accessSync(dir, constants.W_OK);
  } catch {
    return { name: "disk", state: "bad", found: `no right to write to ${dir}`, remedy: elsewhere };
  }
  return bavail * bsize >= ROOM
    ? { name: "disk", state: "ok", found }
    : { name: "disk", state: "note", found, remedy: `free some space, or ${elsewhere}` };
}

function checkGit(): Finding {
  const version = output("git", ["--version"]);
  return version !== undefined
    ? { name: "git", state: "ok", found: version }
    : {
        name: "git",
        state: "note",
        found: "not found",
        remedy: "without git, provenance.json cannot name the commit a run was made from",
      };
}

function checkTensorBoard(): Finding {
  const script = "from importlib.metadata import version; print(version('tensorboard'))";
  const version = output("python3", ["-c", script]);
  return version !== undefined
    ? { name: "tensorboard", state: "ok", found: version }
    : {
        name: "tensorboard",
        state: "note",
        found: "not found",
        remedy: "`pip install tensorboard` to look at the event files; report.html needs nothing",
      };
}

/** The first line a program prints; undefined when it is missing or fails. */
function output(program: string, args: readonly string[]): string | undefined {
  try {
    const text = execFileSync(program, args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      timeout: TOOL_TIMEOUT,
    });
    return text.trim().split("\n")[0] ?? "";
  } catch {
    return undefined;
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0]!;
}

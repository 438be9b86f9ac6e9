/**
 * @file Video codecs in a process of their own. x264 and x265 read memory that they never wrote, at some
 * picture sizes, and so a size could depend on what the process had done before; at others they have
 * been seen to end their process. Here an encoder starts with a fresh heap whose memory is filled with
 * zeros as it is handed out (by the C library's own switch), and a crash ends nothing but the curve.
 */

import { type ChildProcess, fork } from "node:child_process";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { Frames } from "../../data/image.ts";
import { sourceArguments } from "../../runtime/own-source.ts";
import type { Coded, CodecName } from "./codecs.ts";

/** What the other process is told. */
export interface CoderJob {
  readonly name: CodecName;
  readonly clip: Frames;
  readonly fps: number;
  readonly qualities: readonly number[];
}

export interface CoderPoint extends Coded {
  readonly quality: number;
  /** Encoding and decoding, clock. */
  readonly seconds: number;
  /** The most memory of the process so far. */
  readonly peakBytes: number;
}

/** What it says. */
export type CoderAnswer =
  | { readonly point: CoderPoint }
  | { readonly error: string; readonly hint?: string };

/** The encoder's process ended, or it refused the clip. */
export class CoderFailure extends Error {}

/**
 * Code a clip at several qualities.
 * @param onPoint called for one point after the other, the next of which waits for it; what it throws
 * ends the process and is thrown on
 * @param program the module that the process runs, for tests
 * @throws CoderFailure when the codec fails or takes its process down
 */
export function codeInOwnProcess(
  job: CoderJob,
  onPoint: (point: CoderPoint) => void | Promise<void>,
  program = new URL(`./coder${extname(import.meta.url)}`, import.meta.url),
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = fork(fileURLToPath(program), [], {
      execArgv: sourceArguments(program),
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      // The C library fills with the byte's complement; on macOS its filling at least never varies.
      env: { ...process.env, MALLOC_PERTURB_: "255", MallocPreScribble: "1" },
    });
    let done = 0;
    let failure: Error | undefined;
    let said = "";
    child.stderr!.on("data", (text) => {
      said = (said + String(text)).slice(-300);
    });
    child.on("message", (message) => {
      const answer = message as CoderAnswer;
      if (failure) {
        return;
      }
      if ("error" in answer) {
        failure = new CoderFailure(answer.hint ? `${answer.error} (${answer.hint})` : answer.error);
        return;
      }
      done += 1;
      void (async () => {
        try {
          await onPoint(answer.point);
          child.send("next", () => undefined);
        } catch (error) {
          failure = error as Error;
          child.kill("SIGKILL");
        }
      })();
    });
    child.on("error", (error) => reject(new CoderFailure(`its process fails: ${error.message}`)));
    // All messages are read when the channel has closed, which may be after the end of the process.
    let open = 2;
    let end = "";
    const settle = (): void => {
      open -= 1;
      if (open > 0) {
        return;
      }
      if (failure) {
        reject(failure);
      } else if (done < job.qualities.length) {
        const words = said.trim().split("\n").at(-1) ?? "";
        const last = words === "" ? "" : `, saying "${words}"`;
        reject(
          new CoderFailure(`its process ended ${end} at quality ${job.qualities[done]}${last}`),
        );
      } else {
        resolve();
      }
    };
    child.on("disconnect", settle);
    child.on("close", (code, signal) => {
      end = signal ? `by ${signal}` : `with status ${code}`;
      settle();
    });
    child.send(job satisfies CoderJob, () => undefined); // a child that is gone is told of above
  });
}

/**
 * @file FFmpeg through node-av, loaded only when a media file is met: everything procedural works
 * without the package.
 */

import type * as Constants from "node-av/constants";
import type * as Lib from "node-av/lib";
import { UserError } from "../config/errors.ts";

/** The two halves of node-av that we use: bindings, and FFmpeg's constants. */
export type Av = typeof Lib & { readonly c: typeof Constants };

let loaded: Promise<Av> | undefined;

/**
 * Load node-av once a thread, with FFmpeg's own log turned off (what goes wrong is reported by name).
 * @throws UserError when the optional package or its binary is missing
 */
export function loadAv(): Promise<Av> {
  loaded ??= load();
  return loaded;
}

async function load(): Promise<Av> {
  polyfillWithResolvers();
  try {
    const lib = await import("node-av/lib");
    const c = await import("node-av/constants");
    lib.Log.setLevel(c.AV_LOG_QUIET);
    return { ...lib, c };
  } catch (cause) {
    loaded = undefined;
    throw new UserError(
      `reading and writing media files needs the optional package node-av, which does not load: ${
        cause instanceof Error ? cause.message.split("\n")[0] : String(cause)
      }`,
      "Install it with `npm install node-av`, or use the data set `moving-shapes`, which needs no files.",
      { cause },
    );
  }
}

/** On Node 20 node-av would silently give no frames: it relies on `Promise.withResolvers`. */
function polyfillWithResolvers(): void {
  const target = Promise as unknown as { withResolvers?: () => unknown };
  target.withResolvers ??= () => {
    let resolve: unknown;
    let reject: unknown;
    const promise = new Promise((a, b) => {
      resolve = a;
      reject = b;
    });
    return { promise, resolve, reject };
  };
}

/** FFmpeg's words for a negative return code. */
export function avMessage(av: Av, code: number): string {
  return av.FFmpegError.strerror(code);
}

/** Throw unless FFmpeg's return code says that it went well. */
export function avCheck(av: Av, code: number, what: string): void {
  if (code < 0) {
    throw new Error(`${what}: ${avMessage(av, code)}`);
  }
}

/** What this installation can read and write; for `doctor`. */
export interface DecoderInfo {
  /** Whether node-av loads; the lists are empty when it does not, and `problem` says why. */
  readonly available: boolean;
  readonly decoders: readonly string[];
  readonly encoders: readonly string[];
  readonly problem?: string;
}

const DECODERS = ["h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4", "mjpeg", "gif", "ffv1", "rawvideo", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le"]; // biome-ignore format: one list
const ENCODERS = ["libx264", "libx265", "libsvtav1", "libaom-av1", "libvpx-vp9", "ffv1", "gif", "mpeg4", "rawvideo", "aac", "pcm_s16le"]; // biome-ignore format: one list

/** Which decoders and encoders exist, of those that Tessera has a use for. */
export async function decoderInfo(): Promise<DecoderInfo> {
  try {
    const av = await loadAv();
    const find = (names: readonly string[], lookUp: (name: never) => unknown): string[] =>
      names.filter((name) => lookUp(name as never) !== null);
    return {
      available: true,
      decoders: find(DECODERS, (name) => av.Codec.findDecoderByName(name)),
      encoders: find(ENCODERS, (name) => av.Codec.findEncoderByName(name)),
    };
  } catch (error) {
    if (!(error instanceof UserError)) {
      throw error;
    }
    return { available: false, decoders: [], encoders: [], problem: error.message };
  }
}

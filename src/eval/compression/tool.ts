/** @file The ffmpeg tool's flags for the settings of `codecs`, to hold sizes against it. */

/** One codec by the tool. */
interface ToolFlags {
  readonly extension: "h264" | "hevc" | "ivf";
  readonly options: readonly string[];
}

/** The encoders' own text is taken out of the streams of x264 and x265. */
export const toolFlags: { readonly [codec: string]: ToolFlags } = {
  x264: {
    extension: "h264",
    options: ["-c:v", "libx264", "-preset", "medium", "-bsf:v", "filter_units=remove_types=6"],
  },
  x265: {
    extension: "hevc",
    options: "-c:v libx265 -preset medium -x265-params info=0:pools=none:frame-threads=1:log-level=none -bsf:v filter_units=remove_types=39-40".split(" "), // biome-ignore format: a command
  },
  "svt-av1": {
    extension: "ivf",
    options: ["-c:v", "libsvtav1", "-preset", "8", "-svtav1-params", "lp=1"],
  },
  vp9: {
    extension: "ivf",
    options: ["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "2", "-b:v", "0"],
  },
};

/** Bytes of a file's frames: IVF has 32 in front and 12 before each. */
export function payloadOf(bytes: Buffer, extension: ToolFlags["extension"]): number {
  if (extension !== "ivf") {
    return bytes.length;
  }
  let sum = 0;
  for (let at = 32; at + 12 <= bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    sum += length;
    at += 12 + length;
  }
  return sum;
}

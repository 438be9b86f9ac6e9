/**
 * @file Where the bytes of a clip lie. Plain data: it crosses threads and is kept in an index.
 *
 * A file need not be a video of its own: a member of a tar archive is a span of the archive, a
 * sequence may be one picture a frame, and raw pixels may lie in a TFRecord or an .npy file.
 */

/** A file that FFmpeg reads, or a span of one. */
export interface MediaSource {
  readonly kind: "media";
  readonly file: string;
  /** Bytes of the file that are the media, e.g. a member of a tar archive. */
  readonly span?: readonly [first: number, length: number];
  /** What bare samples cannot say of themselves (.yuv files). */
  readonly raw?: {
    readonly width: number;
    readonly height: number;
    /** FFmpeg's name of the sample format, e.g. yuv420p or yuv420p10le. */
    readonly pixels: string;
    readonly fps: number;
  };
}

/** One picture a frame. */
export interface PicturesSource {
  readonly kind: "pictures";
  /** Absolute, in the order they are shown. */
  readonly files: readonly string[];
  /** Spans of the files, where the pictures are members of archives. */
  readonly spans?: readonly (readonly [first: number, length: number])[];
  readonly fps: number;
}

/** Bare 8-bit pixels, frame by frame, at given places of one file. */
export interface PixelsSource {
  readonly kind: "pixels";
  readonly file: string;
  /** Byte offset of each frame. */
  readonly offsets: readonly number[];
  readonly width: number;
  readonly height: number;
  /** 1: grey, 3: RGB. */
  readonly channels: 1 | 3;
  readonly fps: number;
}

/** A record of BAIR robot pushing: frames, actions and positions in one tf.train.Example. */
export interface RecordSource {
  readonly kind: "record";
  readonly file: string;
  /** Where the record's frame (its length field) begins. */
  readonly offset: number;
  readonly camera: "image_main" | "image_aux1";
  readonly frames: number;
  readonly width: number;
  readonly height: number;
  readonly fps: number;
}

export type Source = MediaSource | PicturesSource | PixelsSource | RecordSource;

/** The source that is a whole file. */
export function wholeFile(file: string): MediaSource {
  return { kind: "media", file };
}

/** The address that FFmpeg opens for a file or a span of it. */
export function avUrl(file: string, span: readonly [number, number] | undefined): string {
  return span === undefined
    ? `file:${file}`
    : `subfile,,start,${span[0]},end,${span[0] + span[1]},,:file:${file}`;
}

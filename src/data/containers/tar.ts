/**
 * @file The members of a tar archive (ustar, GNU long names, pax paths) by their place, and samples
 * as WebDataset has them: neighbouring members of one key, where the key is the path up to the first
 * dot of its last part and the rest is the extension, in lower case. Members named __like_this__ are
 * no samples.
 */

export interface Member {
  readonly path: string;
  /** Where its bytes begin in the archive. */
  readonly offset: number;
  readonly size: number;
}

const text = (bytes: Uint8Array): string => {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString("utf8");
};

/** An octal number, or the base-256 one that large files have. */
function number(bytes: Uint8Array): number {
  if ((bytes[0]! & 0x80) !== 0) {
    return bytes.subarray(1).reduce((sum, byte) => sum * 256 + byte, bytes[0]! & 0x7f);
  }
  return Number.parseInt(text(bytes).trim() || "0", 8);
}

/**
 * The regular files of an archive, read through `read` so that their bytes are stepped over.
 * @returns a problem when the archive ends early; the members before it are good
 */
export function tarMembers(
  read: (offset: number, length: number) => Uint8Array,
  size: number,
): { members: Member[]; problem?: string } {
  const members: Member[] = [];
  let longName: string | undefined;
  for (let at = 0; at < size; ) {
    if (at + 512 > size) {
      return { members, problem: "ends in the middle of a header" };
    }
    const head = read(at, 512);
    if (head.every((byte) => byte === 0)) {
      return { members };
    }
    const stated = number(head.subarray(148, 156));
    const sum = head.reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 32 : byte), 0);
    if (stated !== sum) {
      return { members, problem: `is no tar archive, or damaged, at byte ${at}` };
    }
    const length = number(head.subarray(124, 136));
    const kind = String.fromCharCode(head[156]!);
    const offset = at + 512;
    if (offset + length > size) {
      return {
        members,
        problem: `ends in the middle of ${longName ?? text(head.subarray(0, 100))}`,
      };
    }
    if (kind === "L") {
      longName = text(read(offset, length));
    } else if (kind === "x") {
      longName = paxPath(Buffer.from(read(offset, length))) ?? longName;
    } else if (kind !== "g") {
      if (kind === "0" || kind === "\0") {
        const prefix =
          text(head.subarray(257, 262)) === "ustar" ? text(head.subarray(345, 500)) : "";
        const name = text(head.subarray(0, 100));
        const path = longName ?? (prefix === "" ? name : `${prefix}/${name}`);
        members.push({ path, offset, size: length });
      }
      longName = undefined;
    }
    at = offset + Math.ceil(length / 512) * 512;
  }
  return { members };
}

/** The path of a pax header: records "<length> <key>=<value>\n". */
function paxPath(bytes: Buffer): string | undefined {
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(32, at);
    const length = Number(bytes.subarray(at, space).toString("latin1"));
    if (space < 0 || !(length > 0)) {
      return undefined;
    }
    const record = bytes.subarray(space + 1, at + length - 1).toString("utf8");
    if (record.startsWith("path=")) {
      return record.slice(5);
    }
    at += length;
  }
  return undefined;
}

/** A WebDataset sample: its key and its members by extension. */
export interface WebSample {
  readonly key: string;
  readonly parts: ReadonlyMap<string, Member>;
}

/** Group members to samples. @throws Error when a sample has two members of one extension */
export function webSamples(members: readonly Member[]): WebSample[] {
  const samples: { key: string; parts: Map<string, Member> }[] = [];
  for (const member of members) {
    const match = /^((?:.*\/|)[^.]+)[.]([^/]*)$/.exec(member.path);
    if (!match || /(^|\/)__[^/]*__/.test(member.path)) {
      continue;
    }
    const [, key, extension] = [match[0], match[1]!, match[2]!.toLowerCase()];
    let last = samples.at(-1);
    if (last?.key !== key) {
      last = { key, parts: new Map() };
      samples.push(last);
    }
    if (last.parts.has(extension)) {
      throw new Error(`sample ${key} has two members .${extension}`);
    }
    last.parts.set(extension, member);
  }
  return samples;
}

/**
 * @file Residual tokens as one sequence. A frame of L levels has L sub-ids; as ids of one vocabulary
 * each level gets K of its own, level l those from l·K on (VideoPoet, Kondratyuk et al. 2024, §3.1).
 *
 * - level-major: the whole clip level by level, coarse first; VideoPoet's order.
 * - frame-major: all levels of a frame, then the next frame; SoundStream's.
 */

export type LevelOrder = "level-major" | "frame-major";

/** Sub-ids [frames, L] of one clip, row-major, to a sequence of frames·L ids in [0, L·size). */
export function flattenLevels(
  ids: ArrayLike<number>,
  levels: number,
  size: number,
  order: LevelOrder,
): Int32Array {
  const frames = ids.length / levels;
  const sequence = new Int32Array(ids.length);
  for (let frame = 0; frame < frames; frame++) {
    for (let level = 0; level < levels; level++) {
      const at = order === "level-major" ? level * frames + frame : frame * levels + level;
      sequence[at] = level * size + ids[frame * levels + level]!;
    }
  }
  return sequence;
}

/**
 * The inverse of `flattenLevels`. A sequence that is shorter than all levels (level-major: the first
 * levels only) gives sub-ids of the levels it has, and 0 for the others.
 * @throws RangeError when an id is not of the level that its place belongs to
 */
export function unflattenLevels(
  sequence: ArrayLike<number>,
  frames: number,
  levels: number,
  size: number,
  order: LevelOrder,
): Int32Array {
  const ids = new Int32Array(frames * levels);
  for (let at = 0; at < sequence.length; at++) {
    const major = order === "level-major";
    const level = major ? Math.floor(at / frames) : at % levels;
    const frame = major ? at % frames : Math.floor(at / levels);
    const id = sequence[at]! - level * size;
    if (id < 0 || id >= size) {
      throw new RangeError(`id ${sequence[at]} at place ${at} is not of level ${level}`);
    }
    ids[frame * levels + level] = id;
  }
  return ids;
}

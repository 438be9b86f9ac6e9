/**
 * @file What all sets of media share: from a listing to a data set. Items are looked into (or trusted
 * until they are drawn), split, put into an order that is a fair sample at every prefix, and cut into
 * clips by rule; which frames and which crop is a pure function of (seed, index, visit).
 */

import { createHash } from "node:crypto";
import { canonicalJson } from "../config/hash.ts";
import { UserError } from "../config/errors.ts";
import { type Static, type TObject, Type } from "../config/schema.ts";
import { Random } from "../runtime/random.ts";
import { type Dataset, type Sample, SampleError } from "./dataset.ts";
import type { ClipTask } from "./decode.ts";
import { classNames, hashSplit, type Listing, nameHash, type Split } from "./listing.ts";
import { indexedListing, updateIndex } from "./listing-index.ts";
import { lookInto, lookKey, makeRunner, recall, type Runner, type Usable } from "./look.ts";
import { type ClipRule, clipsOf, decodingKeys, reach, samplingKeys, unfit } from "./sampling.ts";
import { THREE_CROPS } from "./scaler.ts";
import { soundLength } from "./shapes/sound.ts";
import { warnOnce } from "./warnings.ts";

/** The keys of every set of media, besides its type and where it lies. */
export const clipSetKeys = {
  ...samplingKeys,
  ...decodingKeys,
  verify: Type.Enum(["full", "quick", "drawn"], {
    default: "full",
    description:
      "full decodes each file once when the set is opened; quick counts packets and decodes the first frame; drawn looks into a file only when a clip of it is drawn, for sets of many thousand files.",
  }),
  index: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
    default: null,
    description:
      "File that keeps the list of items and what was found in them, so that opening walks no folders. Made anew when a folder or list changed.",
    semantic: false,
  }),
  shuffle: Type.Enum(["global", "shards"], {
    default: "global",
    description:
      "Order of training: a permutation of all clips, or shards in random order read through a shuffle buffer, each process its own shards.",
  }),
  shuffle_buffer: Type.Integer({
    minimum: 1,
    default: 2000,
    description: "Clips of the shuffle buffer (shuffle: shards).",
  }),
};

export type ClipSetConfig = Static<TObject<typeof clipSetKeys>>;

/** What a type of set brings along. */
export interface SetOptions {
  readonly type: string;
  /** Called so in messages: its folder. */
  readonly where: string;
  /** Makes the listing; called only when no index has it. */
  readonly list: () => Listing;
  /** What the listing depends on, besides files. */
  readonly key: unknown;
  /** What identifies the set besides its files: layout and its options. Goes into the fingerprint. */
  readonly identity: unknown;
  readonly validationFraction: number;
  /** Native rate that the set is known for, where files are not looked into. */
  readonly fps?: number;
  /** Make the index anew. */
  readonly refresh?: boolean;
}

/** Open one split. @param seed the run's seed: random places of training clips follow it */
export async function openClips(
  config: ClipSetConfig,
  options: SetOptions,
  split: Split,
  seed: number,
): Promise<Dataset> {
  const { frames, height, width, fps, stride, audio_rate: rate } = config;
  check(config);
  const { where } = options;
  const indexKey = [options.type, options.key];
  const listing = indexedListing(config.index, indexKey, config, options.list, options.refresh);
  if (listing.candidates.length + listing.missing.length === 0) {
    throw new UserError(
      `no media files in ${where}`,
      "Check the path; docs/data-sets.md describes each data set's layout, and dataset.extensions (where there is one) which files are tried.",
    );
  }
  const runner = await makeRunner(config.workers);
  try {
    const rule = clipRule(config, split);
    const looks = config.verify !== "drawn";
    const known = looks
      ? listing.candidates.filter((one) => recall(lookKey(one, config))).length
      : listing.candidates.length;
    const { usable, skipped } = await lookInto(
      { ...config, where },
      listing,
      runner,
      (probe, { span }) => unfit(probe, rule, span),
    );
    if (known < listing.candidates.length) {
      updateIndex(config.index, indexKey, config, listing);
    }
    const mine = choose(options, listing, usable, split);
    const ordered = listing.shards && config.shuffle === "shards" ? mine : mixed(mine);
    const classes = listing.classes ?? classNames(listing.candidates);
    const labels = new Map(classes.map((name, i) => [name, i]));
    const places = countClips(ordered, rule, config, split);
    const clipRate = (fps ?? (await nativeRate(ordered, options, config, runner))) / stride;
    const shape: Shape = { config, rule, split, seed, size: places.size, clipRate };
    return {
      type: options.type,
      split,
      size: places.size,
      items: ordered.length,
      frames,
      height,
      width,
      fps: clipRate,
      audioRate: rate,
      classes,
      fingerprint: fingerprint(config, options, split, seed, ordered),
      sampling: describe(config, rule, split, listing),
      skipped,
      ...shardsOf(listing, ordered, places, config),
      labelOf: (index) => labelIndex(labels, ordered[places.find(index).item]!),
      get: async (index, visit, into) => {
        const { item, which } = places.find(index);
        const chosen = ordered[item]!;
        const task = { ...clipTask(shape, chosen, which, index, visit), ...(into && { into }) };
        const made = await runner.decode(task);
        if ("problem" in made) {
          throw new SampleError(`${chosen.name} ${made.problem}`);
        }
        const { captions } = chosen;
        return {
          id: `${chosen.name}@${made.first}-${made.last}`,
          clip: into ?? made.clip,
          label: labelIndex(labels, chosen),
          caption: captions.length > 1 ? captions[visit % captions.length]! : (captions[0] ?? ""),
          ...(made.audio ? { audio: made.audio } : {}),
          ...(made.signals ? { signals: made.signals } : {}),
        } satisfies Sample;
      },
      close: () => runner.close(),
    };
  } catch (error) {
    await runner.close();
    throw error;
  }
}

function check(config: ClipSetConfig): void {
  if (config.audio_rate > 0 && config.fps === null) {
    throw new UserError(
      "dataset.audio_rate needs dataset.fps: sound of one length needs clips of one duration",
      "Set e.g. dataset.fps=8.",
    );
  }
  const all = config.sampling === "all" || config.held_out_sampling === "all";
  if (all && config.verify === "drawn") {
    throw new UserError(
      "all windows of a file cannot be counted with dataset.verify=drawn",
      "Set dataset.verify=quick.",
    );
  }
}

const labelIndex = (labels: ReadonlyMap<string, number>, { label }: Usable): number =>
  label === undefined ? -1 : (labels.get(label) ?? -1);

/** How the clips of a split are cut. */
export function clipRule(config: ClipSetConfig, split: Split): ClipRule {
  const { frames, fps, stride, sampling, held_out_sampling: held, clips_per_video: clips } = config;
  const calm = sampling === "random" ? (clips > 1 ? "uniform" : "centre") : sampling;
  return {
    frames,
    fps,
    stride,
    place: split === "train" ? sampling : held === "auto" ? calm : held,
    clips,
    step: config.window_step ?? reach(config),
    short: config.short,
  };
}

/** Where clip `index` of a split lies: an item, one of its clips, and one of the clip's crops. */
interface Places {
  readonly size: number;
  find(index: number): { item: number; which: number };
}

function countClips(
  items: readonly Usable[],
  rule: ClipRule,
  config: ClipSetConfig,
  split: Split,
): Places {
  const crops = split === "train" ? 1 : config.held_out_crops;
  if (rule.place !== "all") {
    const each = rule.clips * crops;
    return {
      size: items.length * each,
      find: (index) => ({ item: Math.floor(index / each), which: index % each }),
    };
  }
  const ends: number[] = [];
  let size = 0;
  for (const { probe, span } of items) {
    size += clipsOf(probe!, rule, span) * crops;
    ends.push(size);
  }
  return {
    size,
    find: (index) => {
      let low = 0;
      let high = ends.length - 1;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (ends[middle]! > index) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      return { item: low, which: index - (low > 0 ? ends[low - 1]! : 0) };
    },
  };
}

function shardsOf(
  listing: Listing,
  items: readonly Usable[],
  places: Places,
  config: ClipSetConfig,
): Partial<Pick<Dataset, "shards">> {
  if (config.shuffle === "global") {
    return {};
  }
  if (!listing.shards) {
    throw new UserError(
      "dataset.shuffle is shards, but the items of this set do not lie in shards",
      "Use dataset.shuffle=global.",
    );
  }
  // A shard is a run of clips whose items lie in one file.
  const starts: number[] = [];
  let file = "";
  for (let index = 0; index < places.size; index++) {
    const { source } = items[places.find(index).item]!;
    const here = source.kind === "pictures" ? source.files[0]! : source.file;
    if (here !== file) {
      starts.push(index);
      file = here;
    }
  }
  return { shards: { starts, buffer: config.shuffle_buffer } };
}

/** The items of one split. */
function choose(
  { where, validationFraction }: SetOptions,
  listing: Listing,
  usable: readonly Usable[],
  split: Split,
): Usable[] {
  if (listing.splitBy !== "hash") {
    const mine = usable.filter((item) => item.split === split);
    if (mine.length === 0) {
      throw new UserError(`${where}: the ${split} split has no file that can be used`);
    }
    return mine;
  }
  if (usable.length === 1) {
    warnOnce(
      `${where}: only ${usable[0]!.name} can be used, so training and validation share it; scores will flatter`,
    );
    return [...usable];
  }
  const held = hashSplit(
    usable.map((item) => item.name),
    validationFraction,
  );
  return usable.filter((item) => held.has(item.name) === (split === "validation"));
}

/**
 * The items in the order of their names' hashes: the first so many are then a fair sample of all,
 * which they are not when classes follow each other.
 */
function mixed(items: readonly Usable[]): Usable[] {
  const keyed = items.map((item) => ({ item, at: nameHash(`order/${item.name}`) }));
  return keyed.sort((a, b) => a.at - b.at).map(({ item }) => item);
}

async function nativeRate(
  items: readonly Usable[],
  options: SetOptions,
  config: ClipSetConfig,
  runner: Runner,
): Promise<number> {
  const rates = items.flatMap(({ probe }) => (probe ? [probe.fps] : [])).sort((a, b) => a - b);
  if (rates.length > 0) {
    return rates[Math.floor(rates.length / 2)]!;
  }
  if (options.fps !== undefined) {
    return options.fps;
  }
  for (const { source } of items.slice(0, 20)) {
    const probed = await runner.probe({ source, verify: "quick", missing: config.missing_frames });
    if (!("problem" in probed)) {
      return probed.fps;
    }
  }
  return 25;
}

interface Shape {
  readonly config: ClipSetConfig;
  readonly rule: ClipRule;
  readonly split: Split;
  readonly seed: number;
  readonly size: number;
  readonly clipRate: number;
}

/** Which frames and which crop: a pure function of (seed, index, visit). */
function clipTask(
  { config, rule, split, seed, size, clipRate }: Shape,
  { source, probe, span }: Usable,
  which: number,
  index: number,
  visit: number,
): ClipTask {
  const random = new Random(seed, `video-folder/${split}`, visit * size + index);
  const [place, cropX, cropY, mirror] = [
    random.uniform(),
    random.uniform(),
    random.uniform(),
    random.uniform(),
  ];
  const training = split === "train";
  const crops = training ? 1 : config.held_out_crops;
  const side = crops === 3 ? THREE_CROPS[which % 3]! : 0.5;
  return {
    source,
    probe,
    rule,
    which: Math.floor(which / crops),
    chance: place,
    ...(span && { span }),
    pixels: {
      height: config.height,
      width: config.width,
      resize: config.resize ?? undefined,
      filter: config.filter,
      colour: config.colour,
      range: config.range,
      conversion: config.conversion,
    },
    crop: {
      at: training && config.crop === "random" ? [cropX, cropY] : [side, side],
      flip: training && config.flip && mirror < 0.5,
    },
    missing: config.missing_frames,
    ...(config.audio_rate > 0 && {
      sound: {
        samples: soundLength(config.frames, clipRate, config.audio_rate),
        rate: config.audio_rate,
      },
    }),
  };
}

/** The choices that make one pass of a split what it is: part of every score's protocol. */
function describe(
  config: ClipSetConfig,
  rule: ClipRule,
  split: Split,
  { heldOut, splitBy }: Listing,
): { readonly [choice: string]: unknown } {
  const training = split === "train";
  const { resize, filter, colour, range, conversion } = config;
  return {
    split: training ? "train" : (heldOut ?? (splitBy === "hash" ? "hash of names" : "validation")),
    clips: rule.place,
    clips_per_video: rule.place === "all" ? `one every ${rule.step} frames` : rule.clips,
    rate: rule.fps ?? "native",
    stride: rule.stride,
    short: rule.short,
    resize: resize ?? "cover",
    filter: filter.startsWith("bilinear-") ? filter : `swscale ${filter}`,
    crop: training
      ? config.crop
      : config.held_out_crops === 3
        ? "3 along the longer side"
        : "centre",
    flip: training && config.flip,
    colour: `${colour}, ${range} range, ${conversion}`,
    values: "0..255",
  };
}

function fingerprint(
  config: ClipSetConfig,
  { type, identity }: SetOptions,
  split: Split,
  seed: number,
  items: readonly Usable[],
): string {
  // Where the files lie and how they are read do not change what they hold.
  const outside = ["type", "path", "list", "workers", "index", "strict", "verify", "layout"];
  const content = Object.entries(config).filter(([key]) => !outside.includes(key));
  const chance = config.sampling === "random" || config.crop === "random" || config.flip;
  const random = split === "train" && chance;
  const hash = createHash("sha256").update(
    canonicalJson([
      `${type}-2`,
      split,
      random ? seed : null,
      Object.fromEntries(content),
      identity,
    ]),
  );
  let lines: string[] = [];
  for (const { name, size, modified, label, captions, span, source } of items) {
    const place = "span" in source ? (source.span ?? null) : null;
    lines.push(
      `${JSON.stringify([name, size, modified, label ?? null, captions, span ?? null, place])}\n`,
    );
    if (lines.length === 1000) {
      hash.update(lines.join(""));
      lines = [];
    }
  }
  hash.update(lines.join(""));
  return hash.digest("hex");
}

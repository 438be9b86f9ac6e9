/**
 * @file Networks whose weights others have published: which files hold them, where those are to be
 * had and under which licence, how their bytes are told, and what a right file must give. The files
 * themselves are the user's: they lie in the folder `weights` (or $TESSERA_WEIGHTS), or are named in
 * a config.
 */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../config/errors.ts";
import { openWeights, weightsSha256 } from "../../runtime/weight-files/open.ts";
import { mergeWeights, type Weights } from "../../runtime/weight-files/weights.ts";

/** One file that a network needs. */
export interface PublishedFile {
  /** What it holds. */
  readonly role: string;
  /** Names it is looked for under; the first that exists is taken. */
  readonly names: readonly string[];
  /** Where it is published. */
  readonly from: readonly string[];
  readonly licence: string;
  /** Only some of the other files need it. */
  readonly optional?: true;
  /** SHA-256 of files that are known, with what each is. */
  readonly sha256?: { readonly [digest: string]: string };
}

export interface PublishedNetwork {
  readonly title: string;
  /** The scores that need it. */
  readonly for: string;
  readonly files: readonly PublishedFile[];
}

const torchvision = "https://download.pytorch.org/models";
const lpipsHeads =
  "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1";

export const publishedNetworks = {
  i3d: {
    title: "I3D, Kinetics-400, trained from scratch (12.7 M)",
    for: "fvd:* but fvd:cd-videomae, kvd:*",
    files: [
      {
        role: "network",
        names: [
          "i3d/model.ckpt.index",
          "i3d/variables.index",
          "i3d_k400.flax",
          "i3d_pretrained_400.pt",
          "i3d_torchscript.pt",
          "i3d.safetensors",
        ],
        from: [
          "https://github.com/google-deepmind/kinetics-i3d, data/checkpoints/rgb_scratch (model.ckpt.index and .data-00000-of-00001 into weights/i3d); the same weights as TensorFlow Hub's deepmind/i3d-kinetics-400/1",
          "gs://magvit/metrics/frechet_distance/i3d_k400.flax",
          "VideoGPT's i3d_pretrained_400.pt",
        ],
        licence: "Apache-2.0",
      },
    ],
  },
  "inception-fid": {
    title: "InceptionV3 of 2015-12-05 (24 M)",
    for: "fid:*, inception-score:inception",
    files: [
      {
        role: "network",
        names: [
          "pt_inception-2015-12-05-6726825d.pth",
          "weights-inception-2015-12-05-6726825d.pth",
          "inception-fid.safetensors",
        ],
        from: ["https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"],
        licence: "Apache-2.0",
      },
    ],
  },
  "lpips-vgg16": {
    title: "VGG16 trunk and LPIPS heads (14.7 M)",
    for: "lpips:vgg16",
    files: [
      {
        role: "trunk",
        names: ["vgg16-397923af.pth", "vgg16.safetensors"],
        from: [`${torchvision}/vgg16-397923af.pth`],
        licence: "BSD-3-Clause (torchvision)",
      },
      {
        role: "heads",
        names: ["lpips/vgg.pth", "vgg.pth", "lpips-vgg.safetensors"],
        from: [lpipsHeads],
        licence: "BSD-2-Clause",
        sha256: {
          a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868: "lpips v0.1, vgg.pth",
        },
      },
    ],
  },
  "lpips-alexnet": {
    title: "AlexNet trunk and LPIPS heads (2.5 M)",
    for: "lpips:alexnet",
    files: [
      {
        role: "trunk",
        names: ["alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth", "alexnet.safetensors"],
        from: [`${torchvision}/alexnet-owt-7be5be79.pth`],
        licence: "BSD-3-Clause (torchvision)",
      },
      {
        role: "heads",
        names: ["lpips/alex.pth", "alex.pth", "lpips-alex.safetensors"],
        from: [lpipsHeads],
        licence: "BSD-2-Clause",
        sha256: {
          df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0: "lpips v0.1, alex.pth",
        },
      },
    ],
  },
  "c3d-ucf101": {
    title: "C3D fine-tuned on UCF-101 (78 M)",
    for: "inception-score:c3d-ucf101",
    files: [
      {
        role: "network",
        names: ["c3d_ucf101.flax", "conv3d_deepnetA_ucf.npz", "c3d-ucf101.safetensors"],
        from: [
          "gs://magvit/metrics/inception_score/c3d_ucf101.flax",
          "https://github.com/rezoo/tgan2/releases/tag/v1.0 (with mean2.npz)",
        ],
        licence: "not stated by its authors",
      },
      {
        role: "mean (TGAN2's file only)",
        names: ["mean2.npz"],
        optional: true,
        from: ["https://github.com/rezoo/tgan2/releases/tag/v1.0"],
        licence: "not stated by its authors",
      },
    ],
  },
  vggish: {
    title: "VGGish (72 M)",
    for: "fad:vggish",
    files: [
      {
        role: "network",
        names: ["vggish-10086976.pth", "vggish_model.ckpt.index", "vggish.safetensors"],
        from: ["https://github.com/harritaylor/torchvggish/releases/tag/v0.1"],
        licence: "Apache-2.0",
      },
    ],
  },
  "clip-b32": {
    title: "CLIP ViT-B/32 (151 M)",
    for: "clipsim:vit-b32",
    files: [
      {
        role: "network",
        names: ["clip-vit-base-patch32/model.safetensors", "ViT-B-32.pt", "clip-b32.safetensors"],
        from: ["https://huggingface.co/openai/clip-vit-base-patch32"],
        licence: "MIT",
      },
    ],
  },
  "videomae-g": {
    title: "VideoMAE-v2 ViT-g, fine-tuned on SSv2 (1013 M)",
    for: "fvd:cd-videomae",
    files: [
      {
        role: "network",
        names: ["vit_g_hybrid_pt_1200e_ssv2_ft.pth", "videomae-g.safetensors"],
        from: ["https://huggingface.co/OpenGVLab/InternVideoMAE_models"],
        licence: "CC-BY-NC-4.0",
      },
    ],
  },
} as const satisfies { readonly [name: string]: PublishedNetwork };

export type PublishedName = keyof typeof publishedNetworks;

/** The files of one network, found and hashed. */
export interface FoundWeights {
  readonly name: PublishedName;
  readonly paths: readonly string[];
  /** One file's SHA-256, or that of the digests of several. */
  readonly sha256: string;
}

/** The folder that published files are looked for in. */
export function weightsFolder(): string {
  return process.env["TESSERA_WEIGHTS"] || "weights";
}

/** Where a file lies; undefined when it is not there. */
export function locate(file: PublishedFile, folder = weightsFolder()): string | undefined {
  return file.names.map((name) => join(folder, name)).find((path) => existsSync(path));
}

/**
 * A network's files: the ones named, or the ones in the folder.
 * @param given paths of a config; empty to look into the folder
 * @returns undefined when the folder lacks one
 * @throws UserError when a named file is missing
 */
export function findWeights(
  name: PublishedName,
  given: readonly string[],
): FoundWeights | undefined {
  if (given.length > 0) {
    return { name, paths: given, sha256: jointSha256(given) };
  }
  const { files }: PublishedNetwork = publishedNetworks[name];
  const paths: string[] = [];
  for (const file of files) {
    const path = locate(file);
    if (path !== undefined) {
      paths.push(path);
    } else if (!file.optional) {
      return undefined;
    }
  }
  return { name, paths, sha256: jointSha256(paths) };
}

function jointSha256(paths: readonly string[]): string {
  for (const path of paths) {
    if (!existsSync(path) && !existsSync(`${path}.index`)) {
      throw new UserError(
        `there is no weight file ${path}`,
        "`tessera weights list` says which files are needed and where they are to be had",
      );
    }
  }
  const digests = paths.map((path) => weightsSha256(path));
  return digests.length === 1
    ? digests[0]!
    : createHash("sha256").update(digests.join("\n")).digest("hex");
}

/** The tensors of found files. The caller closes them. */
export function openFound({ paths }: FoundWeights): Weights {
  return mergeWeights(paths.map((path) => openWeights(path)));
}

/** One line saying what is missing, for a suite that gives no score. */
export function missingWeights(name: PublishedName): string {
  const { title, files }: PublishedNetwork = publishedNetworks[name];
  const missing = files
    .filter((file) => locate(file) === undefined && !file.optional)
    .map(({ names }) => names[0]);
  return `no score: the weights of ${title} are not in the folder ${weightsFolder()} (${missing.join(" and ")}); \`tessera weights list\` says where to get them`;
}

/** What is known of the files' bytes, one line each. */
export function knownChecksums(name: PublishedName, { paths }: FoundWeights): string[] {
  const { files }: PublishedNetwork = publishedNetworks[name];
  const known = Object.assign({}, ...files.map((file) => file.sha256 ?? {})) as {
    [digest: string]: string;
  };
  return paths.map((path) => {
    const what = known[weightsSha256(path)];
    if (what !== undefined) {
      return `${path} is ${what}`;
    }
    return Object.keys(known).length > 0
      ? `${path}: no published checksum of this file is known here, or it is another file`
      : `${path}: no published checksum is known here`;
  });
}

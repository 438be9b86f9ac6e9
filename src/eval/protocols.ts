/**
 * @file The protocols by name: what each measures and every choice that it fixes. A score's protocol
 * is these fixed choices plus the ones that a config or a data set makes, so what is documented here
 * is what is hashed.
 */

import { type ClipStream, clipSampling } from "./clips.ts";
import {
  fixedChoices,
  type VideoProtocol,
  type VideoProtocolName,
  videoProtocolNames,
  videoProtocols,
} from "./distribution/video-protocols.ts";
import { msSsimConventions } from "./ms-ssim.ts";
import { psnrCap } from "./psnr.ts";
import { ssimConventions } from "./ssim.ts";
import { type Protocol, protocolHash, type Score } from "./suite.ts";

/** A protocol as documented: `tessera eval --list` prints these. */
export interface ProtocolInfo {
  readonly measures: string;
  /** Choices that the name fixes; they are part of the hash. */
  readonly fixed: { readonly [choice: string]: unknown };
}

/** One entry a video protocol, under names that start with `kind`. */
function forVideo<K extends string>(
  kind: K,
  info: (protocol: VideoProtocol, name: VideoProtocolName) => ProtocolInfo,
): { readonly [name in `${K}:${VideoProtocolName}`]: ProtocolInfo } {
  return Object.fromEntries(
    videoProtocolNames.map((name) => [`${kind}:${name}`, info(videoProtocols[name], name)]),
  ) as { [name in `${K}:${VideoProtocolName}`]: ProtocolInfo };
}

const neighbourChoices = { manifold: "balls to the 3rd nearest neighbour, Euclidean, float64" };

const fidChoices = {
  features: "pool3 of InceptionV3 2015-12-05, 2048, of every frame",
  rounding: "round",
  distance: "symmetric form, float64",
} as const;
const kidChoices = {
  ...fidChoices,
  distance: "kernel (x.y / d + 1)^3, all pairs, unbiased",
} as const;

/** What a score's `std` is. */
const spread = "standard error over clips";
const linearClassifier = {
  classifier: "multinomial logistic regression, standardised, L-BFGS to convergence",
  spread,
  l2: "from 1 down by tenths to 0.0001 while log loss on every fifth fitting clip falls, then refitted on all",
} as const;
const psnrChoices = { range: "0..255", colour: "RGB", cap_db: psnrCap, spread } as const;
const lpipsChoices = {
  version: "0.1",
  range: "-1..1",
  norm: "length + 1e-10",
  average: "frames, then clips",
  spread,
} as const;
const ssimChoices = { range: "0..255", spread } as const;

const clipsimChoices = {
  input: "antialiased bicubic, shorter side to the network's (224), centre crop, CLIP's statistics",
  average: "frames, then clips",
  spread,
};

const fadChoices = {
  features: "128 of VGGish, no last ReLU, no PCA",
  input: "16 kHz mono, log-mel of 96 x 64, no overlap",
  covariance: "unbiased",
  distance: "symmetric form, float64",
};

const bitstreamChoices = {
  file: "one file of all clips, decoded again and compared",
  pixels: "original T x H x W",
} as const;
const anchorChoices = {
  stream: "one raw elementary stream of all clips, no container, no encoder's settings in it",
  colour: "RGB to 4:2:0 BT.601 limited by swscale bicubic, and back",
} as const;

export const protocols = {
  "psnr:per-frame": {
    measures: "PSNR of each frame, averaged over frames, then over clips (MAGVIT, VidTok).",
    fixed: { ...psnrChoices, average: "dB over frames, then over clips" },
  },
  "psnr:pooled": {
    measures:
      "PSNR of one mean squared error over all frames of a clip, averaged over clips (LARP, BSQ-ViT, TokenBench).",
    fixed: { ...psnrChoices, average: "squared error over the clip, then dB over clips" },
  },
  "ssim:gaussian-valid": {
    measures: "SSIM with an 11-tap Gaussian window, no padding, per channel (tf.image.ssim).",
    fixed: { ...ssimChoices, ...ssimConventions["gaussian-valid"] },
  },
  "ssim:skimage7": {
    measures: "SSIM with scikit-image's default 7 x 7 uniform window (TokenBench).",
    fixed: { ...ssimChoices, ...ssimConventions.skimage7 },
  },
  "ssim:magvit-gray": {
    measures: "SSIM of gray frames with clamped moments (MAGVIT).",
    fixed: { ...ssimChoices, ...ssimConventions["magvit-gray"] },
  },
  "ssim:torchmetrics": {
    measures: "SSIM over the full map of reflect-padded frames (torchmetrics).",
    fixed: { ...ssimChoices, ...ssimConventions.torchmetrics },
  },
  "ms-ssim:pytorch": {
    measures: "Multi-scale SSIM of five scales as pytorch_msssim computes it.",
    fixed: { ...ssimChoices, ...msSsimConventions.pytorch },
  },
  "ms-ssim:tf": {
    measures: "Multi-scale SSIM of five scales as tf.image.ssim_multiscale computes it.",
    fixed: { ...ssimChoices, ...msSsimConventions.tf },
  },
  "ms-ssim:floor": {
    measures: "Multi-scale SSIM of five scales on plain 2 x 2 pooling.",
    fixed: { ...ssimChoices, ...msSsimConventions.floor },
  },
  "ms-ssim:torchmetrics": {
    measures: "Multi-scale SSIM of five scales as torchmetrics computes it.",
    fixed: { ...ssimChoices, ...msSsimConventions.torchmetrics },
  },
  "lpips:vgg16": {
    measures:
      "LPIPS 0.1 on VGG16, of each frame, averaged over frames, then over clips (LARP, VidTok, TokenBench).",
    fixed: { ...lpipsChoices, trunk: "VGG16, ReLU 1_2, 2_2, 3_3, 4_3, 5_3" },
  },
  "lpips:alexnet": {
    measures:
      "LPIPS 0.1 on AlexNet, of each frame, averaged over frames, then over clips (common_metrics).",
    fixed: { ...lpipsChoices, trunk: "AlexNet, ReLU 1 to 5" },
  },
  "flicker:differences": {
    measures:
      "How far changes from frame to frame differ from the original's: mean absolute difference of successive frames' differences, in levels of 0 to 255.",
    fixed: {
      ...ssimChoices,
      average: "over pixels, channels and pairs of frames, then over clips",
    },
  },
  "flicker:still-pixels": {
    measures:
      "How much pixels change that the original leaves exactly as they are: mean absolute difference of successive frames there, in levels of 0 to 255.",
    fixed: {
      ...ssimChoices,
      average: "over still pixels' channels of all pairs of frames, then over clips that have any",
    },
  },
  "codebook:dataset": {
    measures:
      "Use of the joint vocabulary (the product of all factors) over all tokens of the chosen clips at once.",
    fixed: { scope: "all tokens of all clips", alphabet: "joint", dead: "never seen" },
  },
  "codebook:factors": {
    measures:
      "Use of each factor's sub-vocabulary over all tokens of the chosen clips; perplexity as the geometric mean, the rest summed over factors.",
    fixed: { scope: "all tokens of all clips", alphabet: "factors", dead: "never seen" },
  },
  "rate:nominal": {
    measures: "Bits of a fixed-length code: log2 of the vocabulary for each token.",
    fixed: { code: "fixed length, log2 K bits a token", pixels: "original T x H x W" },
  },
  "rate:empirical-order0": {
    measures:
      "Plug-in entropy of token frequencies, measured on the tokens themselves: a bound below any code without context, too low when tokens are few.",
    fixed: { code: "order-0 entropy of the coded tokens", pixels: "original T x H x W" },
  },
  "rate:adaptive-order0": {
    measures:
      "Ideal arithmetic-code length with frequencies learned on the way (Krichevsky-Trofimov), clips one after another.",
    fixed: {
      code: "adaptive order 0, KT",
      order: "clips by index, tokens t, h, w",
      pixels: "original T x H x W",
    },
  },
  "rate:adaptive-order1": {
    measures:
      "As rate:adaptive-order0, the frequencies kept apart by the previous token of the same clip.",
    fixed: {
      code: "adaptive order 1, KT",
      order: "clips by index, tokens t, h, w",
      pixels: "original T x H x W",
    },
  },
  "rate:causal-prior": {
    measures:
      "Ideal arithmetic-code length under the run's own causal transformer, exact likelihoods, the label paid for with log2 of the number of classes. The transformer itself is not counted.",
    fixed: {
      code: "causal transformer given the label, plus log2 classes a clip",
      pixels: "original T x H x W",
    },
  },
  "bitstream:uniform": {
    measures: "Size of a real file with log2 K bits a token, header and checksums included.",
    fixed: { code: "uniform", ...bitstreamChoices },
  },
  "bitstream:static": {
    measures: "Size of a real file whose token frequencies stand in front (rANS).",
    fixed: { code: "static", ...bitstreamChoices },
  },
  "bitstream:adaptive": {
    measures: "Size of a real file whose token frequencies are learned on the way.",
    fixed: { code: "adaptive", ...bitstreamChoices },
  },
  "bitstream:prior": {
    measures:
      "Size of a real file coded under the run's own transformer without a label, mixed with frequencies and repetitions learned on the way. The networks are not counted: both sides have them.",
    fixed: {
      code: "transformer, halved logits, order-0 counts, repetition; fixed share 0.003",
      ...bitstreamChoices,
    },
  },
  "rd:rate-at-psnr": {
    measures:
      "Percent of rate that our smallest file needs more than a video codec's curve at equal PSNR; negative is better. One point against a curve, not a Bjøntegaard delta.",
    fixed: {
      psnr: "RGB, mean over frames",
      curve: "PCHIP of log rate over PSNR",
      ...anchorChoices,
    },
  },
  "rd:psnr-at-rate": {
    measures: "dB of PSNR that our smallest file is above a video codec's curve at equal rate.",
    fixed: {
      psnr: "RGB, mean over frames",
      curve: "PCHIP of PSNR over log rate",
      ...anchorChoices,
    },
  },
  "frechet:moving-shapes-v1": {
    measures:
      "Fréchet distance on the 64 features of a small network trained on moving-shapes; a stand-in, not comparable with any FVD.",
    fixed: {
      input: "8-bit RGB at the clip's own size, as 2x/255 - 1",
      distance: "symmetric eigendecomposition, float64",
    },
  },
  "kernel:moving-shapes-v1": {
    measures:
      "Unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3 on the features of frechet:moving-shapes-v1; a little below zero is possible for equal laws.",
    fixed: {
      input: "8-bit RGB at the clip's own size, as 2x/255 - 1",
      kernel: "(x.y / d + 1)^3, all pairs, unbiased, float64",
    },
  },
  "neighbours:moving-shapes-v1": {
    measures:
      "Precision and recall of a set of clips (Kynkäänniemi et al. 2019) on the features of frechet:moving-shapes-v1.",
    fixed: { input: "8-bit RGB at the clip's own size, as 2x/255 - 1", ...neighbourChoices },
  },
  ...forVideo("fvd", ({ measures, ...protocol }) => ({
    measures,
    fixed: fixedChoices({ measures, ...protocol }),
  })),
  ...forVideo("kvd", (protocol, name) => ({
    measures: `Unbiased squared maximum mean discrepancy with the kernel (x.y/d + 1)^3 on the features of fvd:${name} (TATS's KVD).`,
    fixed: {
      ...fixedChoices(protocol),
      distance: "kernel (x.y / d + 1)^3, all pairs, unbiased, float64",
    },
  })),
  ...forVideo("neighbours", (protocol, name) => ({
    measures: `Precision and recall (Kynkäänniemi et al. 2019) on the features of fvd:${name}.`,
    fixed: { ...fixedChoices(protocol), ...neighbourChoices, distance: "Euclidean" },
  })),
  "fid:tf-original": {
    measures:
      "Fréchet inception distance of frames as the original computes it (Heusel et al. 2017): TensorFlow 1 resizing to 299, (x - 128) / 128.",
    fixed: {
      ...fidChoices,
      resize: "tf1-legacy to 299 x 299",
      range: "(x - 128) / 128",
    },
  },
  "fid:pytorch-fid": {
    measures:
      "Fréchet inception distance of frames as pytorch-fid computes it: half-pixel resizing to 299, 2x - 1.",
    fixed: { ...fidChoices, resize: "half-pixel to 299 x 299", range: "2x / 255 - 1" },
  },
  "kid:tf-original": {
    measures: "Unbiased squared kernel distance (x.y/d + 1)^3 on the features of fid:tf-original.",
    fixed: { ...kidChoices, resize: "tf1-legacy to 299 x 299", range: "(x - 128) / 128" },
  },
  "kid:pytorch-fid": {
    measures: "Unbiased squared kernel distance (x.y/d + 1)^3 on the features of fid:pytorch-fid.",
    fixed: { ...kidChoices, resize: "half-pixel to 299 x 299", range: "2x / 255 - 1" },
  },
  "neighbours:tf-original-frames": {
    measures: "Precision and recall (Kynkäänniemi et al. 2019) on the features of fid:tf-original.",
    fixed: { ...fidChoices, ...neighbourChoices, distance: "Euclidean" },
  },
  "neighbours:pytorch-fid-frames": {
    measures: "Precision and recall (Kynkäänniemi et al. 2019) on the features of fid:pytorch-fid.",
    fixed: { ...fidChoices, ...neighbourChoices, distance: "Euclidean" },
  },
  "inception-score:c3d-ucf101": {
    measures:
      "Inception score of 16-frame clips under C3D fine-tuned on UCF-101 (TGAN, MAGVIT): exp of the mean KL divergence from each clip's classes to the mean ones.",
    fixed: {
      classifier: "C3D, 101 classes",
      input: "16 frames, aligned corners to 112 x 112, BGR in 0..255 less the mean clip",
      spread: "population deviation over splits",
    },
  },
  "inception-score:inception": {
    measures:
      "Inception score of frames under the 2015 InceptionV3 (Salimans et al. 2016), logits without bias.",
    fixed: {
      classifier: "InceptionV3 2015-12-05, 1008 logits without bias",
      input: "tf1-legacy to 299 x 299, (x - 128) / 128",
      spread: "population deviation over splits",
    },
  },
  "clipsim:vit-b32": {
    measures:
      "CLIPSIM (GODIVA, NÜWA): cosine of CLIP ViT-B/32's embeddings of a frame and of the clip's text, averaged over frames, then over clips.",
    fixed: { network: "CLIP ViT-B/32", ...clipsimChoices },
  },
  "clipsim:other": {
    measures:
      "As clipsim:vit-b32, on a CLIP of other sizes (they are among the choices): its values compare with no published ones.",
    fixed: clipsimChoices,
  },
  "fad:vggish": {
    measures:
      "Fréchet audio distance (Kilgour et al. 2019) on VGGish embeddings of 0.96 s, without the last ReLU and the PCA.",
    fixed: fadChoices,
  },
  "fad:other": {
    measures:
      "As fad:vggish, on a VGGish of other widths (they are among the choices): its values compare with no published ones.",
    fixed: fadChoices,
  },
  "probe:attentive": {
    measures:
      "Accuracy of V-JEPA's attentive classifier on frozen tokens, codes or pixels, trained with AdamW; every choice of its training is part of the protocol.",
    fixed: {
      classifier:
        "one learned query, cross-attention without output projection, MLP of 4, linear (V-JEPA)",
      training: "AdamW, gradient norm 1, tenth of warm-up, cosine to 0",
      spread,
    },
  },
  "probe:fine-tuned": {
    measures:
      "Accuracy of a reader of codes (probe:attentive's, or with blocks of attention) that was trained together with the tokenizer's encoder and codebook, from their trained values.",
    fixed: {
      gradient: "straight through the quantizer, as in the tokenizer's training",
      training: "AdamW, gradient norm 1 over both, tenth of warm-up, cosine to 0",
      spread: "standard error of a share over clips",
    },
  },
  "probe:transformer": {
    measures:
      "As probe:attentive behind blocks of self-attention that are trained too, after masked prediction where the protocol says so.",
    fixed: {
      classifier: "pre-norm self-attention blocks, then V-JEPA's attentive classifier, all trained",
      training: "AdamW, gradient norm 1, tenth of warm-up, cosine to 0",
      spread,
    },
  },
  "probe:linear-codes": {
    measures:
      "Top-1 accuracy of a linear classifier of the label on frozen codes: mean over the cells of a coarse grid in each latent frame, frames concatenated, and the differences of successive frames.",
    fixed: {
      features: "quantized codes, mean over cells, frames concatenated, plus temporal differences",
      ...linearClassifier,
    },
  },
  "factors:moving-shapes": {
    measures:
      "Share of clips whose motion, shape or colour, read off the pixels, is the one asked for. The reader's own accuracy on real clips is the score of `real`.",
    fixed: {
      reader:
        "brightness mask; colour by votes; motion and shape by logistic regression on path and outline features of training clips",
      spread: "standard error of a share over clips",
    },
  },
  "factors:sound": {
    measures:
      "Share of clips whose sound has the pitch that the picture calls for: the median difference over frames is within some semitones.",
    fixed: {
      pitch:
        "lowest spectral peak of 180 to 880 Hz within a third of the loudest, windows of about a tenth of a second",
      expected: "(220 + 440 (1 - y / H)) (1.25 - r / side), centre and area of the shape by frame",
    },
  },
  "super-resolution:psnr": {
    measures:
      "PSNR of enlarged clips against the true ones, from the small clip's true tokens or from ones of which a generator made a share; of `interpolated`: the same small tokens decoded and enlarged bilinearly.",
    fixed: { ...psnrChoices, average: "frames, then clips", small: "triangle filter" },
  },
  "held-out:loss": {
    measures:
      "The objective's own loss and metrics on held-out clips, the mean over batches; `bits` is a masked or causal loss in bits a pixel of the clip. Of padding: the share of slots that hold nothing.",
    fixed: {
      noise: "masks, tasks and noise by (seed, batch)",
      spread: "standard error over batches",
    },
  },
  "leak:linear-codes": {
    measures:
      "How well a linear probe on the codes of visible tokens tells what is hidden, encoded from the whole clip and from the padded one (MAGVIT, Yu et al. 2023, section 3.2).",
    fixed: {
      features: "codes inside the condition, means over cells of each latent frame",
      probe: "logistic regression, regulariser chosen on a part of the fitting clips",
      spread: "standard error of a share over clips",
    },
  },
  "pixel-baseline": {
    measures:
      "Models without tokens: one 3D CNN over pixels with a head for the class and one for the shape's centre in each frame (mean distance in pixels), alone or with sound and caption, trained from nothing on the training clips.",
    fixed: {
      training:
        "AdamW, a tenth of warm-up, cosine to 0; cross entropy + 10 x squared error in half sides",
    },
  },
  "in-context:generation": {
    measures:
      "What a frozen language model that learned from text alone writes in context: captions and answers (the share that names the clip's own factor) and denoised tokens of clips (tokens as they should be, corrupted ones repaired, PSNR against the clip as decoded from its own tokens).",
    fixed: {
      decoding: "the most probable word, of the whole vocabulary",
      examples: "drawn by seed and clip from the other clips",
      spread: "standard error of a share",
    },
  },
  "in-context:classification": {
    measures:
      "Few-shot classification of clips by their tokens as words under a frozen language model that learned from text alone (SPAE, Yu et al. 2023; the terms are those of Frozen, Tsimpoukelli et al. 2021).",
    fixed: {
      episode: "classes, examples, order and the one clip asked about drawn by seed and number",
      prompt: "[answer with A or B], then lines `words : name`, then `words :`",
      spread: "standard error of a share over episodes",
    },
  },
  "consistency:cut-stills": {
    measures:
      "Share of tokens that stay the same when their content comes to lie at the border of the picture (`border`), or is moved by one token inside of it (`inside`); and the squared difference of the codes over twice their variance.",
    fixed: {
      picture: "first frame, shown at all times",
      cut: "one token's width at each of the four sides in turn, repeated edge on the other side",
      inside: "at least three tokens from every border before and after",
    },
  },
  "sound:si-sdr": {
    measures:
      "Scale-invariant signal-to-distortion ratio of decoded sound (Le Roux et al. 2019), averaged over sounds.",
    fixed: { mean: "removed", silence: "sounds of mean square below 1e-8 left out", spread },
  },
  "sound:snr": {
    measures: "Signal-to-noise ratio of decoded sound, averaged over sounds.",
    fixed: { silence: "sounds of mean square below 1e-8 left out", spread },
  },
  "sound:log-mel": {
    measures:
      "Mean absolute difference of log-mel spectrograms of original and decoded sound, in dB.",
    fixed: {
      window: "Hann, 25 ms, hop 10 ms, next power of two",
      bands:
        "40 triangles equal in mel (2595 log10(1 + f/700)) from 60 Hz to half of the rate, at most one a bin",
      floor: "power 1e-6",
      spread,
    },
  },
  "sound:rate": {
    measures: "Bits of the tokens of sound a second, in kbit/s.",
    fixed: { pixels: "none: seconds of sound" },
  },
  "pyramid:psnr": {
    measures: "psnr:per-frame of clips decoded from the first n layers of a pyramid.",
    fixed: { ...psnrChoices, average: "dB over frames, then over clips" },
  },
  "pyramid:caption-words": {
    measures: "Share of a pyramid layer's tokens whose word stands in the clip's caption.",
    fixed: { layers_seen: "the n-th alone", words: "letters, in lower case" },
  },
  "pyramid:probe": {
    measures:
      "Top-1 accuracy of a linear classifier of a factor of the clip on which words occur in the first n layers of a pyramid.",
    fixed: {
      features: "share of each word in each layer, over all frames",
      ...linearClassifier,
    },
  },
  "efficiency:counted": {
    measures:
      "Trained parameters, or operations a clip: two for each multiply-add of products, convolutions and attention.",
    fixed: { element_wise: "not counted", attention: "masks counted whole, caches at full length" },
  },
  "efficiency:measured": {
    measures: "Clips or tokens a second on one device, or its peak memory.",
    fixed: { warm_up: "one call", memory: "the device's own, else the process's resident set" },
  },
  audit: {
    measures:
      "How what a prompt leaves open is distributed over generated clips, against a reference.",
    fixed: {
      distance: "total variation, mean over prompts",
      interval: "95 %, percentiles of 1000 bootstrap resamples of clips within prompts",
    },
  },
  "probe:linear-ids": {
    measures:
      "As probe:linear-codes, on histograms of the sub-ids alone: it sees which tokens occur, not what they embed to.",
    fixed: {
      features: "histograms of sub-ids over cells, frames concatenated, plus temporal differences",
      ...linearClassifier,
    },
  },
} as const satisfies { readonly [name: string]: ProtocolInfo };

export type ProtocolName = keyof typeof protocols;

/** The choices that a data set and the clips taken from it make for a protocol. */
export function clipChoices(
  stream: ClipStream,
  seed: number,
): { readonly [choice: string]: unknown } {
  const { dataset, indices } = stream;
  return {
    dataset: {
      type: dataset.type,
      size: dataset.size,
      frames: dataset.frames,
      height: dataset.height,
      width: dataset.width,
      fps: dataset.fps,
      classes: dataset.classes.length,
      ...(dataset.sampling && { sampling: dataset.sampling }),
    },
    split: dataset.split,
    clips: indices.length,
    sampling: clipSampling,
    sampling_seed: seed,
    clips_sha256: stream.digest(),
  };
}

/** What a score says besides its protocol. */
export interface Measured {
  /** Suite and quantity, e.g. "reconstruction/psnr". */
  readonly name: string;
  readonly value: number;
  readonly unit?: string;
  readonly better: Score["better"];
  readonly n: number;
  readonly std?: number;
}

/** A score under a named protocol: its fixed choices and `choices`. Throws when the value is not finite. */
export function score(
  measured: Measured,
  name: ProtocolName,
  choices: { readonly [choice: string]: unknown },
): Score {
  if (!Number.isFinite(measured.value)) {
    throw new Error(`score ${measured.name} came out as ${measured.value}`);
  }
  const protocol: Protocol = { ...protocols[name].fixed, ...choices, name };
  return { ...measured, protocol, protocolHash: protocolHash(protocol) };
}

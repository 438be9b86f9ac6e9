/** @file The config of suite `recognition`. */

import { closed, type Static, Type } from "../../config/schema.ts";
import { clipKeys } from "../clips.ts";

export const schema = closed(
  {
    type: Type.Literal("recognition"),
    reads: Type.Union(
      [
        Type.Literal("codes"),
        Type.Literal("ids"),
        Type.Literal("reconstruction"),
        Type.Literal("pixels"),
      ],
      {
        default: "codes",
        description:
          "What the reader sees: quantized codes, the ids alone (embedded anew), the decoded pixels, or the clip's own.",
      },
    ),
    depth: Type.Integer({
      minimum: 0,
      maximum: 48,
      default: 0,
      description:
        "Blocks of self-attention before the pooling: 0 is V-JEPA's attentive probe, 3 V-JEPA 2's, more a small transformer.",
    }),
    width: Type.Integer({ minimum: 8, default: 128, description: "Width of the reader." }),
    heads: Type.Integer({
      minimum: 1,
      default: 4,
      description: "Attention heads; divide the width.",
    }),
    patches: Type.Optional(
      Type.Tuple(
        [Type.Integer({ minimum: 1 }), Type.Integer({ minimum: 1 }), Type.Integer({ minimum: 1 })],
        {
          description:
            "Positions of a reader of pixels, in time, height and width; the tokenizer's grid when left out. Give it where tokenizers of different grids are compared, so that all have the same reader.",
        },
      ),
    ),
    pretrain: Type.Union(
      [Type.Literal("none"), Type.Literal("tokens"), Type.Literal("pixels"), Type.Literal("hog")],
      {
        default: "none",
        description:
          "Masked prediction before the labels are seen: of the tokenizer's ids (BEVT), of normalised pixels (MAE), or of histograms of oriented gradients (MaskFeat).",
      },
    ),
    learns: Type.Union(
      [Type.Literal("reader"), Type.Literal("pooling"), Type.Literal("tokenizer")],
      {
        default: "reader",
        description:
          "What the labels train: the whole reader; the pooling and the classes alone, over blocks that stay as pre-training left them; or reader and tokenizer (encoder and codebook), which is put back afterwards.",
      },
    ),
    tokenizer_rate: Type.Number({
      exclusiveMinimum: 0,
      maximum: 1,
      default: 0.1,
      description: "Learning rate of a tokenizer that learns, over the reader's.",
    }),
    pretrain_steps: Type.Integer({
      minimum: 1,
      default: 300,
      description: "Steps of pre-training.",
    }),
    hidden: Type.Number({
      exclusiveMinimum: 0,
      exclusiveMaximum: 1,
      default: 0.6,
      description: "Share of positions hidden in pre-training.",
    }),
    steps: Type.Integer({ minimum: 1, default: 300, description: "Steps of training." }),
    batch: Type.Integer({ minimum: 1, default: 32, description: "Clips a step." }),
    lr: Type.Number({
      exclusiveMinimum: 0,
      default: 1e-3,
      description: "Peak learning rate; a tenth of warm-up, then a cosine to 0.",
    }),
    weight_decay: Type.Number({
      minimum: 0,
      default: 0.01,
      description: "AdamW's decay of matrices.",
    }),
    labels_per_class: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "Labelled clips of each class; 0 uses all. Pre-training sees all clips either way.",
    }),
    views: Type.Integer({
      minimum: 1,
      default: 1,
      description:
        "Views of each judged clip (other spans or crops, as the data set draws them at later visits); their probabilities are averaged.",
    }),
    train_clips: Type.Integer({
      minimum: 2,
      default: 512,
      description: "Clips of the train split; all when there are fewer.",
    }),
    clips: Type.Integer({
      minimum: 1,
      default: 256,
      description: "Clips of the validation split that judge; all when there are fewer.",
    }),
    seed: clipKeys.seed,
  },
  { description: "Classification of clips by an attentive probe or a small transformer." },
);

export type RecognitionConfig = Static<typeof schema>;

/** @file What a config may say of the multi-modal language model, and which kinds of tokens its tasks need. */

import { closed, type Static, Type } from "../../config/schema.ts";
import { drawProperties } from "../sampling.ts";
import { multimodalTasks, taskParts } from "./layouts.ts";
import { textSchema } from "./text.ts";

export const multimodalSchema = closed(
  {
    type: Type.Literal("multimodal", {
      description: "One language model over text, visual and audio tokens (VideoPoet).",
    }),
    tasks: Type.Array(
      Type.Object(
        {
          task: Type.Enum([...multimodalTasks], { description: "Name of the task." }),
          weight: Type.Number({
            exclusiveMinimum: 0,
            default: 1,
            description: "How often it is drawn, relative to the other tasks.",
          }),
        },
        { additionalProperties: false, description: "A task of the mixture." },
      ),
      {
        minItems: 1,
        description:
          "T2V, T2AV, T2I: from text; I2V, FP: from frames; IP, OP: in- and out-painting; ST: from text, flow- and depth-like channels; V2A, A2V; AVC: continue video and audio; UNC: from nothing.",
      },
    ),
    text_length: Type.Integer({
      minimum: 1,
      default: 64,
      description: "Text positions of a sequence; shorter texts are padded.",
    }),
    text: Type.Optional(textSchema),
    prefix_frames: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Latent frames that FP and AVC are given.",
    }),
    audio: closed(
      {
        window: Type.Integer({
          minimum: 16,
          default: 512,
          description: "Samples of a window of the audio tokenizer, a power of two.",
        }),
        levels: Type.Integer({ minimum: 1, default: 2, description: "Residual levels." }),
        codes: Type.Integer({ minimum: 2, default: 256, description: "Codes a level." }),
        fit_clips: Type.Integer({
          minimum: 1,
          default: 160,
          description: "Training clips whose sound its codebooks are fitted to.",
        }),
      },
      { description: "The audio tokenizer: residual k-means of log spectra." },
    ),
    audio_order: Type.Union([Type.Literal("level-major"), Type.Literal("frame-major")], {
      default: "level-major",
      description: "Audio tokens level by level over the whole clip, or all levels of each frame.",
    }),
    image_ends: Type.Boolean({
      default: true,
      description:
        "Close images with their end tokens; without them image generation may go on as a video.",
    }),
    group_tolerance: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0,
      description:
        "Tasks train in one group when the shorter sequence lacks at most this share of the longer; 1 puts all into one group.",
    }),
    image_steps: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "Steps of the image-heavy beginning of the curriculum; 0 has none (weights alone decide).",
    }),
    image_share: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.9,
      description: "Share of image tasks in those steps; afterwards it is 1 minus this.",
    }),
    label_dropout: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.1,
      description: "Probability that training hides a sample's text, for guidance.",
    }),
    sampling: closed({ ...drawProperties }, { description: "How new sequences are made." }),
  },
  { description: "Predict the next token of text-, video- and audio-conditioned sequences." },
);
export type MultimodalConfig = Static<typeof multimodalSchema>;

/** Whether any task of a config reads or makes sound. */
export function usesAudio({ tasks }: Pick<MultimodalConfig, "tasks">): boolean {
  return tasks.some(({ task }) => {
    const { audio, output } = taskParts[task];
    return audio !== undefined || output.includes("audio");
  });
}

/** Whether any task of a config reads text. */
export function usesText({ tasks }: Pick<MultimodalConfig, "tasks">): boolean {
  return tasks.some(({ task }) => taskParts[task].text === true);
}

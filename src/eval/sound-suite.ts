/**
 * @file Suite `sound`: an audio tokenizer on held-out sound: how near decoded sound is, how much of each
 * codebook is used, and bits a second, nominal and by the order-0 entropy of each level.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { float32 } from "../runtime/tensors.ts";
import { hostDecoder, hostIds } from "../tokenizers/host.ts";
import { bitsPerToken } from "../tokenizers/tokenizer.ts";
import { chooseClips, clipKeys, clipSampling } from "./clips.ts";
import { CodeCounts, codebookStatistics } from "./codebook.ts";
import { type Measured, type ProtocolName, score } from "./protocols.ts";
import { logMelDistance, melBank, power, siSdr, snr } from "./sound-quality.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export const schema = closed(
  { type: Type.Literal("sound"), ...clipKeys },
  { description: "Quality, codebook use and rate of an audio tokenizer." },
);

export type SoundConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: SoundConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** Sounds of less mean square are silence, to which no ratio is defined. */
const SILENCE = 1e-8;

/** Mean and its standard error. */
function moments(values: readonly number[]): { readonly mean: number; readonly error: number } {
  const n = values.length;
  const mean = values.reduce((sum, v) => sum + v, 0) / n;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return { mean, error: n > 1 ? Math.sqrt(squares / (n - 1) / n) : 0 };
}

async function run(config: SoundConfig, name: string, context: EvalContext): Promise<Score[]> {
  const { tokenizer, device, batch } = context;
  const dataset = await context.dataset(config.split);
  const { samples = 0 } = tokenizer.clip;
  if (tokenizer.modality !== "audio" || dataset.audioRate === 0) {
    throw new UserError(
      `suite ${name}: it needs an audio tokenizer and a data set with sound`,
      "use a soundstream tokenizer and set dataset.audio_rate",
    );
  }
  const encode = hostIds(device, tokenizer, "eval/sound/encode");
  const decode = hostDecoder(device, tokenizer, "eval/sound/decode");
  const bank = melBank(dataset.audioRate);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const counts = tokenizer.factors.map((size) => new CodeCounts(size));
  const found = { si_sdr: [] as number[], snr: [] as number[], log_mel: [] as number[] };
  for (let from = 0; from < indices.length; from += batch) {
    const chosen = indices.subarray(from, from + batch);
    const waves = await Promise.all(
      Array.from(chosen, async (index) => (await dataset.get(index, 0)).audio!),
    );
    const input = new Float32Array(batch * samples);
    waves.forEach((wave, i) => input.set(wave.subarray(0, samples), i * samples));
    const ids = await encode(float32([batch, samples, 1, 1, 1], input));
    const made = (await decode(ids)).data as Float32Array;
    const perSound = (ids.data.length / batch) | 0;
    for (const [i, wave] of waves.entries()) {
      for (let k = 0; k < perSound; k++) {
        counts[k % counts.length]!.add(ids.data[i * perSound + k]!);
      }
      const heard = made.subarray(i * samples, (i + 1) * samples);
      if (power(wave) > SILENCE) {
        found.si_sdr.push(siSdr(wave, heard));
        found.snr.push(snr(wave, heard));
      }
      found.log_mel.push(logMelDistance(wave, heard, bank));
    }
    context.progress("sounds", Math.min(from + batch, indices.length), indices.length);
  }
  const seconds = samples / dataset.audioRate;
  const [frames] = tokenizer.grid;
  const entropy = counts.reduce((sum, one) => sum + codebookStatistics(one).entropyBits, 0);
  const used = counts.reduce((sum, one) => sum + one.size - codebookStatistics(one).dead, 0);
  const codes = counts.reduce((sum, { size }) => sum + size, 0);
  const choices = {
    dataset: {
      type: dataset.type,
      size: dataset.size,
      rate: dataset.audioRate,
      samples,
      fingerprint: dataset.fingerprint,
    },
    split: config.split,
    clips: indices.length,
    sampling: clipSampling,
    sampling_seed: config.seed,
  };
  const of = (measured: Omit<Measured, "n"> & { n?: number }, protocol: ProtocolName, more = {}) =>
    score({ n: indices.length, ...measured }, protocol, { ...choices, ...more });
  const average = (
    key: keyof typeof found,
    protocol: ProtocolName,
    better: Score["better"],
  ): Score[] => {
    const values = found[key];
    if (values.length === 0) {
      return [];
    }
    const { mean, error } = moments(values);
    return [
      of(
        { name: `${name}/${key}`, value: mean, unit: "dB", better, n: values.length, std: error },
        protocol,
      ),
    ];
  };
  if (found.snr.length === 0) {
    context.warn("all sounds are silent, so no ratio is defined");
  }
  return [
    ...average("si_sdr", "sound:si-sdr", "higher"),
    ...average("snr", "sound:snr", "higher"),
    ...average("log_mel", "sound:log-mel", "lower"),
    of(
      { name: `${name}/usage`, value: (100 * used) / codes, unit: "%", better: "higher" },
      "codebook:factors",
    ),
    of(
      {
        name: `${name}/nominal_kbps`,
        value: (bitsPerToken(tokenizer) * frames) / seconds / 1000,
        unit: "kbit/s",
        better: "lower",
      },
      "sound:rate",
      { code: "fixed length" },
    ),
    of(
      {
        name: `${name}/entropy_kbps`,
        value: (entropy * frames) / seconds / 1000,
        unit: "kbit/s",
        better: "lower",
      },
      "sound:rate",
      { code: "order-0 entropy of each level" },
    ),
  ];
}

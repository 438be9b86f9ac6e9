/** @file Sound at a rate that players and the AAC encoder know. */

import type { Sound } from "./video.ts";

/** The rates of AAC (ISO 14496-3) from the lowest. */
const rates = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000] as const;

/** The sound at the next rate that files can have, by linear interpolation; as it is where it can stay. */
export function playable({ samples, rate }: Sound): Sound {
  const wanted = rates.find((known) => known >= rate) ?? 48000;
  if (wanted === rate) {
    return { samples, rate };
  }
  const length = Math.round((samples.length * wanted) / rate);
  const out = Float32Array.from({ length }, (_, i) => {
    const u = Math.min(samples.length - 1, (i * rate) / wanted);
    const low = Math.floor(u);
    const high = Math.min(samples.length - 1, low + 1);
    return samples[low]! + (samples[high]! - samples[low]!) * (u - low);
  });
  return { samples: out, rate: wanted };
}

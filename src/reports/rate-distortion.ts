/** @file The section of a run's page on compression: a chart and a table from rate-distortion.json. */

import type { RateDistortion } from "../eval/compression-suite.ts";
import { formatBytes, formatNumber } from "./format.ts";
import { type Html, html, raw } from "./html.ts";
import { rateDistortionSvg } from "./plots.ts";
import { readJson, type SampleFile } from "./run-folder.ts";

const chart = { width: 520, height: 280 } as const;

/** One section for all compression suites of a run; nothing when there is none. */
export async function rateDistortionHtml(samples: readonly SampleFile[]): Promise<Html | false> {
  const files = samples.filter(({ path }) => path.endsWith("rate-distortion.json"));
  const parts: Html[] = [];
  for (const [i, { file }] of files.entries()) {
    const record = readJson(file) as unknown as Partial<RateDistortion>;
    if (record.points && record.points.length > 0) {
      parts.push(await partHtml(record as RateDistortion, `rd-${i}`));
    }
  }
  return (
    parts.length > 0 &&
    html`<section><h2>Compression</h2><p class="small soft">Sizes of real files that decode to the same tokens, beside raw streams of video codecs on the same clips. Diamonds are this run's: one picture quality, several codes.</p>${parts}</section>`
  );
}

async function partHtml(record: RateDistortion, id: string): Promise<Html> {
  const { points, frames, height, width, settings, bd_rate: deltas } = record;
  const svg = await rateDistortionSvg(
    points.map(({ series, bpp, psnr }) => ({
      series,
      rate: bpp,
      quality: psnr,
      own: series.startsWith("tokens"),
    })),
    id,
    chart,
  );
  const number = (value: number | undefined): string =>
    value === undefined ? "" : formatNumber(value);
  const rows = points.map(
    (p) =>
      html`<tr><td>${p.series}</td><td>${p.setting === undefined ? "" : `Q ${p.setting}`}</td><td>${formatBytes(p.bytes)}</td><td>${number(p.bpp)}</td><td>${number(p.psnr)}</td><td>${number(p.ssim)}</td><td>${number(p.ms_ssim)}</td><td>${number(p.lpips)}</td><td>${p.seconds === undefined ? "" : p.seconds.toFixed(2)}</td><td>${p.peak_bytes === undefined ? "" : formatBytes(p.peak_bytes)}</td></tr>`,
  );
  const anchor = Object.keys(settings)[0];
  const rates = Object.entries(deltas).map(
    ([codec, by]) =>
      html`<li>${codec} against ${anchor ?? ""}: ${["cubic", "pchip", "akima"].map((kind) => `${kind} ${by[kind] === null || by[kind] === undefined ? "not defined" : `${by[kind].toFixed(1)} %`}`).join(", ")}</li>`,
  );
  return html`<figure class="card chart wide"><figcaption><span>rate-distortion</span><span>${frames} frames of ${height}×${width}</span></figcaption>${raw(svg)}</figure><details class="card block"><summary>All points, settings and BD-rates</summary><div class="scroll"><table><thead><tr><th>series</th><th>setting</th><th>file</th><th>bits a pixel</th><th>PSNR</th><th>SSIM</th><th>MS-SSIM</th><th>LPIPS</th><th title="coding and decoding once, starting and compiling included">seconds</th><th title="of the codec's process">most memory</th></tr></thead><tbody>${rows}</tbody></table></div><ul>${Object.entries(settings).map(([codec, text]) => html`<li>${codec}: <span class="mono">${text}</span></li>`)}</ul>${rates.length > 0 && html`<p>Bjøntegaard deltas of rate (negative: fewer bits at equal PSNR):</p><ul>${rates}</ul>`}</details>`;
}

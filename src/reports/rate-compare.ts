/**
 * @file Several runs in one rate-distortion chart: each run's tokenizer is a point (one for each code),
 * together they are a curve, which has Bjøntegaard deltas against the video codecs' curves.
 */

import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../config/errors.ts";
import { bjontegaard, type Interpolation, rateAt } from "../eval/compression/bjontegaard.ts";
import { curveOf, type RateDistortion, type RatePicture } from "../eval/compression-suite.ts";
import { formatNumber } from "./format.ts";
import { html, raw } from "./html.ts";
import { rateDistortionSvg } from "./plots.ts";
import { listFiles, readJson } from "./run-folder.ts";
import { css } from "./style.ts";

/** The record of one run. */
export interface RunRates {
  readonly run: string;
  readonly record: RateDistortion;
}

/** A point of ours with the run that it is of. */
export interface OwnPoint extends RatePicture {
  readonly run: string;
}

/** One of our codes over all runs, against one codec. */
export interface RateComparison {
  readonly code: string;
  readonly anchor: string;
  /** Percent of rate more than the anchor at equal PSNR over the shared range; undefined with its reason. */
  readonly bdRate: number | undefined;
  readonly reason?: string;
  /** For each run the percent of rate more than the anchor at its own PSNR. */
  readonly atOwnPsnr: readonly { readonly run: string; readonly percent: number | undefined }[];
}

export interface MergedRates {
  readonly runs: readonly string[];
  readonly own: readonly OwnPoint[];
  readonly anchors: readonly RatePicture[];
  readonly comparisons: readonly RateComparison[];
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

/**
 * The rate-distortion records of run folders.
 * @throws UserError when a folder has none
 */
export function readRates(dirs: readonly string[]): RunRates[] {
  return dirs.flatMap((dir) => {
    const files = existsSync(dir)
      ? listFiles(dir).filter(({ path }) => basename(path) === "rate-distortion.json")
      : [];
    if (files.length === 0) {
      throw new UserError(
        `${dir} holds no rate-distortion.json`,
        "give runs with the evaluation `compression`, or the --out folder of `tessera eval RUN --suite @compression`",
      );
    }
    const name = join(basename(dirname(dir)), basename(dir));
    return files.map(({ file, path }) => ({
      run: files.length > 1 ? `${name} ${dirname(path)}` : name,
      record: readJson(file) as unknown as RateDistortion,
    }));
  });
}

/**
 * Put records together.
 * @throws UserError when they are not of the same clips
 */
export function mergeRates(runs: readonly RunRates[], interpolation: Interpolation): MergedRates {
  const [first] = runs;
  if (!first) {
    throw new UserError("no run is named", "tessera rd RUN [RUN...]");
  }
  for (const { run, record } of runs) {
    if (record.clips_sha256 !== first.record.clips_sha256) {
      throw new UserError(
        `${run} was measured on other clips than ${first.run}`,
        "compare runs of one data set, clip size and number of clips",
      );
    }
  }
  const own = runs.flatMap(({ run, record }) =>
    record.points.filter(isOwn).map((point) => ({ ...point, run })),
  );
  const anchors: RatePicture[] = [];
  for (const { record } of runs) {
    // The codecs' curves do not depend on the run: the first that has one gives it.
    const known = new Set(anchors.map((point) => point.series));
    anchors.push(...record.points.filter((point) => !isOwn(point) && !known.has(point.series)));
  }
  const codes = [...new Set(own.map((point) => point.series))];
  const names = [...new Set(anchors.map((point) => point.series))];
  const comparisons = codes.flatMap((code) =>
    names.map((anchor) => compareOne(own, anchors, code, anchor, interpolation)),
  );
  const { frames, height, width } = first.record;
  return { runs: runs.map(({ run }) => run), own, anchors, comparisons, frames, height, width };
}

const isOwn = (point: RatePicture): boolean => point.series.startsWith("tokens");

function compareOne(
  own: readonly OwnPoint[],
  anchors: readonly RatePicture[],
  code: string,
  anchor: string,
  interpolation: Interpolation,
): RateComparison {
  const theirs = curveOf(anchors, anchor);
  const points = own.filter((point) => point.series === code);
  const atOwnPsnr = points.map(({ run, psnr, bpp }) => {
    const equal = theirs.length < 2 ? undefined : rateAt(theirs, psnr);
    return { run, percent: equal === undefined ? undefined : (bpp / equal - 1) * 100 };
  });
  try {
    const delta = bjontegaard(theirs, curveOf(own, code), interpolation);
    return { code, anchor, bdRate: delta.ratePercent, atOwnPsnr };
  } catch (error) {
    if (!(error instanceof UserError)) {
      throw error;
    }
    return { code, anchor, bdRate: undefined, reason: error.message, atOwnPsnr };
  }
}

/** One self-contained page: the chart and its numbers. */
export async function ratesPage(merged: MergedRates): Promise<string> {
  const { own, anchors, comparisons, frames, height, width } = merged;
  const svg = await rateDistortionSvg(
    [...own, ...anchors].map((point) => ({
      series: point.series,
      rate: point.bpp,
      quality: point.psnr,
      own: isOwn(point),
    })),
    "rates",
    { width: 640, height: 360 },
  );
  const points = own.map(
    (p) =>
      html`<tr><td>${p.run}</td><td>${p.series}</td><td>${formatNumber(p.bpp)}</td><td>${formatNumber(p.psnr)}</td><td>${p.ssim === undefined ? "" : formatNumber(p.ssim)}</td></tr>`,
  );
  const deltas = comparisons.map(
    (c) =>
      html`<tr><td>${c.code}</td><td>${c.anchor}</td><td>${c.bdRate === undefined ? `– (${c.reason ?? ""})` : `${c.bdRate.toFixed(1)} %`}</td></tr>`,
  );
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rate-distortion of ${merged.runs.length} runs</title>
<link rel="icon" href="data:,">
<style>${raw(css)}</style>
</head>
<body>
<main>
<header><h1>Rate-distortion of ${merged.runs.length} runs</h1><p class="small soft">${frames} frames of ${height}×${width}. PSNR in RGB, mean over frames; sizes of real files and of raw codec streams.</p></header>
<figure class="card chart">${raw(svg)}</figure>
<section><h2>Tokens</h2><div class="scroll"><table><thead><tr><th>run</th><th>code</th><th>bits a pixel</th><th>PSNR</th><th>SSIM</th></tr></thead><tbody>${points}</tbody></table></div></section>
<section><h2>Bjøntegaard deltas of rate</h2><p class="small soft">Percent of rate that the runs' curve needs more than the codec's at equal PSNR; negative is better.</p><div class="scroll"><table><thead><tr><th>code</th><th>against</th><th>BD-rate</th></tr></thead><tbody>${deltas}</tbody></table></div></section>
</main>
</body>
</html>
`.text;
}

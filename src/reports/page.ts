/** @file The report page of a run: one self-contained HTML document, nothing fetched, no fonts, no CDN. */

import { formatNumber } from "./format.ts";
import { type Html, html, raw } from "./html.ts";
import { groupMedia, mediaHtml } from "./media.ts";
import { type Curve, curveSvg, curvesOf, usageSvg } from "./plots.ts";
import { rateDistortionHtml } from "./rate-distortion.ts";
import type { JsonObject, RunRecord } from "./run-folder.ts";
import { flatten, scoresHtml, tilesHtml } from "./scores.ts";
import { css, script } from "./style.ts";
import type { TokenUsage } from "./tokens.ts";

/** Size of a chart's plotting area in px. */
const chart = { width: 300, height: 150 } as const;

/** The document. */
export async function runPage(run: RunRecord, usage: TokenUsage | undefined): Promise<string> {
  const curves = curvesOf(run.metrics);
  const parts = [
    header(run),
    run.scores.length > 0 && tilesHtml(run.scores),
    run.scores.length > 0 &&
      html`<section><h2>Scores</h2>${
        run.partial &&
        html`<p class="notice">The evaluation has not ended: these are the suites done so far.</p>`
      }${scoresHtml(run.scores)}<p class="small soft">Values are comparable only when their protocols' hashes are equal. Open a protocol to read every choice behind its number.</p></section>`,
    await rateDistortionHtml(run.samples),
    run.samples.length > 0 &&
      html`<section><h2>Pictures and clips</h2>${mediaHtml(groupMedia(run.samples))}</section>`,
    curves.length > 0 && (await curvesHtml(curves)),
    usage && (await usageHtml(usage)),
    run.configYaml !== "" &&
      html`<section><h2>Configuration</h2><details class="card block"><summary>Resolved config</summary><pre>${run.configYaml}</pre></details></section>`,
    Object.keys(run.provenance).length > 0 && provenanceHtml(run.provenance),
  ];
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${run.experiment} · ${run.id}</title>
<link rel="icon" href="data:,">
<style>${raw(css)}</style>
</head>
<body>
<main>
${parts}
<footer>Written by Tessera from the files of this run's folder. Nothing on this page is loaded from elsewhere.</footer>
</main>
<script>${raw(script)}</script>
</body>
</html>
`;
  return page.text;
}

function header(run: RunRecord): Html {
  const { status, provenance, config } = run;
  const state = text(status["state"]) || "unknown";
  const facts: [string, string][] = [
    ["run", run.id],
    ["seed", text(config["seed"])],
    ["tokenizer", text(at(config, "tokenizer", "type"))],
    ["objective", text(at(config, "objective", "type"))],
    ["data", dataText(at(config, "dataset"))],
    ["device", text(at(config, "device", "type"))],
    ["commit", commitText(provenance)],
  ];
  const error = text(status["error"] ?? status["message"] ?? status["reason"]);
  return html`<header><div class="title"><h1>${run.experiment}</h1><span class="pill ${state}">${state}</span></div>
<ul class="facts">${facts.flatMap(([name, value]) =>
    value === "" ? [] : [html`<li><b>${name}</b><span class="mono">${value}</span></li>`],
  )}</ul>${
    state === "failed" &&
    html`<div class="notice failed"><p>The run stopped${stageText(status)}.</p>${error && html`<pre>${error}</pre>`}</div>`
  }${
    (state === "running" || state === "interrupted") &&
    html`<p class="notice">The run was ${state === "running" ? "under way" : "interrupted"}${stageText(status)} when this page was written. The same command resumes it.</p>`
  }</header>`;
}

function stageText(status: JsonObject): string {
  const stage = text(status["stage"]);
  const step = text(status["step"]);
  return stage && ` in stage ${stage}${step && ` at step ${step}`}`;
}

function dataText(dataset: unknown): string {
  const [type, frames, height, width] = ["type", "frames", "height", "width"].map((key) =>
    text(at(dataset, key)),
  );
  return type ? `${type} ${frames}×${height}×${width}` : "";
}

function commitText(provenance: JsonObject): string {
  const commit = text(at(provenance, "git", "commit") ?? provenance["commit"]);
  const dirty = at(provenance, "git", "dirty") ?? provenance["dirty"];
  return commit && `${commit.slice(0, 10)}${dirty ? " + changes" : ""}`;
}

/** A value inside nested objects, undefined where the path ends. */
function at(value: unknown, ...path: string[]): unknown {
  return path.reduce<unknown>(
    (node, key) =>
      typeof node === "object" && node !== null ? (node as JsonObject)[key] : undefined,
    value,
  );
}

/** Strings and numbers as text, everything else as "". */
function text(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}

async function curvesHtml(curves: readonly Curve[]): Promise<Html> {
  const stages = [...new Set(curves.map((curve) => curve.stage))];
  const sections: Html[] = [];
  for (const stage of stages) {
    // A curve of one point says nothing that the score table does not say better.
    const own = curves.filter(
      (curve) =>
        curve.stage === stage &&
        new Set(curve.points.map((point) => point.step)).size > 1 &&
        curve.points.some((point) => Number.isFinite(point.value)),
    );
    const figures: Html[] = [];
    for (const [index, curve] of own.sort(lossFirst).entries()) {
      const id = `${stage.replace(/\W+/g, "-")}-${index}`;
      const svg = await curveSvg(curve, id, chart);
      figures.push(
        html`<figure class="card chart"><figcaption><span>${curve.metric}</span><span>${lastValue(curve)}</span></figcaption>${raw(svg)}</figure>`,
      );
    }
    if (figures.length > 0) {
      sections.push(html`<h3>${stage}</h3><div class="charts">${figures}</div>`);
    }
  }
  return html`<section><h2>Curves</h2><p class="small soft"><span class="key" style="border-color:var(--train);margin-left:0"></span>training<span class="key" style="border-color:var(--validation)"></span>validation. Beside each name its last value, of validation where there is one.</p>${sections}</section>`;
}

function lossFirst(a: Curve, b: Curve): number {
  return Number(b.metric === "loss") - Number(a.metric === "loss");
}

function lastValue(curve: Curve): string {
  const last =
    curve.points.findLast((point) => point.split === "validation") ?? curve.points.at(-1)!;
  return formatNumber(last.value);
}

async function usageHtml(usage: TokenUsage): Promise<Html | false> {
  // Eight sub-vocabularies are enough to see a dead one; wide factorisations would fill the page.
  const factors = usage.counts.slice(0, 8).filter((counts) => counts.some((count) => count > 0));
  const figures: Html[] = [];
  for (const [index, counts] of factors.entries()) {
    const used = counts.filter((count) => count > 0).length;
    const name = usage.counts.length > 1 ? `sub-vocabulary ${index + 1}` : "vocabulary";
    figures.push(
      html`<figure class="card chart"><figcaption><span>${name}</span><span>${used} of ${counts.length} used</span></figcaption>${raw(await usageSvg(counts, `usage-${index}`, chart))}</figure>`,
    );
  }
  return (
    figures.length > 0 &&
    html`<section><h2>Token use</h2><p class="small soft">Share of each code among ${usage.tokens} tokens of the ${usage.split} split; the dashed line is uniform use.</p><div class="charts">${figures}</div></section>`
  );
}

function provenanceHtml(provenance: JsonObject): Html {
  const rows = flatten(provenance);
  return html`<section><h2>Provenance</h2><details class="card block"><summary>What made this run</summary><dl class="choices">${rows.map(
    ([name, value]) => html`<dt>${name}</dt><dd class="mono">${value}</dd>`,
  )}</dl></details></section>`;
}

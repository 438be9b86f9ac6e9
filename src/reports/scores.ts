/** @file The score table: grouped by suite, each value beside its unit, count and full protocol. */

import type { Protocol, Score } from "../eval/suite.ts";
import { formatNumber } from "./format.ts";
import { type Html, html } from "./html.ts";

/** The suite of a score: what stands before the "/" in its name. */
export function suiteOf(score: Score): string {
  return score.name.split("/")[0]!;
}

/** A score's name without its suite. */
function shortName(score: Score): string {
  return score.name.includes("/") ? score.name.slice(score.name.indexOf("/") + 1) : score.name;
}

/** The first score of each suite that has a better side: what a reader wants to see first. */
export function headlineScores(scores: readonly Score[]): Score[] {
  return [...new Set(scores.map(suiteOf))].flatMap((suite) => {
    const own = scores.filter((score) => suiteOf(score) === suite);
    return own.find((score) => score.better !== "none") ?? own[0]!;
  });
}

/** Tiles with the headline values. */
export function tilesHtml(scores: readonly Score[]): Html {
  return html`<div class="tiles">${headlineScores(scores).map(
    (score) =>
      html`<div class="tile"><div class="value">${formatNumber(score.value)}${
        score.unit && html`<span class="unit">${score.unit}</span>`
      }</div><div class="name">${score.name}</div></div>`,
  )}</div>`;
}

const arrows = { higher: "↑", lower: "↓", none: "" } as const;

/** The table. Columns sort within their suite; a protocol opens to every choice behind the number. */
export function scoresHtml(scores: readonly Score[]): Html {
  const heads = ["score", "value", "unit", "better", "n", "protocol"].map(
    (title) =>
      html`<th scope="col"${
        title === "value" || title === "n" ? html` class="number"` : ""
      }><button type="button">${title}</button></th>`,
  );
  const bodies = [...new Set(scores.map(suiteOf))].map(
    (suite) =>
      html`<tbody><tr class="group"><th colspan="6" scope="rowgroup">${suite}</th></tr>${scores
        .filter((score) => suiteOf(score) === suite)
        .map(rowHtml)}</tbody>`,
  );
  return html`<div class="card scroll"><table class="sortable"><thead><tr>${heads}</tr></thead>${bodies}</table></div>`;
}

function rowHtml(score: Score): Html {
  return html`<tr><td>${shortName(score)}</td><td class="number" data-value="${score.value}">${formatNumber(score.value)}${
    score.std !== undefined && html`<span class="soft"> ± ${formatNumber(score.std)}</span>`
  }</td><td>${score.unit}</td><td data-value="${score.better}" aria-label="${score.better}">${arrows[score.better]}</td><td class="number" data-value="${score.n}">${score.n}</td><td data-value="${score.protocol.name}"><details><summary>${score.protocol.name} <code>${score.protocolHash}</code></summary>${choicesHtml(score.protocol)}</details></td></tr>`;
}

/** A protocol's choices, nested ones as dotted names. */
function choicesHtml(protocol: Protocol): Html {
  return html`<dl class="choices">${flatten(protocol).map(
    ([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`,
  )}</dl>`;
}

/** Plain JSON as dotted names and printed values, in the order of the object. */
export function flatten(value: unknown, prefix = ""): [name: string, value: string][] {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return Object.entries(value).flatMap(([key, inner]) =>
      flatten(inner, prefix ? `${prefix}.${key}` : key),
    );
  }
  return [[prefix, typeof value === "string" ? value : JSON.stringify(value)]];
}

/**
 * @file The page of a sweep, or of any runs: one self-contained HTML document. Every number leads to
 * the protocol it was measured under (its column's heading) and to the runs behind it.
 */

import { existsSync } from "node:fs";
import { join, relative } from "node:path";
import type { Score } from "../../eval/suite.ts";
import type { Provenance } from "../../trainers/provenance.ts";
import { formatNumber } from "../format.ts";
import { type Html, html, raw } from "../html.ts";
import { mediaFigures } from "../media.ts";
import { readJson } from "../run-folder.ts";
import { flatten } from "../scores.ts";
import { css, filterScript, script, tableCss } from "../style.ts";
import { bandChart, type Chart, scoreChart, tradeoffCharts } from "./charts.ts";
import type { Comparison } from "./comparison.ts";
import { cellText, columnTitle, differenceText, MISSING } from "./tables.ts";

export interface PageOptions {
  readonly title: string;
  /** Where the page will lie: links to runs are relative to it. */
  readonly folder: string;
  /** Facts for the head of the page. */
  readonly facts: readonly (readonly [name: string, value: string])[];
}

/** Scores that get a picture: at most two a suite, those with a better side first. */
function pictured(comparison: Comparison): number[] {
  const bySuite = new Map<string, number[]>();
  for (const [c, { name, better }] of comparison.columns.entries()) {
    const suite = name.split("/")[0]!;
    const own = bySuite.get(suite) ?? [];
    const told = comparison.cells.filter((row) => row[c]!.center !== undefined).length;
    if (better !== "none" && own.length < 2 && told > 1) {
      own.push(c);
    }
    bySuite.set(suite, own);
  }
  return [...bySuite.values()].flat().slice(0, 12);
}

/** The document. */
export async function comparisonPage(
  comparison: Comparison,
  options: PageOptions,
): Promise<string> {
  const charts: Chart[] = [];
  if (comparison.groups.length > 1) {
    for (const [i, c] of pictured(comparison).entries()) {
      charts.push(await scoreChart(comparison, c, `score-${i}`));
    }
  }
  const fronts = await tradeoffCharts(comparison);
  const bands = (
    await Promise.all([
      bandChart(comparison, "tokenizer", "loss", "band-0"),
      bandChart(comparison, "transformer", "loss", "band-1"),
    ])
  ).filter((chart) => chart !== undefined);
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${options.title}</title>
<link rel="icon" href="data:,">
<style>${raw(css)}${raw(tableCss)}</style>
</head>
<body>
<main>
<header><div class="title"><h1>${options.title}</h1></div>
<ul class="facts">${options.facts.map(([name, value]) => html`<li><b>${name}</b><span class="mono">${value}</span></li>`)}</ul>
${comparison.notes.map((note) => html`<p class="notice">${note}</p>`)}</header>
${configurationsHtml(comparison)}
${differencesHtml(comparison)}
${chartsHtml("Scores", charts)}
${chartsHtml("Trade-offs", fronts)}
${chartsHtml("Curves", bands)}
${mediaHtml(comparison)}
${runsHtml(comparison, options.folder)}
${changesHtml(comparison)}
${protocolsHtml(comparison)}
${provenanceHtml(comparison)}
<footer>Written by Tessera from the files of ${comparison.groups.flatMap(({ runs }) => runs).length} runs. Nothing on this page is loaded from elsewhere.</footer>
</main>
<script>${raw(script)}${raw(filterScript)}</script>
</body>
</html>
`;
  return page.text;
}

const head = (comparison: Comparison): Html[] => [
  ...[...comparison.axes, "seeds"].map(
    (name) => html`<th scope="col"><button type="button">${name}</button></th>`,
  ),
  ...comparison.columns.map(
    (column) =>
      html`<th scope="col" class="number"><button type="button">${columnTitle(column)}</button> <a href="#protocol-${column.protocolHash}" title="${column.protocol} ${column.protocolHash}" aria-label="protocol of ${column.key}">§</a></th>`,
  ),
];

const filter = (table: string): Html =>
  html`<div class="tools"><input type="search" data-filter="${table}" placeholder="filter: words that a row must hold" aria-label="filter rows"></div>`;

function configurationsHtml(comparison: Comparison): Html {
  const { groups, cells, columns, axes } = comparison;
  const best = columns.map(({ better }, c) => {
    const values = cells.map((row) => row[c]!.center).filter((x) => x !== undefined);
    return better === "none" || values.length < 2
      ? undefined
      : better === "higher"
        ? Math.max(...values)
        : Math.min(...values);
  });
  const rows = groups.map(
    (group, g) =>
      html`<tr id="configuration-${group.configuration}">${axes.map(
        (axis) =>
          html`<td data-value="${group.labels[axis] ?? ""}">${group.labels[axis] ?? MISSING}</td>`,
      )}<td class="number">${group.runs.length}</td>${columns.map((_, c) => {
        const cell = cells[g]![c]!;
        const { center, interval } = cell;
        if (center === undefined) {
          return html`<td class="number" data-value="">${MISSING}</td>`;
        }
        return html`<td class="number${best[c] === center && " best"}" data-value="${center}"><a href="#runs-${group.configuration}" title="${cellText(cell)}; n = ${cell.values.size}: the runs behind it">${formatNumber(center)}</a>${
          interval &&
          html` <span class="interval">[${formatNumber(interval.low)}, ${formatNumber(interval.high)}]</span>`
        }${cell.values.size < cell.expected && html` <span class="interval">(${cell.values.size}/${cell.expected})</span>`}</td>`;
      })}</tr>`,
  );
  const { center, level } = comparison.options;
  return html`<section><h2>Configurations</h2><p class="small soft">The ${center} over seeds with bootstrap intervals of ${formatNumber(100 * level)} %. A number leads to its runs, § to its protocol; headings sort.</p>${filter("configurations")}<div class="card scroll"><table class="sortable" id="configurations"><thead><tr>${head(comparison)}</tr></thead><tbody>${rows}</tbody></table></div></section>`;
}

function differencesHtml(comparison: Comparison): Html | false {
  const { groups, cells, columns, axes, baseline, options } = comparison;
  if (baseline === undefined) {
    return false;
  }
  const rows = groups.flatMap((group, g) =>
    g === baseline
      ? []
      : [
          html`<tr>${axes.map((axis) => html`<td>${group.labels[axis] ?? MISSING}</td>`)}<td class="number">${group.runs.length}</td>${columns.map(
            (_, c) => {
              const { difference } = cells[g]![c]!;
              return html`<td class="number" data-value="${difference?.center ?? ""}">${differenceText(difference)}</td>`;
            },
          )}</tr>`,
        ],
  );
  const name = axes
    .map((axis) => `${axis} ${groups[baseline]!.labels[axis] ?? MISSING}`)
    .join(", ");
  return html`<section><h2>Differences to the baseline</h2><p class="small soft">To ${name}, on equal seeds. P: the probability that a run is better than one of the baseline. p: ${options.test} test, two-sided, ${options.correction === "none" ? "not corrected" : `corrected over the table (${options.correction})`}.</p><div class="card scroll"><table class="sortable"><thead><tr>${head(comparison)}</tr></thead><tbody>${rows}</tbody></table></div></section>`;
}

function chartsHtml(title: string, charts: readonly Chart[]): Html | false {
  return (
    charts.length > 0 &&
    html`<section><h2>${title}</h2><div class="charts">${charts.map(
      (chart) =>
        html`<figure class="card chart"><figcaption><span>${chart.title}</span></figcaption>${raw(chart.svg)}</figure>`,
    )}</div></section>`
  );
}

/** The first sample of each kind of each configuration, side by side. */
function mediaHtml({ groups, axes }: Comparison): Html | false {
  const shown = groups.slice(0, 24).flatMap(({ runs, labels }) => {
    const run = runs.find(({ state }) => state === "finished");
    const name = axes.map((axis) => labels[axis] ?? MISSING).join(" · ");
    return run ? [{ dir: run.dir, name: `${name || run.experiment}, seed ${run.seed}` }] : [];
  });
  const kinds = [
    { title: "Originals and their reconstructions", start: "reconstruction-0" },
    { title: "Generated", start: "generated-0" },
  ];
  const sections = kinds.map(({ title, start }) => {
    const figures = mediaFigures(shown, start, 7 * 2 ** 20);
    return figures.length > 0 ? html`<h3>${title}</h3><div class="media">${figures}</div>` : html``;
  });
  return (
    sections.some(({ text }) => text !== "") &&
    html`<section><h2>Side by side</h2>${sections}</section>`
  );
}

function runsHtml(comparison: Comparison, folder: string): Html {
  const { groups, columns, axes } = comparison;
  const rows = groups.flatMap((group) =>
    group.runs.map((run, r) => {
      const page = join(run.dir, "report.html");
      const link = existsSync(page) ? relative(folder, page).split("\\").join("/") : undefined;
      const value = (name: string, hash: string): number | undefined =>
        run.scores.find((score) => score.name === name && score.protocolHash === hash)?.value;
      return html`<tr${r === 0 && html` id="runs-${group.configuration}"`}><td>${
        link ? html`<a href="${link}">${run.id}</a>` : run.id
      }</td><td><span class="${run.state}">${run.state}</span></td>${axes.map(
        (axis) => html`<td>${group.labels[axis] ?? MISSING}</td>`,
      )}<td class="number">${run.seed}</td>${columns.map(({ name, protocolHash }) => {
        const x = value(name, protocolHash);
        return html`<td class="number" data-value="${x ?? ""}">${x === undefined ? MISSING : link ? html`<a href="${link}">${formatNumber(x)}</a>` : formatNumber(x)}</td>`;
      })}</tr>`;
    }),
  );
  const names = ["run", "state", ...axes, "seed"];
  return html`<section><h2>Runs</h2><p class="small soft">A run's name leads to its own page, where the run's folder lies beside this one.</p>${filter("runs")}<div class="card scroll"><table class="sortable" id="runs"><thead><tr>${names.map((name) => html`<th scope="col"><button type="button">${name}</button></th>`)}${columns.map((column) => html`<th scope="col" class="number"><button type="button">${columnTitle(column)}</button></th>`)}</tr></thead><tbody>${rows}</tbody></table></div></section>`;
}

/** The keys in which configurations differ, with their values. */
function changesHtml({ groups }: Comparison): Html | false {
  const flat = groups.map(({ runs }) => new Map(flatten(runs[0]!.config)));
  const keys = [...new Set(flat.flatMap((map) => [...map.keys()]))].filter(
    (key) => key !== "seed" && new Set(flat.map((map) => map.get(key))).size > 1,
  );
  if (keys.length === 0 || groups.length > 60) {
    return false;
  }
  return html`<section><h2>What the configurations differ in</h2><div class="card scroll"><table class="sortable"><thead><tr><th scope="col"><button type="button">configuration</button></th>${keys.map((key) => html`<th scope="col"><button type="button">${key}</button></th>`)}</tr></thead><tbody>${groups.map(
    ({ configuration }, g) =>
      html`<tr><td><a href="#configuration-${configuration}"><code>${configuration}</code></a></td>${keys.map((key) => html`<td class="mono">${flat[g]!.get(key) ?? MISSING}</td>`)}</tr>`,
  )}</tbody></table></div></section>`;
}

function protocolsHtml({ groups }: Comparison): Html {
  const found = new Map<string, Score>();
  for (const score of groups.flatMap(({ runs }) => runs.flatMap(({ scores }) => scores))) {
    if (!found.has(score.protocolHash)) {
      found.set(score.protocolHash, score);
    }
  }
  return html`<section><h2>Protocols</h2>${[...found.values()].map(
    ({ protocol, protocolHash }) =>
      html`<details class="card block" id="protocol-${protocolHash}"><summary>${protocol.name} <code>${protocolHash}</code></summary><dl class="choices">${flatten(protocol).map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></details>`,
  )}</section>`;
}

/** Commits, machines and devices, with how many runs each has: one line where all agree. */
function provenanceHtml({ groups }: Comparison): Html | false {
  const counts = new Map<string, Map<string, number>>();
  for (const { dir } of groups.flatMap(({ runs }) => runs)) {
    const path = join(dir, "provenance.json");
    if (!existsSync(path)) {
      continue;
    }
    const { git, host, cpu, device, node, lockfile_sha256, datasets } = readJson(
      path,
    ) as Partial<Provenance>;
    const changes = git?.dirty ? ` with changes ${git.diff_sha256?.slice(0, 12) ?? ""}` : "";
    const facts: { readonly [name: string]: string | undefined } = {
      commit: git && `${git.commit}${changes}`,
      machine: host && `${host}: ${cpu}`,
      device,
      node,
      lockfile: lockfile_sha256,
      data: datasets && JSON.stringify(datasets),
    };
    for (const [name, value] of Object.entries(facts)) {
      if (value !== undefined && value !== "") {
        const own = counts.get(name) ?? new Map<string, number>();
        own.set(value, (own.get(value) ?? 0) + 1);
        counts.set(name, own);
      }
    }
  }
  return (
    counts.size > 0 &&
    html`<section><h2>Provenance</h2><dl class="choices card block">${[...counts].map(
      ([name, values]) =>
        html`<dt>${name}</dt><dd class="mono">${[...values].map(([value, n]) => html`<div>${value}${values.size > 1 && ` (${n} runs)`}</div>`)}</dd>`,
    )}</dl></section>`
  );
}

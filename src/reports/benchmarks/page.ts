/**
 * @file The page of published results and claims: one self-contained HTML document. Every published
 * number stands beside ours with its protocol, every claim with its tests, what each seed gave, and where
 * the trials are.
 */

import { relative } from "node:path";
import type { Protocol } from "../../eval/suite.ts";
import { formatNumber } from "../format.ts";
import { type Html, html, raw } from "../html.ts";
import { flatten } from "../scores.ts";
import { css, filterScript, script, tableCss } from "../style.ts";
import type { TestResult } from "./judge.ts";
import type { Benchmark, Claim, Entry } from "./schema.ts";
import { type ClaimRuns, judgeClaim, judgeEntry, type Verdict } from "./verdict.ts";

interface JudgedClaim {
  readonly id: string;
  readonly claim: Claim;
  readonly verdict: Verdict;
  readonly runs?: ClaimRuns | undefined;
}

const look: { readonly [verdict in Verdict["verdict"]]: string } = {
  reproduced: "finished",
  holds: "finished",
  "not reproduced": "failed",
  fails: "failed",
  undecided: "running",
  "not run": "soft",
};

const pill = (verdict: Verdict["verdict"]): Html =>
  html`<span class="pill ${look[verdict]}">${verdict}</span>`;

/**
 * The document.
 * @param runsOf the trials that a claim is judged on
 * @param folder where the page will lie: links to evidence are relative to it
 */
export function benchmarkPage(
  benchmarks: ReadonlyMap<string, Benchmark>,
  runsOf: (claim: Claim) => ClaimRuns | undefined,
  folder: string,
): string {
  const parts = [...benchmarks].map(([name, benchmark]) => ({
    name,
    benchmark,
    entries: Object.entries(benchmark.entries).map(([id, entry]) => ({
      id,
      entry,
      verdict: judgeEntry(entry),
    })),
    claims: Object.entries(benchmark.claims).map(([id, claim]): JudgedClaim => {
      const runs = runsOf(claim);
      return { id, claim, verdict: judgeClaim(claim, runs), runs };
    }),
  }));
  const verdicts = parts.flatMap(({ entries, claims }) =>
    [...entries, ...claims].map(({ verdict }) => verdict.verdict),
  );
  const title = benchmarks.size === 1 ? [...benchmarks.keys()][0]! : "Published results";
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<link rel="icon" href="data:,">
<style>${raw(css)}${raw(tableCss)}${raw(ownCss)}</style>
</head>
<body>
<main>
<header><div class="title"><h1>${title}</h1></div>
<ul class="facts">${[...new Set(verdicts)].map(
    (verdict) =>
      html`<li><b>${verdict}</b><span class="mono">${verdicts.filter((v) => v === verdict).length}</span></li>`,
  )}</ul>
<p class="small soft">A number counts only under the protocol that its entry names. A claim's test holds when the 95 % bootstrap interval over seeds lies on the right side of its margin, fails when it lies wholly on the other, and is undecided otherwise. Verdicts are of our setting, not of the papers'.</p></header>
${parts.map(
  ({ name, benchmark, entries, claims }) =>
    html`<section id="${name}"><h2>${name}</h2><p>${benchmark.paper}</p>${claims.length > 0 && html`<h3>Claims</h3>${claims.map((one) => claimHtml(one, folder))}`}${
      entries.length > 0 && html`<h3>Numbers</h3>${entriesHtml(name, entries)}`
    }</section>`,
)}
${protocolsHtml(parts.flatMap(({ claims }) => claims))}
<footer>Written by Tessera from configs/benchmarks and the trials that it names. Nothing on this page is loaded from elsewhere.</footer>
</main>
<script>${raw(script)}${raw(filterScript)}</script>
</body>
</html>
`;
  return page.text;
}

const ownCss = `
.claim { padding: 0.9rem 1.1rem; margin: 0.8rem 0; }
.claim h4 { margin: 0 0 0.3rem; font-size: 1rem; overflow-wrap: anywhere; }
.test { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; align-items: center; border-top: 1px solid var(--line); padding: 0.45rem 0; margin-top: 0.45rem; }
.test svg { flex: none; max-width: 100%; } .test p { margin: 0; flex: 1 1 18rem; overflow-wrap: anywhere; }
`;

function claimHtml({ id, claim, verdict, runs }: JudgedClaim, folder: string): Html {
  const link = runs && relative(folder, runs.from).split("\\").join("/");
  const tests = (verdict.tests ?? []).map(
    (result, i) =>
      html`<div class="test">${raw(effectsSvg(result))}<p class="small">${result.text}: <b>${result.verdict}</b>${protocolsOf(
        runs,
        claim.tests[i]!.score,
      ).map(
        ([hash]) =>
          html` <a href="#protocol-${hash}" aria-label="protocol of ${claim.tests[i]!.score}">§</a>`,
      )}</p></div>`,
  );
  return html`<article class="card claim" id="claim-${id}"><h4>${pill(verdict.verdict)} ${claim.statement}</h4><p class="small soft">${claim.source}. Ours: ${claim.scale}. ${
    link === undefined
      ? html`Not run yet: <code>${verdict.missing?.replace(/^run it: /, "")}</code>`
      : html`Judged on <a href="${link}">${runs!.from}</a>.`
  }${link !== undefined && verdict.missing && html` ${verdict.missing}.`}</p>${tests}</article>`;
}

/** A score's protocols in a claim's trials, by their hashes. */
function protocolsOf(runs: ClaimRuns | undefined, score: string): [string, Protocol][] {
  const found = new Map<string, Protocol>();
  for (const one of runs?.runs.flatMap(({ scores }) => scores) ?? []) {
    if (one.name === score) {
      found.set(one.protocolHash, one.protocol);
    }
  }
  return [...found];
}

/** What each seed gave (dots), the interval (bar), and where the test holds (shaded). */
function effectsSvg({ effects, interval, holds }: TestResult): string {
  if (effects.length === 0 || holds === undefined) {
    return "";
  }
  const [width, height, pad] = [210, 30, 8];
  const ends = [...effects, interval?.low, interval?.high, holds.from, holds.to, 0].filter(
    (x): x is number => x !== undefined && Number.isFinite(x),
  );
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const x = (value: number): string =>
    (pad + ((value - low) / (high - low || 1)) * (width - 2 * pad)).toFixed(1);
  const from = holds.from === undefined ? 0 : Number(x(holds.from));
  const to = holds.to === undefined ? width : Number(x(holds.to));
  const label = `effects of ${effects.length} seeds: ${effects.map(formatNumber).join(", ")}`;
  return `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}"><rect x="${from}" y="2" width="${Math.max(0, to - from)}" height="${height - 4}" rx="3" fill="var(--good)" opacity="0.13"/><line x1="${x(0)}" x2="${x(0)}" y1="2" y2="${height - 2}" stroke="var(--ink-soft)" stroke-dasharray="2 2"/>${
    interval
      ? `<line x1="${x(interval.low)}" x2="${x(interval.high)}" y1="${height / 2}" y2="${height / 2}" stroke="var(--train)" stroke-width="5" stroke-linecap="round"/>`
      : ""
  }${effects.map((value) => `<circle cx="${x(value)}" cy="${height / 2}" r="3.2" fill="var(--validation)"/>`).join("")}</svg>`;
}

function entriesHtml(
  name: string,
  entries: readonly { id: string; entry: Entry; verdict: Verdict }[],
): Html {
  const heads = ["name", "what", "published", "unit", "ours", "verdict"];
  const rows = entries.map(
    ({ id, entry, verdict }) =>
      html`<tr id="entry-${id}"><td><code>${id}</code></td><td><details><summary>${entry.what}</summary><dl class="choices"><dt>where</dt><dd>${entry.table}</dd><dt>protocol</dt><dd>${entry.protocol}</dd><dt>needs</dt><dd>${entry.needs.join("; ")}</dd><dt>tolerance</dt><dd>± ${formatNumber(entry.tolerance)}</dd></dl></details></td><td class="number" data-value="${entry.published}">${formatNumber(entry.published)}${entry.spread !== undefined && ` ± ${entry.spread}`}</td><td>${entry.unit} ${entry.better === "lower" ? "↓" : "↑"}</td><td class="number" data-value="${verdict.ours[0] ?? ""}">${verdict.ours.join(", ") || "–"}</td><td title="${verdict.missing}">${pill(verdict.verdict)}</td></tr>`,
  );
  return html`<div class="tools"><input type="search" data-filter="numbers-${name}" placeholder="filter: words that a row must hold" aria-label="filter rows"></div><div class="card scroll"><table class="sortable" id="numbers-${name}"><thead><tr>${heads.map(
    (head) =>
      html`<th scope="col"${(head === "published" || head === "ours") && html` class="number"`}><button type="button">${head}</button></th>`,
  )}</tr></thead><tbody>${rows}</tbody></table></div>`;
}

function protocolsHtml(claims: readonly JudgedClaim[]): Html | false {
  const found = new Map(
    claims.flatMap(({ claim, runs }) =>
      claim.tests.flatMap((test) => protocolsOf(runs, test.score)),
    ),
  );
  return (
    found.size > 0 &&
    html`<section><h2>Protocols</h2>${[...found].map(
      ([hash, protocol]) =>
        html`<details class="card block" id="protocol-${hash}"><summary>${protocol.name} <code>${hash}</code></summary><dl class="choices">${flatten(protocol).map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}</dl></details>`,
    )}</section>`
  );
}

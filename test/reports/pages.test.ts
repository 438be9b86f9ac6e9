/** @file The pages of a run and of published results, as files and in a browser of a phone's width. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { benchmarkPage } from "../../src/reports/benchmarks/page.ts";
import { type Claim, readBenchmarks } from "../../src/reports/benchmarks/schema.ts";
import type { ClaimRuns } from "../../src/reports/benchmarks/verdict.ts";
import { writeReport } from "../../src/reports/report.ts";
import { browse, chromium } from "./browser.ts";
import { syntheticRun } from "./synthetic.ts";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "tessera-pages-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const foreign = /(?:src|href)="(?!data:|#)[^"]*(?:https?:)?\/\//;

/** Three seeds of each label that a claim's tests name, the first of them the best. */
function trialsOf(claim: Claim): ClaimRuns {
  const [{ score, of, beats }] = claim.tests as [Claim["tests"][number]];
  const sets = [of, ...(typeof beats === "object" ? [beats] : [])];
  return {
    from: join(root, "studies", `${claim.sweep}.json`),
    runs: sets.flatMap((labels, c) =>
      [0, 1, 2].map((seed) => ({
        dir: "",
        id: `${c}-s${seed}`,
        experiment: "x",
        configuration: String(c),
        seed,
        state: "finished",
        config: {},
        labels,
        scores: [
          {
            name: score,
            value: 10 - 3 * c + seed / 4,
            better: "higher" as const,
            n: 8,
            protocol: { name: "psnr:demo", note: "<i>" },
            protocolHash: "0123456789ab",
          },
        ],
      })),
    ),
  };
}

function benchmarks(): string {
  const all = readBenchmarks();
  const [first] = [...all.values()].flatMap(({ claims }) =>
    Object.values(claims).filter(
      // Two sets of trials under one score.
      ({ tests: [test] }) => typeof test!.beats === "object" && test!.against === undefined,
    ),
  );
  const claim: Claim = {
    ...first!,
    statement: "a <b>bold</b> claim",
    tests: [first!.tests[0]!],
  };
  const path = join(root, "benchmarks.html");
  const made = new Map([
    ...all,
    ["made-up", { paper: "a paper", entries: {}, claims: { x: claim } }],
  ]);
  writeFileSync(
    path,
    benchmarkPage(made, (one) => (one === claim ? trialsOf(claim) : undefined), root),
  );
  return path;
}

describe("the page of published results", () => {
  test("has every number and claim with its verdict, and names nothing elsewhere", () => {
    const page = readFileSync(benchmarks(), "utf8");
    expect(page).not.toMatch(foreign);
    expect(page).not.toContain("<b>bold");
    for (const { entries, claims } of readBenchmarks().values()) {
      for (const id of Object.keys(entries)) {
        expect(page).toContain(`id="entry-${id}"`);
      }
      for (const id of Object.keys(claims)) {
        expect(page).toContain(`id="claim-${id}"`);
      }
    }
    const made = page.slice(page.indexOf('id="claim-x"'));
    expect(made).toMatch(/^id="claim-x"><h4><span class="pill finished">holds/);
    expect(made).toContain('href="studies/');
    expect(made.match(/<circle /g)).toHaveLength(3);
  });

  test.skipIf(chromium === undefined)("filters, sorts and opens protocols on a phone", () => {
    const seen = browse(
      benchmarks(),
      `const table = document.getElementById("numbers-magvit2");
      const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const input = document.querySelector('input[data-filter="numbers-magvit2"]');
      input.value = "imagenet512"; input.dispatchEvent(new Event("input"));
      const left = rows().length;
      const button = [...table.tHead.querySelectorAll("button")].find((b) => b.textContent === "published");
      button.click();
      const sorted = rows().map((row) => Number(row.cells[2].dataset.value));
      window.location.hash = document.querySelector('#claim-x a[href^="#protocol-"]').getAttribute("href");
      await new Promise((done) => setTimeout(done, 50));
      return { left, sorted, open: document.getElementById("protocol-0123456789ab").open };`,
    );
    expect(seen).toMatchObject({ left: 2, open: true, width: 390, wide: false, faults: [] });
    const { sorted } = seen as { sorted: number[] };
    expect([...sorted].sort((a, b) => a - b)).toEqual([1.91, 3.07]);
  });
});

describe("the page of a run", () => {
  test.skipIf(chromium === undefined)("fits a phone, sorts, and shows its pictures", async () => {
    const path = await writeReport(await syntheticRun(root));
    expect(readFileSync(path, "utf8")).not.toMatch(foreign);
    const seen = browse(
      path,
      `const table = document.querySelector("table.sortable");
      const value = [...table.tHead.querySelectorAll("button")].find((b) => b.textContent === "value");
      const values = () => [...table.tBodies].map((body) => [...body.rows].map((row) => row.querySelector("td[data-value]")).filter(Boolean).map((cell) => Number(cell.dataset.value)));
      value.click();
      const once = values(); value.click(); const twice = values();
      const pictures = [...document.images].map((image) => image.naturalWidth > 0);
      return { turned: JSON.stringify(once) !== JSON.stringify(twice), pictures: pictures.length > 0 && pictures.every(Boolean) };`,
    );
    expect(seen).toEqual({ turned: true, pictures: true, width: 390, wide: false, faults: [] });
  });
});

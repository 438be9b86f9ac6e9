/** @file Comparisons of runs made up for the purpose: tables, statistics beside them, formats, the page. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { parquetReadObjects } from "hyparquet";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compare } from "../../src/reports/compare/comparison.ts";
import { csv, latex, markdown, parquet } from "../../src/reports/compare/formats.ts";
import { paretoFront } from "../../src/reports/compare/pareto.ts";
import { findRuns } from "../../src/reports/compare/runs.ts";
import { longRows, runRows, wideTables } from "../../src/reports/compare/tables.ts";
import { writeComparison } from "../../src/reports/report.ts";
import { protocolHash } from "../../src/eval/suite.ts";
import { browse, chromium } from "./browser.ts";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "tessera-compare-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Runs of codebook sizes 4, 6, 8 and two seeds; the last has a missing run and another protocol. */
function runs(): string {
  const dir = join(root, "demo");
  for (const [k, bits] of [4, 6, 8].entries()) {
    for (const seed of [0, 1, 2]) {
      const folder = join(dir, `${String(k).repeat(12)}-s${seed}`);
      mkdirSync(folder, { recursive: true });
      const put = (name: string, value: unknown): void =>
        writeFileSync(join(folder, name), JSON.stringify(value));
      put("config.json", {
        name: "demo",
        seed,
        tokenizer: { type: "magvit2", bits },
        note: "<b>&",
      });
      const ended = !(bits === 8 && seed === 2);
      put("status.json", { state: ended ? "finished" : "failed" });
      const score = (name: string, value: number, better: string, clips = 64) => {
        const protocol = { name: `${name}:p`, clips };
        return {
          name,
          value,
          unit: "dB",
          better,
          protocol,
          protocolHash: protocolHash(protocol),
          n: clips,
        };
      };
      const scores = [
        score("reconstruction/psnr", 20 + bits + seed / 10, "higher"),
        score("rate/nominal_bpp", bits / 10, "lower"),
        // The middle configuration was judged on fewer clips.
        score("frechet/distance", 30 - bits - seed, "lower", bits === 6 ? 32 : 64),
      ];
      if (ended) {
        put("scores.json", { scores });
      }
      const lines = [1, 2, 3].map((step) =>
        JSON.stringify({ stage: "tokenizer", step, split: "validation", loss: bits / step + seed }),
      );
      writeFileSync(join(folder, "metrics.jsonl"), `${lines.join("\n")}\n`);
    }
  }
  return dir;
}

describe("a comparison", () => {
  const made = () => compare(findRuns([runs()]), { baseline: { "tokenizer.bits": "4" } });

  test("groups seeds, names configurations by what they differ in, in numbers of seeds", () => {
    const { groups, axes, cells } = made();
    expect(axes).toEqual(["tokenizer.bits"]);
    expect(groups.map(({ labels, runs: own }) => [labels["tokenizer.bits"], own.length])).toEqual([
      ["4", 3],
      ["6", 3],
      ["8", 3],
    ]);
    expect(cells.map((row) => [row[0]!.values.size, row[0]!.expected])).toEqual([
      [3, 3],
      [3, 3],
      [2, 3],
    ]);
    expect(cells[0]![0]!.center).toBeCloseTo(24.1, 12);
  });

  test("never puts two protocols into one column, and says so", () => {
    const { columns, cells, notes } = made();
    const own = columns.filter(({ name }) => name === "frechet/distance");
    expect(own).toHaveLength(2);
    expect(new Set(own.map(({ key }) => key)).size).toBe(2);
    const at = columns.indexOf(own[0]!);
    expect(cells.map((row) => row[at]!.values.size)).toEqual([3, 0, 2]);
    expect(notes.join(" ")).toMatch(
      /several protocols, which are not comparable.*frechet\/distance/,
    );
    expect(notes.join(" ")).toMatch(/1 of 9 runs have no final scores: 1 failed/);
  });

  test("differences are paired by seed, improvement knows which side is better", () => {
    const { cells, baseline } = made();
    expect(baseline).toBe(0);
    expect(cells[0]![0]!.difference).toBeUndefined();
    const psnr = cells[1]![0]!.difference!;
    expect(psnr).toMatchObject({ pairs: 3, improvement: 1 });
    expect(psnr.center).toBeCloseTo(2, 12);
    expect(psnr.p).toBeCloseTo(0.25, 12); // 2 / 2^3: as small as three pairs can say
    // Four tests in the family have p: psnr and rate of 6 and 8, and frechet of 8.
    expect(psnr.corrected).toBe(1);
    expect(cells[2]![0]!.difference!.pairs).toBe(2);
    expect(cells[1]![1]!.difference!.improvement).toBe(0); // more bits are worse
  });

  test("faults of the request are told", () => {
    expect(() => compare(findRuns([root]))).toThrow(/holds no run folders/);
    const found = findRuns([runs()]);
    expect(() => compare(found, { scores: ["lpips"] })).toThrow(/no score is named like lpips/);
    expect(() => compare(found, { baseline: { x: "1" } })).toThrow(/no configuration fits/);
  });

  test("formats", async () => {
    const comparison = made();
    const tables = wideTables(comparison);
    const md = markdown(tables, comparison.notes);
    expect(md).toContain("| tokenizer.bits | seeds | reconstruction/psnr (dB) ↑ |");
    expect(md).toContain("**28.05 [28.00, 28.10] (2/3)**");
    expect(md).toContain("–");
    const tex = latex(tables, comparison.notes);
    expect(tex).toContain("\\begin{tabular}{lrrrrr}");
    expect(tex).toContain("rate/nominal\\_bpp (dB) $\\downarrow$");
    const rows = longRows(comparison);
    expect(rows).toHaveLength(12);
    const text = csv([{ a: 'x,"y"', b: null, c: 1.5 }]);
    expect(text).toBe('a,b,c\r\n"x,""y""",,1.5\r\n');
    const bytes = parquet(runRows(comparison));
    const back = await parquetReadObjects({
      file: bytes.buffer.slice(0, bytes.length) as ArrayBuffer,
    });
    expect(back).toHaveLength(25); // 8 runs × 3 scores, and the one without
    expect(back[0]).toMatchObject({ score: "reconstruction/psnr", value: 24, seed: 0 });
    expect(back.at(-1)).toMatchObject({ score: null, state: "failed" });
  });
});

test("a Pareto front holds what nothing dominates, and only that", () => {
  const points = fc.array(fc.record({ x: fc.nat(6), y: fc.nat(6) }), {
    minLength: 1,
    maxLength: 20,
  });
  fc.assert(
    fc.property(points, (all) => {
      const front = new Set(paretoFront(all, { x: "lower", y: "higher" }));
      const dominates = (a: { x: number; y: number }, b: { x: number; y: number }): boolean =>
        a.x <= b.x && a.y >= b.y && (a.x < b.x || a.y > b.y);
      for (const [i, point] of all.entries()) {
        expect(front.has(i)).toBe(!all.some((other) => dominates(other, point)));
      }
    }),
  );
});

describe("the page", () => {
  test("is one file that names nothing elsewhere, and no text breaks it", async () => {
    const page = readFileSync(await writeComparison([runs()], join(root, "page.html")), "utf8");
    expect(page).not.toMatch(/(?:src|href)="(?!data:|#)[^"]*(?:https?:)?\/\//);
    expect(page).not.toContain("<b>&");
    expect(page).toContain('id="protocol-');
    expect(page.match(/<svg /g)!.length).toBeGreaterThanOrEqual(4);
  });

  test.skipIf(chromium === undefined)(
    "sorts, filters and opens protocols in Chromium, on a phone's width",
    async () => {
      const path = await writeComparison([runs()], join(root, "page.html"));
      const seen = browse(
        path,
        `const rows = (id) => [...document.getElementById(id).tBodies[0].rows];
        const psnr = [...document.querySelectorAll("#configurations thead button")].find((b) => b.textContent.startsWith("reconstruction/psnr"));
        psnr.click(); psnr.click();
        const sorted = rows("configurations").map((row) => row.cells[0].textContent);
        const input = document.querySelector('input[data-filter="runs"]');
        input.value = "failed"; input.dispatchEvent(new Event("input"));
        const left = rows("runs").filter((row) => !row.hidden).length;
        const details = document.querySelector('details[id^="protocol-"]');
        window.location.hash = document.querySelector('a[href="#' + details.id + '"]').getAttribute("href");
        await new Promise((done) => setTimeout(done, 50));
        return { sorted, left, open: details.open };`,
      );
      expect(seen).toEqual({
        sorted: ["8", "6", "4"],
        left: 1,
        open: true,
        width: 390,
        wide: false,
        faults: [],
      });
    },
  );
});

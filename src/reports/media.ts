/** @file Pictures and clips of a run, inline in its page. */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { extname, join } from "node:path";
import { formatBytes } from "./format.ts";
import { type Html, html } from "./html.ts";
import type { SampleFile } from "./run-folder.ts";

/** What browsers show without help; anything else (FFV1 in .mkv) is listed by name. */
const shown: { readonly [extension: string]: string } = {
  ".mp4": "video/mp4",
  ".webm": "video/webm",
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".gif": "image/gif",
  ".webp": "image/webp",
};

/** All media of a page together: a report should open on a phone and go through mail. */
const pageBudget = 16 * 2 ** 20;

/** One heading with its files. */
export interface MediaGroup {
  readonly title: string;
  readonly files: readonly SampleFile[];
}

/**
 * Samples by what they show: reconstructions, generated clips, then one group for each folder (an
 * evaluation's pictures), then the rest.
 */
export function groupMedia(samples: readonly SampleFile[]): MediaGroup[] {
  const titleOf = ({ path }: SampleFile): string => {
    const slash = path.indexOf("/");
    if (slash > 0) {
      return `From ${path.slice(0, slash)}`;
    }
    if (path.startsWith("reconstruction")) {
      return "Originals and their reconstructions";
    }
    return path.startsWith("generated") ? "Generated" : "Other samples";
  };
  const order = ["Originals", "Generated", "From", "Other"];
  const rank = (title: string): number => order.findIndex((start) => title.startsWith(start));
  const titles = [...new Set(samples.map(titleOf))].sort((a, b) => rank(a) - rank(b));
  return titles.map((title) => ({
    title,
    files: samples.filter((sample) => titleOf(sample) === title),
  }));
}

/** The section's HTML: clips that play by themselves, pictures, and the names of what was left out. */
export function mediaHtml(groups: readonly MediaGroup[], budget = pageBudget): Html {
  let left = budget;
  const omitted: SampleFile[] = [];
  const captions = captionsOf(groups.flatMap(({ files }) => files));
  const sections = groups.map(({ title, files }) => {
    const figures = files.flatMap((file) => {
      const type = shown[extname(file.path).toLowerCase()];
      if (file.path.endsWith(".json")) {
        return []; // data of a chart, not a picture
      }
      if (type === undefined || file.bytes > left) {
        omitted.push(file);
        return [];
      }
      left -= file.bytes;
      return [figure(file, type, captions.get(nameOf(file)))];
    });
    return figures.length > 0 ? html`<h3>${title}</h3><div class="media">${figures}</div>` : html``;
  });
  return html`${sections}${
    omitted.length > 0 &&
    html`<p class="small soft">In the run's samples folder, not on this page: ${omitted
      .map((file) => `${file.path} (${formatBytes(file.bytes)})`)
      .join(", ")}.</p>`
  }`;
}

/** A file's name without folders and extension. */
const nameOf = ({ path }: SampleFile): string => path.replace(/\.[^.]*$/, "").replace(/^.*\//, "");

/** What the run wrote about its samples, by their names. */
function captionsOf(files: readonly SampleFile[]): ReadonlyMap<string, string> {
  return new Map(
    files
      .filter(({ path }) => path.endsWith("-captions.json"))
      .flatMap(({ file }) =>
        Object.entries(JSON.parse(readFileSync(file, "utf8")) as { [name: string]: string }),
      ),
  );
}

/** Whether an MP4 has a sound track: its handler is named in the file's index. */
const sounds = (bytes: Buffer): boolean => bytes.includes("soun") && bytes.includes("mp4a");

function figure(file: SampleFile, type: string, title?: string): Html {
  const bytes = readFileSync(file.file);
  const source = `data:${type};base64,${bytes.toString("base64")}`;
  const name = nameOf(file);
  const label = title || name.replace(/[-_]+/g, " ");
  if (type.startsWith("video/")) {
    // Browsers start films by themselves only without sound, so those with sound get controls.
    const controls = sounds(bytes) && html` controls`;
    return html`<figure class="card"><video src="${source}" autoplay loop muted playsinline${controls} aria-label="${label}"></video><figcaption>${label}</figcaption></figure>`;
  }
  return html`<figure class="card${/sheet|grid|worst|best/.test(name) ? " wide" : ""}"><img src="${source}" alt="${label}" loading="lazy"><figcaption>${label}</figcaption></figure>`;
}

/**
 * The first sample of several runs whose name begins so, each under the run's name.
 * @param budget bytes of all of them; what does not fit is left out
 */
export function mediaFigures(
  runs: readonly { readonly dir: string; readonly name: string }[],
  start: string,
  budget: number,
): Html[] {
  let left = budget;
  return runs.flatMap(({ dir, name }) => {
    const folder = join(dir, "samples");
    const files = existsSync(folder) ? readdirSync(folder).filter((f) => f.startsWith(start)) : [];
    const file = files.find((f) => shown[extname(f).toLowerCase()] !== undefined);
    if (file === undefined) {
      return [];
    }
    const path = join(folder, file);
    const bytes = statSync(path).size;
    if (bytes > left) {
      return [];
    }
    left -= bytes;
    return [figure({ path: file, file: path, bytes }, shown[extname(file).toLowerCase()]!, name)];
  });
}

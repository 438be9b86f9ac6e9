/**
 * @file A page in headless Chromium at a phone's width. Chromium makes no window narrower than 500
 * pixels, so the page stands in a frame of 390, which it takes for its screen. Links within a page lead
 * out of such a frame: set `window.location.hash` instead of clicking them.
 */

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

export const chromium = ["chromium", "chromium-browser", "google-chrome"].find(
  (name) => spawnSync(name, ["--version"]).status === 0,
);
if (chromium === undefined) {
  process.stdout.write("no Chromium is installed: pages are not opened in a browser\n");
}

const attribute = (text: string): string => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;");

/**
 * Open a page as on a phone and act like a reader.
 * @param act the body of a function of `document` and `window` that returns what it saw, or a promise
 * @returns what it saw, whether the page is wider than the phone, and errors of its scripts
 */
export function browse(path: string, act: string): unknown {
  const frame = `${path}.phone.html`;
  writeFileSync(
    frame,
    `<!doctype html><body><iframe width="390" height="844" style="border:0" srcdoc="${attribute(
      readFileSync(path, "utf8").replace(
        "<head>",
        "<head><script>window.faults = []; addEventListener('error', (e) => faults.push(e.message));</script>",
      ),
    )}"></iframe><script>
const frame = document.querySelector("iframe");
addEventListener("load", async () => {
  const window = frame.contentWindow;
  const seen = await (async (document) => { ${act} })(window.document);
  const wide = window.document.documentElement.scrollWidth > window.innerWidth;
  document.body.dataset.seen = JSON.stringify({ ...seen, width: window.innerWidth, wide, faults: window.faults });
});</script></body>`,
  );
  const { stdout } = spawnSync(
    chromium!,
    [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--virtual-time-budget=3000",
      "--dump-dom",
      `file://${frame}`,
    ],
    { encoding: "utf8", timeout: 60_000, maxBuffer: 1 << 28 },
  );
  const seen = /data-seen="([^"]*)"/.exec(stdout)?.[1] ?? "{}";
  return JSON.parse(seen.replaceAll("&quot;", '"').replaceAll("&amp;", "&"));
}

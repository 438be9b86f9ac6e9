import { mkdtempSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { writeMp4 } from "../../src/data/video.ts";
import { groupMedia, mediaHtml } from "../../src/reports/media.ts";

test("films with sound get controls and say what was asked for; silent ones play by themselves", async () => {
  const dir = mkdtempSync(join(tmpdir(), "tessera-media-"));
  const clip = { data: new Uint8Array(8 * 16 * 16 * 3).fill(90), frames: 8, height: 16, width: 16 };
  const tone = Float32Array.from({ length: 8000 }, (_, i) => 0.3 * Math.sin(i / 5));
  await writeMp4(join(dir, "generated-00-T2AV.mp4"), clip, 8, { samples: tone, rate: 8000 });
  await writeMp4(join(dir, "generated-01-IP.mp4"), clip, 8);
  const captions = { "generated-00-T2AV": "T2AV: a large red circle (made | original)" };
  writeFileSync(join(dir, "transformer-captions.json"), JSON.stringify(captions));
  const files = ["generated-00-T2AV.mp4", "generated-01-IP.mp4", "transformer-captions.json"];
  const page = mediaHtml(
    groupMedia(
      files.map((path) => {
        const file = join(dir, path);
        return { path, file, bytes: statSync(file).size };
      }),
    ),
  ).text;
  const films = page.match(/<video [^>]*>/g)!.map((tag) => tag.replace(/base64,[^"]*/, ""));
  expect(films).toHaveLength(2);
  expect(films[0]).toContain(" controls");
  expect(films[0]).toContain('aria-label="T2AV: a large red circle (made | original)"');
  expect(films[1]).not.toContain("controls");
  expect(films[1]).toContain("autoplay loop muted");
  expect(page).toContain("<figcaption>T2AV: a large red circle (made | original)</figcaption>");
  expect(page).toContain("<figcaption>generated 01 IP</figcaption>");
  expect(page).not.toContain("transformer-captions");
});

/** @file The look of report pages, and the few lines of script that sort their tables. Both go inline: a report is one file. */

/** Style sheet. Light and dark by the reader's system; one column that fits a phone. */
export const css = `
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d1f24; --ink-soft: #666b76; --line: #e4e2dd;
  --train: #8fa3c4; --validation: #c2571a; --accent: #2d5d9f;
  --good: #2e7d4f; --warn: #a86500; --bad: #b3372b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --card: #1c1f25; --ink: #e8e6e1; --ink-soft: #9aa0ab; --line: #30343c;
    --train: #5f7aa6; --validation: #f0925a; --accent: #8db8f2;
    --good: #6cc494; --warn: #e0ac55; --bad: #ee8275;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 0.9rem; letter-spacing: -0.01em; }
h3 { font-size: 0.95rem; margin: 1.5rem 0 0.6rem; color: var(--ink-soft); font-weight: 600; }
p { margin: 0.5rem 0; max-width: 68ch; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.86em; }
a { color: var(--accent); }
.soft { color: var(--ink-soft); }
.small { font-size: 0.86rem; }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: 0.4rem 0.9rem; }
.pill { font-size: 0.8rem; font-weight: 600; padding: 0.1rem 0.65rem; border-radius: 99px; border: 1px solid currentColor; }
.finished { color: var(--good); } .running, .interrupted { color: var(--warn); } .failed { color: var(--bad); }
.facts { display: flex; flex-wrap: wrap; gap: 0.15rem 1.6rem; margin: 0.8rem 0 0; padding: 0; list-style: none; font-size: 0.9rem; }
.facts b { font-weight: 400; color: var(--ink-soft); margin-right: 0.35rem; }
.notice { border-left: 3px solid var(--warn); padding: 0.3rem 0.9rem; margin: 1.2rem 0 0; }
.notice.failed { border-color: var(--bad); }
.notice pre { white-space: pre-wrap; margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.8rem; margin: 1.6rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 0.7rem 0.95rem; }
.tile .value { font-size: 1.5rem; font-weight: 600; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.tile .unit { font-size: 0.85rem; font-weight: 400; color: var(--ink-soft); margin-left: 0.3rem; }
.tile .name { font-size: 0.82rem; color: var(--ink-soft); overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.45rem 0.9rem; vertical-align: top; }
thead th { font-weight: 600; font-size: 0.8rem; color: var(--ink-soft); border-bottom: 1px solid var(--line); white-space: nowrap; }
thead button { all: unset; cursor: pointer; }
thead button:hover, thead button:focus-visible { color: var(--ink); text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
tbody tr + tr td { border-top: 1px solid var(--line); }
tbody .group th { font-weight: 600; padding-top: 1rem; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; } summary code { color: var(--ink-soft); }
dl.choices { display: grid; grid-template-columns: max-content minmax(8rem, 1fr); gap: 0.1rem 0.9rem; margin: 0.5rem 0 0.4rem; font-size: 0.84rem; }
dl.choices dt { color: var(--ink-soft); } dl.choices dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 0.8rem; }
figure { margin: 0; }
.chart { padding: 0.7rem 0.7rem 0.3rem; overflow: hidden; }
.chart figcaption { font-size: 0.88rem; margin: 0 0.2rem 0.4rem; display: flex; justify-content: space-between; gap: 0.6rem; }
.chart figcaption span:last-child { color: var(--ink-soft); font-variant-numeric: tabular-nums; white-space: nowrap; }
.chart svg { width: 100%; height: auto; display: block; }
.key { display: inline-block; width: 1.4em; height: 0; border-top: 3px solid; vertical-align: middle; margin: 0 0.4em 0 0.9em; }
.media { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 0.8rem; align-items: start; }
.media figure { padding: 0.7rem; } .media .wide { grid-column: 1 / -1; }
.media video, .media img { width: 100%; height: auto; display: block; border-radius: 6px; image-rendering: pixelated; background: #0002; }
.media figcaption { font-size: 0.82rem; color: var(--ink-soft); margin-top: 0.4rem; overflow-wrap: anywhere; }
details.block { margin: 0.6rem 0; padding: 0.6rem 0.95rem; } details.block > summary { font-weight: 600; }
pre { overflow-x: auto; line-height: 1.45; margin: 0.7rem 0 0.2rem; }
footer { margin-top: 3.5rem; font-size: 0.84rem; color: var(--ink-soft); }
@media (max-width: 560px) { h1 { font-size: 1.6rem; } th, td { padding: 0.4rem 0.55rem; } main { padding-top: 1.4rem; } }
@media print { .card, .tile { break-inside: avoid; } }
`;

/** Sorts a table's rows inside each of its groups when a column's heading is pressed. */
export const script = `
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        rows.sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          const order = x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y);
          return down ? -order : order;
        });
        body.append(...rows);
      }
    });
  });
}
for (const video of document.querySelectorAll("video")) {
  video.play().catch(() => { video.controls = true; });
}
`;

/** Of pages with wide tables: tools above them, intervals, what links lead to. */
export const tableCss = `
main { max-width: 1280px; }
.tools { display: flex; flex-wrap: wrap; gap: 0.6rem; margin: 0.6rem 0; }
.tools input { font: inherit; padding: 0.35rem 0.7rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card); color: var(--ink); min-width: min(22rem, 100%); }
td a { color: inherit; text-decoration: none; } td a:hover, td a:focus-visible { text-decoration: underline; }
td.best { font-weight: 700; } thead th a { color: inherit; }
.interval { color: var(--ink-soft); font-size: 0.84em; }
tr:target, section:target, details:target { outline: 2px solid var(--accent); }
.fill { background: linear-gradient(to right, color-mix(in srgb, var(--accent) 16%, transparent) var(--share), transparent var(--share)); }
`;

/** Filters rows by words, and opens the details that a link leads to. */
export const filterScript = `
for (const input of document.querySelectorAll("input[data-filter]")) {
  const table = document.getElementById(input.dataset.filter);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
addEventListener("hashchange", open); open();
function open() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
`;

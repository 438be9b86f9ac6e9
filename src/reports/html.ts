/** @file HTML by template: values are escaped unless they are HTML already, so no text of a run can break the page. */

/** A piece of finished HTML. Made by `html` and `raw` alone. */
export class Html {
  constructor(readonly text: string) {}
}

/** What may stand in a template: text and numbers are escaped, nothing (null, false) prints nothing. */
export type Part = Html | string | number | null | undefined | false | readonly Part[];

/** Tagged template: html`<td>${value}</td>` escapes `value`. */
export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  let text = strings[0]!;
  parts.forEach((part, index) => {
    text += print(part) + strings[index + 1]!;
  });
  return new Html(text);
}

/** Text that is HTML (or SVG, CSS, script) already and goes in as it is. */
export function raw(text: string): Html {
  return new Html(text);
}

/** `<`, `>`, `&` and both quotes as entities: safe in element text and in quoted attributes. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

function print(part: Part): string {
  if (part === null || part === undefined || part === false) {
    return "";
  }
  if (part instanceof Html) {
    return part.text;
  }
  if (typeof part === "string" || typeof part === "number") {
    return escapeHtml(String(part));
  }
  return part.map(print).join("");
}

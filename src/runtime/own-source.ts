/** @file How a thread or process of ours runs from sources: it needs the TypeScript loader that its parent has. */

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

/** Node's arguments for running our module at `url`: none for compiled ones. */
export function sourceArguments(url: URL | string): string[] {
  return String(url).endsWith(".ts") ? ["--import", typescriptLoader()] : [];
}

/** A module that teaches a thread TypeScript; tsx's own entry does so in the main thread only. */
function typescriptLoader(): string {
  const api = pathToFileURL(createRequire(import.meta.url).resolve("tsx/esm/api")).href;
  const source = `import { register } from ${JSON.stringify(api.replace(/\.cjs$/, ".mjs"))}; register();`;
  return `data:text/javascript,${encodeURIComponent(source)}`;
}

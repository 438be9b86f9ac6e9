/**
 * @file The config reference as Markdown, generated from the schemas, so that it cannot fall behind
 * them: the experiment's keys first, then each group of components with the keys of every member.
 */

import type { TSchema } from "./schema.ts";
import {
  componentOf,
  describe,
  groupOf,
  groupsIn,
  isComponent,
  itemOf,
  type JsonSchema,
} from "./walk.ts";

interface Row {
  readonly key: string;
  readonly type: string;
  readonly fallback: string;
  readonly description: string;
}

const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll(/\s*\n\s*/g, " ");

function typeText(schema: JsonSchema): string {
  const component = componentOf(schema);
  const group = component?.group;
  if (group !== undefined) {
    return `a component of [${group}](#${group})`;
  }
  const item = schema.type === "array" ? itemOf(schema, 0) : undefined;
  return item && componentOf(item) ? `a list, each ${typeText(item)}` : describe(schema);
}

function rows(key: string, schema: JsonSchema, required: boolean): Row[] {
  const notes = [schema.description ?? "", schema.semantic === false ? "*(not hashed)*" : ""];
  const nested = schema.properties && !isComponent(schema);
  const row: Row = {
    key,
    type: `${typeText(schema)}${nested && groupOf(schema) ? `, or \`@name\` of configs/${groupOf(schema)}` : ""}`,
    fallback:
      schema.default !== undefined
        ? `\`${JSON.stringify(schema.default)}\``
        : nested
          ? ""
          : required
            ? "required"
            : "optional",
    description: notes.filter((note) => note !== "").join(" "),
  };
  if (nested) {
    return [row, ...objectRows(schema, `${key}.`)];
  }
  const named = Object.values(schema.patternProperties ?? {})[0];
  return named
    ? [
        row,
        ...rows(`${key}.<name>`, named, false).map((one, i) =>
          i === 0 ? { ...one, fallback: "" } : one,
        ),
      ]
    : [row];
}

function objectRows(schema: JsonSchema, prefix: string): Row[] {
  return Object.entries(schema.properties ?? {})
    .filter(([key, property]) => !(key === "type" && "const" in property))
    .flatMap(([key, property]) =>
      rows(prefix + key, property, schema.required?.includes(key) ?? false),
    );
}

function table(found: readonly Row[]): string {
  if (found.length === 0) {
    return "No keys besides `type`.\n";
  }
  const lines = found.map(
    ({ key, type, fallback, description }) =>
      `| \`${key}\` | ${cell(type.replaceAll("*", "\\*"))} | ${cell(fallback)} | ${cell(description)} |`,
  );
  return `| Key | Value | Default | Meaning |\n| --- | --- | --- | --- |\n${lines.join("\n")}\n`;
}

/** The reference of all config keys, as one Markdown page. */
export function configReference(root: TSchema): string {
  const schema = root as JsonSchema;
  const unions = [...groupsIn(schema)].filter(([, one]) => isComponent(one));
  const sections = unions.map(([group, union]) => {
    const members = (union.oneOf ?? []).map((member) => {
      const about = member.description === undefined ? "" : `${member.description}\n\n`;
      return `### ${group}: \`${String(member.properties?.type?.const)}\`\n\n${about}${table(objectRows(member, ""))}`;
    });
    const about = union.description === undefined ? "" : `${union.description}\n\n`;
    return `## ${group}\n\n${about}Files in \`configs/${group}/\`, selected by \`"@name"\`.\n\n${members.join("\n")}`;
  });
  return `# Config reference\n\nGenerated from the schemas; do not edit.\n\n## Experiment\n\n${table(objectRows(schema, ""))}\n${sections.join("\n")}`;
}

/** @file An experiment's config from what the user names: a file, `@name`, or a run's folder. */

import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import type { Resolved } from "../config/resolve.ts";
import type { Experiment } from "../trainers/experiment.ts";

/** How commands explain their overrides. */
export const overridesHelp = `
Overrides, applied in order:
  a.b=value      set a key; the value is YAML: 3, true, [1, 2], text
  a=@name        take the component configs/<group>/<name>.yaml
  +a.b=value     add a key that must not be there yet
  ~a.b           remove a key
Quote what the shell would change ('a.b=[1, 2]'), and put -- before an override that begins
with a dash.`;

/**
 * Compose, override and validate an experiment.
 * @param named a YAML file, `@name` of configs/experiments, a run folder, or a resolved config as
 *   JSON (config.json of a run, a sweep's frozen trial), which is taken as it is
 * @throws UserError with every problem of the config
 */
export async function loadExperiment(
  named: string,
  overrides: readonly string[] = [],
): Promise<Resolved<Experiment>> {
  const file = configFile(named);
  const [{ loadConfig }, { checks, experimentSchema }] = await Promise.all([
    import("../config/resolve.ts"),
    import("../trainers/experiment.ts"),
  ]);
  if (file.endsWith(".json")) {
    return loadFrozen(file, overrides);
  }
  return loadConfig<Experiment>({ file, overrides, schema: experimentSchema, checks });
}

/** The folder's config.yaml where a run folder is named. */
function configFile(named: string): string {
  if (named.startsWith("@") || !existsSync(named) || !statSync(named).isDirectory()) {
    return named;
  }
  const file = join(named, "config.yaml");
  if (!existsSync(file)) {
    throw new UserError(
      `${named} is a folder without a config.yaml`,
      "give an experiment's YAML file, or a run folder as `tessera run` prints it",
    );
  }
  return file;
}

/** A resolved config as JSON: checked, and nothing composed, filled in or resolved. */
async function loadFrozen(
  file: string,
  overrides: readonly string[],
): Promise<Resolved<Experiment>> {
  if (overrides.length > 0) {
    throw new UserError(
      `${file} is a resolved config; it takes no overrides`,
      "give the YAML file, or the run folder's config.yaml, with the overrides",
    );
  }
  if (!existsSync(file)) {
    throw new UserError(`no file ${file}`, "give a resolved config, such as a run's config.json");
  }
  const [{ validateFrozen }, { canonicalJson, configHash }, { experimentSchema }] =
    await Promise.all([
      import("../config/resolve.ts"),
      import("../config/hash.ts"),
      import("../trainers/experiment.ts"),
    ]);
  const config = validateFrozen<Experiment>(readFileSync(file, "utf8"), experimentSchema, file);
  const canonical = canonicalJson(config);
  return { config, origins: {}, hash: configHash(config, experimentSchema), canonical };
}

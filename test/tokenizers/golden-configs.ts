/** @file Full configs of quantizers, from their schemas' defaults. */

import { Ajv } from "ajv";
import type { BsqConfig } from "../../src/tokenizers/quantizers/bsq.ts";
import type { FsqConfig } from "../../src/tokenizers/quantizers/fsq.ts";
import { quantizerSchema } from "../../src/tokenizers/quantizers/registry.ts";

const validate = new Ajv({ strict: false, discriminator: true, useDefaults: true }).compile(
  quantizerSchema,
);

function full<T>(config: object): T {
  const copy = structuredClone(config);
  if (!validate(copy)) {
    throw new Error(JSON.stringify(validate.errors));
  }
  return copy as T;
}

export const bsqSchemaDefaults = full<BsqConfig>({ type: "bsq", bits: 4, factor_bits: 4 });

export const fsqConfig = (levels: readonly number[], bound: FsqConfig["bound"]): FsqConfig =>
  full<FsqConfig>({ type: "fsq", levels, bound });

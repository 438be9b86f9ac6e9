/**
 * @file Training a transformer from a token store: the tokenizer and its tokens are taken from the
 * store, so no tokenizer is trained and no video is opened until an evaluation asks for clips.
 */

import type { Dataset } from "../data/dataset.ts";
import { openDataset } from "../data/registry.ts";
import { readStoreInfo } from "../data/token-store/format.ts";
import { TokenStore } from "../data/token-store/reader.ts";
import type { HostTensor } from "../runtime/tensors.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { latestCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import type { RunContext, Split } from "./context.ts";
import type { Experiment } from "./experiment.ts";
import { checkpointDir } from "./loop.ts";
import { getVariable } from "./packing.ts";
import { loadStoreTokenizer } from "./tokenize.ts";
import type { TokenCache } from "./tokens.ts";

/**
 * A split as a store knows it. Sizes, classes and fingerprint are the store's; the clips' own files
 * are opened when a clip is asked for.
 */
export function datasetOfStore(store: string, config: Experiment, split: Split): Dataset {
  const info = readStoreInfo(store);
  const { clips, visits, fingerprint, sampling } = info.splits[split];
  let opened: Promise<Dataset> | undefined;
  const real = (): Promise<Dataset> => (opened ??= openDataset(config.dataset, split, config.seed));
  return {
    type: config.dataset.type,
    split,
    size: Math.max(1, Math.floor(clips / visits)),
    ...info.tokenizer.clip,
    fps: info.fps,
    audioRate: 0,
    classes: info.classes,
    fingerprint,
    ...(sampling && { sampling }),
    get: async (index, visit, into) => (await real()).get(index, visit, into),
    close: async () => {
      await opened?.then((dataset) => dataset.close()).catch(() => undefined);
    },
  };
}

/**
 * Give the run the store's tokenizer as if its training had ended.
 * @throws UserError when the store is of another tokenizer
 */
export async function takeTokenizer(
  run: Pick<RunContext, "dir" | "warn">,
  store: string,
  config: Experiment,
  tokenizer: Tokenizer,
): Promise<void> {
  const dir = checkpointDir(run.dir, "tokenizer");
  const { steps } = config.trainer.tokenizer;
  loadStoreTokenizer(store, config.tokenizer, tokenizer);
  if (latestCheckpoint(dir, run.warn)?.step === steps) {
    return;
  }
  const tensors = new Map<string, HostTensor>();
  const trainable = tokenizer.scope.trainable();
  for (const [name, variable] of tokenizer.scope.variables()) {
    const data = await getVariable(variable);
    const tensor: HostTensor = { dtype: "float32", shape: [...variable.shape], data };
    tensors.set(`model/${name}`, tensor);
    if (trainable.has(name)) {
      tensors.set(`ema/${name}`, tensor);
    }
  }
  saveCheckpoint(dir, { step: steps, tensors, loop: { count: 0, sums: {} } });
}

/** A split of a store as the transformer's stage reads it. */
export function cacheOfStore(path: string, split: Split): TokenCache {
  const store = new TokenStore(path, split);
  let all: Uint16Array | undefined;
  return {
    size: store.size,
    length: store.length,
    labels: store.labels,
    rows: (rows) => store.rows(rows),
    /** Everything unpacked, for those who want it all. */
    get ids() {
      all ??= Uint16Array.from(store.rows(Array.from({ length: store.size }, (_, i) => i)));
      return all;
    },
  };
}

/**
 * @file Text encoders of Hugging Face (T5, CLIP, ...) from a local folder, through
 * @huggingface/transformers. The package is an optional one, so its few functions that are used are
 * declared here; nothing is ever downloaded.
 *
 * A folder holds config.json, tokenizer.json, tokenizer_config.json and onnx/ with the encoder:
 * encoder_model.onnx for T5, text_model.onnx for CLIP, model.onnx for others (or the same with a suffix
 * such as _quantized, chosen by `dtype`).
 */

import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../../config/errors.ts";

interface Vectors {
  readonly dims: readonly number[];
  readonly data: ArrayLike<number>;
}
interface Encoded {
  readonly last_hidden_state?: Vectors;
  /** What CLIP's usual export has in place of it: one vector a text. */
  readonly text_embeds?: Vectors;
}
interface Loader<T> {
  from_pretrained(name: string, options: object): Promise<T>;
}
type Encode = (inputs: object) => Promise<Encoded>;
type Tokenize = (text: string, options: object) => Promise<object> | object;

interface Transformers {
  readonly env: {
    allowRemoteModels: boolean;
    allowLocalModels: boolean;
    localModelPath: string;
  };
  readonly AutoTokenizer: Loader<Tokenize>;
  readonly AutoModel: Loader<Encode>;
  /** A network that is run as it is, whatever it consists of. */
  readonly BertModel: Loader<Encode>;
  readonly CLIPTextModel: Loader<Encode>;
}

// A name that the compiler does not look up: the package need not be installed.
const packageName: string = "@huggingface/transformers";

async function load(): Promise<Transformers> {
  try {
    return (await import(packageName)) as Transformers;
  } catch (error) {
    throw new UserError(
      `text encoders of Hugging Face need the package ${packageName}, which cannot be loaded: ${(error as Error).message.split("\n")[0]}`,
      `npm install --no-save ${packageName}, or leave objective.text.folder out for our own encoder`,
    );
  }
}

interface FolderConfig {
  readonly model_type?: string;
  readonly d_model?: number;
  readonly hidden_size?: number;
  readonly text_config?: FolderConfig;
}

/** What a folder holds, without loading it. */
export function readEncoderFolder(folder: string): {
  readonly kind: string;
  readonly width: number;
} {
  for (const file of ["config.json", "tokenizer.json"]) {
    if (!existsSync(join(folder, file))) {
      throw new UserError(
        `objective.text.folder: ${folder} has no ${file}`,
        "give a folder with config.json, tokenizer.json, tokenizer_config.json and onnx/, as `optimum-cli export onnx` writes it",
      );
    }
  }
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as FolderConfig;
  const kind = config.model_type ?? "";
  const own = kind === "clip" ? (config.text_config ?? config) : config;
  const width = own.d_model ?? own.hidden_size;
  if (width === undefined) {
    throw new UserError(
      `objective.text.folder: ${join(folder, "config.json")} names no width (d_model or hidden_size)`,
      "give a text encoder, such as T5's or CLIP's",
    );
  }
  return { kind, width };
}

/**
 * Open the encoder of a local folder.
 * @param length the most tokens of a text; longer ones are cut, as these encoders are used
 */
export async function openHuggingFaceEncoder(
  folder: string,
  length: number,
): Promise<{ readonly width: number; embed(text: string): Promise<Float32Array> }> {
  const { kind, width } = readEncoderFolder(folder);
  const { env, AutoTokenizer, AutoModel, BertModel, CLIPTextModel } = await load();
  const at = resolve(folder);
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = dirname(at);
  const name = basename(at);
  const options = { local_files_only: true, dtype: "fp32" };
  // The package has no class for T5's encoder alone, and T5Model wants the decoder's file too.
  const [model, file] = kind.endsWith("t5")
    ? [BertModel, { model_file_name: "encoder_model" }]
    : [kind.startsWith("clip") ? CLIPTextModel : AutoModel, {}];
  const told = (error: unknown): never => {
    throw new UserError(
      `objective.text.folder: ${folder} cannot be loaded: ${(error as Error).message.split("\n")[0]}`,
      "it needs the encoder as ONNX: onnx/encoder_model.onnx (T5), onnx/text_model.onnx (CLIP) or onnx/model.onnx",
    );
  };
  const tokenize = await AutoTokenizer.from_pretrained(name, options).catch(told);
  const encode = await model.from_pretrained(name, { ...options, ...file }).catch(told);
  return {
    width,
    async embed(text) {
      const inputs = await tokenize(text, { truncation: true, max_length: length });
      const made = await encode(inputs);
      const { dims, data } = made.last_hidden_state ?? made.text_embeds ?? { dims: [], data: [] };
      if (dims.at(-1) !== width) {
        throw new UserError(
          `objective.text.folder: ${folder} gives vectors of shape [${dims.join(", ")}], its config.json says ${width} channels`,
          "give a text encoder whose output is last_hidden_state",
        );
      }
      return Float32Array.from(data);
    },
  };
}

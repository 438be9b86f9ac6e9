/** @file The part of one rank in a data-parallel training: its rows of the batch that all ranks share. */

import { UserError } from "../config/errors.ts";
import type { Ranks } from "../runtime/collective.ts";
import { type HostTensor, type HostTensors, sizeOf } from "../runtime/tensors.ts";
import type { Experiment } from "./experiment.ts";
import type { StageOptions } from "./options.ts";

/** One process that trains alone. */
export const ALONE: Ranks = { rank: 0, world: 1 };

/** The samples of a micro-batch that one rank computes. Throws when they cannot be shared out evenly. */
export function samplesOfRank({ batch, accumulate }: StageOptions, { world }: Ranks): number {
  const samples = batch / accumulate;
  if (samples % world !== 0) {
    throw new UserError(
      `a micro-batch of ${samples} samples cannot be shared out evenly to ${world} ranks`,
      "choose a batch (over accumulate) that the number of ranks divides",
    );
  }
  return samples / world;
}

/** Throws unless an experiment can be trained by so many processes on one machine. */
export function checkRanks({ device, trainer, objective }: Experiment, world: number): void {
  if (device.type !== "cuda" && device.type !== "torch-cpu") {
    throw new UserError(
      `the device ${device.type} cannot train with ${world} processes`,
      "set device.type=cuda (or torch-cpu)",
    );
  }
  samplesOfRank(trainer.tokenizer, { rank: 0, world });
  if (objective) {
    samplesOfRank(trainer.transformer, { rank: 0, world });
  }
}

/**
 * This rank's rows of a micro-batch: of every tensor whose first side counts the samples, or
 * places of samples. Whoever makes the
 * inputs makes them for all ranks, so that masks and noise are those of a training on one device.
 * @param size samples of the micro-batch, of all ranks
 */
export function rowsOfRank(inputs: HostTensors, size: number, { rank, world }: Ranks): HostTensors {
  if (world === 1) {
    return inputs;
  }
  return Object.fromEntries(
    Object.entries(inputs).map(([name, tensor]): [string, HostTensor] => {
      const [rows, ...sides] = tensor.shape;
      if (rows === undefined || rows % size !== 0) {
        return [name, tensor];
      }
      const own = rows / world;
      const width = sizeOf(sides);
      const data = tensor.data.slice(rank * own * width, (rank + 1) * own * width);
      return [name, { ...tensor, shape: [own, ...sides], data } as HostTensor];
    }),
  );
}

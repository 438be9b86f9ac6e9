/**
 * @file Whether an experiment's evaluations fit its data set, tokenizer and objective: what can be known before
 * anything is trained is said then, and not at the end.
 */

import { isValid } from "../config/judge.ts";
import type { Check } from "../config/resolve.ts";
import type { Json } from "../config/tree.ts";
import type { JsonSchema } from "../config/walk.ts";
import { taskParts } from "../objectives/multimodal/layouts.ts";
import { usesAudio } from "../objectives/multimodal/config.ts";
import { checkObjective, type ObjectiveConfig, objectiveSchema } from "../objectives/registry.ts";
import { checkScales, superTasks } from "../objectives/super-resolution/config.ts";
import type { Experiment } from "./experiment.ts";

/** Keys of `objective.sampling` that one evaluation sets otherwise. */
export type SamplingChanges = { readonly [key: string]: number | string | boolean };

/** The experiment with other sampling; its trained weights are the same. */
export function withSampling(config: Experiment, changes: SamplingChanges): Experiment {
  const { objective } = config;
  return objective === undefined
    ? config
    : ({
        ...config,
        objective: { ...objective, sampling: { ...objective.sampling, ...changes } },
      } as Experiment);
}

type Problem = { path: string; message: string; hint: string };

/** The tasks that an objective can be asked for; none where it samples by class. */
function tasksOf(objective: ObjectiveConfig): readonly string[] {
  if (objective.type === "super-resolution") {
    return objective.generators.length > 0 ? superTasks : superTasks.slice(0, 1);
  }
  return "tasks" in objective ? objective.tasks.map(({ task }) => task) : [];
}

/** Suites that know one data set alone. */
const ofMovingShapes = ["factors", "audit"];

/** A suite whose data set, tokenizer or objective is another. */
function checkKind({ dataset, tokenizer, objective, evals }: Experiment): Problem[] {
  return Object.entries(evals).flatMap(([name, { type }]): Problem[] => {
    const path = `evals.${name}`;
    const hint = `leave it out: evals.${name}=null`;
    if (ofMovingShapes.includes(type) && dataset.type !== "moving-shapes") {
      const message = `the evaluation ${type} reads the factors of moving-shapes, and the data set is ${dataset.type}`;
      return [{ path, message, hint }];
    }
    if (type === "super-resolution" && objective?.type !== "super-resolution") {
      const message = `the evaluation judges objectives of super-resolution, and this one is ${objective?.type ?? "none"}`;
      return [{ path, message, hint }];
    }
    const audio = tokenizer.type === "soundstream";
    if (audio !== (type === "sound") && type !== "fad") {
      return [
        audio
          ? {
              path,
              message: `the evaluation ${type} looks at clips, and the tokenizer reads sound`,
              hint: "use `evals: { sound: '@sound' }`",
            }
          : {
              path,
              message:
                "the evaluation sound listens to an audio tokenizer, and this one reads clips",
              hint: "use a soundstream tokenizer, or leave it out",
            },
      ];
    }
    return [];
  });
}

/** Tasks that a suite asks for and the objective is not trained on. */
function checkTasks({ objective, evals }: Experiment): Problem[] {
  if (objective === undefined) {
    return [];
  }
  const known = tasksOf(objective);
  const hint = `its tasks are ${known.join(", ") || "none: it samples by class"}`;
  return Object.entries(evals).flatMap(([name, suite]): Problem[] => {
    const asked =
      suite.type === "factors"
        ? { tasks: suite.tasks, chains: (suite.chains ?? []).flat() }
        : suite.type === "efficiency" && suite.task !== undefined
          ? { task: [suite.task] }
          : {};
    const unknown = Object.entries(asked).flatMap(([key, tasks]) =>
      tasks
        .filter((task) => !known.includes(task))
        .slice(0, 1)
        .map((task) => ({
          path: `evals.${name}.${key}`,
          message: `the objective is not trained on the task ${task}`,
          hint,
        })),
    );
    const chains = suite.type === "factors" ? (suite.chains ?? []) : [];
    const still = chains.flat().find((task) => {
      const parts = task in taskParts ? taskParts[task as keyof typeof taskParts] : undefined;
      return parts !== undefined && !parts.output.startsWith("video");
    });
    return unknown.length > 0 || still === undefined
      ? unknown
      : [
          {
            path: `evals.${name}.chains`,
            message: `${still} makes no video to go on with`,
            hint: "chain tasks that make video",
          },
        ];
  });
}

/** Sound that tasks need and the data set is not asked for. */
function checkSound({ objective, dataset }: Experiment): Problem[] {
  const silent = "audio_rate" in dataset && dataset.audio_rate === 0;
  return objective?.type === "multimodal" && silent && usesAudio(objective)
    ? [
        {
          path: "objective.tasks",
          message: "the task mixture has tasks with sound, but the data set has none",
          hint: "set dataset.audio_rate, or leave T2AV, V2A, A2V and AVC out",
        },
      ]
    : [];
}

/** Sampling of one suite: keys that the objective has, values that it can do. */
function checkSampling(config: Experiment): Problem[] {
  const { objective, dataset } = config;
  return Object.entries(config.evals).flatMap(([name, suite]): Problem[] => {
    const sampling = "sampling" in suite ? suite.sampling : undefined;
    if (sampling === undefined) {
      return [];
    }
    const path = `evals.${name}.sampling`;
    if (objective === undefined) {
      return [{ path, message: "nothing is sampled without an objective", hint: "leave it out" }];
    }
    const known = Object.keys(objective.sampling);
    const unknown = Object.keys(sampling).find((key) => !known.includes(key));
    if (unknown !== undefined) {
      return [
        {
          path: `${path}.${unknown}`,
          message: `the objective ${objective.type} has no sampling.${unknown}`,
          hint: `its keys are ${known.join(", ")}`,
        },
      ];
    }
    const changed = withSampling(config, sampling).objective!;
    if (!isValid(changed as unknown as Json, objectiveSchema as unknown as JsonSchema)) {
      return [
        {
          path,
          message: `not sampling of the objective ${objective.type}: ${JSON.stringify(sampling)}`,
          hint: "the keys have the values that objective.sampling allows (docs/config-reference.md)",
        },
      ];
    }
    const scales = changed.type === "super-resolution" ? checkScales(changed) : [];
    return [...checkObjective(changed, dataset), ...scales].map((problem) => ({
      ...problem,
      path,
    }));
  });
}

export const suiteChecks: readonly Check<Experiment>[] = [
  checkKind,
  checkTasks,
  checkSound,
  checkSampling,
];

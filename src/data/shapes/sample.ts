/**
 * @file One clip of `moving-shapes` from start to end: drawn, rendered, sounded, described. Apart
 * from the data set, so that a rendering thread loads only this.
 */

import { Random } from "../../runtime/random.ts";
import type { Sample } from "../dataset.ts";
import { renderScene } from "./render.ts";
import { describe, drawScene, type Scene, type World } from "./scene.ts";
import { soundScene } from "./sound.ts";

/** What clips are made with; the data set's config has it all. */
export interface RenderOptions extends World {
  /** Seed of the world. */
  readonly seed: number;
  readonly fps: number;
  /** Samples a second; 0 for no sound. */
  readonly audio_rate: number;
}

/** What one clip is a function of. */
export interface RenderTask {
  readonly config: RenderOptions;
  /** Names the random stream. */
  readonly stream: string;
  readonly index: number;
  readonly visit: number;
}

/** The scene of a clip, and the stream its pixels go on with. */
function sceneOf(task: RenderTask): { scene: Scene; random: Random } {
  const { config, stream, index, visit } = task;
  const random = new Random(config.seed, `${stream}/${visit}`, index);
  const motion = config.motions[index % config.motions.length]!;
  return { scene: drawScene(config, motion, random), random };
}

/** Render one clip with its sound. */
export function renderSample(task: RenderTask): Sample {
  const { config, stream, index, visit } = task;
  const { scene, random } = sceneOf(task);
  return {
    id: `${stream}/${config.seed}/${visit}/${index}`,
    clip: renderScene(scene, config, random),
    label: config.motions.indexOf(scene.motion),
    caption: describe(scene),
    factors: factorsOf(scene),
    ...(config.audio_rate > 0
      ? { audio: soundScene(scene, config, config.fps, config.audio_rate) }
      : {}),
  };
}

/** A scene as flat factors. Lists have one value a frame; lengths are pixels. */
function factorsOf(scene: Scene): NonNullable<Sample["factors"]> {
  const { occluder, drift, clicks, ...plain } = scene;
  return {
    ...plain,
    drift_x: drift[0] / 256,
    drift_y: drift[1] / 256,
    occluded: occluder !== undefined,
    ...(occluder
      ? {
          occluder_axis: occluder.axis,
          occluder_start: occluder.start,
          occluder_extent: occluder.extent,
        }
      : {}),
    clicks,
  };
}

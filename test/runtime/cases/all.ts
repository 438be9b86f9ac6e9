/** @file All cases of kernels. */

import type { KernelCase } from "../case.ts";
import { composedCases } from "./composed.ts";
import { compositeCases } from "./composite.ts";
import { convolutionCases } from "./convolution.ts";
import { elementwiseCases } from "./elementwise.ts";
import { fusedCases } from "./fused.ts";
import { reductionAndProductCases } from "./reductions.ts";
import { resamplingCases } from "./resampling.ts";
import { shapingCases } from "./shaping.ts";

export const allCases: readonly KernelCase[] = [
  ...elementwiseCases,
  ...shapingCases,
  ...reductionAndProductCases,
  ...convolutionCases,
  ...compositeCases,
  ...composedCases,
  ...fusedCases,
  ...resamplingCases,
];

/** @file The bias that hides later keys from a query. */

/** [N, M] row-major: 0 where query i may see key j, j <= i + M - N, and -1e9 elsewhere. */
export function causalBiasValues(queries: number, keys: number): Float32Array {
  const values = new Float32Array(queries * keys);
  for (let i = 0; i < queries; i++) {
    for (let j = i + keys - queries + 1; j < keys; j++) {
      values[i * keys + j] = -1e9;
    }
  }
  return values;
}

/**
 * @file Quantiles without sorting, by quickselect (Hoare 1961): a bootstrap asks two of many thousand
 * values, thousands of times a table. Linear interpolation, type 7 of Hyndman and Fan (1996).
 */

/** The q-quantile of values, which are put into another order. */
export function plainQuantile(values: Float64Array): (q: number) => number {
  return (q) => {
    const position = q * (values.length - 1);
    const below = Math.floor(position);
    const low = select(values, below);
    if (position === below) {
      return low;
    }
    // Behind the place that was selected stands nothing smaller.
    let high = Number.POSITIVE_INFINITY;
    for (let i = below + 1; i < values.length; i++) {
      high = Math.min(high, values[i]!);
    }
    return low + (position - below) * (high - low);
  };
}

/** The value at a place of the sorted values; smaller ones come to stand before it, larger ones behind. */
function select(values: Float64Array, place: number): number {
  let first = 0;
  let last = values.length - 1;
  while (first < last) {
    const pivot = medianOf(values[first]!, values[(first + last) >> 1]!, values[last]!);
    let i = first;
    let k = last;
    while (i <= k) {
      while (values[i]! < pivot) {
        i++;
      }
      while (values[k]! > pivot) {
        k--;
      }
      if (i <= k) {
        const value = values[i]!;
        values[i++] = values[k]!;
        values[k--] = value;
      }
    }
    if (place <= k) {
      last = k;
    } else if (place >= i) {
      first = i;
    } else {
      break;
    }
  }
  return values[place]!;
}

/**
 * The q-quantile of the list in which every value stands as often as its weight says. The values are put
 * into another order, the weights stay.
 */
export function weightedQuantile(
  values: Float64Array,
  counts: Float64Array,
): (q: number) => number {
  const weights = counts.slice();
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const swap = (i: number, k: number): void => {
    const [value, weight] = [values[i]!, weights[i]!];
    values[i] = values[k]!;
    weights[i] = weights[k]!;
    values[k] = value;
    weights[k] = weight;
  };
  /** The value at a place of that list. */
  const at = (place: number): number => {
    let rank = place;
    let first = 0;
    let last = values.length - 1;
    for (;;) {
      const pivot = medianOf(values[first]!, values[(first + last) >> 1]!, values[last]!);
      let [less, i, more] = [first, first, last];
      let [below, same] = [0, 0];
      while (i <= more) {
        const value = values[i]!;
        if (value < pivot) {
          below += weights[i]!;
          swap(less++, i++);
        } else if (value > pivot) {
          swap(i, more--);
        } else {
          same += weights[i++]!;
        }
      }
      if (rank < below) {
        last = less - 1;
      } else if (rank < below + same || more === last) {
        return pivot;
      } else {
        rank -= below + same;
        first = more + 1;
      }
    }
  };
  return (q) => {
    const position = q * (total - 1);
    const below = Math.floor(position);
    const low = at(below);
    return position === below ? low : low + (position - below) * (at(below + 1) - low);
  };
}

function medianOf(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}

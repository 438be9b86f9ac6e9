/** @file Tensors on the host: plain typed arrays with a shape, what goes in and out of a device. */

/** Element types that cross the boundary. Inside a compiled function `uint8` is seen as `int32`. */
export type HostDType = "float32" | "int32" | "bool" | "uint8";

/** Row-major values with their shape. `bool` is a Uint8Array of 0 and 1. */
export interface HostTensor {
  readonly dtype: HostDType;
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array | Uint8Array;
}

/** Named tensors: the inputs and the outputs of a compiled function. */
export type HostTensors = { readonly [name: string]: HostTensor };

/** The number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, side) => product * side, 1);
}

/** A float32 host tensor; throws when the number of values does not fit the shape. */
export function float32(
  shape: readonly number[],
  data: Float32Array | readonly number[],
): HostTensor {
  return host("float32", shape, data instanceof Float32Array ? data : Float32Array.from(data));
}

/** An int32 host tensor. */
export function int32(shape: readonly number[], data: Int32Array | readonly number[]): HostTensor {
  return host("int32", shape, data instanceof Int32Array ? data : Int32Array.from(data));
}

/** A uint8 host tensor (pixels). A compiled function sees its values as int32. */
export function uint8(shape: readonly number[], data: Uint8Array): HostTensor {
  return host("uint8", shape, data);
}

/** A bool host tensor from 0/1 bytes or booleans. */
export function bool(shape: readonly number[], data: Uint8Array | readonly boolean[]): HostTensor {
  return host("bool", shape, data instanceof Uint8Array ? data : Uint8Array.from(data, Number));
}

function host(
  dtype: HostDType,
  shape: readonly number[],
  data: Float32Array | Int32Array | Uint8Array,
): HostTensor {
  if (data.length !== sizeOf(shape)) {
    throw new RangeError(
      `a ${dtype} tensor of shape [${shape.join(", ")}] holds ${sizeOf(shape)} values, got ${data.length}`,
    );
  }
  return { dtype, shape: [...shape], data };
}

/** The single value of a tensor of one element. */
export function item(tensor: HostTensor | undefined): number {
  if (tensor === undefined || tensor.data.length !== 1) {
    throw new RangeError(
      `expected a tensor of one value, got ${tensor ? `shape [${tensor.shape.join(", ")}]` : "nothing"}`,
    );
  }
  return tensor.data[0]!;
}

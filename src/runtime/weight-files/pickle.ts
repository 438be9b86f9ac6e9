/**
 * @file Python pickles (protocols 0 to 5) parsed as data: the opcodes build a tree of plain values,
 * and nothing is ever imported, called or executed. A class or function is a `PickleGlobal`, a call a
 * `PickleObject` that remembers what was called with what; the caller decides which it understands.
 */

import { BadFile, type Cursor } from "./bytes.ts";

/** A class or function by its name: "torch.FloatStorage". */
export class PickleGlobal {
  constructor(readonly name: string) {}
}

/** What a call or an instance would have been. */
export class PickleObject {
  /** The instance's state, as its `__setstate__` or `__dict__` would get it. */
  state: unknown;
  /** Items appended to it, where it is a list of its own class. */
  readonly items: unknown[] = [];
  /** Pairs set on it, where it is a mapping of its own class. */
  readonly pairs: PickleDict = new Map();

  constructor(
    readonly callee: unknown,
    readonly args: readonly unknown[],
  ) {}
}

/** What a persistent id stood for. */
export class PickleReference {
  constructor(readonly id: unknown) {}
}

/** A Python dict in its order. */
export type PickleDict = Map<unknown, unknown>;

const mark = Symbol("mark");

/** More values than a state of weights has; a damaged file must not fill the memory. */
const mostSteps = 20_000_000;

/** Read one pickle; the cursor ends behind its STOP. Throws BadFile when it is not one. */
export function readPickle(cursor: Cursor): unknown {
  return new Machine(cursor).run();
}

/** The unpickling machine (CPython, Lib/pickletools.py) without its calls. */
class Machine {
  readonly #stack: unknown[] = [];
  readonly #memo = new Map<number, unknown>();

  constructor(readonly cursor: Cursor) {}

  run(): unknown {
    for (let steps = 0; steps < mostSteps; steps++) {
      const code = this.cursor.u8();
      if (code === 0x2e) {
        return this.#pop(); // STOP
      }
      this.#step(code);
    }
    throw new BadFile("the pickle has too many steps");
  }

  #pop(): unknown {
    const value = this.#stack.pop();
    if (value === mark || (value === undefined && this.#stack.length === 0)) {
      throw new BadFile("the pickle takes more from its stack than was put there");
    }
    return value;
  }

  #push(value: unknown): void {
    this.#stack.push(value);
  }

  /** All values above the last mark, which goes too. */
  #toMark(): unknown[] {
    const at = this.#stack.lastIndexOf(mark);
    if (at < 0) {
      throw new BadFile("the pickle misses a mark");
    }
    const values = this.#stack.splice(at);
    values.shift();
    return values;
  }

  #top(): unknown {
    if (this.#stack.length === 0) {
      throw new BadFile("the pickle's stack is empty");
    }
    return this.#stack.at(-1);
  }

  #line(): string {
    let text = "";
    for (;;) {
      const byte = this.cursor.u8();
      if (byte === 0x0a) {
        return text;
      }
      text += String.fromCharCode(byte);
    }
  }

  #recall(key: number): void {
    if (!this.#memo.has(key)) {
      throw new BadFile(`the pickle recalls value ${key}, which it never kept`);
    }
    this.#push(this.#memo.get(key));
  }

  #setItems(target: unknown, values: readonly unknown[]): void {
    const pairs = target instanceof PickleObject ? target.pairs : target;
    if (!(pairs instanceof Map) || values.length % 2 !== 0) {
      throw new BadFile("the pickle sets items of what is no dict");
    }
    for (let i = 0; i < values.length; i += 2) {
      pairs.set(values[i], values[i + 1]);
    }
  }

  #append(target: unknown, values: readonly unknown[]): void {
    const items = target instanceof PickleObject ? target.items : target;
    if (!Array.isArray(items)) {
      throw new BadFile("the pickle appends to what is no list");
    }
    for (const value of values) {
      items.push(value);
    }
  }

  /** A call: OrderedDict() is a dict, all else is remembered. */
  #call(callee: unknown, args: unknown): void {
    const list = Array.isArray(args) ? args : [];
    const name = callee instanceof PickleGlobal ? callee.name : "";
    if (name === "collections.OrderedDict" && list.length === 0) {
      this.#push(new Map());
    } else {
      this.#push(new PickleObject(callee, list));
    }
  }

  #step(code: number): void {
    const { cursor } = this;
    switch (code) {
      case 0x80: // PROTO
        cursor.u8();
        return;
      case 0x95: // FRAME
        cursor.take(8);
        return;
      case 0x28: // MARK
        return this.#push(mark);
      case 0x30: // POP
        if (this.#top() === mark) {
          this.#stack.pop();
        } else {
          this.#pop();
        }
        return;
      case 0x31: // POP_MARK
        this.#toMark();
        return;
      case 0x32: // DUP
        return this.#push(this.#top());
      case 0x4e: // NONE
        return this.#push(null);
      case 0x88: // NEWTRUE
        return this.#push(true);
      case 0x89: // NEWFALSE
        return this.#push(false);
      case 0x4b: // BININT1
        return this.#push(cursor.u8());
      case 0x4d: // BININT2
        return this.#push(cursor.u16());
      case 0x4a: // BININT
        return this.#push(cursor.i32());
      case 0x8a: // LONG1
        return this.#push(long(cursor.take(cursor.u8())));
      case 0x8b: // LONG4
        return this.#push(long(cursor.take(cursor.u32())));
      case 0x49: // INT
        return this.#push(textInteger(this.#line()));
      case 0x4c: // LONG
        return this.#push(textInteger(this.#line().replace(/L$/, "")));
      case 0x46: // FLOAT
        return this.#push(Number(this.#line()));
      case 0x47: {
        // BINFLOAT, big-endian
        const bytes = cursor.take(8);
        return this.#push(new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0));
      }
      case 0x8c: // SHORT_BINUNICODE
        return this.#push(cursor.text(cursor.u8()));
      case 0x58: // BINUNICODE
        return this.#push(cursor.text(cursor.u32()));
      case 0x8d: // BINUNICODE8
        return this.#push(cursor.text(cursor.u64()));
      case 0x56: // UNICODE
        return this.#push(this.#line());
      case 0x53: // STRING
        return this.#push(this.#line().slice(1, -1));
      case 0x55: // SHORT_BINSTRING: text of Python 2
        return this.#push(Buffer.from(cursor.take(cursor.u8())).toString("latin1"));
      case 0x54: // BINSTRING
        return this.#push(Buffer.from(cursor.take(cursor.u32())).toString("latin1"));
      case 0x43: // SHORT_BINBYTES
        return this.#push(cursor.take(cursor.u8()));
      case 0x42: // BINBYTES
        return this.#push(cursor.take(cursor.u32()));
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        return this.#push(cursor.take(cursor.u64()));
      case 0x5d: // EMPTY_LIST
        return this.#push([]);
      case 0x29: // EMPTY_TUPLE
        return this.#push([]);
      case 0x7d: // EMPTY_DICT
      case 0x8f: // EMPTY_SET
        return this.#push(new Map());
      case 0x6c: // LIST
      case 0x74: // TUPLE
      case 0x91: // FROZENSET
        return this.#push(this.#toMark());
      case 0x64: {
        // DICT
        const values = this.#toMark();
        const dict: PickleDict = new Map();
        this.#setItems(dict, values);
        return this.#push(dict);
      }
      case 0x85: // TUPLE1
        return this.#push([this.#pop()]);
      case 0x86: {
        // TUPLE2
        const b = this.#pop();
        return this.#push([this.#pop(), b]);
      }
      case 0x87: {
        // TUPLE3
        const c = this.#pop();
        const b = this.#pop();
        return this.#push([this.#pop(), b, c]);
      }
      case 0x61: {
        // APPEND
        const value = this.#pop();
        return this.#append(this.#top(), [value]);
      }
      case 0x65: {
        // APPENDS
        const values = this.#toMark();
        return this.#append(this.#top(), values);
      }
      case 0x90: {
        // ADDITEMS of a set
        const values = this.#toMark();
        return this.#setItems(
          this.#top(),
          values.flatMap((value) => [value, true]),
        );
      }
      case 0x73: {
        // SETITEM
        const value = this.#pop();
        const key = this.#pop();
        return this.#setItems(this.#top(), [key, value]);
      }
      case 0x75: {
        // SETITEMS
        const values = this.#toMark();
        return this.#setItems(this.#top(), values);
      }
      case 0x71: // BINPUT
        this.#memo.set(cursor.u8(), this.#top());
        return;
      case 0x72: // LONG_BINPUT
        this.#memo.set(cursor.u32(), this.#top());
        return;
      case 0x70: // PUT
        this.#memo.set(Number(this.#line()), this.#top());
        return;
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        return;
      case 0x68: // BINGET
        return this.#recall(cursor.u8());
      case 0x6a: // LONG_BINGET
        return this.#recall(cursor.u32());
      case 0x67: // GET
        return this.#recall(Number(this.#line()));
      case 0x63: // GLOBAL
        return this.#push(new PickleGlobal(`${this.#line()}.${this.#line()}`));
      case 0x93: {
        // STACK_GLOBAL
        const name = this.#pop();
        return this.#push(new PickleGlobal(`${String(this.#pop())}.${String(name)}`));
      }
      case 0x52: {
        // REDUCE
        const args = this.#pop();
        return this.#call(this.#pop(), args);
      }
      case 0x81: {
        // NEWOBJ
        const args = this.#pop();
        return this.#call(this.#pop(), args);
      }
      case 0x92: {
        // NEWOBJ_EX
        this.#pop();
        const args = this.#pop();
        return this.#call(this.#pop(), args);
      }
      case 0x69: {
        // INST
        const name = `${this.#line()}.${this.#line()}`;
        return this.#call(new PickleGlobal(name), this.#toMark());
      }
      case 0x6f: {
        // OBJ
        const [callee, ...args] = this.#toMark();
        return this.#call(callee, args);
      }
      case 0x62: {
        // BUILD
        const state = this.#pop();
        const target = this.#top();
        if (target instanceof PickleObject) {
          target.state = state;
        }
        return;
      }
      case 0x51: // BINPERSID
        return this.#push(new PickleReference(this.#pop()));
      case 0x50: // PERSID
        return this.#push(new PickleReference(this.#line()));
      default:
        throw new BadFile(`the pickle has the unknown opcode 0x${code.toString(16)}`);
    }
  }
}

/** A little-endian two's-complement integer; a bigint when it is beyond 2^53. */
function long(bytes: Uint8Array): number | bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) {
    value = (value << 8n) | BigInt(bytes[i]!);
  }
  if (bytes.length > 0 && bytes.at(-1)! >= 0x80) {
    value -= 1n << BigInt(8 * bytes.length);
  }
  return narrow(value);
}

function narrow(value: bigint): number | bigint {
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER
    ? Number(value)
    : value;
}

/** INT also carries booleans, as "00" and "01". */
function textInteger(text: string): number | bigint | boolean {
  if (text === "00" || text === "01") {
    return text === "01";
  }
  if (!/^-?\d{1,400}$/.test(text)) {
    throw new BadFile(`the pickle holds "${text.slice(0, 20)}" for an integer`);
  }
  return narrow(BigInt(text));
}

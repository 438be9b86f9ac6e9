/**
 * @file Conditions of a sweep's `where`: arithmetic and comparisons over the keys of a resolved
 * config, such as `model.width % model.heads == 0 && tokenizer.type != "magvit"`.
 *
 * or := and ("||" and)* ; and := not ("&&" not)* ; not := "!" not | compare ;
 * compare := sum (("=="|"!="|"<="|">="|"<"|">") sum)? ; sum := product (("+"|"-") product)* ;
 * product := power (("*"|"/"|"%") power)* ; power := atom ("**" power)? ;
 * atom := number | string | true | false | null | key | "(" or ")" | "-" atom
 */

import { UserError } from "../config/errors.ts";

type Value = unknown;
export type Condition = (lookUp: (key: string) => Value) => boolean;
type Expression = (lookUp: (key: string) => Value) => Value;

const TOKEN =
  /\s*(?:(\d+(?:\.\d+)?(?:e[+-]?\d+)?)|("[^"]*"|'[^']*')|([A-Za-z_]\w*(?:\.\w+)*)|(\|\||&&|==|!=|<=|>=|\*\*|[-+*/%<>!()]))/iy;

/** Compile a condition. @throws UserError at what cannot be read */
export function parseCondition(text: string): Condition {
  const tokens: { kind: "number" | "string" | "name" | "op"; text: string }[] = [];
  const fail = (what: string): never => {
    throw new UserError(
      `cannot read the condition "${text}": ${what}`,
      'write keys, numbers and text with == != < <= > >= + - * / % ** && || ! ( ), e.g. "model.width % model.heads == 0"',
    );
  };
  TOKEN.lastIndex = 0;
  const trimmed = text.trimEnd();
  while (TOKEN.lastIndex < trimmed.length) {
    const at = TOKEN.lastIndex;
    const match = TOKEN.exec(trimmed);
    if (match === null) {
      return fail(`unexpected ${JSON.stringify(trimmed.slice(at).trim())}`);
    }
    const kinds = ["number", "string", "name", "op"] as const;
    const index = kinds.findIndex((_, i) => match[i + 1] !== undefined);
    tokens.push({ kind: kinds[index]!, text: match[index + 1]! });
  }
  let at = 0;
  const take = (...ops: string[]): string | undefined => {
    const token = tokens[at];
    if (token?.kind === "op" && ops.includes(token.text)) {
      at += 1;
      return token.text;
    }
    return undefined;
  };
  const binary =
    (next: () => Expression, ...ops: string[]) =>
    (): Expression => {
      let left = next();
      for (let op = take(...ops); op !== undefined; op = take(...ops)) {
        const [a, b, operator] = [left, next(), op];
        left = (look) => apply(operator, a(look), b(look));
      }
      return left;
    };
  const atom = (): Expression => {
    const token = tokens[at];
    if (token === undefined) {
      return fail("it ends too early");
    }
    at += 1;
    switch (token.kind) {
      case "number":
        return () => Number(token.text);
      case "string":
        return () => token.text.slice(1, -1);
      case "name": {
        const constant = { true: true, false: false, null: null }[token.text];
        return constant === undefined ? (look) => look(token.text) : () => constant;
      }
      case "op":
        if (token.text === "(") {
          const inner = or();
          return take(")") === undefined ? fail('a ")" is missing') : inner;
        }
        if (token.text === "-") {
          const inner = atom();
          return (look) => -(inner(look) as number);
        }
        return fail(`unexpected "${token.text}"`);
    }
  };
  const power = (): Expression => {
    const base = atom();
    if (take("**") === undefined) {
      return base;
    }
    const exponent = power();
    return (look) => (base(look) as number) ** (exponent(look) as number);
  };
  const product = binary(power, "*", "/", "%");
  const sum = binary(product, "+", "-");
  const compare = (): Expression => {
    const left = sum();
    const op = take("==", "!=", "<=", ">=", "<", ">");
    if (op === undefined) {
      return left;
    }
    const right = sum();
    return (look) => apply(op, left(look), right(look));
  };
  const not = (): Expression => {
    if (take("!") !== undefined) {
      const inner = not();
      return (look) => !inner(look);
    }
    return compare();
  };
  const and = binary(not, "&&");
  const or = binary(and, "||");
  const whole = or();
  if (at < tokens.length) {
    return fail(`unexpected "${tokens[at]!.text}"`);
  }
  return (look) => Boolean(whole(look));
}

function apply(op: string, a: Value, b: Value): Value {
  const [x, y] = [a as number, b as number];
  switch (op) {
    case "||":
      return Boolean(a) || Boolean(b);
    case "&&":
      return Boolean(a) && Boolean(b);
    case "==":
      return (a ?? null) === (b ?? null);
    case "!=":
      return (a ?? null) !== (b ?? null);
    case "<=":
      return x <= y;
    case ">=":
      return x >= y;
    case "<":
      return x < y;
    case ">":
      return x > y;
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return x * y;
    case "/":
      return x / y;
    default:
      return x % y;
  }
}

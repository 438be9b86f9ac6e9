/** @file The one error type that a user is meant to read: what is wrong, where, and what to do. */

/**
 * A fault of the input (config, file, argument, environment), not of the program. The command line
 * prints `message` without a stack and exits with code 2; anything else that is thrown is a bug and
 * exits with code 1 and its stack.
 */
export class UserError extends Error {
  override name = "UserError";

  /**
   * @param message what is wrong, where (file:line:col or path), what was expected
   * @param hint what to do about it, printed on a line of its own
   */
  constructor(
    message: string,
    readonly hint?: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

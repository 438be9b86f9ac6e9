/** @file What a layout is. */

import type { Static, TObject } from "../../config/schema.ts";
import type { Listing } from "../listing.ts";

export interface Layout<S extends TObject> {
  readonly schema: S;
  /** Frames a second that the set is known for. */
  readonly fps?: number;
  /** What the folder holds. @throws UserError when what the layout needs is not there */
  readonly list: (root: string, config: Static<S>) => Listing;
}

/** Ties the type of `list`'s config to the schema. */
export function layout<const S extends TObject>(made: Layout<S>): Layout<S> {
  return made;
}

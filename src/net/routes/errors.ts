// What can go wrong with routes beyond a tool that fails.
import { HiggsError } from "../../base/errors.ts";

/** A policy, or a role, that no routes can be made for. */
export class RoutesRefused extends HiggsError {
  override readonly name = "RoutesRefused";
}

// What can go wrong with the lab: a tool that failed, a wait that ran out, a host that is off, a machine that does not allow it.
import { HiggsError } from "../base/errors.ts";

export class LabCommandFailed extends HiggsError {
  override readonly name = "LabCommandFailed";
}

export class LabTimeout extends HiggsError {
  override readonly name = "LabTimeout";
}

export class LabHostOff extends HiggsError {
  override readonly name = "LabHostOff";
}

export class LabTopologyInvalid extends HiggsError {
  override readonly name = "LabTopologyInvalid";
}

export class LabRefused extends HiggsError {
  override readonly name = "LabRefused";
}

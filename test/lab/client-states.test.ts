// What leaves a laptop in each situation, by nft or what HIGGS_LAB_FIREWALL names.
import { testClientStates } from "./client-state-tests.ts";
import { mechanismAsked } from "./mechanisms.ts";

testClientStates(mechanismAsked());

// What leaves a laptop in each situation where there is neither nft nor iptables over it, but the kernel's older iptables alone.
import { testClientStates } from "./client-state-tests.ts";

testClientStates("iptables-legacy");

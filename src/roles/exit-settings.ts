// The settings by which a node's owner decides what the exit lets out, opens and keeps; each may be chosen while the node runs.
import { z } from "zod";
import { parseLan, parseLogDays, parsePorts, parsePrefix } from "../node/exit-rules.ts";
import { MOST_TERMS } from "../proto/exit-terms.ts";
import { each, toggle } from "./setting-schemas.ts";

export const EXIT_SETTINGS = {
  exitPorts: {
    flags: "--exit-ports <list...>",
    about: "ports that clients may reach on the internet: 443, 1000-2000, tcp/22, udp/500; default: all",
    schema: each((port) => (parsePorts(port) === null ? "is no port" : null)).refine(
      (all) => all.length <= MOST_TERMS.ports / 2,
      { error: `are more than ${MOST_TERMS.ports / 2}` },
    ),
    default: [],
    live: true,
  },
  exitDeny: {
    flags: "--exit-deny <prefix...>",
    about: "addresses that clients may not reach",
    schema: each((prefix) => (parsePrefix(prefix) === null ? "is no address or prefix" : null)).refine(
      (all) => all.length <= MOST_TERMS.closed,
      { error: `are more than ${MOST_TERMS.closed}` },
    ),
    default: [],
    live: true,
  },
  exitLan: {
    flags: "--exit-lan <prefix...>",
    about: "parts of this machine's own network that clients may reach: PREFIX, or PREFIX@CLIENT for one of them",
    schema: each((lan) => {
      const parsed = parseLan(lan);
      return typeof parsed === "string" ? parsed : null;
    }).refine((all) => all.length <= MOST_TERMS.opened, { error: `are more than ${MOST_TERMS.opened}` }),
    default: [],
    live: true,
  },
  exitMail: {
    flags: "--exit-mail",
    about: "let clients send mail to strangers (port 25)",
    schema: toggle,
    default: false,
    live: true,
  },
  exitLog: {
    flags: "--exit-log <days>",
    about: `keep time, client, protocol and destination of connections: off, or 1d to ${MOST_TERMS.logDays}d`,
    schema: z.string().refine((days) => parseLogDays(days) !== null, { error: "is neither off nor a number of days" }),
    default: "off",
    live: true,
  },
} as const;

// What is said to a UPnP router and read from it: the search, where its description is, and the three actions of a WAN connection.
//
// UPnP Device Architecture 1.1 section 1.3.2 (search) and 3.1 (control); WANIPConnection:1 sections 2.4.16 to 2.4.18.
import { familyOf, type IpAddress, parseIp } from "../../base/ip.ts";
import { readDescription, readSoapValues } from "./upnp-xml.ts";

/** A service that makes mappings, and where it is talked to. */
export interface UpnpControl {
  readonly type: string;
  readonly url: URL;
}

export const SSDP_PORT = 1900;
const MOST_URL = 512;
const SERVICES = /^urn:schemas-upnp-org:service:(?:WANIPConnection:[12]|WANPPPConnection:1)$/;

/** One datagram for each kind of device, as routers answer only for what they are. */
export const SEARCHES: readonly Uint8Array[] = [1, 2].map((version) =>
  new TextEncoder().encode(
    [
      "M-SEARCH * HTTP/1.1",
      `HOST: 239.255.255.250:${SSDP_PORT}`,
      'MAN: "ssdp:discover"',
      "MX: 1",
      `ST: urn:schemas-upnp-org:device:InternetGatewayDevice:${version}`,
      "\r\n",
    ].join("\r\n"),
  ),
);

/** Where the router's description is. Null for what is no answer, or leads anywhere but to the router itself. */
export function readSearchAnswer(bytes: Uint8Array, gateway: IpAddress): URL | null {
  const text = new TextDecoder("latin1").decode(bytes);
  if (!/^HTTP\/1\.[01] 200[ \r]/.test(text)) return null;
  const location = /^location:[ \t]*(\S+)[ \t]*\r?$/im.exec(text)?.[1];
  return location === undefined ? null : urlAt(location, gateway);
}

/** The services of a description that make mappings, best first. */
export function readControls(
  xml: string,
  at: { readonly url: URL; readonly gateway: IpAddress },
): readonly UpnpControl[] {
  const description = readDescription(xml);
  if (description === null) return [];
  const base = description.urlBase === null ? at.url : (urlAt(description.urlBase, at.gateway) ?? at.url);
  const controls = description.services.flatMap(({ type, controlUrl }) => {
    const url = SERVICES.test(type) ? urlAt(controlUrl, at.gateway, base) : null;
    return url === null ? [] : [{ type, url }];
  });
  return controls.sort((a, b) => Number(b.type.includes("WANIP")) - Number(a.type.includes("WANIP")));
}

/** Plain HTTP to the router's own address, without a name that could be resolved to another. */
function urlAt(text: string, gateway: IpAddress, base?: URL): URL | null {
  if (text.length > MOST_URL || !URL.canParse(text, base?.href)) return null;
  const url = new URL(text, base?.href);
  const isPlain = url.protocol === "http:" && url.username === "" && url.password === "" && url.port !== "0";
  return isPlain && parseIp(url.hostname.replace(/^\[|\]$/g, "")) === gateway ? url : null;
}

export type UpnpAction =
  | { readonly name: "GetExternalIPAddress" }
  | {
      readonly name: "AddPortMapping";
      readonly internalPort: number;
      readonly client: IpAddress;
      readonly externalPort: number;
      /** 0 for as long as the router runs. */
      readonly leaseS: number;
    }
  | { readonly name: "DeletePortMapping"; readonly externalPort: number };

/** Body and header of the request; nothing in it comes from the router but the service's name, which is one of three. */
export function soapRequest(control: UpnpControl, action: UpnpAction) {
  const values = argumentsOf(action).map(([name, value]) => `<${name}>${value}</${name}>`);
  return {
    url: control.url,
    headers: { "content-type": 'text/xml; charset="utf-8"', soapaction: `"${control.type}#${action.name}"` },
    body: [
      '<?xml version="1.0"?>',
      '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">',
      `<s:Body><u:${action.name} xmlns:u="${control.type}">${values.join("")}</u:${action.name}></s:Body>`,
      "</s:Envelope>",
      "",
    ].join("\r\n"),
  };
}

/** In the order of the service's definition, which some routers insist on. */
function argumentsOf(action: UpnpAction): readonly (readonly [string, string | number])[] {
  switch (action.name) {
    case "GetExternalIPAddress":
      return [];
    case "AddPortMapping":
      return [
        ["NewRemoteHost", ""],
        ["NewExternalPort", action.externalPort],
        ["NewProtocol", "UDP"],
        ["NewInternalPort", action.internalPort],
        ["NewInternalClient", action.client],
        ["NewEnabled", 1],
        ["NewPortMappingDescription", "higgs"],
        ["NewLeaseDuration", action.leaseS],
      ];
    case "DeletePortMapping":
      return [
        ["NewRemoteHost", ""],
        ["NewExternalPort", action.externalPort],
        ["NewProtocol", "UDP"],
      ];
  }
}

export type SoapAnswer =
  | { readonly ok: true; readonly externalAddress: IpAddress | null }
  /** `code`: UPnP's own; 0 where the router gave none. */
  | { readonly ok: false; readonly code: number };

/** 725: only leases without an end; 718: the port is somebody else's. */
export const ONLY_PERMANENT = 725;
export const CONFLICT = 718;

export function readSoapAnswer(reply: { readonly status: number; readonly body: string } | null): SoapAnswer {
  const values = reply === null ? null : readSoapValues(reply.body);
  if (reply === null || values === null) return { ok: false, code: 0 };
  if (reply.status !== 200) {
    const code = /^\d{3}$/.exec(values.get("errorcode") ?? "")?.[0];
    return { ok: false, code: Number(code ?? 0) };
  }
  const address = parseIp(values.get("newexternalipaddress") ?? "");
  return { ok: true, externalAddress: address !== null && familyOf(address) === 4 ? address : null };
}

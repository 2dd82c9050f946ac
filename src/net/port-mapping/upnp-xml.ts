// The XML of UPnP routers: a device's services, and the values of a SOAP answer. Bounded in size, depth and number.
import { Parser } from "htmlparser2";

export interface UpnpService {
  readonly type: string;
  readonly controlUrl: string;
}

export interface UpnpDescription {
  /** Against which relative URLs are read; null for the description's own. */
  readonly urlBase: string | null;
  readonly services: readonly UpnpService[];
}

/** A real description has some 4 KiB and seven levels. */
export const MOST_XML_BYTES = 65_536;
const MOST_DEPTH = 32;
const MOST_SERVICES = 64;
const MOST_TEXT = 1024;

/** Null for what is deeper or longer than any router's. Text that is no XML gives a description without services. */
export function readDescription(xml: string): UpnpDescription | null {
  const services: UpnpService[] = [];
  let urlBase: string | null = null;
  let service: { type: string; controlUrl: string } | null = null;
  const isRead = readElements(xml, {
    open(name) {
      if (name === "service") service = { type: "", controlUrl: "" };
    },
    close(name, text) {
      if (name === "urlbase") urlBase ??= text;
      if (service === null) return;
      if (name === "servicetype") service.type = text;
      if (name === "controlurl") service.controlUrl = text;
      if (name !== "service") return;
      if (services.length < MOST_SERVICES) services.push(service);
      service = null;
    },
  });
  return isRead ? { urlBase, services } : null;
}

/** Texts by the element's name in lower case, without its namespace; of several the first. Null as above. */
export function readSoapValues(xml: string): ReadonlyMap<string, string> | null {
  const values = new Map<string, string>();
  const isRead = readElements(xml, {
    open: () => undefined,
    close(name, text) {
      if (!values.has(name) && values.size < MOST_SERVICES) values.set(name, text);
    },
  });
  return isRead ? values : null;
}

/** The parser knows no entity but XML's own five and characters by number, so nothing grows. */
function readElements(
  xml: string,
  on: { readonly open: (name: string) => void; readonly close: (name: string, text: string) => void },
): boolean {
  if (xml.length > MOST_XML_BYTES) return false;
  let depth = 0;
  let text = "";
  let isTooMuch = false;
  const parser = new Parser(
    {
      onopentagname(name) {
        depth++;
        text = "";
        if (depth > MOST_DEPTH) isTooMuch = true;
        else on.open(localName(name));
      },
      ontext(part) {
        text += part;
        if (text.length > MOST_TEXT) isTooMuch = true;
      },
      onclosetag(name) {
        depth--;
        if (!isTooMuch) on.close(localName(name), text.trim());
        text = "";
      },
    },
    { xmlMode: true, decodeEntities: true },
  );
  // In parts, so that the parsing ends soon after there is too much.
  for (let at = 0; at < xml.length && !isTooMuch; at += 1024) parser.write(xml.slice(at, at + 1024));
  if (!isTooMuch) parser.end();
  return !isTooMuch;
}

function localName(name: string): string {
  return name.slice(name.indexOf(":") + 1).toLowerCase();
}

// What UPnP routers say: searches, descriptions and SOAP answers, real, wrong and hostile.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { IpAddress } from "../../../../src/base/ip.ts";
import {
  readControls,
  readSearchAnswer,
  readSoapAnswer,
  soapRequest,
} from "../../../../src/net/port-mapping/upnp-igd.ts";
import { readDescription, readSoapValues } from "../../../../src/net/port-mapping/upnp-xml.ts";
import { check } from "../../support/property.ts";

const gateway = "192.168.1.1" as IpAddress;
const url = new URL("http://192.168.1.1:5000/root.xml");
const at = { url, gateway };
const WAN = "urn:schemas-upnp-org:service:WANIPConnection:1";

function answer(location: string): Uint8Array {
  return new TextEncoder().encode(`HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nLOCATION: ${location}\r\n\r\n`);
}

function service(type: string, control: string): string {
  return `<service><serviceType>${type}</serviceType><controlURL>${control}</controlURL></service>`;
}

describe("readSearchAnswer()", () => {
  test("reads where the description is, and only at the router itself", () => {
    expect(readSearchAnswer(answer("http://192.168.1.1:5000/root.xml"), gateway)?.href).toBe(url.href);
    for (const location of [
      "http://192.168.1.2/root.xml",
      "https://192.168.1.1/root.xml",
      "http://user:pw@192.168.1.1/root.xml",
      "http://192.168.1.1.example/root.xml",
      "http://192.168.1.1@203.0.113.9/root.xml",
      "file:///etc/passwd",
      "http://192.168.1.1:0/",
      `http://192.168.1.1/${"a".repeat(600)}`,
      "root.xml",
      "",
    ]) {
      expect(readSearchAnswer(answer(location), gateway)).toBe(null);
    }
  });

  test("passes over what is no answer", () => {
    expect(
      readSearchAnswer(new TextEncoder().encode("NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/\r\n\r\n"), gateway),
    ).toBe(null);
    check(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void readSearchAnswer(bytes, gateway)));
  });
});

describe("readControls()", () => {
  test("finds the WAN connections, IP before PPP, and reads their URLs against the right base", () => {
    const ppp = service("urn:schemas-upnp-org:service:WANPPPConnection:1", "/ppp");
    const xml = `<root><URLBase>http://192.168.1.1:80/x/</URLBase><device>${ppp}${service(WAN, "ctl?a=1&amp;b=2")}${service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3")}</device></root>`;
    expect(readControls(xml, at).map(({ url: { href } }) => href)).toEqual([
      "http://192.168.1.1/x/ctl?a=1&b=2",
      "http://192.168.1.1/ppp",
    ]);
  });

  test("leads nowhere but to the router", () => {
    const away = ["http://203.0.113.9/ctl", "//203.0.113.9/ctl", "https://192.168.1.1/ctl", "javascript:alert(1)"];
    expect(readControls(away.map((control) => service(WAN, control)).join(""), at)).toEqual([]);
    const base = `<root><URLBase>http://203.0.113.9/</URLBase>${service(WAN, "/ctl")}</root>`;
    expect(readControls(base, at).map((one) => one.url.href)).toEqual(["http://192.168.1.1:5000/ctl"]);
  });

  test("takes no service by a name that only looks like one", () => {
    expect(readControls(service(`${WAN}"><evil`, "/ctl") + service(`${WAN}0`, "/ctl"), at)).toEqual([]);
  });
});

describe("readDescription(), readSoapValues()", () => {
  test("are bounded in depth, text and number, and expand no entities", () => {
    expect(readDescription("<a>".repeat(33))).toBe(null);
    expect(readDescription(`<a>${"x".repeat(2000)}</a>`)).toBe(null);
    expect(readDescription("x".repeat(70_000))).toBe(null);
    expect(readDescription(service(WAN, "/ctl").repeat(300))?.services).toHaveLength(64);
    const bomb = '<!DOCTYPE a [<!ENTITY b "cccccccc"><!ENTITY d "&b;&b;&b;">]><a>&d;</a>';
    expect(readSoapValues(bomb)?.get("a")).toBe("&d;");
  });

  test("never throw, whatever comes", () => {
    const part = fc.constantFrom(
      "<service>",
      "</service>",
      "<controlURL>",
      "<!DOCTYPE",
      "<![CDATA[",
      "]]>",
      "&#x41;",
      "&",
      "<",
      ">",
      "<?",
      "<a b='",
      "x",
      "\u0000",
    );
    check(
      fc.property(fc.array(part, { maxLength: 60 }), (parts) => {
        readDescription(parts.join(""));
        readSoapValues(parts.join(""));
        readControls(parts.join(""), at);
      }),
    );
  });
});

describe("soapRequest(), readSoapAnswer()", () => {
  test("writes an action as the service defines it", () => {
    const action = {
      name: "AddPortMapping",
      internalPort: 51820,
      client: "192.168.1.10" as IpAddress,
      externalPort: 40000,
      leaseS: 7200,
    } as const;
    const { headers, body } = soapRequest({ type: WAN, url }, action);
    expect(headers.soapaction).toBe(`"${WAN}#AddPortMapping"`);
    expect(body).toContain(
      `<u:AddPortMapping xmlns:u="${WAN}"><NewRemoteHost></NewRemoteHost><NewExternalPort>40000</NewExternalPort><NewProtocol>UDP</NewProtocol><NewInternalPort>51820</NewInternalPort><NewInternalClient>192.168.1.10</NewInternalClient><NewEnabled>1</NewEnabled><NewPortMappingDescription>higgs</NewPortMappingDescription><NewLeaseDuration>7200</NewLeaseDuration></u:AddPortMapping>`,
    );
  });

  test("reads an address, a refusal, and nonsense as a refusal without a reason", () => {
    const said = (status: number, inner: string) =>
      readSoapAnswer({ status, body: `<s:Envelope><s:Body>${inner}</s:Body></s:Envelope>` });
    const address = (text: string) => said(200, `<NewExternalIPAddress>${text}</NewExternalIPAddress>`);
    expect(address("203.0.113.7")).toEqual({ ok: true, externalAddress: "203.0.113.7" as IpAddress });
    expect(address("2001:db8::1")).toEqual({ ok: true, externalAddress: null });
    expect(address("203.0.113.7; rm")).toEqual({ ok: true, externalAddress: null });
    expect(said(500, "<errorCode>718</errorCode>")).toEqual({ ok: false, code: 718 });
    expect(said(500, "<errorCode>7 18</errorCode>")).toEqual({ ok: false, code: 0 });
    expect(readSoapAnswer(null)).toEqual({ ok: false, code: 0 });
  });
});

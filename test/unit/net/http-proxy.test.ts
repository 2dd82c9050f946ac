import { describe, expect, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { basicLogin, isExcepted, parseProxy, proxyName, proxyUrl, redactedUrl } from "../../../src/net/http-proxy.ts";

const ADDRESS = "192.0.2.7" as IpAddress;

describe("parseProxy()", () => {
  test("takes a URL with or without a login, and HOST:PORT alone", () => {
    const server = { host: "proxy.example", port: 3128 };
    expect(parseProxy("http://proxy.example:3128")).toEqual({ server, credentials: null });
    expect(parseProxy("http://Proxy.Example:3128/")).toEqual({ server, credentials: null });
    expect(parseProxy("proxy.example:3128")).toEqual({ server, credentials: null });
    expect(parseProxy("http://ann:p%40ss%20word@proxy.example:3128")).toEqual({
      server,
      credentials: { user: "ann", password: "p@ss word" },
    });
    expect(parseProxy("http://ann@proxy.example:3128")?.credentials).toEqual({ user: "ann", password: "" });
    expect(parseProxy("http://[2001:db8::1]:8080")?.server).toEqual({ host: "2001:db8::1", port: 8080 });
    expect(parseProxy("http://192.0.2.7")?.server).toEqual({ host: "192.0.2.7", port: 80 });
  });

  test("refuses what is no such proxy", () => {
    const wrong = ["", "none", "proxy.example", "192.0.2.7", "https://p:1", "socks5://p:1080", "http://", "http://p:0"];
    const more = ["http://p:1/path", "http://p:1?x", "http://p:1#x", "http://a%:b@p:1", "http://p p:1", "ftp://p:1"];
    for (const text of [...wrong, ...more]) expect([text, parseProxy(text)]).toEqual([text, null]);
  });
});

test("a login is never in the name, nor in what is shown, and whole in the URL for the runtime", () => {
  const proxy = parseProxy("http://us%3Aer:p%40s%2Fs@[2001:db8::1]:8080");
  if (proxy === null) throw new Error("it was not taken");
  expect(proxyName(proxy)).toBe("[2001:db8::1]:8080");
  expect(redactedUrl(proxy)).toBe("http://***@[2001:db8::1]:8080");
  const again = parseProxy(proxyUrl(proxy, "2001:db8::2" as IpAddress));
  expect(again).toEqual({ ...proxy, server: { host: "2001:db8::2", port: 8080 } });
  expect(proxyUrl({ ...proxy, credentials: null }, ADDRESS)).toBe("http://192.0.2.7:8080");
});

test("basicLogin() is that of RFC 7617 section 2", () => {
  expect(basicLogin({ user: "Aladdin", password: "open sesame" })).toBe("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
  expect(basicLogin({ user: "test", password: "123£" })).toBe("Basic dGVzdDoxMjPCow==");
});

describe("isExcepted()", () => {
  const named = { host: "vpn.lab.example", port: 443 };
  const literal = { host: "203.0.113.10", port: 443 };

  test("by name and what is below it, by address, by prefix, by port, or all", () => {
    for (const list of ["vpn.lab.example", "lab.example", ".lab.example", "*.lab.example", "a, Lab.Example ,b", "*"]) {
      expect([list, isExcepted(named, list)]).toEqual([list, true]);
    }
    for (const list of ["203.0.113.10", "203.0.113.0/24", "203.0.113.10:443", "10.0.0.0/8,203.0.113.0/28"]) {
      expect([list, isExcepted(literal, list)]).toEqual([list, true]);
    }
    expect(isExcepted({ host: "2001:db8::1", port: 443 }, "2001:db8::/32")).toBe(true);
    expect(isExcepted(named, "lab.example:443")).toBe(true);
  });

  test("not by half a label, another port, or another address", () => {
    for (const list of ["", " , ", "ab.example", "xlab.example", "lab.example:8443", "203.0.113.10", "example.org"]) {
      expect([list, isExcepted(named, list)]).toEqual([list, false]);
    }
    for (const list of ["203.0.113.1", "10", "3.0.113.10", "203.0.113.10:80", "203.0.112.0/24"]) {
      expect([list, isExcepted(literal, list)]).toEqual([list, false]);
    }
  });
});

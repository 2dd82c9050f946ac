#!/bin/sh
# Installs what building, the demo and the tests need: Debian packages that are missing, npm packages, the Bun runtime.
# The whole of it is one function, called on the last line: a script that arrives in part does nothing.
set -eu

main() {
  cd "$(dirname "$0")/.."
  # A person's PATH often lacks the folders of the tools that change the system.
  PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
  system_packages
  npm_packages
}

say() {
  echo "setup: $*" >&2
}

fail() {
  say "$*"
  exit 1
}

system_packages() {
  missing=""
  # The command that must be there, and the Debian package that brings it.
  for pair in \
    wg:wireguard-tools nft:nftables ip:iproute2 tc:iproute2 ping:iputils-ping curl:curl sysctl:procps \
    unshare:util-linux nsenter:util-linux setpriv:util-linux mount:mount \
    iptables:iptables conntrack:conntrack tcpdump:tcpdump iperf3:iperf3; do
    if command -v "${pair%%:*}" >/dev/null 2>&1; then continue; fi
    case " $missing " in
      *" ${pair#*:} "*) ;;
      *) missing="$missing ${pair#*:}" ;;
    esac
  done
  # TLS roots for npm and Go; a folder of certificates, no command.
  if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then missing="$missing ca-certificates"; fi
  # Where Go cannot build the wireguard-go that higgs carries, the distribution's older one stands in for it.
  if ! go_is_new_enough && ! command -v wireguard-go >/dev/null 2>&1; then missing="$missing wireguard-go"; fi
  if [ -z "$missing" ]; then return; fi

  if ! command -v apt-get >/dev/null 2>&1; then fail "Cannot install packages here: apt-get is missing. Needed:$missing"; fi
  as_root=""
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      fail "Cannot install packages as this user: sudo is missing. As root, type: apt-get install --no-install-recommends$missing"
    fi
    as_root="sudo"
  fi
  say "installing$missing"
  # Without --no-install-recommends, wireguard-tools brings a Linux kernel along.
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update >&2
  # shellcheck disable=SC2086 # one word for each package
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing >&2
}

# The build's own rule is in scripts/wireguard-go.ts; here it only decides on the stand-in.
go_is_new_enough() {
  for go in go /usr/local/go/bin/go /usr/lib/go/bin/go; do
    version="$("$go" version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p')" || continue
    if [ -n "$version" ] && [ "$version" -ge 24 ]; then return 0; fi
  done
  return 1
}

npm_packages() {
  if ! command -v npm >/dev/null 2>&1; then fail "Cannot install packages: npm is missing. Type: apt-get install nodejs npm"; fi
  stamp="node_modules/.higgs-setup"
  wanted="$(cksum <package-lock.json)"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && node_modules/.bin/bun --version >/dev/null 2>&1; then return; fi

  say "installing npm packages"
  # Not "npm ci": a registry that does not carry every other platform's native parts would make newer versions of it refuse.
  # Versions and checksums are the lockfile's all the same, and it stays as it is.
  rm -rf node_modules
  npm install --no-save --no-audit --no-fund >&2
  # No package runs code when it is installed (.npmrc). Bun's step puts its runtime, itself a package, into place.
  node node_modules/bun/install.js >&2
  node_modules/.bin/bun --version >/dev/null || fail "Cannot run Bun: its runtime for this machine was not installed"
  echo "$wanted" >"$stamp"
}

main "$@"

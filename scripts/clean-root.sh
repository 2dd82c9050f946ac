#!/bin/sh
# Proves the README's two commands in a clean root: a minimal Debian with Node.js, npm, git and nothing else, and no cache of anything.
#
#   scripts/clean-root.sh [--suite bookworm] [--mirror URL] [--keep] [command…]
#
# Needs root, debootstrap, and the network. A command is one of: demo, test, ci; the default is demo and test.
# What is tested is the last commit. How apt and npm reach their registries is taken over from this machine, at run time.
set -eu

main() {
  suite="bookworm"
  mirror="$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1)" # apt's own
  keep=""
  commands=""
  while [ $# -gt 0 ]; do
    case "$1" in
      --suite) suite="$2"; shift ;;
      --mirror) mirror="$2"; shift ;;
      --keep) keep="yes" ;;
      demo | test | ci) commands="$commands $1" ;;
      *) fail "Cannot use \"$1\": the commands are demo, test, ci" 2 ;;
    esac
    shift
  done
  project="$(cd "$(dirname "$0")/.." && pwd)"
  if [ "$(id -u)" -ne 0 ]; then fail "Cannot make a clean root as this user: type sudo scripts/clean-root.sh" 9; fi
  if ! command -v debootstrap >/dev/null; then fail "Cannot make a clean root: type apt-get install debootstrap" 9; fi

  base="$(mktemp -d /var/tmp/higgs-clean-root.XXXXXX)"
  trap sweep EXIT
  trap 'exit 130' INT TERM HUP

  # All mounts and processes end with these namespaces. The network is this machine's: registries are needed.
  code=0
  # shellcheck disable=SC2086 # one word for each command
  unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
    sh "$project/scripts/clean-root.sh" --inside "$project" "$base" "$suite" "$mirror" ${commands:-demo test} </dev/null &
  child=$!
  wait "$child" || code=$?
  child=""
  exit "$code"
}

# What belongs to this machine and not to a fresh system: how the network is reached.
hand_in() {
  cp /etc/resolv.conf "$1/etc/resolv.conf"
  cp /etc/hosts "$1/etc/hosts"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/ubuntu.sources; do
    # Only of the same suite: another distribution's packages would not be a fresh one's.
    if [ -f "$file" ] && grep -q "\\b$suite\\b" "$file"; then
      rm -f "$1/etc/apt/sources.list"
      cp "$file" "$1/etc/apt/${file#/etc/apt/}"
    fi
  done
  for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/*; do
    if [ -f "$file" ] && grep -qi 'proxy\|cainfo' "$file"; then cp "$file" "$1/etc/apt/apt.conf.d/"; fi
  done
  if [ -f "$HOME/.npmrc" ]; then cp "$HOME/.npmrc" "$1/root/.npmrc"; fi
  # A machine behind a proxy that terminates TLS has that proxy's root among its own.
  mkdir -p "$1/etc/higgs-clean-root"
  if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    cp /etc/ssl/certs/ca-certificates.crt "$1/etc/higgs-clean-root/roots.crt"
  fi
}

# Runs in mount and process namespaces of its own, as their first process.
inside() {
  project="$1" base="$2" suite="$3" mirror="$4"
  shift 4
  root="$base/root"
  say "debootstrap $suite"
  debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$base/debootstrap.log" 2>&1 || explain "$base/debootstrap.log"
  hand_in "$root"
  git -C "$project" bundle create -q "$root/root/higgs.bundle" HEAD

  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount -t tmpfs -o mode=755 dev "$root/dev"
  for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
  done
  mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done
  mount -t tmpfs tmpfs "$root/dev/shm"
  if [ -c /dev/net/tun ]; then
    : >"$root/dev/net/tun"
    mount --bind /dev/net/tun "$root/dev/net/tun"
  fi
  # Not chroot: what is within must be able to make namespaces of its own, and those want a real root.
  mkdir -p "$root/mnt/outside"
  cd "$root"
  pivot_root . mnt/outside
  umount -l /mnt/outside

  enter apt-get -q -o Dpkg::Use-Pty=0 update >/root/apt.log 2>&1 || explain /root/apt.log
  enter DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 install --no-install-recommends \
    nodejs npm git ca-certificates >>/root/apt.log 2>&1 || explain /root/apt.log
  if [ -f /etc/higgs-clean-root/roots.crt ]; then cp /etc/higgs-clean-root/roots.crt /etc/ssl/certs/ca-certificates.crt; fi
  enter apt-get clean
  for tool in go bun wg nft; do
    if enter sh -c "command -v $tool" >/dev/null; then fail "Cannot prove anything: $tool is here already"; fi
  done
  say "a fresh $(enter sh -c '. /etc/os-release && echo "$PRETTY_NAME"'), Node.js $(enter node --version), npm $(enter npm --version)"

  enter git clone -q /root/higgs.bundle /root/higgs
  report=""
  worst=0
  for command in "$@"; do
    case "$command" in
      demo) line="npm run demo" ;;
      test) line="npm test" ;;
      ci) line=".ci/run" ;;
    esac
    if [ "$command" != ci ] && ! grep -qF "$line" /root/higgs/README.md; then fail "Cannot prove \"$line\": README.md does not say it"; fi
    say "$line"
    started="$(date +%s)"
    code=0
    # shellcheck disable=SC2086 # one word for each argument
    (cd /root/higgs && enter timeout --kill-after=10 2400 $line </dev/null) || code=$?
    report="$report
clean root: $line: exit code $code, $(($(date +%s) - started)) s"
    if [ "$code" -ne 0 ]; then worst=1; fi
    # What a command leaves running would be seen by the next one.
    left="$(enter ps -eo pid=,args= 2>/dev/null | grep -v ' ps -eo \| sh .*--inside\| grep ' || true)"
    if [ -n "$left" ]; then
      report="$report
clean root: $line left running: $left"
      worst=1
    fi
  done
  echo "$report"
  exit "$worst"
}

# A fresh login's environment, and what it takes to reach the network from here.
enter() {
  env -i HOME=/root USER=root LANG=C.UTF-8 TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} ${no_proxy:+"no_proxy=$no_proxy"} \
    ${HTTP_PROXY:+"HTTP_PROXY=$HTTP_PROXY"} ${HTTPS_PROXY:+"HTTPS_PROXY=$HTTPS_PROXY"} ${NO_PROXY:+"NO_PROXY=$NO_PROXY"} \
    NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt "$@"
}

sweep() {
  if [ -n "${child:-}" ]; then
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ -n "$keep" ]; then
    say "kept in $base"
    return
  fi
  # The mounts were the namespace's; what is left is plain files of one file system. The last processes may still be ending.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if rm -rf --one-file-system "$base" 2>/dev/null; then return; fi
    sleep 0.5
  done
  say "Cannot remove $base"
}

explain() {
  tail -n 20 "$1" >&2
  fail "Cannot make the root ready: see above"
}

say() {
  echo "clean root: $*" >&2
}

fail() {
  say "$1"
  exit "${2:-1}"
}

if [ "${1:-}" = "--inside" ]; then
  shift
  inside "$@"
else
  main "$@"
fi

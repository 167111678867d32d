#!/usr/bin/env bash
# Tests the packages in FOLDER in a new Debian 12 of debootstrap: install, run, upgrade, remove, purge.
# Needs root. systemd does not run there: starting the unit is not tested.
#
#   packaging/test-deb.sh FOLDER [ROOT]     ROOT: a folder with a Debian 12 from debootstrap, reused
set -euo pipefail
packages=$(realpath "$1")
root=${2:-}
mirror=${MIRROR:-http://deb.debian.org/debian}

step() { printf 'test-deb: %s\n' "$*"; }
fail() { printf 'test-deb: FAILED: %s\n' "$*" >&2; exit 1; }

work=$(mktemp -d)
if [ -z "$root" ]; then
  root=$work/root
  step "debootstrap of Debian 12"
  debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/debootstrap.log" ||
    { tail "$work/debootstrap.log" >&2; fail "debootstrap"; }
fi
root=$(realpath "$root")
daemon=
cleanup() {
  [ -z "$daemon" ] || inside sh -c 'kill -KILL $(pidof lookout)' || true
  ! mountpoint -q "$root/proc" || umount -l "$root/proc"
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
mount -t proc proc "$root/proc"
cp /etc/resolv.conf "$root/etc/resolv.conf"
# apt reaches the mirror as this machine does.
for file in /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/*registry*; do
  [ -e "$file" ] && cp "$file" "$root/etc/apt/apt.conf.d/" || true
done
# No service starts in a chroot.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"

inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root \
  LC_ALL=C.UTF-8 chroot "$root" "$@"; }
as_lookout() { inside setpriv --reuid lookout --regid lookout --init-groups \
  env XDG_CACHE_HOME=/var/cache/lookout "$@"; }
owner() { inside stat -c '%a %U:%G' "$1"; }

step "install"
rm -rf "$root/packages"
mkdir "$root/packages"
cp "$packages"/*.deb "$root/packages"
inside apt-get update -qq
inside sh -c 'apt-get install -y -qq --no-install-recommends /packages/lookout_*.deb \
  /packages/lookout-*.deb' >"$work/install.log" 2>&1 || { tail -20 "$work/install.log" >&2; fail install; }
grep -q 'systemctl enable --now lookout' "$work/install.log" || fail "no next step was printed"
[ "$(owner /etc/lookout/lookout.toml)" = "640 root:lookout" ] || fail "owner of lookout.toml"
[ "$(owner /var/lib/lookout)" = "700 lookout:lookout" ] || fail "owner of /var/lib/lookout"
for file in /usr/share/man/man1/lookout.1.gz /usr/share/man/man5/lookout.toml.5.gz \
  /usr/share/bash-completion/completions/lookout /usr/lib/sysusers.d/lookout.conf \
  /usr/share/doc/lookout/copyright /usr/share/doc/lookout-onnxruntime/copyright; do
  [ -s "$root$file" ] || fail "$file is missing"
done
find "$root"/usr/lib/systemd/system "$root"/lib/systemd/system -name lookout.service 2>/dev/null |
  grep -q . || fail "the unit is missing"
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/lookout.service" ] ||
  fail "the service is enabled before it is configured"

step "the config without a camera is refused, and says what is missing"
code=0
as_lookout lookout check >"$work/check.log" 2>&1 || code=$?
[ "$code" = 2 ] && grep -q 'camera' "$work/check.log" || { cat "$work/check.log" >&2; fail check; }

step "check and run with a camera, as the user lookout"
cat >>"$root/etc/lookout/lookout.toml" <<'END'
[[camera]]
name = "yard"
url = "file:/usr/share/lookout/demo/cameras/yard.mp4"
fps = 2.0
window = "8s"
caption_interval = "2s"
[grpc]
listen = "127.0.0.1:28051"
[http]
listen = "127.0.0.1:28090"
END
as_lookout lookout check >"$work/check.log" 2>&1 || { cat "$work/check.log" >&2; fail check; }
client="lookout"
server="--server 127.0.0.1:28051"
captions() { inside sh -c "$client events $server --kind caption --limit 1000 --json" | grep -c '"kind"' || true; }
run() { # until it has more captions than $1
  as_lookout lookout run >>"$work/run.log" 2>&1 &
  daemon=$!
  for _ in $(seq 120); do
    found=$(captions 2>/dev/null)
    [ "${found:-0}" -le "$1" ] || break
    kill -0 "$daemon" 2>/dev/null || { cat "$work/run.log" >&2; fail "the daemon ended"; }
    sleep 1
  done
  [ "$found" -gt "$1" ] || { tail -30 "$work/run.log" >&2; fail "no caption"; }
  inside sh -c 'kill -TERM $(pidof lookout)'
  wait "$daemon" || fail "the daemon ended with an error"
  daemon=
}
run 0
before=$found
step "$before captions"

step "upgrade: config, state and captions stay"
sum=$(sha256sum <"$root/etc/lookout/lookout.toml")
mkdir "$work/upgrade"
dpkg-deb -R "$packages"/lookout_*.deb "$work/upgrade/tree"
sed -i 's/^Version: .*/Version: 0.1.1-1/' "$work/upgrade/tree/DEBIAN/control"
echo '# A comment of the newer version.' >>"$work/upgrade/tree/etc/lookout/lookout.toml"
dpkg-deb --root-owner-group -b "$work/upgrade/tree" "$root/packages/newer.deb" >/dev/null
inside dpkg --force-confdef --force-confold -i /packages/newer.deb >"$work/upgrade.log" 2>&1 ||
  { cat "$work/upgrade.log" >&2; fail upgrade; }
[ "$(sha256sum <"$root/etc/lookout/lookout.toml")" = "$sum" ] || fail "the config was changed"
[ "$(owner /etc/lookout/lookout.toml)" = "640 root:lookout" ] || fail "owner after the upgrade"
run "$before"
step "$found captions after the upgrade"

step "remove: the config and the state stay"
inside dpkg -r lookout-demo lookout >"$work/remove.log" 2>&1 || { cat "$work/remove.log" >&2; fail remove; }
[ ! -e "$root/usr/bin/lookout" ] || fail "the program is still there"
[ -s "$root/etc/lookout/lookout.toml" ] || fail "the config is gone"
[ -d "$root/var/lib/lookout/journal" ] || fail "the state is gone"

step "purge: nothing stays"
inside dpkg -P lookout >"$work/purge.log" 2>&1 || { cat "$work/purge.log" >&2; fail purge; }
for gone in /etc/lookout /var/lib/lookout /var/cache/lookout; do
  [ ! -e "$root$gone" ] || fail "$gone is still there"
done
step passed
